//! Who waits for room, for a free channel or for credit, and who is woken when it comes.
//!
//! The pattern is one everywhere, [`Hub::poll_attempt`]: try, leave the waker behind, try once more. What comes
//! after the waker is there wakes it. Whoever waits holds a [`Place`], and leaves with it.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use super::{
    Hub,
    descriptors::{Crowd, Patience},
};
use crate::{
    error::LinkEnd,
    link::CreditTable,
    rpc::{
        channel::{Channel, Remote},
        errors::{Blocked, Obstacle},
        outgoing::RETRY,
        waiters::{Queue, lock, wake_all},
    },
};

impl Hub {
    /// Tries until it is done, or the same is in the way as when the task's waker was left behind.
    #[inline]
    pub(crate) fn poll_attempt<T, E>(
        self: &Arc<Self>,
        cx: &Context<'_>,
        place: &mut Place,
        mut attempt: impl FnMut(Patience) -> Result<T, Obstacle<E>>,
    ) -> Poll<Result<T, E>> {
        if place.waits_out_crowd(self, cx.waker()) {
            return Poll::Pending;
        }
        let mut waits_for = None;
        loop {
            let blocked = match attempt(place.patience(self)) {
                Ok(done) => {
                    if place.crowd.is_some() {
                        self.descriptors.passed();
                    }
                    return Poll::Ready(Ok(done));
                }
                Err(Obstacle::Final(error)) => return Poll::Ready(Err(error)),
                Err(Obstacle::Blocked(blocked)) => blocked,
            };
            if waits_for == Some(blocked) {
                return Poll::Pending;
            }
            self.wait_for(blocked, place, cx.waker());
            if blocked == Blocked::Crowded {
                return Poll::Pending; // nobody tells when that is over: it is tried again in a while
            }
            waits_for = Some(blocked);
        }
    }

    /// Remembers a task that found something in its way. The caller tries once more afterwards.
    fn wait_for(self: &Arc<Self>, blocked: Blocked, place: &mut Place, waker: &Waker) {
        match blocked {
            Blocked::Slot => place.wait(self, For::Slot, waker),
            Blocked::Crowded => place.wait_out_crowd(self, waker),
            // Only elements need credit, and their senders wait for it on their channel.
            Blocked::Room | Blocked::Credit { .. } => self.wait_for_room(place, waker),
        }
    }

    /// Remembers a task that found the link full. The caller tries once more afterwards.
    pub(crate) fn wait_for_room(self: &Arc<Self>, place: &mut Place, waker: &Waker) {
        place.wait(self, For::Room, waker);
        // Asking leaves word with the peer, so that the driver is woken when there is room.
        let driver = self.driver_waker();
        if !matches!(lock(&self.out).want_room(&mut Context::from_waker(&driver)), Ok(false)) {
            self.wake_driver();
        }
    }

    fn queue(&self, wanted: For) -> &Mutex<Queue> {
        match wanted {
            For::Room => &self.room,
            For::Slot => &self.slots,
            For::Loan => &self.loans,
        }
    }

    /// Remembers a sender without credit. The caller tries once more afterwards.
    pub(crate) fn wait_for_credit(&self, channel: &Arc<Channel>, remote: &Remote) {
        let Some(table) = self.table() else { return };
        let mut starving = lock(&self.starving);
        if !starving.iter().any(|known| Arc::ptr_eq(&known.channel, channel)) {
            starving.push(Starving { channel: Arc::clone(channel), granted: remote.credit.granted() });
        }
        self.starving_any.store(true, Ordering::Relaxed); // under the lock of `starving`
        table.await_credit(remote.reference.slot);
    }

    /// Looks what was granted without a message.
    pub(crate) fn refresh_credit(&self, remote: &Remote) {
        let Some(table) = self.table() else { return };
        match table.granted(remote.reference.slot, remote.credit.granted()) {
            Ok(Some(total)) => remote.credit.granted_total(total),
            Ok(None) => {}
            Err(end) => self.request_end(end),
        }
    }

    /// Wakes those whose wait may be over: for room, and for credit without a message. Called by whoever
    /// holds the receive role, after it received and again before it sleeps.
    pub(crate) fn wake_waiting(&self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        self.flush_due.store(false, Ordering::Relaxed); // what comes from now on wakes the driver again
        let (room, retry) = {
            let mut out = lock(&self.out);
            (out.poll_room(cx)?, out.take_retry())
        };
        if retry {
            self.retry_later();
        }
        if room {
            let wakers = lock(&self.room).take();
            wake_all(wakers);
        }
        if self.starving_any.load(Ordering::Relaxed) {
            self.wake_granted();
        }
        // Acquire: pairs with the Release store in `poll_lend`.
        if self.loans_wanted.load(Ordering::Acquire) {
            self.wake_lent()?;
        }
        Ok(())
    }

    /// Has the driver look again after a while. An allocation and a task, while the system is short of memory.
    pub(crate) fn retry_later(&self) {
        let driver = self.driver_waker();
        self.runtime.spawn(async move {
            tokio::time::sleep(RETRY).await;
            driver.wake();
        });
    }

    fn wake_granted(&self) {
        let Some(table) = self.table() else { return };
        let mut woken = Vec::new();
        let mut starving = lock(&self.starving);
        // Those that are over first: the slot of one may be another's by now, and what is taken back for the
        // first is taken back for the second.
        let before = starving.len();
        starving.retain(|waiter| !waiter.is_over(&*table));
        let again = starving.len() < before;
        starving.retain(|waiter| {
            let Some(remote) = waiter.channel.remote() else { return false };
            if again {
                table.await_credit(remote.reference.slot);
            }
            self.refresh_credit(remote);
            // Another sender of the same stream may have looked, and taken some, in between.
            let stays = remote.credit.granted() <= waiter.granted;
            if !stays {
                table.stop_waiting(remote.reference.slot);
                woken.push(Arc::clone(&waiter.channel));
            }
            stays
        });
        self.starving_any.store(!starving.is_empty(), Ordering::Relaxed); // under the lock of `starving`
        drop(starving);
        woken.iter().for_each(|channel| channel.wake_writers());
    }
}

/// What a task waits for at its [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Room in the link.
    Room,
    /// A free channel.
    Slot,
    /// Memory of the link.
    Loan,
}

/// A task's place among those that wait for something of a link, once it does. Given up when it is dropped.
#[derive(Default)]
pub(crate) struct Place {
    taken: Option<(Arc<Hub>, For, u64)>,
    crowd: Option<Box<Crowd>>,
}

impl Place {
    /// Waits here, and nowhere else.
    pub(super) fn wait(&mut self, hub: &Arc<Hub>, wanted: For, waker: &Waker) {
        let known = match &self.taken {
            Some((_, other, _)) if *other != wanted => {
                self.leave();
                None
            }
            taken => taken.as_ref().map(|(_, _, ticket)| *ticket),
        };
        self.crowd = None; // the system took them, or was not asked
        let (ticket, renewed) = lock(hub.queue(wanted)).wait(known, waker);
        drop(renewed); // outside of the lock
        self.taken = Some((Arc::clone(hub), wanted, ticket));
    }

    #[inline]
    fn patience(&self, hub: &Hub) -> Patience {
        self.crowd.as_ref().map_or(Patience::Left, |crowd| crowd.patience(hub))
    }

    /// Whether it is too early to ask the system again, for this task or for all of the link's. The task is woken later.
    #[inline]
    fn waits_out_crowd(&mut self, hub: &Hub, waker: &Waker) -> bool {
        self.crowd.as_mut().is_some_and(|crowd| crowd.goes_on(hub, waker))
    }

    #[cold]
    fn wait_out_crowd(&mut self, hub: &Hub, waker: &Waker) {
        self.leave();
        self.crowd.get_or_insert_with(|| Box::new(Crowd::new(hub))).wait(hub, waker);
    }

    /// The ticket, if this is what the task waits for.
    pub(super) fn ticket(&self, wanted: For) -> Option<u64> {
        self.taken.as_ref().filter(|(_, known, _)| *known == wanted).map(|(_, _, ticket)| *ticket)
    }

    fn leave(&mut self) {
        if let Some((hub, wanted, ticket)) = self.taken.take() {
            if wanted == For::Loan {
                return hub.leave_loans(ticket);
            }
            let waker = lock(hub.queue(wanted)).leave(ticket);
            drop(waker); // outside of the lock
        }
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        if self.taken.is_some() {
            self.leave();
        }
    }
}

/// A channel whose senders wait for credit.
pub(super) struct Starving {
    channel: Arc<Channel>,
    /// What was granted when the first of them began to wait.
    granted: u64,
}

impl Starving {
    /// Whether nobody waits any more, since the channel is over. Takes the wait back then.
    fn is_over(&self, table: &dyn CreditTable) -> bool {
        if self.channel.is_over()
            && let Some(remote) = self.channel.remote()
        {
            table.stop_waiting(remote.reference.slot);
        }
        self.channel.is_over()
    }
}

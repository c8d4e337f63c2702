//! Channels of a link: how they are opened here, and how they go.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::Hub;
use crate::{
    link::{ChannelRef, CreditSlot, CreditTable, Head},
    rpc::{
        channel::{Passed, Remote},
        connection::Connection,
        growth::Growth,
        scope::Bound,
        tx::pump,
        waiters::{lock, wake_all},
    },
    session::{
        connections::ConnKey,
        credit::{Grant, SendWindow},
    },
};

/// How many channels a link has, by the side that opened them.
#[derive(Debug)]
pub(super) struct Places {
    /// Those of this side that are not over, on links without a table, which counts them itself.
    ours: AtomicUsize,
    max_ours: usize,
    /// Those of the peer's that something here holds.
    theirs: AtomicUsize,
    max_theirs: usize,
}

impl Places {
    pub(super) fn new(limits: ChannelLimits) -> Self {
        Places {
            ours: AtomicUsize::new(0),
            max_ours: limits.ours as usize,
            theirs: AtomicUsize::new(0),
            max_theirs: limits.theirs as usize,
        }
    }
}

/// The most channels that a link may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelLimits {
    /// Opened by this side, where there is no table.
    pub(crate) ours: u32,
    /// Opened by the peer, and held here.
    pub(crate) theirs: u32,
}

impl Hub {
    /// The table of credit that both peers see.
    pub(crate) fn table(&self) -> Option<Arc<dyn CreditTable>> {
        self.credit.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The slot of credit for a channel that this side opens.
    pub(crate) fn allot(&self) -> Option<CreditSlot> {
        let Some(table) = self.table() else {
            // Relaxed: the number of channels, and nothing that they hold.
            let taken = |ours| (ours < self.places.max_ours).then_some(ours + 1);
            let ours = self.places.ours.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
            return ours.is_ok().then_some(CreditSlot::NONE);
        };
        table.allot()
    }

    /// Returns a slot that [`allot`](Hub::allot) gave. For [`give_back`](Hub::give_back) somebody may have waited.
    pub(crate) fn take_back(&self, slot: CreditSlot) {
        match self.table() {
            Some(table) => table.give_back(slot),
            // Relaxed: as in `allot`. After the end of a link with a table it counts for nobody.
            None => drop(
                self.places
                    .ours
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ours| ours.checked_sub(1)),
            ),
        }
    }

    /// Returns a slot; whoever waits for one may try again.
    pub(crate) fn give_back(&self, slot: CreditSlot) {
        self.take_back(slot);
        let wakers = lock(&self.slots).take();
        wake_all(wakers);
    }

    /// How many channels this side can ever have open at once.
    pub(crate) fn most_channels(&self) -> usize {
        self.table().map_or(self.places.max_ours, |table| table.capacity())
    }

    /// Whether the peer may open so many channels more.
    pub(crate) fn admits(&self, count: usize) -> bool {
        // Relaxed: as in `allot`. They are counted under the session's lock, as this is asked.
        self.places.theirs.load(Ordering::Relaxed).saturating_add(count) <= self.places.max_theirs
    }

    /// A channel of the peer's is there.
    pub(crate) fn theirs_opened(&self) {
        self.places.theirs.fetch_add(1, Ordering::Relaxed); // Relaxed: as in `allot`
    }

    /// Nothing here holds it any more.
    pub(crate) fn theirs_gone(&self) {
        self.places.theirs.fetch_sub(1, Ordering::Relaxed); // Relaxed: as in `allot`
    }

    /// Refuses channels that the peer has opened. Under the session's lock.
    pub(crate) fn refuse_channels(&self, conn: ConnKey, channels: &[ChannelRef]) {
        for reference in channels {
            let _ = self.send_parkable(&Head::Reset { conn_id: conn.id, channel_id: reference.id });
        }
    }

    /// What a handle that was passed in a message becomes: a channel of this link. To be called under the
    /// locks of session and `out`, before anything can be sent behind the message.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        connection: &Connection,
        conn: ConnKey,
        bound: Bound,
        reference: ChannelRef,
    ) {
        let window = self.limits.initial_channel_credit;
        if let Some(table) = self.table() {
            table.open(reference.slot, u64::from(window));
        }
        let credit = SendWindow::new(window);
        let remote = Remote {
            hub: Arc::clone(self),
            conn,
            reference,
            window,
            own: true,
            credit,
            growth: Growth::default(),
        };
        let Bound { pass, half, unread, .. } = bound;
        let Some(channel) = pass.used() else { return };
        match channel.passed(half, remote, connection.clone(), unread) {
            Passed::Done => {}
            Passed::Pump(queued) => drop(self.runtime.spawn(pump(channel, queued, connection.clone()))),
            // Its reader is gone. Not at once: the locks are held.
            Passed::Reset => drop(self.runtime.spawn(async move {
                if let Some(remote) = channel.remote() {
                    remote.hub.reset_channel(remote);
                }
            })),
        }
    }

    /// A channel's local end is done with it: its id is spent. Whether it was still open.
    pub(crate) fn forget_channel(&self, remote: &Remote) -> bool {
        self.leave_channel(remote, None)
    }

    /// As [`forget_channel`](Hub::forget_channel), and tells the peer if it was open. Both under the session's lock:
    /// whoever finds the connection quiet, or closes it, says goodbye behind that.
    fn leave_channel(&self, remote: &Remote, last: Option<&Head<'_>>) -> bool {
        let mut session = lock(&self.session);
        let open = session.forget_channel(remote.conn, remote.reference.id);
        if let Some(last) = last
            && open
        {
            let _ = self.send_parkable(last);
        }
        drop(session);
        if open && remote.own {
            self.give_back(remote.reference.slot);
        }
        self.quieter();
        open
    }

    /// Breaks a channel off, unless it is over.
    pub(crate) fn reset_channel(&self, remote: &Remote) {
        let (conn_id, channel_id) = (remote.conn.id, remote.reference.id);
        self.leave_channel(remote, Some(&Head::Reset { conn_id, channel_id }));
    }

    /// Closes a channel that this side sends, unless it is over.
    pub(crate) fn close_channel(&self, remote: &Remote) {
        let (conn_id, channel_id) = (remote.conn.id, remote.reference.id);
        self.leave_channel(remote, Some(&Head::Close { conn_id, channel_id }));
    }

    /// Grants credit on a link that has messages for it.
    pub(crate) fn grant_by_message(&self, remote: &Remote, grant: Grant) {
        let (conn_id, channel_id) = (remote.conn.id, remote.reference.id);
        self.send_on(remote.conn, &Head::Credit { conn_id, channel_id, bytes: grant.more });
    }
}

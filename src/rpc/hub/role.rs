//! The receive role, and the driver that has it when nobody else does.

use std::{
    mem,
    sync::{
        MutexGuard,
        atomic::{Ordering, fence},
    },
    task::Waker,
};

use super::Hub;
use crate::{
    link::Receiver,
    rpc::{
        elements::Elements,
        waiters::{lock, try_lock},
    },
};

impl Hub {
    /// Whether others than the driver may take the receive role. On links whose receiver is woken through the
    /// driver's task they may not: a wake-up would find the role taken, and be lost.
    pub(crate) fn can_share_receiving(&self) -> bool {
        self.interrupt.is_some()
    }

    /// The driver's task, as it polls.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        let mut driver = lock(&self.driver);
        match &mut *driver {
            Some(known) => known.clone_from(waker),
            None => *driver = Some(waker.clone()),
        }
    }

    pub(crate) fn driver_waker(&self) -> Waker {
        lock(&self.driver).clone().unwrap_or_else(|| Waker::noop().clone())
    }

    pub(crate) fn wake_driver(&self) {
        if let Some(waker) = &*lock(&self.driver) {
            waker.wake_by_ref();
        }
    }

    /// The receive role for the driver. `None`: another thread has it, and wakes the driver when it returns it.
    pub(crate) fn take_role(&self) -> Option<MutexGuard<'_, Box<dyn Receiver>>> {
        try_lock(&self.receive).or_else(|| {
            self.turned_away.store(true, Ordering::Relaxed); // Relaxed: ordered by the fence
            // SeqCst fence: store-load, pairs with the fence in `return_role`; either that sees `turned_away`, or
            // the role is free here.
            fence(Ordering::SeqCst);
            try_lock(&self.receive)
        })
    }

    /// Returns the receive role to the driver. The lock goes before the wake: a driver that is woken and finds
    /// the role taken goes to sleep again, for good.
    ///
    /// The race: what arrives behind the last look of `hand_back` and before the lock is gone wakes the driver,
    /// which finds the role taken. It leaves word, and is woken once more.
    pub(crate) fn return_role(&self, mut receiver: MutexGuard<'_, Box<dyn Receiver>>) {
        let arrived = receiver.hand_back();
        drop(receiver);
        // SeqCst fence: store-load, pairs with the fence in `take_role`.
        fence(Ordering::SeqCst);
        // Relaxed, both: ordered by the fence. Looked at first: an exchange is a locked instruction.
        let turned_away =
            self.turned_away.load(Ordering::Relaxed) && self.turned_away.swap(false, Ordering::Relaxed);
        if arrived || turned_away || self.ending().is_some() {
            self.wake_driver();
        }
    }

    /// Whether a task whose call is the only one in flight is the only caller, too: its last [`ALONE`] calls
    /// were the last of their kind on the link. Were it to wait for its answer in place while others want to
    /// call, those would be let in one at a time.
    pub(crate) fn is_only_caller(&self, caller: &Waker) -> bool {
        let mut callers = lock(&self.callers);
        match &mut callers.last {
            Some(last) if last.will_wake(caller) => callers.in_a_row = callers.in_a_row.saturating_add(1),
            last => {
                *last = Some(caller.clone());
                callers.in_a_row = 0;
            }
        }
        callers.in_a_row >= ALONE && !callers.in_a_row.is_multiple_of(TURN)
    }

    /// An empty buffer for elements, with the room that the last one had.
    pub(crate) fn take_spare(&self) -> Elements {
        mem::take(&mut lock(&self.spare))
    }

    /// Takes it back.
    pub(crate) fn keep_spare(&self, mut buffer: Elements) {
        if buffer.capacity() <= 4 * self.limits.initial_channel_credit as usize {
            buffer.clear();
            *lock(&self.spare) = buffer;
        }
    }
}

/// Who called last, and how often in a row.
#[derive(Default)]
pub(super) struct Callers {
    last: Option<Waker>,
    in_a_row: u32,
}

/// Every so many calls the only caller waits as others do, and lets the other tasks of its runtime run.
const TURN: u32 = 128;

/// Calls in a row that make a task the only caller of its link.
const ALONE: u32 = 4;

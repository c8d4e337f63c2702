//! Where a sender waits.

use std::{sync::Arc, task::Waker};

use crate::rpc::{channel::Channel, hub::Place, waiters::lock};

/// A sender's places: in its link's queue for room, and among its channel's writers, for credit or for the end. Both
/// are given up when it is dropped, so that a wait that is given up leaves nothing.
#[derive(Default)]
pub(crate) struct Wait {
    pub(crate) room: Place,
    writer: Option<(Arc<Channel>, u64)>,
}

impl Wait {
    /// Waits for what the channel tells its writers. The caller looks once more afterwards.
    pub(crate) fn on(&mut self, channel: &Arc<Channel>, waker: &Waker) {
        let known = self.writer.as_ref().map(|(_, ticket)| *ticket);
        let (ticket, renewed) = lock(&channel.state).writers.wait(known, waker);
        drop(renewed); // outside of the lock
        // One sender, one channel: the ticket is of this one.
        self.writer = Some((Arc::clone(channel), ticket));
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some((channel, ticket)) = self.writer.take() {
            let waker = lock(&channel.state).writers.leave(ticket);
            drop(waker); // outside of the lock
        }
    }
}

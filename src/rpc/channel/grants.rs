//! Credit that goes back as the reader takes elements out, and by how much its window is wider then.

use super::{Channel, State, Way};
use crate::{
    rpc::waiters::{lock, wake_all},
    session::credit::Grant,
};

impl Channel {
    /// Tells the window what the reader has taken. In shared memory the grant is made here, under the
    /// lock: after its end a channel's slot may belong to another one.
    pub(crate) fn report_taken(&self, taken: usize) -> Option<Grant> {
        let mut state = lock(&self.state);
        state.report(taken);
        if let Some(remote) = self.remote.get()
            && state.way == Way::Receiving
        {
            let wanted = state.window.wanted();
            if wanted > 0 {
                state.window.widen(remote.hub.growth.take(&remote.growth, wanted));
            }
        }
        let grant = state.window.grant()?;
        if state.way == Way::Local || state.way == Way::Sending {
            let wakers = state.writers.take();
            drop(state);
            wake_all(wakers);
            return None;
        }
        if state.end.is_some() {
            return None;
        }
        let remote = self.remote.get()?;
        match remote.hub.table() {
            Some(table) => {
                table.grant(remote.reference.slot, grant.total);
                None
            }
            None => Some(grant),
        }
    }
}

impl State {
    /// From now on no more than one window waits here.
    pub(crate) fn keep_to_window(&mut self) {
        self.window.make_exact();
    }

    fn report(&mut self, taken: usize) {
        let before = self.uncredited.min(taken as u64);
        self.uncredited -= before;
        self.window.taken(taken - before as usize);
    }
}

//! What goes into the queue of a channel that does not go straight to its link (yet).

use std::task::Waker;

use super::{Channel, LOCAL_WINDOW, State, Way};
use crate::rpc::waiters::{lock, wake_all};

impl Channel {
    /// Puts an element into the queue of a channel that is not direct (yet). `set_aside` bytes of room are released
    /// with that, which a permit held for it. `Err`: there is no room, and none was released.
    pub(crate) fn push_local(&self, element: &[u8], set_aside: usize) -> Result<Option<Waker>, Full> {
        let mut state = lock(&self.state);
        self.check_queued(&state)?;
        let left = state.set_aside.saturating_sub(set_aside as u64);
        state.make_room(element.len(), left)?;
        if state.window.received(element.len()).is_err() {
            return Err(Full::Now);
        }
        state.set_aside = left;
        state.queue.push(element);
        Ok(state.reader.take())
    }

    /// Keeps room in the queue of a channel within this process. `Err`: there is none.
    pub(crate) fn set_aside_local(&self, len: usize) -> Result<(), Full> {
        let mut state = lock(&self.state);
        self.check_queued(&state)?;
        if state.way == Way::Sending {
            return Err(Full::Now); // until it is direct, and then the room is its link's
        }
        let before = state.set_aside;
        state.make_room(len, before)?;
        state.set_aside += len as u64;
        Ok(())
    }

    /// Takes [`set_aside_local`](Channel::set_aside_local) back.
    pub(crate) fn release_local(&self, len: usize) {
        let mut state = lock(&self.state);
        state.set_aside = state.set_aside.saturating_sub(len as u64);
        let wakers = state.writers.take();
        drop(state);
        wake_all(wakers);
    }

    /// Whether elements that are sent go into the queue.
    fn check_queued(&self, state: &State) -> Result<(), Full> {
        match state.way {
            Way::Receiving | Way::Open => Err(Full::Passed),
            Way::Local | Way::Sending if self.direct().is_some() => Err(Full::Moved),
            Way::Local | Way::Sending => Ok(()),
        }
    }
}

impl State {
    /// Checks that there is room in the queue for an element, beside what is set aside for others.
    fn make_room(&mut self, len: usize, set_aside: u64) -> Result<(), Full> {
        if len > LOCAL_WINDOW as usize && set_aside == 0 {
            self.window.stretch(len);
        }
        if self.window.room() < set_aside.saturating_add(len as u64) { Err(Full::Now) } else { Ok(()) }
    }
}

/// Why an element was not put into the queue of a channel within this process.
pub(crate) enum Full {
    /// There is no room now.
    Now,
    /// The channel does not use its queue any more: it goes straight to its link.
    Moved,
    /// The `Tx` itself was passed: this is not the half that sends.
    Passed,
}

//! Who closes what a peer has passed and nobody took.
//!
//! Not the one who receives: the last close of what a stranger has made may wait for as long as he likes, as that of a
//! socket that lingers, or of a file whose file system he serves himself. And not the runtime, whose threads are the
//! application's, and which waits for them when it is dropped. So each link has a thread for it, while there is something
//! to close: a peer that holds it up has held up its own link's. Nobody waits for that thread: it may outlive its link, for as
//! long as the peer likes.
//!
//! What remains: of descriptors that this process may not have, since it has as many as it may, the system lets go in the
//! call that receives them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Fd;
use crate::error::LinkEnd;

/// Closes the descriptors of one link.
#[derive(Debug)]
pub(crate) struct Closer {
    state: Mutex<State>,
    /// How many may wait.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Fd>,
    /// Since when a thread is at the one at hand.
    since: Option<Instant>,
}

/// What takes longer to close is held up by the peer, and not by a machine that has much to do.
const LONG: Duration = Duration::from_secs(1);

impl Closer {
    /// One that lets so many wait.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Closer { state: Mutex::default(), limit })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can fail halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes descriptors, soon. A thread is started if none is at it; where none can be, they wait for the next time.
    pub(crate) fn close(self: &Arc<Self>, descriptors: impl IntoIterator<Item = Fd>) {
        let mut state = self.lock();
        state.waiting.extend(descriptors);
        if state.since.is_some() || state.waiting.is_empty() {
            return;
        }
        state.since = Some(Instant::now());
        drop(state);
        let closer = Arc::clone(self);
        let started = thread::Builder::new().name("adjoin-close".into()).spawn(move || closer.run());
        if started.is_err() {
            self.lock().since = None;
        }
    }

    fn run(&self) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.waiting.pop_front() else {
                state.since = None;
                return;
            };
            state.since = Some(Instant::now());
            drop(state);
            drop(next);
        }
    }

    /// Whether no more wait, for one that takes its time, than may.
    ///
    /// # Errors
    ///
    /// More do: the peer is let go.
    pub(crate) fn check(&self) -> Result<(), LinkEnd> {
        let state = self.lock();
        let (waiting, limit) = (state.waiting.len(), self.limit);
        let stuck = waiting > limit && state.since.is_some_and(|since| since.elapsed() > LONG);
        if stuck { Err(LinkEnd::Unclosed { waiting, limit }) } else { Ok(()) }
    }
}

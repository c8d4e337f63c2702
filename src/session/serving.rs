//! The peer's requests that run here (protocol section 4).
//!
//! ```text
//!   start ──> running ──finish──> gone          (finish: the one Response goes out)
//!                │
//!             take_handler (Cancel, deadline)
//!                v
//!            stopping ──finish──> gone          (Cancelled, or the result if that was faster)
//! ```

use std::time::Instant;

use super::{Ends, IdMap};

/// Requests of one connection that have not been answered. Invariant: each is answered once, by whoever
/// [finishes](Serving::finish) it. How many there may be is the session's to say.
pub(crate) struct Serving<E: Ends> {
    running: IdMap<Running<E>>,
}

struct Running<E: Ends> {
    /// `None` until the handler is started, and again once it was told to stop.
    handler: Option<E::Handler>,
    /// It was told to stop, perhaps before it was started.
    stopped: bool,
    deadline: Option<Instant>,
}

/// What became of a handler that was [attached](Serving::attach).
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Attached<H> {
    /// It runs.
    Running,
    /// The request was told to stop meanwhile, and so must this.
    Stop(H),
    /// The request was answered already, which ended the handler; or the connection ended.
    Gone(H),
}

impl<E: Ends> Serving<E> {
    #[inline]
    pub(crate) fn new() -> Self {
        Serving { running: IdMap::default() }
    }

    /// Whether a request with this id has not been answered yet.
    #[inline]
    pub(crate) fn is_running(&self, request_id: u64) -> bool {
        self.running.contains_key(&request_id)
    }

    /// How many have not been answered.
    #[inline]
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// The deadlines of those that have one, by their ids.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = (u64, Instant)> {
        self.running.iter().filter_map(|(id, running)| running.deadline.map(|at| (*id, at)))
    }

    /// A request is handed to its handler.
    #[inline]
    pub(crate) fn start(&mut self, request_id: u64, deadline: Option<Instant>) {
        self.running.insert(request_id, Running { handler: None, stopped: false, deadline });
    }

    /// Names what stops the handler. Gives it back if nobody will ask for it.
    #[inline]
    pub(crate) fn attach(&mut self, request_id: u64, handler: E::Handler) -> Attached<E::Handler> {
        match self.running.get_mut(&request_id) {
            Some(running) if running.stopped => Attached::Stop(handler),
            Some(running) => {
                running.handler = Some(handler);
                Attached::Running
            }
            None => Attached::Gone(handler),
        }
    }

    /// The request is to stop. Its handler, once.
    #[inline]
    pub(crate) fn take_handler(&mut self, request_id: u64) -> Option<E::Handler> {
        let running = self.running.get_mut(&request_id)?;
        running.stopped = true;
        running.handler.take()
    }

    /// The request is about to be answered. `None`: it has been answered. Otherwise its deadline, to be
    /// forgotten.
    #[inline]
    pub(crate) fn finish(&mut self, request_id: u64) -> Option<Option<Instant>> {
        self.running.remove(&request_id).map(|running| running.deadline)
    }

    /// Takes all handlers.
    #[inline]
    pub(crate) fn take_all(&mut self) -> Vec<E::Handler> {
        self.running.drain().filter_map(|(_, running)| running.handler).collect()
    }
}

//! Our calls in flight (protocol section 4).
//!
//! ```text
//!   start ──> waiting ──answered──> gone
//!                │
//!             abandon (caller dropped, timed out: Cancel goes out)
//!                v
//!           abandoned ──answered──> gone
//! ```
//!
//! "A request is in flight until its Response arrives. Cancel does not end that": an abandoned call keeps
//! its id until then.

use std::time::Instant;

use super::{Ends, IdMap};

/// Our requests of one connection that have no Response yet. Invariant: every id in `pending` is below
/// `next`.
pub(crate) struct Calls<E: Ends> {
    pending: IdMap<Pending<E>>,
    next: u64,
}

/// One request in flight.
pub(crate) struct Pending<E: Ends> {
    /// `None` once the caller is gone.
    pub(crate) call: Option<E::Call>,
    /// The channels that its arguments opened.
    pub(crate) channels: Vec<E::Channel>,
    pub(crate) deadline: Option<Instant>,
}

impl<E: Ends> Calls<E> {
    #[inline]
    pub(crate) fn new() -> Self {
        Calls { pending: IdMap::default(), next: 1 }
    }

    /// The id that the next call gets: they start at 1 and grow.
    #[inline]
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    /// Registers the call that was sent with [`next_id`](Calls::next_id).
    #[inline]
    pub(crate) fn start(&mut self, call: E::Call, channels: Vec<E::Channel>, deadline: Option<Instant>) {
        self.pending.insert(self.next, Pending { call: Some(call), channels, deadline });
        self.next += 1;
    }

    /// The caller is gone. `Some` with its end while the call is in flight: Cancel has to go out.
    #[inline]
    pub(crate) fn abandon(&mut self, request_id: u64) -> Option<(E::Call, Option<Instant>)> {
        let pending = self.pending.get_mut(&request_id)?;
        let deadline = pending.deadline.take();
        pending.call.take().map(|call| (call, deadline))
    }

    /// A Response arrived. `None`: for no call of ours.
    #[inline]
    pub(crate) fn answered(&mut self, request_id: u64) -> Option<Pending<E>> {
        self.pending.remove(&request_id)
    }

    /// How many are in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The deadlines of those that have one, by their ids.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = (u64, Instant)> {
        self.pending.iter().filter_map(|(id, pending)| pending.deadline.map(|at| (*id, at)))
    }

    /// Takes the ends of all calls whose callers still wait.
    #[inline]
    pub(crate) fn take_all(&mut self) -> Vec<E::Call> {
        self.pending.drain().filter_map(|(_, pending)| pending.call).collect()
    }
}

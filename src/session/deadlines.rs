//! When calls and requests run out of time (protocol section 4, `timeout-ns`).
//!
//! Ordered by time, and an entry goes when its call is over: memory follows the calls in flight, not the
//! calls of the last minutes.

use std::{collections::BTreeSet, time::Instant};

use super::connections::ConnKey;

/// What is over at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A call of ours: its caller gets "timed out", and Cancel goes out.
    Call { conn: ConnKey, request_id: u64 },
    /// A request that runs here: its handler is stopped.
    Request { conn: ConnKey, request_id: u64 },
}

/// The deadlines of a link.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    ordered: BTreeSet<(Instant, Due)>,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Deadlines::default()
    }

    /// Adds a deadline and says whether it is now the next one.
    pub(crate) fn add(&mut self, at: Instant, due: Due) -> bool {
        self.ordered.insert((at, due));
        self.next() == Some(at)
    }

    /// Forgets the deadline of a call of ours.
    pub(crate) fn remove_call(&mut self, at: Instant, conn: ConnKey, request_id: u64) {
        self.ordered.remove(&(at, Due::Call { conn, request_id }));
    }

    /// Forgets the deadline of a request that ran here.
    pub(crate) fn remove_request(&mut self, at: Instant, conn: ConnKey, request_id: u64) {
        self.ordered.remove(&(at, Due::Request { conn, request_id }));
    }

    /// When [`pop`](Deadlines::pop) has to be called next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.ordered.first().map(|(at, _)| *at)
    }

    /// Takes one deadline that is over at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.ordered.pop_first().map(|(_, due)| due)
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.ordered.clear();
    }
}

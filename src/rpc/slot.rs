//! Where a caller waits for its answer.

use std::{
    mem,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{channel::Unclaimed, connection::Connection, waiters::lock};
use crate::{error::LinkEnd, session::metadata::Metadata};

/// One wait's place between the driver, which completes it, and the caller, which takes the outcome.
///
/// ```text
///   Waiting ──complete──> Done ──poll──> Taken
///      └────────close───────┴─────────────^      (the caller is gone)
/// ```
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
}

/// Where the answer to a call arrives.
pub(crate) type CallSlot = Slot<Outcome>;

/// Where the answer to a Connect arrives.
pub(crate) type ConnectSlot = Slot<ConnectOutcome>;

enum State<T> {
    Waiting(Option<Waker>),
    Done(T),
    Taken,
}

/// How a call went.
pub(crate) enum Outcome {
    Answer(Answer),
    TimedOut,
    Ended(LinkEnd),
}

/// A Response, in private memory.
pub(crate) struct Answer {
    pub(crate) payload: Vec<u8>,
    /// The channels that it opened.
    pub(crate) channels: Unclaimed,
}

/// How a Connect went.
pub(crate) enum ConnectOutcome {
    Accepted(Connection),
    Rejected {
        reason: String,
        metadata: Metadata,
    },
    /// The peer gave it the id of a connection that is open.
    IdInUse {
        conn_id: u64,
    },
    Ended(LinkEnd),
}

impl<T> Slot<T> {
    #[inline]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Slot { state: Mutex::new(State::Waiting(None)) })
    }

    /// Hands the outcome to the caller, once; later ones are dropped. The waker is to be woken outside of
    /// locks.
    #[must_use]
    #[inline]
    pub(crate) fn complete(&self, outcome: T) -> Option<Waker> {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Done(outcome);
                waker
            }
            State::Done(_) | State::Taken => {
                drop(state); // what `outcome` holds takes other locks when it drops
                drop(outcome);
                None
            }
        }
    }

    /// Takes the outcome, or leaves the task's waker behind.
    #[inline]
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(waker) => *waker = Some(cx.waker().clone()),
            State::Taken => return Poll::Pending,
            State::Done(_) => {
                if let State::Done(outcome) = mem::replace(&mut *state, State::Taken) {
                    return Poll::Ready(outcome);
                }
            }
        }
        Poll::Pending
    }

    /// The caller is gone: what comes is dropped.
    #[inline]
    pub(crate) fn close(&self) {
        let last = mem::replace(&mut *lock(&self.state), State::Taken);
        drop(last); // outside of the lock
    }
}

/// The timeout of a call, for its error.
#[inline]
pub(crate) fn timed_out<E>(after: Option<Duration>) -> super::errors::CallError<E> {
    super::errors::CallError::TimedOut { after: after.unwrap_or_default() }
}

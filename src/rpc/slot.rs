//! Where a caller waits for its answer.

use std::{
    cell::RefCell,
    mem,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{channel::Unclaimed, connection::Connection, payload::Payload, waiters::lock};
use crate::{error::LinkEnd, session::metadata::Metadata};

/// One wait's place between the driver, which completes it, and the caller, which takes the outcome.
///
/// ```text
///   Waiting ──complete──> Done ──poll──> Taken
///      └────────close───────┴─────────────^      (the caller is gone)
/// ```
pub(crate) struct Slot<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    state: State<T>,
    /// Room for an answer's payload, from a call before; then the payload, if the outcome is that and nothing else.
    spare: Vec<u8>,
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
    /// It was answered with a payload and nothing else, as nearly all are. That is in the room that the slot has, so that
    /// it goes from hand to hand as three words.
    Payload,
    Answer(Answer),
    TimedOut,
    Ended(LinkEnd),
}

/// A Response, in private memory.
pub(crate) struct Answer {
    pub(crate) payload: Payload<'static>,
    /// The channels that it opened.
    pub(crate) channels: Unclaimed,
    /// `None`: it has none, as nearly all.
    pub(crate) metadata: Option<Box<Metadata>>,
}

impl Answer {
    /// One that is nothing but a payload.
    pub(crate) fn plain(payload: Vec<u8>) -> Self {
        Answer { payload: Payload::Copied(payload), channels: Unclaimed::default(), metadata: None }
    }
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
        Arc::new(Slot { inner: Mutex::new(Inner { state: State::Waiting(None), spare: Vec::new() }) })
    }

    /// Hands the outcome to the caller, once; later ones are dropped. The waker is to be woken outside of
    /// locks.
    #[must_use]
    #[inline]
    pub(crate) fn complete(&self, outcome: T) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        match &mut inner.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                inner.state = State::Done(outcome);
                waker
            }
            State::Done(_) | State::Taken => {
                drop(inner); // what `outcome` holds takes other locks when it drops
                drop(outcome);
                None
            }
        }
    }

    /// Takes the outcome, or leaves the task's waker behind.
    #[inline]
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        let mut inner = lock(&self.inner);
        match &mut inner.state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(waker) => *waker = Some(cx.waker().clone()),
            State::Taken => return Poll::Pending,
            State::Done(_) => {
                if let State::Done(outcome) = mem::replace(&mut inner.state, State::Taken) {
                    return Poll::Ready(outcome);
                }
            }
        }
        Poll::Pending
    }

    /// The caller is gone: what comes is dropped.
    #[inline]
    pub(crate) fn close(&self) {
        let last = mem::replace(&mut lock(&self.inner).state, State::Taken);
        drop(last); // outside of the lock
    }
}

impl CallSlot {
    /// A slot for a call that begins, with the caller's waker in it: a used one of this thread, if there is one.
    #[inline]
    pub(crate) fn take(waker: &Waker) -> Arc<Self> {
        let used = USED.try_with(|used| used.borrow_mut().pop()).ok().flatten();
        let (mut slot, spare) = used.unwrap_or_else(|| (Slot::new(), Vec::new()));
        loop {
            // Nobody else has it, so that no lock is needed. Whoever completed it may hold it for a moment longer; then it
            // goes with them.
            if let Some(only) = Arc::get_mut(&mut slot) {
                let inner = only.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
                *inner = Inner { state: State::Waiting(Some(waker.clone())), spare };
                return slot;
            }
            slot = Slot::new();
        }
    }

    /// Hands an answer that is nothing but a payload to the caller: it is copied into the room that the slot has. As
    /// [`complete`](Slot::complete) else.
    #[must_use]
    #[inline]
    pub(crate) fn answer(&self, payload: &[u8]) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        let State::Waiting(waker) = &mut inner.state else { return None };
        let waker = waker.take();
        inner.spare.extend_from_slice(payload);
        inner.state = State::Done(Outcome::Payload);
        waker
    }

    /// Takes the outcome if it is [`Outcome::Payload`], and the payload with it.
    #[inline]
    pub(crate) fn take_payload(&self) -> Option<Vec<u8>> {
        let mut inner = lock(&self.inner);
        if !matches!(inner.state, State::Done(Outcome::Payload)) {
            return None;
        }
        inner.state = State::Taken;
        Some(mem::take(&mut inner.spare))
    }

    /// The payload of the outcome that was taken, if that was [`Outcome::Payload`].
    pub(crate) fn take_room(&self) -> Vec<u8> {
        mem::take(&mut lock(&self.inner).spare)
    }

    /// The call is over, and its answer was read: keeps the slot and the room for the next call of this thread.
    #[inline]
    pub(crate) fn keep(slot: Arc<Self>, mut room: Vec<u8>) {
        if room.capacity() > MAX_SPARE {
            room = Vec::new();
        }
        room.clear();
        // Fails while the thread ends.
        let _ = USED.try_with(|used| {
            let mut used = used.borrow_mut();
            if used.len() < MAX_USED {
                used.push((slot, room));
            }
        });
    }
}

thread_local! {
    /// Slots of calls that are over, and room for an answer. Of the thread, since a lock would cost as much as the
    /// allocations that this saves.
    static USED: RefCell<Vec<(Arc<CallSlot>, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
}

/// Slots that a thread keeps.
const MAX_USED: usize = 256;
/// Bytes that a kept slot has room for at most.
const MAX_SPARE: usize = 4 << 10;

/// The timeout of a call, for its error.
#[inline]
pub(crate) fn timed_out(after: Option<Duration>) -> super::errors::CallError {
    super::errors::CallError::TimedOut { after: after.unwrap_or_default() }
}

//! One request on one connection, and its answer as bytes: the part of a call that knows no types.
//!
//! Counts, for a small request with no streams: one lock of the session and one of the sender, no thread switch
//! and no task between the caller and the link, one copy (the encoding), no allocation in steady state (the slot
//! for the answer is a used one). The answer costs what `deliver` says.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use super::{
    channel::Unclaimed,
    clock::now,
    connect::encoded,
    connection::Connection,
    context::Context,
    dedup::Nonce,
    deliver::Deliver,
    errors::{CallError, Obstacle, Refusal, sort},
    hub::{Hub, Patience, Place},
    method_id::MethodId,
    payload::Payload as Answered,
    respond::BindingBody,
    scope::Encoded,
    slot::{Answer, CallSlot, Outcome, timed_out},
    waiters::{lock, try_lock},
};
use crate::{
    link::{Encoder, Head},
    session::{answer::Verdict, deadlines::Due, metadata::Metadata},
};

/// What a request carries, encoded as often as it takes.
pub(crate) trait Payload: Send {
    /// Appends the payload, and names the handles in it, whose ids count from `first_id`, and the descriptors.
    fn encode(&self, out: &mut Encoder<'_>, first_id: u64) -> Encoded;
}

/// What goes with a call beside its arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) metadata: Metadata,
}

impl CallOptions {
    /// When the call is over: by its own timeout, by an entry `timeout-ns` of its metadata, or by the deadline of
    /// the handler that makes it, whichever is first. What is left of that is the call's timeout from now on, so
    /// that deadlines shrink from hop to hop.
    #[inline]
    pub(crate) fn settle_deadline(&mut self) -> Result<Option<Instant>, CallError> {
        let inherited = Context::current_deadline();
        if self.timeout.is_none() && self.metadata.is_empty() && inherited.is_none() {
            return Ok(None);
        }
        self.settle_first(inherited)
    }

    fn settle_first(&mut self, inherited: Option<Instant>) -> Result<Option<Instant>, CallError> {
        let carried = self.metadata.timeout();
        if self.timeout.is_none() && carried.is_none() && inherited.is_none() {
            return Ok(None);
        }
        let now = now();
        let left = inherited.map(|deadline| deadline.saturating_duration_since(now));
        self.timeout = [self.timeout, carried, left].into_iter().flatten().min();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(timed_out(self.timeout));
        }
        Ok(self.timeout.and_then(|timeout| now.checked_add(timeout)))
    }

    /// The metadata of the request as it goes out.
    fn encoded_metadata(&mut self) -> Result<Vec<u8>, Refusal> {
        if let Some(timeout) = self.timeout {
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            self.metadata.set(Metadata::TIMEOUT, nanos);
        }
        if let Some(nonce) = self.nonce {
            self.metadata.set(Nonce::KEY, nonce.to_bytes().to_vec());
        }
        if self.metadata.is_empty() { Ok(Vec::new()) } else { encoded(&self.metadata) }
    }
}

/// The answer to a call, whatever it says.
pub(crate) struct Reply {
    pub(crate) payload: Answered<'static>,
    /// The channels that it opened.
    pub(crate) channels: Unclaimed,
    /// `None`: it has none.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// The levels that its values may have.
    pub(crate) nesting: u32,
}

impl Reply {
    /// What came along with the answer.
    pub(crate) fn metadata(&self) -> &Metadata {
        const NONE: &Metadata = &Metadata::EMPTY;
        self.metadata.as_deref().unwrap_or(NONE)
    }
}

/// One request. Dropped while it is in flight it is cancelled.
pub(crate) struct RawCall {
    connection: Connection,
    method_id: MethodId,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    metadata: Vec<u8>,
    state: State,
}

enum State {
    /// Nothing was sent. The timer ends the wait for room in the link, if the call has a timeout.
    Unsent {
        timer: Option<Pin<Box<Sleep>>>,
        place: Place,
    },
    /// The request was sent.
    Sent {
        slot: Arc<CallSlot>,
        request_id: u64,
        stage: Stage,
    },
    Done,
}

/// How far a request is that was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It was sent by the poll that runs, whose waker is in the slot, and nothing has been received in that since.
    Armed,
    Waiting,
    /// The answer was taken out of the slot.
    Answered,
}

impl RawCall {
    /// Prepares a request: the call's time runs from here.
    pub(crate) fn new(
        connection: Connection,
        method_id: MethodId,
        mut options: CallOptions,
    ) -> Result<Self, CallError> {
        let deadline = options.settle_deadline()?;
        let metadata = options.encoded_metadata()?;
        let state = State::Unsent { timer: None, place: Place::default() };
        Ok(RawCall { connection, method_id, timeout: options.timeout, deadline, metadata, state })
    }

    /// Whether the request went out, so that it may have run.
    pub(crate) fn was_sent(&self) -> bool {
        !matches!(self.state, State::Unsent { .. })
    }

    /// Sends the request as soon as the link takes it; `payload` is not asked again after that. `Pending` leaves the
    /// task's waker behind.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut TaskContext<'_>,
        payload: &dyn Payload,
    ) -> Poll<Result<(), CallError>> {
        let State::Unsent { timer, place } = &mut self.state else { return Poll::Ready(Ok(())) };
        let hub = self.connection.hub();
        let deadline = self.deadline;
        let request = Request { method_id: self.method_id, metadata: &self.metadata, deadline };
        let attempt = |patience| send_request(&self.connection, request, payload, patience, cx.waker());
        if let Poll::Ready(sent) = hub.poll_attempt(cx, place, attempt) {
            let Sent { slot, request_id, alone } = sent?;
            let stage = if alone { Stage::Waiting } else { Stage::Armed };
            self.state = State::Sent { slot, request_id, stage };
            if alone {
                look_ahead(self.connection.hub(), cx.waker());
            }
            return Poll::Ready(Ok(()));
        }
        let Some(at) = deadline else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| {
            let _inside = hub.runtime.enter();
            Box::pin(tokio::time::sleep_until(at.into()))
        });
        timer.as_mut().poll(cx).map(|()| Err(timed_out(self.timeout)))
    }

    /// Waits for the answer to the request that was sent. Where that was by the same poll of the caller, its waker is
    /// the same one.
    pub(crate) fn poll_reply(&mut self, cx: &TaskContext<'_>) -> Poll<Result<Reply, CallError>> {
        let State::Sent { slot, stage, .. } = &mut self.state else { return Poll::Pending };
        match stage {
            Stage::Armed => {
                *stage = Stage::Waiting;
                return Poll::Pending;
            }
            Stage::Waiting => {}
            Stage::Answered => return Poll::Pending,
        }
        let outcome = std::task::ready!(slot.poll(cx));
        *stage = Stage::Answered;
        let answer = match outcome {
            Outcome::Payload => Answer::plain(slot.take_room()),
            Outcome::Answer(answer) => answer,
            Outcome::TimedOut => return Poll::Ready(Err(timed_out(self.timeout))),
            Outcome::Ended(end) => return Poll::Ready(Err(CallError::Ended(end))),
        };
        if self.ran_out(&answer) {
            return Poll::Ready(Err(timed_out(self.timeout)));
        }
        let Answer { payload, channels, metadata } = answer;
        Poll::Ready(Ok(Reply { payload, channels, metadata, nesting: self.nesting() }))
    }

    /// Takes the answer if it is there and nothing but a payload, as nearly all are: a short way to what
    /// [`poll_reply`](RawCall::poll_reply) says, which is to be asked otherwise.
    #[inline]
    pub(crate) fn take_payload(&mut self) -> Option<Vec<u8>> {
        let State::Sent { slot, stage: stage @ Stage::Waiting, .. } = &mut self.state else { return None };
        if self.deadline.is_some() {
            return None; // it may have run out
        }
        let payload = slot.take_payload()?;
        *stage = Stage::Answered;
        Some(payload)
    }

    /// The levels that the values of its answer may have.
    #[inline]
    pub(crate) fn nesting(&self) -> u32 {
        self.connection.hub().max_nesting
    }

    /// Whether the callee has stopped the handler because the call's time is over, and its answer was faster than the
    /// timer of this side.
    fn ran_out(&self, answer: &Answer) -> bool {
        let Some(at) = self.deadline else { return false };
        let cancelled = answer.payload.verdict() == Some(Verdict::Cancelled) && answer.metadata.is_none();
        cancelled && now() + TICK >= at
    }

    /// The answer was read: its room is kept for the next call.
    #[inline]
    pub(crate) fn recycle(&mut self, room: Vec<u8>) {
        if let State::Sent { slot, stage: Stage::Answered, .. } = mem::replace(&mut self.state, State::Done) {
            CallSlot::keep(slot, room);
        }
    }
}

/// What the timers of two sides are exact to.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// A request, but for its payload.
#[derive(Clone, Copy)]
struct Request<'a> {
    method_id: MethodId,
    metadata: &'a [u8],
    deadline: Option<Instant>,
}

/// A request that went out.
struct Sent {
    slot: Arc<CallSlot>,
    request_id: u64,
    /// No other call is in flight.
    alone: bool,
}

/// Encodes a request into the link and registers the call.
fn send_request(
    connection: &Connection,
    Request { method_id, metadata, deadline }: Request<'_>,
    payload: &dyn Payload,
    patience: Patience,
    waker: &Waker,
) -> Result<Sent, Obstacle<CallError>> {
    let (hub, conn) = (connection.hub(), connection.key());
    let mut session = lock(&hub.session);
    hub.check_open().map_err(sort)?;
    let Some(open) = session.connection(conn) else {
        return Err(Obstacle::Final(CallError::Ended(connection.state().end())));
    };
    let (request_id, first_channel) = (open.calls.next_id(), open.channels.next_id());
    let mut encode = |out: &mut Encoder<'_>, first_id: u64| payload.encode(out, first_id);
    let mut body = BindingBody::new(hub, first_channel, &mut encode);
    let head = Head::Request { conn_id: conn.id, request_id, method_id: method_id.get(), metadata };
    let mut out = lock(&hub.out);
    hub.noted(out.send(&head, &mut body)).map_err(|fault| hub.sort(fault, patience))?;
    let slot = CallSlot::take(waker);
    open.calls.start(Arc::clone(&slot), body.channels(), deadline);
    let alone = open.calls.in_flight() == 1;
    body.adopt(connection, &mut session, conn);
    if alone {
        hub.published(out.publish());
    } else {
        hub.publish_soon(&mut out);
    }
    if let Some(at) = deadline
        && session.deadlines.add(at, Due::Call { conn, request_id })
    {
        hub.wake_driver();
    }
    Ok(Sent { slot, request_id, alone })
}

/// The only caller on a link may find its answer itself, if experience says that it comes at once: then no
/// task is switched to at all.
fn look_ahead(hub: &Arc<Hub>, caller: &Waker) {
    if !hub.can_share_receiving() || !hub.is_only_caller(caller) {
        return;
    }
    let Some(mut receiver) = try_lock(&hub.receive) else { return };
    if receiver.spin() {
        // What is dispatched meanwhile is not this caller's doing.
        let _outside = Context::step_out();
        let mut sink = Deliver::new(hub);
        let drained = receiver.drain(&mut sink);
        if let Some(end) = sink.finish().or(drained.err()) {
            hub.request_end(end);
        }
    }
    hub.return_role(receiver);
}

impl Drop for RawCall {
    /// Cancels the call if it is in flight. The races: its answer may be on its way, which is then dropped
    /// when it arrives; or in the slot already, which drops it, and resets what it opened.
    fn drop(&mut self) {
        if let State::Sent { slot, request_id, stage } = &self.state
            && *stage != Stage::Answered
        {
            let (hub, conn, request_id) = (self.connection.hub(), self.connection.key(), *request_id);
            let mut session = lock(&hub.session);
            let abandoned = session.connection(conn).and_then(|open| open.calls.abandon(request_id));
            if let Some((_, Some(at))) = &abandoned {
                session.deadlines.remove_call(*at, conn, request_id);
            }
            drop(session);
            if abandoned.is_some() {
                hub.send_on(conn, &Head::Cancel { conn_id: conn.id, request_id });
            }
            slot.close();
        }
    }
}

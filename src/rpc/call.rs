//! Calls: lazy futures that encode their request straight into the link.
//!
//! Counts, for a small call with no streams, on the caller's side: one lock of the session and one of the
//! sender for the request, no thread switch and no task between the caller and the link, one copy (the
//! encoding), no allocation in steady state (the slot for the answer is a used one). The answer costs what
//! `deliver` says.

use std::{
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio::time::Sleep;

use super::{
    block::block_on_link,
    channel::Unclaimed,
    clock::now,
    connect::encoded,
    connection::Connection,
    context::Context,
    dedup::Nonce,
    deliver::Deliver,
    errors::{CallError, Obstacle, Refusal, sort},
    hub::{Hub, Place},
    method::Method,
    respond::BindingBody,
    scope,
    slot::{Answer, CallSlot, Outcome, timed_out},
    waiters::{lock, try_lock},
    wire::{Arguments, decode_value},
};
use crate::{
    link::Head,
    session::{answer::Verdict, deadlines::Due, metadata::Metadata},
    strict::DecodeError,
};

/// A call that has been prepared. It does nothing until it is polled or [blocked](Call::block) on.
///
/// Dropping it after that cancels the call: the handler over there is stopped, unless it was faster.
///
/// ```
/// # #[cfg(feature = "macros")] mod example {
/// use adjoin::{CallError, Metadata};
/// use std::time::Duration;
///
/// #[adjoin::service]
/// pub trait Store {
///     async fn get(&self, key: String) -> Option<Vec<u8>>;
/// }
///
/// async fn get(store: &StoreClient) -> Result<Option<Vec<u8>>, CallError> {
///     let mut metadata = Metadata::new();
///     metadata.push("trace", "4bf92f35");
///     store.get("a".into()).with_timeout(Duration::from_secs(1)).with_metadata(metadata).await
/// }
///
/// fn get_on_a_plain_thread(store: &StoreClient) -> Result<Option<Vec<u8>>, CallError> {
///     store.get("a".into()).block()
/// }
/// # }
/// ```
///
/// # Cancel safety
///
/// A call that is dropped before it is done may or may not have run.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<A, T, E> {
    connection: Connection,
    method: &'static Method,
    /// `None` once they were sent.
    arguments: Option<A>,
    timeout: Option<Duration>,
    nonce: Option<Nonce>,
    metadata: Metadata,
    state: State,
    result: PhantomData<fn() -> (T, E)>,
}

enum State {
    /// Nothing was sent.
    New,
    /// The link is full; the timer ends that wait, if the call has a timeout.
    Blocked {
        deadline: Option<Instant>,
        metadata: Vec<u8>,
        timer: Option<Pin<Box<Sleep>>>,
        place: Place,
    },
    /// The request was sent.
    Waiting {
        slot: Arc<CallSlot>,
        request_id: u64,
    },
    Done,
}

impl<A, T, E> Call<A, T, E> {
    pub(crate) fn new(connection: Connection, method: &'static Method, arguments: A) -> Self {
        Call {
            connection,
            method,
            arguments: Some(arguments),
            timeout: None,
            nonce: None,
            metadata: Metadata::new(),
            state: State::New,
            result: PhantomData,
        }
    }

    /// Gives the call a time limit: it fails with [`CallError::TimedOut`] when that is over, and its handler
    /// is stopped. The time runs from the first poll, and travels with the request as `timeout-ns`
    /// (protocol section 4). Exact to a millisecond or so.
    ///
    /// A call that a handler makes has no more time than the handler itself, also without this: what is left of
    /// [`Context::deadline`](crate::Context::deadline) travels with it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends metadata with the request. What is beyond the limits of [`Metadata`] refuses the call.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Marks the call, so that a service behind [`Deduplicate`](crate::Deduplicate) runs it once however often it
    /// is made: for a call whose outcome is not known, make it again with the same nonce (protocol section 4).
    ///
    /// Calls that open streams are not deduplicated.
    pub fn with_nonce(mut self, nonce: Nonce) -> Self {
        self.nonce = Some(nonce);
        self
    }

    /// The method that is called.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// When the call is over: by its own timeout, by an entry `timeout-ns` of its metadata, or by the deadline of
    /// the handler that makes it, whichever is first. What is left of that is the call's timeout from now on, so
    /// that deadlines shrink from hop to hop.
    fn settle_deadline(&mut self) -> Result<Option<Instant>, CallError<E>> {
        let carried = self.metadata.timeout();
        let inherited = Context::current_deadline();
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
        encoded(&self.metadata)
    }
}

impl<A: Arguments, T, E> Call<A, T, E> {
    /// Sends the request if the link takes it, and says whether it is the only one in flight. `Pending` leaves
    /// the task's waker behind.
    fn poll_start(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<bool, CallError<E>>> {
        if let State::New = self.state {
            let deadline = self.settle_deadline()?;
            let metadata = self.encoded_metadata()?;
            self.state = State::Blocked { deadline, metadata, timer: None, place: Place::default() };
        }
        let (State::Blocked { deadline, metadata, timer, place }, Some(arguments)) =
            (&mut self.state, &self.arguments)
        else {
            return Poll::Ready(Ok(false));
        };
        let hub = self.connection.hub();
        let attempt = || send_request(&self.connection, self.method, arguments, metadata, *deadline);
        if let Poll::Ready(sent) = hub.poll_attempt(cx, place, attempt) {
            let Sent { slot, request_id, alone } = sent?;
            self.state = State::Waiting { slot, request_id };
            self.arguments = None;
            return Poll::Ready(Ok(alone));
        }
        let Some(at) = *deadline else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| {
            let _inside = hub.runtime.enter();
            Box::pin(tokio::time::sleep_until(at.into()))
        });
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out(self.timeout))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A request that went out.
struct Sent {
    slot: Arc<CallSlot>,
    request_id: u64,
    /// No other call is in flight.
    alone: bool,
}

/// Encodes a request into the link and registers the call.
fn send_request<A: Arguments, E>(
    connection: &Connection,
    method: &'static Method,
    arguments: &A,
    metadata: &[u8],
    deadline: Option<Instant>,
) -> Result<Sent, Obstacle<CallError<E>>> {
    let (hub, conn) = (connection.hub(), connection.key());
    let mut session = lock(&hub.session);
    hub.check_open().map_err(sort)?;
    let Some(open) = session.connection(conn) else {
        return Err(Obstacle::Final(CallError::Ended(connection.state().end())));
    };
    let (request_id, first_channel) = (open.calls.next_id(), open.channels.next_id());
    let mut encode = |out: &mut crate::link::Encoder<'_>, first_id: u64| {
        scope::encoding(first_id, || arguments.encode(out))
    };
    let mut body = BindingBody::new(hub, first_channel, &mut encode);
    let head = Head::Request { conn_id: conn.id, request_id, method_id: method.id.get(), metadata };
    let mut out = lock(&hub.out);
    hub.noted(out.send(&head, &mut body)).map_err(sort)?;
    let slot = CallSlot::take();
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

impl<A, T, E> Call<A, T, E>
where
    A: Arguments,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + 'static,
{
    /// Makes the call from a plain thread, without a runtime, and waits for its result.
    ///
    /// On shared memory the thread reads its own answer, with no other thread involved.
    ///
    /// # Errors
    ///
    /// As the call itself.
    ///
    /// # Deadlocks
    ///
    /// On sockets and in-process the link's runtime reads the answer, so the thread must not be one that this
    /// runtime needs: do not call it inside of async code.
    pub fn block(self) -> Result<T, CallError<E>> {
        let hub = Arc::clone(self.connection.hub());
        block_on_link(&hub, self)
    }

    fn read(payload: &[u8], channels: Unclaimed, nesting: u32) -> Result<T, CallError<E>> {
        let Some((verdict, value)) = Verdict::split(payload) else {
            return Err(CallError::InvalidResponse(DecodeError::refused("it is no answer to a call")));
        };
        match verdict {
            Verdict::Ok => match scope::decoding(channels, || decode_value(value, nesting)) {
                (Ok(value), true) => Ok(value),
                (Ok(_), false) => Err(CallError::InvalidResponse(DecodeError::refused(scope::LEFT_OVER))),
                (Err(error), _) => Err(CallError::InvalidResponse(error)),
            },
            Verdict::User => {
                Err(decode_value(value, nesting).map_or_else(CallError::InvalidResponse, CallError::User))
            }
            Verdict::UnknownMethod => Err(CallError::UnknownMethod),
            Verdict::InvalidPayload => Err(CallError::InvalidPayload),
            Verdict::Cancelled => Err(CallError::Cancelled),
        }
    }
}

impl<A, T, E> Future for Call<A, T, E>
where
    A: Arguments,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + 'static,
{
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !matches!(this.state, State::Waiting { .. }) {
            match std::task::ready!(this.poll_start(cx)) {
                Ok(true) => look_ahead(this.connection.hub(), cx.waker()),
                Ok(false) => {}
                Err(error) => {
                    this.state = State::Done;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let State::Waiting { slot, .. } = &this.state else { return Poll::Pending };
        let outcome = std::task::ready!(slot.poll(cx));
        let done = mem::replace(&mut this.state, State::Done);
        Poll::Ready(match outcome {
            Outcome::Answer(Answer { payload, channels }) => {
                let result = Self::read(&payload, channels, this.connection.hub().max_nesting);
                if let State::Waiting { slot, .. } = done {
                    CallSlot::keep(slot, payload);
                }
                result
            }
            Outcome::TimedOut => Err(timed_out(this.timeout)),
            Outcome::Ended(end) => Err(CallError::Ended(end)),
        })
    }
}

/// The only caller on a link may find its answer itself, if experience says that it comes at once: then no
/// task is switched to at all.
fn look_ahead(hub: &Arc<Hub>, caller: &Waker) {
    if !hub.can_share_receiving() || !hub.is_only_caller(caller) {
        return;
    }
    let Some(mut receiver) = try_lock(&hub.receive) else { return };
    if receiver.spin() {
        let mut sink = Deliver::new(hub);
        let drained = receiver.drain(&mut sink);
        if let Some(end) = sink.finish().or(drained.err()) {
            hub.request_end(end);
        }
    }
    hub.return_role(receiver);
}

impl<A, T, E> Drop for Call<A, T, E> {
    /// Cancels the call if it is in flight. The races: its answer may be on its way, which is then dropped
    /// when it arrives; or in the slot already, which drops it, and resets what it opened.
    fn drop(&mut self) {
        if let State::Waiting { slot, request_id } = &self.state {
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

impl<A, T, E> std::fmt::Debug for Call<A, T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("method", &self.method.name).finish_non_exhaustive()
    }
}

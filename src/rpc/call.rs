//! Calls: lazy futures that encode their request straight into the link.
//!
//! What a call does is `raw_call`'s, and knows no types; here are the arguments, which are encoded by it, and the
//! result, which is read from its answer. A call over anything but a plain connection (see `caller`) costs two
//! allocations more.

use std::{
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::{
    block::{block_on, block_on_link},
    caller::{Caller, OutgoingCall, Replying, Route},
    channel::Unclaimed,
    dedup::Nonce,
    errors::CallError,
    method::Method,
    raw_call::{CallOptions, Payload, RawCall, Reply},
    reason::Reason,
    scope::{self, Bound},
    wire::{Arguments, decode_value},
};
use crate::{
    link::{EncodeFault, Encoder},
    session::{answer::Verdict, metadata::Metadata},
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
    method: &'static Method,
    /// `None` once they were sent, or handed on.
    arguments: Option<Typed<A>>,
    options: CallOptions,
    state: State,
    result: PhantomData<fn() -> (T, E)>,
}

enum State {
    /// It was not polled yet.
    New(Caller),
    /// Straight over a connection.
    Direct(RawCall),
    /// By what stands in front of the connections.
    Managed(Replying),
    Done,
}

/// Arguments as a request carries them.
struct Typed<A>(A);

impl<A: Arguments> Payload for Typed<A> {
    fn encode(&self, out: &mut Encoder<'_>, first_id: u64) -> Result<Vec<Bound>, EncodeFault> {
        scope::encoding(first_id, || self.0.encode(out))
    }
}

impl<A, T, E> Call<A, T, E> {
    pub(crate) fn new(caller: Caller, method: &'static Method, arguments: A) -> Self {
        Call {
            method,
            arguments: Some(Typed(arguments)),
            options: CallOptions::default(),
            state: State::New(caller),
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
        self.options.timeout = Some(timeout);
        self
    }

    /// Sends metadata with the request. What is beyond the limits of [`Metadata`] refuses the call.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.options.metadata = metadata;
        self
    }

    /// Marks the call, so that a service behind [`Deduplicate`](crate::Deduplicate) runs it once however often it
    /// is made: for a call whose outcome is not known, make it again with the same nonce (protocol section 4).
    ///
    /// Calls that open streams are not deduplicated.
    pub fn with_nonce(mut self, nonce: Nonce) -> Self {
        self.options.nonce = Some(nonce);
        self
    }

    /// The method that is called.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.method
    }
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
        let State::New(caller) = &self.state else { return block_on(self) };
        match caller.direct() {
            Some(connection) => {
                let hub = Arc::clone(connection.hub());
                block_on_link(&hub, self)
            }
            None => block_on(self),
        }
    }

    fn read(
        payload: &[u8],
        channels: Unclaimed,
        nesting: u32,
        metadata: &Metadata,
    ) -> Result<T, CallError<E>> {
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
            Verdict::Cancelled => Err(Reason::of(metadata).map_or(CallError::Cancelled, Reason::into_error)),
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
        let reply = match ready!(this.poll_reply(cx)) {
            Ok(reply) => reply,
            Err(error) => {
                this.state = State::Done;
                return Poll::Ready(Err(error.widen()));
            }
        };
        let result = Self::read(&reply.payload, reply.channels, reply.nesting, &reply.metadata);
        if let State::Direct(mut call) = mem::replace(&mut this.state, State::Done) {
            call.recycle(reply.payload);
        }
        Poll::Ready(result)
    }
}

impl<A: Arguments, T, E> Call<A, T, E> {
    /// Polls for the answer, whatever it says.
    fn poll_reply(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Reply, CallError>> {
        if let State::New(_) = self.state {
            self.start()?;
        }
        match &mut self.state {
            State::Direct(call) => {
                if let Some(arguments) = &self.arguments {
                    ready!(call.poll_send(cx, arguments))?;
                    self.arguments = None;
                }
                call.poll_reply(cx)
            }
            State::Managed(reply) => reply.as_mut().poll(cx),
            State::New(_) | State::Done => Poll::Pending,
        }
    }

    /// The first poll: a request straight to the link, or a call handed to what manages it.
    fn start(&mut self) -> Result<(), CallError> {
        let State::New(caller) = mem::replace(&mut self.state, State::Done) else { return Ok(()) };
        let options = mem::take(&mut self.options);
        self.state = match caller.into_route() {
            Route::Direct(connection) => State::Direct(RawCall::new(connection, self.method.id, options)?),
            Route::Managed(manage) => {
                let Some(arguments) = self.arguments.take() else { return Ok(()) };
                let payload = Box::new(arguments);
                let (method_id, method) = (self.method.id, Some(self.method));
                State::Managed(manage.start(OutgoingCall { method_id, method, payload, options }))
            }
        };
        Ok(())
    }
}

impl<A, T, E> std::fmt::Debug for Call<A, T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("method", &self.method.name).finish_non_exhaustive()
    }
}

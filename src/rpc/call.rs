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
    block::{block_on, block_on_in, block_on_link},
    caller::{Caller, OutgoingCall, Replying, Route},
    channel::Unclaimed,
    dedup::Nonce,
    errors::CallError,
    method::Method,
    raw_call::{CallOptions, Payload, RawCall, Reply},
    reason::Reason,
    scope::{self, Encoded},
    wire::{Arguments, decode_value, put_vector},
};
use crate::{
    link::{Encoder, pool::Owned},
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
    raw: Untyped,
    /// `None` once they were sent, or handed on.
    arguments: Option<Typed<A>>,
    result: PhantomData<fn() -> (T, E)>,
}

/// A call without its types: what it does is compiled once, not once a method.
struct Untyped {
    method: &'static Method,
    options: CallOptions,
    state: State,
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
    fn encode(&self, out: &mut Encoder<'_>, first_id: u64) -> Encoded {
        scope::encoding(first_id, &mut || self.0.encode(out))
    }
}

/// The arguments of a call, while they are there.
trait Unsent {
    fn payload(&self) -> Option<&dyn Payload>;
    /// Takes them out, for others to send.
    fn take(&mut self) -> Option<Box<dyn Payload>>;
    /// They were sent.
    fn clear(&mut self);
}

impl<A: Arguments> Unsent for Option<Typed<A>> {
    fn payload(&self) -> Option<&dyn Payload> {
        match self {
            Some(arguments) => Some(arguments),
            None => None,
        }
    }

    fn take(&mut self) -> Option<Box<dyn Payload>> {
        match self.take() {
            Some(arguments) => Some(Box::new(arguments)),
            None => None,
        }
    }

    fn clear(&mut self) {
        *self = None;
    }
}

/// What a call is to bring, as it is read from its answer.
trait Expected {
    /// Reads the value, or the error if it is none.
    fn read(&mut self, ok: bool, bytes: &[u8], nesting: u32) -> Result<(), DecodeError>;
    /// Takes the vector that the value is; it is given back if the value has another type.
    fn take(&mut self, vector: Owned) -> Result<(), Owned>;
}

impl<T: DeserializeOwned + 'static, E: DeserializeOwned + 'static> Expected for Option<Result<T, E>> {
    fn read(&mut self, ok: bool, bytes: &[u8], nesting: u32) -> Result<(), DecodeError> {
        *self = Some(if ok { Ok(decode_value(bytes, nesting)?) } else { Err(decode_value(bytes, nesting)?) });
        Ok(())
    }

    fn take(&mut self, vector: Owned) -> Result<(), Owned> {
        let mut value: Option<T> = None;
        put_vector(vector, &mut value)?;
        *self = value.map(Ok);
        Ok(())
    }
}

impl<A, T, E> Call<A, T, E> {
    pub(crate) fn new(caller: Caller, method: &'static Method, arguments: A) -> Self {
        Call { raw: Untyped::new(caller, method), arguments: Some(Typed(arguments)), result: PhantomData }
    }

    /// Gives the call a time limit: it fails with [`CallError::TimedOut`] when that is over, and its handler
    /// is stopped. The time runs from the first poll, and travels with the request as `timeout-ns`
    /// (protocol section 4). Exact to a millisecond or so.
    ///
    /// A call that a handler makes has no more time than the handler itself, also without this: what is left of
    /// [`Context::deadline`](crate::Context::deadline) travels with it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.raw.options.timeout = Some(timeout);
        self
    }

    /// Sends metadata with the request. What is beyond the limits of [`Metadata`] refuses the call.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.raw.options.metadata = metadata;
        self
    }

    /// Marks the call, so that a service behind [`Deduplicate`](crate::Deduplicate) runs it once however often it
    /// is made: for a call whose outcome is not known, make it again with the same nonce (protocol section 4).
    ///
    /// Calls that open streams are not deduplicated.
    pub fn with_nonce(mut self, nonce: Nonce) -> Self {
        self.raw.options.nonce = Some(nonce);
        self
    }

    /// The method that is called.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.raw.method
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
        let State::New(caller) = &self.raw.state else { return block_on(self) };
        match caller.direct() {
            Some(connection) => {
                let hub = Arc::clone(connection.hub());
                block_on_link(&hub, self)
            }
            None => {
                let runtime = caller.runtime().clone();
                block_on_in(&runtime, self)
            }
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
        let mut result: Option<Result<T, E>> = None;
        Poll::Ready(match ready!(this.raw.poll(cx, &mut this.arguments, &mut result)) {
            Some(error) => Err(error.widen()),
            None => match result {
                Some(Ok(value)) => Ok(value),
                Some(Err(error)) => Err(CallError::User(error)),
                None => Err(CallError::InvalidResponse(DecodeError::refused(NO_ANSWER))),
            },
        })
    }
}

/// What is wrong with a payload that has no verdict.
const NO_ANSWER: &str = "it is no answer to a call";

impl Untyped {
    fn new(caller: Caller, method: &'static Method) -> Self {
        Untyped { method, options: CallOptions::default(), state: State::New(caller) }
    }

    /// Polls for the result, which is read into `result` unless there is an error that is not the service's.
    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        arguments: &mut dyn Unsent,
        result: &mut dyn Expected,
    ) -> Poll<Option<CallError>> {
        if let State::Direct(call) = &mut self.state
            && let Some(payload) = call.take_payload()
        {
            let read = read(&payload, Unclaimed::default(), None, call.nesting(), result);
            call.recycle(payload);
            return Poll::Ready(read.err());
        }
        let reply = match ready!(self.poll_reply(cx, arguments)) {
            Ok(reply) => reply,
            Err(error) => {
                self.state = State::Done;
                return Poll::Ready(Some(error));
            }
        };
        let Reply { mut payload, channels, metadata, nesting } = reply;
        let read = if channels.is_empty() && payload.hand_over(|vector| result.take(vector)) {
            Ok(())
        } else {
            payload.decode(|payload| read(payload, channels, metadata.as_deref(), nesting, result))
        };
        match &mut self.state {
            State::Direct(call) => call.recycle(payload.into_room()), // where it is: it is long, and dropped with this
            state => *state = State::Done,
        }
        Poll::Ready(read.err())
    }

    /// Polls for the answer, whatever it says.
    fn poll_reply(
        &mut self,
        cx: &mut TaskContext<'_>,
        arguments: &mut dyn Unsent,
    ) -> Poll<Result<Reply, CallError>> {
        if let State::New(_) = self.state {
            self.start(arguments)?;
        }
        match &mut self.state {
            State::Direct(call) => {
                if let Some(payload) = arguments.payload() {
                    ready!(call.poll_send(cx, payload))?;
                    arguments.clear();
                }
                call.poll_reply(cx)
            }
            State::Managed(reply) => reply.as_mut().poll(cx),
            State::New(_) | State::Done => Poll::Pending,
        }
    }

    /// The first poll: a request straight to the link, or a call handed to what manages it.
    fn start(&mut self, arguments: &mut dyn Unsent) -> Result<(), CallError> {
        let State::New(caller) = mem::replace(&mut self.state, State::Done) else { return Ok(()) };
        let options = mem::take(&mut self.options);
        self.state = match caller.into_route() {
            Route::Direct(connection) => {
                connection.hub().check_result(self.method)?;
                State::Direct(RawCall::new(connection, self.method.id, options)?)
            }
            Route::Managed(manage) => {
                let Some(payload) = arguments.take() else { return Ok(()) };
                let (method_id, method) = (self.method.id, Some(self.method));
                State::Managed(manage.start(OutgoingCall { method_id, method, payload, options }))
            }
        };
        Ok(())
    }
}

/// Reads an answer: what the service returned goes to `result`.
fn read(
    payload: &[u8],
    channels: Unclaimed,
    metadata: Option<&Metadata>,
    nesting: u32,
    result: &mut dyn Expected,
) -> Result<(), CallError> {
    let Some((verdict, value)) = Verdict::split(payload) else {
        return Err(CallError::InvalidResponse(DecodeError::refused(NO_ANSWER)));
    };
    match verdict {
        Verdict::Ok => scope::decoding(channels, &mut || result.read(true, value, nesting))
            .map_err(CallError::InvalidResponse),
        Verdict::User => result.read(false, value, nesting).map_err(CallError::InvalidResponse),
        Verdict::UnknownMethod => Err(CallError::UnknownMethod),
        Verdict::InvalidPayload => Err(CallError::InvalidPayload),
        Verdict::Cancelled => {
            Err(metadata.and_then(Reason::of).map_or(CallError::Cancelled, Reason::into_error))
        }
    }
}

impl<A, T, E> std::fmt::Debug for Call<A, T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("method", &self.raw.method.name).finish_non_exhaustive()
    }
}

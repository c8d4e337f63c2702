//! Requests and what serves them.

use std::{
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Instant,
};

use serde::Serialize;

use super::{
    channel::Unclaimed,
    connection::Connection,
    context::{Context, InContext},
    dedup::{Joint, Recorder},
    errors::Never,
    handler::{self, Origin, Place, Serving},
    hub::{Holds, Hub},
    intercept::{Chain, Outcome},
    introspection, keep_alive,
    method::{Method, Service},
    method_id::MethodId,
    payload::Payload,
    reason::Reason,
    respond::Responder,
    scope,
    wire::Arguments,
};
use crate::{
    link::pool::Owned,
    session::{Incoming, answer::Verdict, metadata::Metadata},
    strict::DecodeError,
};

/// Serves the requests of a connection. `#[adjoin::service]` writes one for each service.
pub trait ServiceDispatcher: Send + Sync + 'static {
    /// The service and its methods.
    fn service(&self) -> &'static Service;

    /// All services that it serves, for those who [ask](crate::Connection::describe): the one, unless a
    /// dispatcher combines several.
    fn services(&self) -> Vec<&'static Service> {
        vec![self.service()]
    }

    /// Serves one request: reads its arguments and starts its handler, or refuses it.
    ///
    /// Called by whoever receives on the link, one request after the other; it must not block.
    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch;
}

/// What became of a request. Made by the methods of [`IncomingRequest`].
#[derive(Debug)]
#[must_use]
pub struct Dispatch(pub(super) ());

/// A request that waits to be served. Dropped unserved it is answered Cancelled.
pub struct IncomingRequest<'a> {
    connection: Connection,
    method_id: MethodId,
    /// The payload, if it lies in the receiver's memory.
    here: &'a [u8],
    rest: Rest<'a>,
}

/// Where the rest of a request is kept. It is long, and a request is handed on by value a number of times before its
/// handler has it.
enum Rest<'a> {
    /// With whoever receives.
    Lent(Lent<'a>),
    Kept(Box<Arrived>),
}

/// What whoever receives keeps of a request, as long as somebody has it. `None` once that was taken out.
struct Lent<'a>(&'a mut Option<Arrived>);

/// Who drops a request drops it here and now: it is answered then.
impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.0 = None;
    }
}

/// What came with a request.
pub(crate) struct Arrived {
    request_id: u64,
    deadline: Option<Instant>,
    metadata: Metadata,
    /// What stands around its handler.
    chain: Option<Chain>,
    /// `None` once its handler has it, or it was refused.
    responder: Option<Responder>,
    /// Its handler goes on when its link ends.
    outlives: bool,
    /// Where an interceptor leaves the reason for which it is not served.
    rejected: Option<Arc<OnceLock<Reason>>>,
    channels: Unclaimed,
    /// Borrows nothing: see [`IncomingRequest::here`].
    payload: Payload<'static>,
}

/// What a request says before anybody has read it.
pub(super) struct Unread<'a> {
    pub(super) responder: Responder,
    pub(super) channels: Unclaimed,
    pub(super) payload: Payload<'a>,
}

impl Rest<'_> {
    #[inline]
    fn get(&self) -> Option<&Arrived> {
        match self {
            Rest::Lent(rest) => rest.0.as_ref(),
            Rest::Kept(rest) => Some(rest),
        }
    }

    #[inline]
    fn get_mut(&mut self) -> Option<&mut Arrived> {
        match self {
            Rest::Lent(rest) => rest.0.as_mut(),
            Rest::Kept(rest) => Some(rest),
        }
    }

    #[inline]
    fn take(self) -> Option<Arrived> {
        match self {
            Rest::Lent(rest) => rest.0.take(),
            Rest::Kept(rest) => Some(*rest),
        }
    }
}

impl<'a> IncomingRequest<'a> {
    /// One that has arrived, kept in `rest` until somebody takes it out, or drops the request.
    #[inline]
    pub(crate) fn arrived(
        connection: Connection,
        request: Incoming<'a>,
        channels: Unclaimed,
        holds: Holds,
        deadline: Option<Instant>,
        rest: &'a mut Option<Arrived>,
    ) -> Self {
        let Incoming { request_id, metadata, .. } = request;
        let responder = Some(Responder::new(connection.clone(), request_id, request.channels, holds));
        let (here, payload) = Payload::arrived(request.payload);
        *rest = Some(Arrived {
            request_id,
            deadline,
            metadata,
            chain: None,
            responder,
            outlives: false,
            rejected: None,
            channels,
            payload,
        });
        IncomingRequest {
            connection,
            method_id: MethodId::new(request.method_id),
            here,
            rest: Rest::Lent(Lent(rest)),
        }
    }

    /// Hands the request to the connection's dispatcher.
    pub(crate) fn dispatch(self, hub: &Hub) {
        let kept;
        let state = if self.connection.key().is_root() {
            &hub.root // without a count
        } else {
            kept = Arc::clone(self.connection.state());
            &kept
        };
        if self.method_id == keep_alive::PING_ID {
            let _ = self.unknown_method();
            return;
        }
        if self.method_id == introspection::DESCRIBE_ID && hub.introspection {
            let limit = hub.limits.max_payload_size;
            let _ = introspection::describe(self, state.dispatcher.clone(), limit);
            return;
        }
        match &state.dispatcher {
            Some(dispatcher) => {
                // A `Deserialize` of the application may panic: that costs its own request.
                if catch_unwind(AssertUnwindSafe(|| dispatcher.dispatch(self))).is_err() {
                    tracing::error!("reading a request's arguments panicked; it was answered Cancelled");
                }
            }
            None => {
                let _ = self.unknown_method();
            }
        }
    }

    /// The method that is called.
    #[must_use]
    pub fn method_id(&self) -> MethodId {
        self.method_id
    }

    /// The metadata that came with the request.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        const NONE: &Metadata = &Metadata::EMPTY;
        self.rest.get().map_or(NONE, |rest| &rest.metadata)
    }

    /// Answers that there is no such method.
    pub fn unknown_method(self) -> Dispatch {
        self.refuse(Verdict::UnknownMethod)
    }

    /// Answers with an error of the protocol.
    pub(crate) fn refuse(self, verdict: Verdict) -> Dispatch {
        self.answer_unread(|responder| responder.refuse(verdict))
    }

    /// The connection on which it came.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// When its handler is to be done, if the call has a timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.rest.get()?.deadline
    }

    /// Answers [`Rejected`](crate::CallError::Rejected): it was not served, for a reason that the caller is shown.
    /// One that is longer than 1 KiB is cut there.
    pub fn reject(self, reason: impl Into<String>) -> Dispatch {
        self.answer_unread(|responder| responder.cancel(&Reason::Rejected(reason.into())))
    }

    /// Its parts. `None` when they are gone, which they are not before it is.
    #[inline]
    pub(super) fn split(self) -> Option<(Origin, Unread<'a>)> {
        let IncomingRequest { connection, method_id, here, rest } = self;
        let Arrived { request_id, deadline, metadata, chain, responder, channels, payload, .. } =
            rest.take()?;
        let (responder, borrows) = (responder?, matches!(payload, Payload::Borrowed(_)));
        let payload = if borrows { Payload::Borrowed(here) } else { payload };
        let origin = Origin { connection, request_id, method_id, deadline, metadata, chain };
        Some((origin, Unread { responder, channels, payload }))
    }

    /// Answers what nobody has read. What it brought is let go behind the answer: its channels are dead then, and not
    /// reset one by one.
    fn answer_unread(self, answer: impl FnOnce(Responder)) -> Dispatch {
        if let Some(mut rest) = self.rest.take()
            && let Some(responder) = rest.responder.take()
        {
            answer(responder);
        }
        Dispatch(())
    }

    /// Puts more around its handler, within what is there.
    pub(super) fn intercept(&mut self, chain: &Chain) {
        if let Some(rest) = self.rest.get_mut() {
            let before = rest.chain.take();
            rest.chain = Some(before.map_or_else(|| chain.clone(), |outer| outer.followed_by(chain)));
        }
    }

    /// Serves the request later, when `ready` is done; what was sent on its streams waits, too. Cancel, the request's
    /// deadline and the end of its connection end the wait.
    ///
    /// A waiting request counts as one that runs.
    pub fn serve_later<F>(
        self,
        ready: F,
        serve: impl FnOnce(IncomingRequest<'static>) -> Dispatch + Send + 'static,
    ) -> Dispatch
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let IncomingRequest { connection, method_id, here, rest } = self;
        let Some(mut rest) = rest.take() else { return Dispatch(()) };
        if let Payload::Borrowed(_) = rest.payload {
            rest.payload = Payload::Borrowed(here).into_kept();
        }
        let place = Place::of(&connection, rest.request_id);
        let rest = Rest::Kept(Box::new(rest));
        let request = IncomingRequest { connection, method_id, here: &[], rest };
        // What it is served by takes the place of the one that waits, so that one has to have it first.
        let (waits, goes_on) = tokio::sync::oneshot::channel::<()>();
        place.spawn(async move {
            let _ = goes_on.await;
            ready.await;
            // A `Deserialize` of the application may panic: that costs its own request.
            let _ = serve(request);
        });
        let _ = waits.send(());
        Dispatch(())
    }

    /// Whether the request's arguments open channels or carry descriptors.
    pub(crate) fn is_for_one_run(&self) -> bool {
        self.rest.get().is_some_and(|rest| !rest.channels.is_empty())
    }

    /// The answer is to be remembered.
    pub(crate) fn recorded(mut self, recorder: Recorder) -> Self {
        if let Some(responder) = self.rest.get_mut().and_then(|rest| rest.responder.as_mut()) {
            responder.record_with(recorder);
        }
        self
    }

    /// Answers with what was answered before.
    pub(crate) fn answer_with(self, payload: Arc<[u8]>) -> Dispatch {
        self.run(|mut responder| async move { responder.payload(payload).await })
    }

    /// Answers with what the same request, which runs, will be answered.
    pub(crate) fn join(self, joint: Arc<Joint>) -> Dispatch {
        self.run(|mut responder| async move { responder.payload(joint.answer().await).await })
    }

    /// Answers by a task that Cancel stops.
    fn run<Fut>(self, answer: impl FnOnce(Responder) -> Fut) -> Dispatch
    where
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        if let Some(Arrived { request_id, responder: Some(responder), .. }) = self.rest.take() {
            Place::of(&self.connection, request_id).spawn(answer(responder));
        }
        Dispatch(())
    }

    /// Serves the request with a handler that cannot fail.
    ///
    /// Reads the arguments, calls `handler` with them and runs its future: in place for as long as it does
    /// not wait if the method is `inline`, on the link's runtime otherwise. What `handler` does itself, and not in its future,
    /// is done before any [interceptor](crate::intercept) has seen the request.
    pub fn serve<Args, T, F, Fut>(mut self, method: &'static Method, handler: F) -> Dispatch
    where
        Args: Arguments,
        T: Serialize + Send + 'static,
        F: FnOnce(Args) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let Some((arguments, mut responder)) = self.read(method) else { return Dispatch(()) };
        let handled = handler(arguments);
        self.handle(
            method,
            Box::pin(async move {
                let mut result: Result<T, Never> = Ok(handled.await);
                responder.result(&mut result).await
            }),
        )
    }

    /// Serves the request with a handler that has an error of its own. See
    /// [`serve`](IncomingRequest::serve).
    pub fn serve_result<Args, T, E, F, Fut>(mut self, method: &'static Method, handler: F) -> Dispatch
    where
        Args: Arguments,
        T: Serialize + Send + 'static,
        E: Serialize + Send + 'static,
        F: FnOnce(Args) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some((arguments, mut responder)) = self.read(method) else { return Dispatch(()) };
        let handled = handler(arguments);
        self.handle(
            method,
            Box::pin(async move {
                let mut result = handled.await;
                responder.result(&mut result).await
            }),
        )
    }

    fn read<Args: Arguments>(&mut self, method: &'static Method) -> Option<(Args, Responder)> {
        let mut arguments = None;
        let responder = self.decode(method, &mut arguments)?;
        Some((arguments?, responder))
    }

    /// Reads the arguments, or refuses the request. Knows no types, so that it is compiled once, not once a method.
    fn decode(&mut self, method: &'static Method, arguments: &mut dyn Wanted) -> Option<Responder> {
        let nesting = self.connection.hub().max_nesting;
        let (here, rest) = (self.here, self.rest.get_mut()?);
        let mut payload = mem::replace(&mut rest.payload, Payload::Borrowed(&[]));
        let mut read = || {
            if let Payload::Borrowed(_) = payload {
                return arguments.read(here, nesting);
            }
            if payload.hand_over(|vector| arguments.take(vector)) {
                return Ok(());
            }
            payload.decode(|bytes| arguments.read(bytes, nesting))
        };
        let read = scope::decoding(mem::take(&mut rest.channels), &mut read);
        let mut responder = rest.responder.take()?;
        if let Err(why) = read {
            // "Arguments that do not decode (trailing bytes included): `01 02`."
            tracing::debug!(method = method.name, %why, "arguments could not be read");
            responder.refuse(Verdict::InvalidPayload);
            return None;
        }
        rest.outlives = responder.is_recorded();
        rest.rejected = rest.chain.is_some().then(|| responder.rejected_by());
        Some(responder)
    }

    /// Runs the handler that answers, whose arguments were [read](IncomingRequest::decode): one instance for all methods.
    fn handle(
        self,
        method: &'static Method,
        handler: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    ) -> Dispatch {
        let IncomingRequest { connection, method_id, mut rest, .. } = self;
        let Some(rest) = rest.get_mut() else { return Dispatch(()) };
        let (request_id, deadline) = (rest.request_id, rest.deadline);
        let metadata = mem::replace(&mut rest.metadata, Metadata::EMPTY);
        if rest.chain.is_none() && !rest.outlives {
            let run = InContext::new(Context::new(connection, request_id, method, deadline), handler);
            handler::handle(run, metadata);
            return Dispatch(());
        }
        let (chain, rejected) = (rest.chain.take(), rest.rejected.take());
        let origin = Origin { connection, request_id, method_id, deadline, metadata, chain };
        Serving { origin, method: Some(method), outlives: rest.outlives, rejected }.handle(method, handler);
        Dispatch(())
    }
}

/// The arguments that a method wants, as they are read out of a request.
trait Wanted {
    /// Reads them out of a payload, of so many levels at most.
    fn read(&mut self, bytes: &[u8], nesting: u32) -> Result<(), DecodeError>;
    /// Takes the vector that they are; it is given back if they are something else.
    fn take(&mut self, vector: Owned) -> Result<(), Owned>;
}

impl<Args: Arguments> Wanted for Option<Args> {
    fn read(&mut self, bytes: &[u8], nesting: u32) -> Result<(), DecodeError> {
        *self = Some(Args::decode(bytes, nesting)?);
        Ok(())
    }

    fn take(&mut self, vector: Owned) -> Result<(), Owned> {
        Args::put_vector(self, vector)
    }
}

impl std::fmt::Debug for IncomingRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("method_id", &self.method_id)
            .field("request_id", &self.rest.get().map(|rest| rest.request_id))
            .finish_non_exhaustive()
    }
}

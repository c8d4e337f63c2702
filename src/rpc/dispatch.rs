//! Requests and what serves them.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use serde::Serialize;

use super::{
    channel::Unclaimed,
    connection::Connection,
    dedup::{Joint, Recorder},
    errors::Never,
    handler::{Origin, Serving},
    hub::Holds,
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
    origin: Origin,
    unread: Unread<'a>,
}

/// What a request says before anybody has read it.
pub(super) struct Unread<'a> {
    pub(super) responder: Responder,
    pub(super) channels: Unclaimed,
    pub(super) payload: Payload<'a>,
}

impl<'a> IncomingRequest<'a> {
    pub(crate) fn arrived(
        connection: Connection,
        request: Incoming<'a>,
        channels: Unclaimed,
        holds: Holds,
        deadline: Option<Instant>,
    ) -> Self {
        let Incoming { conn, request_id, metadata, .. } = request;
        let mut responder = Responder::new(connection.clone(), conn, request_id, request.channels);
        responder.holds(holds);
        let method_id = MethodId::new(request.method_id);
        let origin = Origin { connection, conn, request_id, method_id, deadline, metadata, chain: None };
        let unread = Unread { responder, channels, payload: Payload::arrived(request.payload) };
        IncomingRequest { origin, unread }
    }

    /// Hands the request to the connection's dispatcher.
    pub(crate) fn dispatch(self) {
        let connection = self.connection();
        let state = Arc::clone(connection.state());
        if self.method_id() == keep_alive::PING_ID {
            let _ = self.unknown_method();
            return;
        }
        if self.method_id() == introspection::DESCRIBE_ID && connection.hub().introspection {
            let limit = connection.hub().limits.max_payload_size;
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
        self.origin.method_id
    }

    /// The metadata that came with the request.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.origin.metadata
    }

    /// Answers that there is no such method.
    pub fn unknown_method(self) -> Dispatch {
        self.refuse(Verdict::UnknownMethod)
    }

    /// Answers with an error of the protocol.
    pub(crate) fn refuse(self, verdict: Verdict) -> Dispatch {
        self.unread.responder.refuse(verdict);
        Dispatch(())
    }

    /// The connection on which it came.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.origin.connection
    }

    /// When its handler is to be done, if the call has a timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.origin.deadline
    }

    /// Answers [`Rejected`](crate::CallError::Rejected): it was not served, for a reason that the caller is shown.
    /// One that is longer than 1 KiB is cut there.
    pub fn reject(self, reason: impl Into<String>) -> Dispatch {
        self.unread.responder.cancel(&Reason::Rejected(reason.into()));
        Dispatch(())
    }

    /// Its parts.
    pub(super) fn split(self) -> (Origin, Unread<'a>) {
        (self.origin, self.unread)
    }

    /// What stands around its handler.
    pub(super) fn chain(&mut self) -> &mut Option<Chain> {
        &mut self.origin.chain
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
        let Unread { responder, channels, payload } = self.unread;
        let unread = Unread { responder, channels, payload: payload.into_kept() };
        let request = IncomingRequest { origin: self.origin, unread };
        let origin = request.origin.place();
        // What it is served by takes the place of the one that waits, so that one has to have it first.
        let (waits, goes_on) = tokio::sync::oneshot::channel::<()>();
        origin.spawn(async move {
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
        !self.unread.channels.is_empty()
    }

    /// The answer is to be remembered.
    pub(crate) fn recorded(mut self, recorder: Recorder) -> Self {
        self.unread.responder.record_with(recorder);
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
        self.origin.place().spawn(answer(self.unread.responder));
        Dispatch(())
    }

    /// Serves the request with a handler that cannot fail.
    ///
    /// Reads the arguments, calls `handler` with them and runs its future: in place for as long as it does
    /// not wait if the method is `inline`, on the link's runtime otherwise. What `handler` does itself, and not in its future,
    /// is done before any [interceptor](crate::intercept) has seen the request.
    pub fn serve<Args, T, F, Fut>(self, method: &'static Method, handler: F) -> Dispatch
    where
        Args: Arguments,
        T: Serialize + Send + 'static,
        F: FnOnce(Args) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let Some((arguments, mut responder, serving)) = self.read(method) else { return Dispatch(()) };
        let handled = handler(arguments);
        serving.handle(
            method,
            Box::pin(async move {
                let mut result: Result<T, Never> = Ok(handled.await);
                responder.result(&mut result).await
            }),
        );
        Dispatch(())
    }

    /// Serves the request with a handler that has an error of its own. See
    /// [`serve`](IncomingRequest::serve).
    pub fn serve_result<Args, T, E, F, Fut>(self, method: &'static Method, handler: F) -> Dispatch
    where
        Args: Arguments,
        T: Serialize + Send + 'static,
        E: Serialize + Send + 'static,
        F: FnOnce(Args) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some((arguments, mut responder, serving)) = self.read(method) else { return Dispatch(()) };
        let handled = handler(arguments);
        serving.handle(
            method,
            Box::pin(async move {
                let mut result = handled.await;
                responder.result(&mut result).await
            }),
        );
        Dispatch(())
    }

    fn read<Args: Arguments>(self, method: &'static Method) -> Option<(Args, Responder, Serving)> {
        let mut arguments = None;
        let (responder, serving) = self.decode(method, &mut arguments)?;
        Some((arguments?, responder, serving))
    }

    /// Reads the arguments, or refuses the request. Knows no types, so that it is compiled once, not once a method.
    fn decode(self, method: &'static Method, arguments: &mut dyn Wanted) -> Option<(Responder, Serving)> {
        let nesting = self.connection().hub().max_nesting;
        let (origin, Unread { mut responder, channels, mut payload }) = self.split();
        let mut read = || {
            if payload.hand_over(|vector| arguments.take(vector)) {
                return Ok(());
            }
            payload.decode(|bytes| arguments.read(bytes, nesting))
        };
        if let Err(why) = scope::decoding(channels, &mut read) {
            // "Arguments that do not decode (trailing bytes included): `01 02`."
            tracing::debug!(method = method.name, %why, "arguments could not be read");
            responder.refuse(Verdict::InvalidPayload);
            return None;
        }
        let serving = origin.about_to_serve(Some(method), &mut responder);
        Some((responder, serving))
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
            .field("method_id", &self.origin.method_id)
            .field("request_id", &self.origin.request_id)
            .finish_non_exhaustive()
    }
}

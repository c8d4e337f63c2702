//! Requests and what serves them.

use std::{
    borrow::Cow,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Instant,
};

use serde::Serialize;
use tokio::task::AbortHandle;

use super::{
    channel::Unclaimed,
    connection::Connection,
    context::{Context, InContext},
    dedup::{Joint, Recorder},
    errors::Never,
    hub::Hub,
    introspection,
    method::{Method, Service},
    method_id::MethodId,
    reason::Reason,
    respond::Responder,
    scope,
    waiters::lock,
    wire::Arguments,
};
use crate::{
    session::{Incoming, answer::Verdict, connections::ConnKey, metadata::Metadata, serving::Attached},
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
    pub(super) responder: Responder,
    pub(super) method_id: MethodId,
    pub(super) request_id: u64,
    pub(super) conn: ConnKey,
    pub(super) deadline: Option<Instant>,
    pub(super) metadata: Metadata,
    pub(super) channels: Unclaimed,
    pub(super) payload: Cow<'a, [u8]>,
    pub(super) connection: Connection,
}

impl<'a> IncomingRequest<'a> {
    pub(crate) fn arrived(
        connection: Connection,
        request: Incoming<'a>,
        channels: Unclaimed,
        deadline: Option<Instant>,
    ) -> Self {
        let Incoming { conn, request_id, .. } = request;
        IncomingRequest {
            responder: Responder::new(connection.clone(), conn, request_id, request.channels),
            method_id: MethodId::new(request.method_id),
            request_id: request.request_id,
            conn: request.conn,
            deadline,
            metadata: request.metadata,
            channels,
            payload: Cow::Borrowed(request.payload),
            connection,
        }
    }

    /// Hands the request to the connection's dispatcher.
    pub(crate) fn dispatch(self) {
        let state = Arc::clone(self.connection.state());
        if self.method_id == introspection::DESCRIBE_ID && self.connection.hub().introspection {
            let limit = self.connection.hub().limits.max_payload_size;
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
        &self.metadata
    }

    /// Answers that there is no such method.
    pub fn unknown_method(self) -> Dispatch {
        self.refuse(Verdict::UnknownMethod)
    }

    /// Answers with an error of the protocol.
    pub(crate) fn refuse(self, verdict: Verdict) -> Dispatch {
        self.responder.refuse(verdict);
        Dispatch(())
    }

    /// The connection on which it came.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// When its handler is to be done, if the call has a timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Answers [`Rejected`](crate::CallError::Rejected): it was not served, for a reason that the caller is shown.
    /// One that is longer than 1 KiB is cut there.
    pub fn reject(self, reason: impl Into<String>) -> Dispatch {
        self.responder.cancel(&Reason::Rejected(reason.into()));
        Dispatch(())
    }

    /// The same request with its payload copied, so that it can wait to be served.
    fn into_owned(self) -> IncomingRequest<'static> {
        let IncomingRequest { payload, .. } = self;
        IncomingRequest {
            payload: Cow::Owned(payload.into_owned()),
            responder: self.responder,
            method_id: self.method_id,
            request_id: self.request_id,
            conn: self.conn,
            deadline: self.deadline,
            metadata: self.metadata,
            channels: self.channels,
            connection: self.connection,
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
        let request = self.into_owned();
        let hub = Arc::clone(request.connection.hub());
        let (conn, request_id) = (request.conn, request.request_id);
        // What it is served by takes the place of the one that waits, so that one has to have it first.
        let (waits, goes_on) = tokio::sync::oneshot::channel::<()>();
        spawn(&hub, conn, request_id, false, async move {
            let _ = goes_on.await;
            ready.await;
            // A `Deserialize` of the application may panic: that costs its own request.
            let _ = serve(request);
        });
        let _ = waits.send(());
        Dispatch(())
    }

    /// Whether the request's arguments open channels.
    pub(crate) fn opens_channels(&self) -> bool {
        !self.channels.is_empty()
    }

    /// The answer is to be remembered.
    pub(crate) fn recorded(mut self, recorder: Recorder) -> Self {
        self.responder.record_with(recorder);
        self
    }

    /// Answers with what was answered before.
    pub(crate) fn answer_with(self, payload: Arc<[u8]>) -> Dispatch {
        self.run(|responder| responder.payload(payload))
    }

    /// Answers with what the same request, which runs, will be answered.
    pub(crate) fn join(self, joint: Arc<Joint>) -> Dispatch {
        self.run(|responder| async move { responder.payload(joint.answer().await).await })
    }

    /// Answers by a task that Cancel stops.
    fn run<Fut>(self, answer: impl FnOnce(Responder) -> Fut) -> Dispatch
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        spawn(self.connection.hub(), self.conn, self.request_id, false, answer(self.responder));
        Dispatch(())
    }

    /// Serves the request with a handler that cannot fail.
    ///
    /// Reads the arguments, calls `handler` with them and runs its future: in place for as long as it does
    /// not wait if the method is `inline`, on the link's runtime otherwise.
    pub fn serve<Args, T, F, Fut>(self, method: &'static Method, handler: F) -> Dispatch
    where
        Args: Arguments,
        T: Serialize + Send + 'static,
        F: FnOnce(Args) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        self.serve_with(method, handler, |handled, responder| async move {
            let result = handled.await;
            responder.result::<T, Never>(Ok(result)).await;
        })
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
        self.serve_with(method, handler, |handled, responder| async move {
            let result = handled.await;
            responder.result(result).await;
        })
    }

    fn serve_with<Args, F, Fut, Answer>(
        self,
        method: &'static Method,
        handler: F,
        answer: impl FnOnce(Fut, Responder) -> Answer,
    ) -> Dispatch
    where
        Args: Arguments,
        F: FnOnce(Args) -> Fut,
        Answer: Future<Output = ()> + Send + 'static,
    {
        let nesting = self.connection.hub().max_nesting;
        let (arguments, complete) = scope::decoding(self.channels, || Args::decode(&self.payload, nesting));
        let arguments = match arguments {
            Ok(arguments) if complete => arguments,
            // "Arguments that do not decode (trailing bytes included): `01 02`."
            refused => {
                let why = refused.err().unwrap_or_else(|| DecodeError::refused(scope::LEFT_OVER));
                tracing::debug!(method = method.name, %why, "arguments could not be read");
                self.responder.refuse(Verdict::InvalidPayload);
                return Dispatch(());
            }
        };
        let deadline = self.deadline;
        let context = Context::new(self.connection.clone(), self.request_id, method, self.metadata, deadline);
        let outlives = self.responder.is_recorded();
        let run = InContext::new(context, answer(handler(arguments), self.responder));
        let (hub, conn, request_id) = (self.connection.hub(), self.conn, self.request_id);
        match deadline {
            // The link, which would stop it in time, may be gone by then.
            Some(at) if outlives => {
                let run = async move { drop(tokio::time::timeout_at(at.into(), run).await) };
                spawn(hub, conn, request_id, true, run);
            }
            _ => start(hub, conn, request_id, method.inline, outlives, run),
        }
        Dispatch(())
    }
}

impl std::fmt::Debug for IncomingRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("method_id", &self.method_id)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// Runs a handler: in place if it is `inline` and does not wait, as a task otherwise. A handler that panics
/// drops its responder, which answers Cancelled; the panic is reported by the process's panic hook.
pub(super) fn start<F>(hub: &Hub, conn: ConnKey, request_id: u64, inline: bool, outlives: bool, mut run: F)
where
    F: Future<Output = ()> + Send + Unpin + 'static,
{
    if inline {
        let mut cx = TaskContext::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut run).poll(&mut cx))) {
            Ok(Poll::Pending) => {} // goes on as a task, which polls it again
            Ok(Poll::Ready(())) | Err(_) => return,
        }
    }
    spawn(hub, conn, request_id, outlives, run);
}

/// Runs what answers a request as a task.
fn spawn<F>(hub: &Hub, conn: ConnKey, request_id: u64, outlives: bool, run: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let handler = Handler { task: hub.runtime.spawn(run).abort_handle(), outlives };
    let mut session = lock(&hub.session);
    let Some(open) = session.connection(conn) else {
        drop(session);
        return handler.link_ended();
    };
    match open.serving.attach(request_id, handler) {
        Attached::Running => {}
        Attached::Stop(handler) => {
            drop(session);
            handler.stop();
        }
        Attached::Gone(handler) => {
            drop(session);
            handler.link_ended();
        }
    }
}

/// What stops a handler.
#[derive(Debug)]
pub(crate) struct Handler {
    task: AbortHandle,
    /// It goes on when its link ends: somebody may ask for its answer on another one.
    outlives: bool,
}

impl Handler {
    /// The request was cancelled, or its time is over.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// The link is over, or the connection.
    pub(crate) fn link_ended(&self) {
        if !self.outlives {
            self.task.abort();
        }
    }
}

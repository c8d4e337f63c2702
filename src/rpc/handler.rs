//! What serves a request: where it came from, the future that answers it, and what stops that.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context as TaskContext, Poll, Waker},
    time::Instant,
};

use tokio::task::AbortHandle;

use super::{
    clock::now,
    connection::Connection,
    context::{Context, InContext},
    hub::Hub,
    intercept::{self, Chain, InterceptedCall, Outcome, Side},
    method::Method,
    method_id::MethodId,
    reason::Reason,
    respond::Responder,
    waiters::lock,
};
use crate::session::{connections::ConnKey, metadata::Metadata, serving::Attached};

/// Where a request came from, and what goes with it.
pub(super) struct Origin {
    pub(super) connection: Connection,
    pub(super) request_id: u64,
    pub(super) method_id: MethodId,
    pub(super) deadline: Option<Instant>,
    pub(super) metadata: Metadata,
    /// What stands around its handler.
    pub(super) chain: Option<Chain>,
}

impl Origin {
    /// Prepares to serve it. With no `method`, it is not known, and the request is passed on.
    pub(super) fn about_to_serve(
        self,
        method: Option<&'static Method>,
        responder: &mut Responder,
    ) -> Serving {
        let outlives = responder.is_recorded();
        let rejected = self.chain.is_some().then(|| responder.rejected_by());
        Serving { origin: self, method, outlives, rejected }
    }
}

/// The place of a request among those that are served.
pub(super) struct Place {
    hub: Arc<Hub>,
    conn: ConnKey,
    request_id: u64,
}

impl Place {
    pub(super) fn of(connection: &Connection, request_id: u64) -> Self {
        Place { hub: Arc::clone(connection.hub()), conn: connection.key(), request_id }
    }

    /// Runs what answers the request as a task, which Cancel stops.
    pub(super) fn spawn<F>(&self, run: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        spawn(&self.hub, self.conn, self.request_id, false, run);
    }
}

/// A request that is about to be served.
pub(super) struct Serving {
    pub(super) origin: Origin,
    pub(super) method: Option<&'static Method>,
    /// Its handler goes on when its link ends.
    pub(super) outlives: bool,
    /// Where an interceptor leaves the reason for which it is not served.
    pub(super) rejected: Option<Arc<OnceLock<Reason>>>,
}

/// The future that answers a request.
pub(crate) trait Answering: Future<Output = Outcome> + Send + Unpin + 'static {
    /// What went with the request, as the interceptors have left it. Comes before the first poll.
    fn set_metadata(&mut self, metadata: Metadata);
}

impl Serving {
    /// Answers with a handler's result: one instance for all methods.
    pub(super) fn handle(
        self,
        method: &'static Method,
        handler: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    ) {
        let Origin { connection, request_id, deadline, .. } = &self.origin;
        let context = Context::new(connection.clone(), *request_id, method, *deadline);
        self.run(InContext::new(context, handler));
    }

    /// Answers with a future, behind the interceptors.
    pub(super) fn run(self, mut answering: impl Answering) {
        let Serving { origin, method, outlives, rejected } = self;
        let Origin { connection, request_id, method_id, deadline, metadata, chain } = origin;
        // What is passed on goes out where it was read.
        let inline = method.is_none_or(|method| method.inline);
        let (hub, conn) = (Arc::clone(connection.hub()), connection.key());
        if let (Some(chain), Some(rejected)) = (chain, rejected) {
            let (side, connection) = (Side::Callee, Some(connection));
            let began = now();
            let call = InterceptedCall { side, method_id, method, metadata, deadline, connection, began };
            let run = Box::pin(intercept::serve(chain, call, Box::new(answering), rejected));
            launch(&hub, conn, request_id, inline, outlives.then_some(deadline), run);
        } else {
            answering.set_metadata(metadata);
            launch(&hub, conn, request_id, inline, outlives.then_some(deadline), answering);
        }
    }
}

/// Answers with a handler's result, as [`Serving::handle`] does, where there are no interceptors and the link's end ends
/// it: with the one handle on the connection that its context has.
pub(super) fn handle(mut run: InContext<dyn Future<Output = Outcome> + Send>, metadata: Metadata) {
    run.set_metadata(metadata);
    if run.context().is_some_and(|context| context.method().inline) && is_done_in_place(&mut run) {
        return;
    }
    if let Some(context) = run.context().cloned() {
        let connection = context.connection();
        spawn(connection.hub(), connection.key(), context.request_id(), false, run);
    }
}

/// Runs what answers a request. `outlives`: also beyond its link, until its deadline.
fn launch<F>(
    hub: &Hub,
    conn: ConnKey,
    request_id: u64,
    inline: bool,
    outlives: Option<Option<Instant>>,
    run: F,
) where
    F: Future + Send + Unpin + 'static,
    F::Output: Send,
{
    match outlives {
        // The link, which would stop it in time, may be gone by then.
        Some(Some(at)) => {
            let run = async move { drop(tokio::time::timeout_at(at.into(), run).await) };
            spawn(hub, conn, request_id, true, run);
        }
        Some(None) => start(hub, conn, request_id, inline, true, run),
        None => start(hub, conn, request_id, inline, false, run),
    }
}

/// Runs a handler: in place if it is `inline` and does not wait, as a task otherwise. A handler that panics
/// drops its responder, which answers Cancelled; the panic is reported by the process's panic hook.
fn start<F>(hub: &Hub, conn: ConnKey, request_id: u64, inline: bool, outlives: bool, mut run: F)
where
    F: Future + Send + Unpin + 'static,
    F::Output: Send,
{
    if !inline || !is_done_in_place(&mut run) {
        spawn(hub, conn, request_id, outlives, run);
    }
}

/// Polls a handler once. `true`: it is done, or has panicked. Else it goes on as a task, which polls it again.
#[inline]
fn is_done_in_place<F: Future + Unpin>(run: &mut F) -> bool {
    let mut cx = TaskContext::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(run).poll(&mut cx)));
    !matches!(polled, Ok(Poll::Pending))
}

/// Runs what answers a request as a task.
fn spawn<F>(hub: &Hub, conn: ConnKey, request_id: u64, outlives: bool, run: F)
where
    F: Future + Send + 'static,
    F::Output: Send,
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

//! What a handler can know of the request that it serves.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use super::{connection::Connection, handler::Answering, intercept::Outcome, method::Method};
use crate::session::metadata::Metadata;

/// The request that a handler serves: where it came from, and what came with it.
///
/// ```
/// # use adjoin::Context;
/// async fn whoami() -> Option<String> {
///     let context = Context::current()?;
///     context.metadata().get("user")?.as_str().map(str::to_owned)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    connection: Connection,
    request_id: u64,
    method: &'static Method,
    metadata: Option<Arc<Metadata>>,
    deadline: Option<Instant>,
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// What a request without metadata has.
static NO_METADATA: Metadata = Metadata::EMPTY;

impl Context {
    pub(crate) fn new(
        connection: Connection,
        request_id: u64,
        method: &'static Method,
        deadline: Option<Instant>,
    ) -> Self {
        Context { connection, request_id, method, metadata: None, deadline }
    }

    /// The request that the current task serves. `None` outside of a handler, and in tasks and threads that
    /// a handler has started: see [`scope`](Context::scope) for those.
    #[must_use]
    pub fn current() -> Option<Context> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// When the handler that runs on this thread is to be done.
    pub(crate) fn current_deadline() -> Option<Instant> {
        CURRENT.with_borrow(|context| context.as_ref().and_then(|context| context.deadline))
    }

    /// Until the guard is dropped, this thread is in no handler: for a handler's thread that does the link's work.
    pub(crate) fn step_out() -> SteppedOut {
        SteppedOut(CURRENT.take())
    }

    /// The connection on which the request came. Calls back go out on it.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The request's id on its connection.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        self.request_id
    }

    /// The method that was called.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// The metadata that came with the request.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.metadata.as_deref().unwrap_or(&NO_METADATA)
    }

    /// When the handler will be stopped, if the call has a timeout. The calls that the handler makes have no more
    /// time than this, on whichever connection.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Runs a future so that it finds this context, for tasks that a handler starts.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        InContext { context: Some(self.clone()), future: Box::pin(future) }
    }
}

/// Puts the context back that [`Context::step_out`] took away.
pub(crate) struct SteppedOut(Option<Context>);

impl Drop for SteppedOut {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A future that is polled with a context in place.
pub(crate) struct InContext<F: ?Sized> {
    context: Option<Context>,
    future: Pin<Box<F>>,
}

impl<F: ?Sized> InContext<F> {
    pub(crate) fn new(context: Context, future: Pin<Box<F>>) -> Self {
        InContext { context: Some(context), future }
    }

    /// The context, which is there between two polls.
    #[inline]
    pub(crate) fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }
}

impl Answering for InContext<dyn Future<Output = Outcome> + Send> {
    fn set_metadata(&mut self, metadata: Metadata) {
        if let Some(context) = &mut self.context {
            context.metadata = (!metadata.is_empty()).then(|| Arc::new(metadata));
        }
    }
}

impl<F: Future + ?Sized> Future for InContext<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _restore = Swapped::new(&mut this.context);
        this.future.as_mut().poll(cx)
    }
}

/// A context that has changed places with the outer one. They change back when this is dropped, also when the future
/// panics.
struct Swapped<'a>(&'a mut Option<Context>);

impl<'a> Swapped<'a> {
    #[inline]
    fn new(own: &'a mut Option<Context>) -> Self {
        CURRENT.with_borrow_mut(|current| mem::swap(current, own));
        Swapped(own)
    }
}

impl Drop for Swapped<'_> {
    #[inline]
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| mem::swap(current, self.0));
    }
}

//! Interceptors of the side that serves.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use futures_util::FutureExt;

use super::{Chain, Innermost, InterceptedCall, Intercepting, Interceptor, Kind, Outcome};
use crate::rpc::{
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    errors::CallError,
    handler::Answering,
    method::Service,
    reason::Reason,
};

/// Serves another dispatcher, with [interceptors](crate::intercept) around each of its calls.
///
/// They see a call when its arguments have been read: requests for a method that nobody has, and those whose arguments
/// cannot be read, are answered before. Calls that are forwarded they see unread.
///
/// See the [module](crate::intercept) for an example.
#[derive(Clone)]
#[must_use]
pub struct Intercept<D> {
    dispatcher: D,
    chain: Option<Chain>,
}

impl<D: ServiceDispatcher> Intercept<D> {
    /// No interceptors yet.
    pub fn new(dispatcher: D) -> Self {
        Intercept { dispatcher, chain: None }
    }

    /// One more, which sees calls behind those that were added before.
    pub fn with(self, interceptor: impl Interceptor) -> Self {
        let chain = Chain::with(self.chain.as_ref(), Arc::new(interceptor));
        Intercept { chain: Some(chain), ..self }
    }
}

impl<D: ServiceDispatcher> ServiceDispatcher for Intercept<D> {
    fn service(&self) -> &'static Service {
        self.dispatcher.service()
    }

    fn services(&self) -> Vec<&'static Service> {
        self.dispatcher.services()
    }

    fn dispatch(&self, mut request: IncomingRequest<'_>) -> Dispatch {
        if let Some(chain) = &self.chain {
            request.intercept(chain); // those of an outer dispatcher come first
        }
        self.dispatcher.dispatch(request)
    }
}

impl<D: fmt::Debug> fmt::Debug for Intercept<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercept").field("dispatcher", &self.dispatcher).field("chain", &self.chain).finish()
    }
}

/// Lets a request through the interceptors, and then has it answered. `rejected` is where the answer finds the reason
/// when it is dropped unserved.
pub(crate) async fn serve(
    chain: Chain,
    mut call: InterceptedCall,
    answering: Box<dyn Answering>,
    rejected: Arc<OnceLock<Reason>>,
) {
    let mut handler = Handler { answering: Some(answering) };
    let outcome = chain.run(&mut call, &mut handler).await;
    if let (Some(unserved), Kind::Failed(CallError::Rejected { reason })) = (handler.answering, outcome.kind)
    {
        let _ = rejected.set(Reason::Rejected(reason));
        drop(unserved); // which answers
    }
}

struct Handler {
    answering: Option<Box<dyn Answering>>,
}

impl Innermost for Handler {
    fn run<'a>(&'a mut self, call: &'a mut InterceptedCall) -> Intercepting<'a> {
        Box::pin(async move {
            let Some(mut answering) = self.answering.take() else {
                return Outcome::failed(CallError::Cancelled);
            };
            answering.set_metadata(call.metadata.clone());
            // A handler that panics is answered Cancelled; the interceptors see that, and go on.
            AssertUnwindSafe(answering)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Outcome::failed(CallError::Cancelled))
        })
    }
}

//! A dispatcher that is named before it exists.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::PASSED_ON;
use crate::rpc::{
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    method::Service,
};

/// Takes the place of a dispatcher that comes later: for programs that face both ways, and have to say what they
/// serve on one link before the other exists.
///
/// A call that comes before it is [bound](LateBound::bind) is answered `Cancelled` at once, with a reason
/// ([`CallError::Rejected`](crate::CallError::Rejected)); up to a [limit](LateBound::waiting) calls can wait instead.
///
/// Clones are the same: give one to the link, and bind another.
///
/// ```
/// # #[cfg(feature = "macros")] mod example {
/// use adjoin::{CallError, Options, local, proxy::{Forward, LateBound}};
/// # #[adjoin::service]
/// # trait Clock {
/// #     async fn ticks(&self) -> u64;
/// # }
/// # struct Stopped;
/// # impl Clock for Stopped {
/// #     async fn ticks(&self) -> u64 {
/// #         7
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let late = LateBound::new();
/// let (client, _proxy) = local::pair(Options::new(), Options::new().serve(late.clone()));
/// let clock = ClockClient::new(client);
/// assert!(matches!(clock.ticks().await, Err(CallError::Rejected { .. })));
///
/// let (upstream, _server) = local::pair(Options::new(), Options::new().serve(ClockDispatcher::new(Stopped)));
/// late.bind(Forward::to(upstream))?;
/// assert_eq!(clock.ticks().await?, 7);
/// # Ok(()) }
/// # }
/// # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
/// # #[cfg(not(feature = "macros"))] fn main() {}
/// ```
#[derive(Clone)]
#[must_use]
pub struct LateBound {
    max_waiting: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bound: OnceLock<Arc<dyn ServiceDispatcher>>,
    told: Notify,
    waiting: AtomicUsize,
}

/// A [`LateBound`] has its dispatcher already, and keeps that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dispatcher is bound already")]
pub struct AlreadyBound;

impl LateBound {
    /// Not bound yet. No call waits.
    pub fn new() -> Self {
        LateBound { max_waiting: 0, shared: Arc::default() }
    }

    /// How many calls may wait until it is bound, over all links that have it. Default: none. Further ones are answered
    /// at once.
    ///
    /// A call waits no longer than its deadline, and counts against
    /// [`Settings::max_concurrent_requests`](crate::Settings::max_concurrent_requests) as one that runs.
    pub fn waiting(self, calls: usize) -> Self {
        LateBound { max_waiting: calls, ..self }
    }

    /// From now on, calls are served by this dispatcher, and those that have waited.
    ///
    /// # Errors
    ///
    /// It is bound already, and stays as it is.
    pub fn bind(&self, dispatcher: impl ServiceDispatcher) -> Result<(), AlreadyBound> {
        self.shared.bound.set(Arc::new(dispatcher)).map_err(|_| AlreadyBound)?;
        self.shared.told.notify_waiters();
        Ok(())
    }

    /// Whether it is bound.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.shared.bound.get().is_some()
    }
}

impl Default for LateBound {
    fn default() -> Self {
        LateBound::new()
    }
}

impl Shared {
    async fn wait_until_bound(&self) {
        let mut told = pin!(self.told.notified());
        told.as_mut().enable(); // from here on nothing is missed
        if self.bound.get().is_none() {
            told.await;
        }
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        match self.bound.get() {
            Some(dispatcher) => dispatcher.dispatch(request),
            None => request.reject(NOT_BOUND),
        }
    }
}

const NOT_BOUND: &str = "the proxy is not connected yet";

/// One of the calls that wait.
struct Waiting(Arc<Shared>);

impl Waiting {
    /// `None`: as many wait as may.
    fn begin(shared: &Arc<Shared>, limit: usize) -> Option<Self> {
        // Relaxed: a count, and nothing that it guards.
        let more = |waiting| (waiting < limit).then_some(waiting + 1);
        shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Waiting(Arc::clone(shared)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed); // Relaxed: as above
    }
}

impl ServiceDispatcher for LateBound {
    fn service(&self) -> &'static Service {
        self.shared.bound.get().map_or(&PASSED_ON, |dispatcher| dispatcher.service())
    }

    fn services(&self) -> Vec<&'static Service> {
        self.shared.bound.get().map(|dispatcher| dispatcher.services()).unwrap_or_default()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        if self.is_bound() || self.max_waiting == 0 {
            return self.shared.dispatch(request);
        }
        let Some(waiting) = Waiting::begin(&self.shared, self.max_waiting) else {
            let limit = self.max_waiting;
            return request
                .reject(format!("{NOT_BOUND}, and {limit} calls wait already (LateBound::waiting)"));
        };
        let shared = Arc::clone(&self.shared);
        let bound = async move {
            waiting.0.wait_until_bound().await;
        };
        request.serve_later(bound, move |request| shared.dispatch(request))
    }
}

impl fmt::Debug for LateBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateBound")
            .field("bound", &self.is_bound())
            .field("max_waiting", &self.max_waiting)
            .finish_non_exhaustive()
    }
}

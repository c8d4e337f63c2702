//! Interceptors: what sees each call before and after, on the side that makes it or on the side that serves it.
//!
//! An [`Interceptor`] stands around a call: it does something, lets the call go on with [`Next::run`], and does
//! something with the [`Outcome`]. It may change the metadata, wait, or refuse by not letting the call go on at all.
//! The same interceptor works on both sides:
//!
//! - on the side that calls: [`Caller::with_interceptor`](crate::Caller::with_interceptor);
//! - on the side that serves: [`Intercept`], around a dispatcher.
//!
//! Interceptors see a call in the order in which they were added, and its outcome in the reverse order. Their futures are
//! dropped when the call is cancelled: what is to be done then too belongs into a `Drop`.
//!
//! A limit of concurrency, and a check of who may call:
//!
//! ```
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{
//!     CallError, Caller, Metadata, Options,
//!     intercept::{Intercept, InterceptedCall, Intercepting, Interceptor, Next, Outcome},
//!     local,
//! };
//! use tokio::sync::Semaphore;
//!
//! struct Limit(Semaphore);
//!
//! impl Interceptor for Limit {
//!     fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
//!         Box::pin(async move {
//!             let _permit = self.0.acquire().await; // given back also when the call is cancelled
//!             next.run(call).await
//!         })
//!     }
//! }
//!
//! struct Authorize;
//!
//! impl Interceptor for Authorize {
//!     fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
//!         Box::pin(async move {
//!             match call.metadata().get("token").and_then(|token| token.as_str()) {
//!                 Some("secret") => next.run(call).await,
//!                 _ => Outcome::rejected(format!("{} needs a token", call.method_name())),
//!             }
//!         })
//!     }
//! }
//!
//! struct SignIn;
//!
//! impl Interceptor for SignIn {
//!     fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
//!         call.metadata_mut().push("token", "secret");
//!         Box::pin(next.run(call))
//!     }
//! }
//!
//! # #[adjoin::service]
//! # trait Vault {
//! #     async fn open(&self) -> u32;
//! # }
//! # struct Open;
//! # impl Vault for Open {
//! #     async fn open(&self) -> u32 {
//! #         7
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vault = Intercept::new(VaultDispatcher::new(Open)).with(Limit(Semaphore::new(8))).with(Authorize);
//! let (connection, _server) = local::pair(Options::new(), Options::new().serve(vault));
//!
//! let refused = VaultClient::new(&connection).open().await;
//! assert!(matches!(refused, Err(CallError::Rejected { reason }) if reason == "open needs a token"));
//!
//! let caller = Caller::from(&connection).with_interceptor(SignIn);
//! assert_eq!(VaultClient::new(caller).open().await?, 7);
//! # Ok(()) }
//! # }
//! # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
//! # #[cfg(not(feature = "macros"))] fn main() {}
//! ```
//!
//! # What it costs
//!
//! Nothing where there are none. Where there are, a call costs a few allocations more (one for each interceptor's future,
//! and some for the call's own), on the side that has them; no thread switch, no lock and no copy of the payload.

mod outgoing;
mod serving;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::serving::Intercept;
pub(crate) use self::{outgoing::Intercepted, serving::serve};
use super::{clock::now, connection::Connection, errors::CallError, method::Method, method_id::MethodId};
use crate::session::{answer::Verdict, metadata::Metadata};

/// Stands around calls. See the [module](self) for examples.
pub trait Interceptor: Send + Sync + 'static {
    /// Sees one call: lets it go on with `next`, or rejects it by returning [`Outcome::rejected`] without that.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at any await when the call is cancelled, or its time is over.
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a>;
}

/// The future of an [`Interceptor`].
pub type Intercepting<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Which side of a call an interceptor is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that calls.
    Caller,
    /// The one that serves.
    Callee,
}

/// A call as interceptors see it.
#[derive(Debug)]
pub struct InterceptedCall {
    pub(super) side: Side,
    pub(super) method_id: MethodId,
    pub(super) method: Option<&'static Method>,
    pub(super) metadata: Metadata,
    pub(super) deadline: Option<Instant>,
    pub(super) connection: Option<Connection>,
    pub(super) began: Instant,
}

impl InterceptedCall {
    /// Which side this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The method's identity on the wire.
    #[must_use]
    pub fn method_id(&self) -> MethodId {
        self.method_id
    }

    /// The method. `None` where nothing of it is known but its id: in a [proxy](crate::proxy).
    #[must_use]
    pub fn method(&self) -> Option<&'static Method> {
        self.method
    }

    /// The name of the method's service; empty where that is not known.
    #[must_use]
    pub fn service_name(&self) -> &'static str {
        self.method.map_or("", |method| method.service)
    }

    /// The name of the method; empty where that is not known.
    #[must_use]
    pub fn method_name(&self) -> &'static str {
        self.method.map_or("", |method| method.name)
    }

    /// What goes with the request. On the side that serves, what came.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Changes what goes with the request. On the side that serves, what the handler finds in its
    /// [`Context`](crate::Context).
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// When the call is over, if it has a timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long ago it began on this side: when it was first polled, or when its arguments had been read. Behind
    /// [`Next::run`] that is how long it took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.began)
    }

    /// The connection on which the request came. `None` on the side that calls, where it may not be settled yet.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }
}

/// How a call went, as interceptors see it.
#[derive(Debug)]
#[must_use = "an interceptor returns how its call went"]
pub struct Outcome {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Done,
    ServiceError,
    Failed(CallError),
}

impl Outcome {
    /// The call is refused, for a reason that the caller is shown ([`CallError::Rejected`]). It does not run.
    ///
    /// From an interceptor that has let the call go on this changes nothing for the caller: the call has been answered.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Outcome::failed(CallError::Rejected { reason: reason.into() })
    }

    pub(super) const DONE: Outcome = Outcome { kind: Kind::Done };
    pub(super) const SERVICE_ERROR: Outcome = Outcome { kind: Kind::ServiceError };

    pub(super) fn failed(error: CallError) -> Self {
        Outcome { kind: Kind::Failed(error) }
    }

    /// The same, if the answer could be sent; it was Cancelled otherwise.
    pub(super) fn sent(self, sent: bool) -> Self {
        if sent { self } else { Outcome::failed(CallError::Cancelled) }
    }

    /// What an answer says.
    pub(super) fn of(verdict: Option<Verdict>) -> Self {
        match verdict {
            Some(Verdict::Ok) => Outcome::DONE,
            Some(Verdict::User) => Outcome::SERVICE_ERROR,
            Some(Verdict::UnknownMethod) => Outcome::failed(CallError::UnknownMethod),
            Some(Verdict::InvalidPayload) => Outcome::failed(CallError::InvalidPayload),
            Some(Verdict::Cancelled) | None => Outcome::failed(CallError::Cancelled),
        }
    }

    /// Whether the method returned, with a value and not with an error of its own.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self.kind, Kind::Done)
    }

    /// Whether the method returned with an error of its own ([`CallError::User`]).
    #[must_use]
    pub fn is_service_error(&self) -> bool {
        matches!(self.kind, Kind::ServiceError)
    }

    /// Why the method did not return.
    #[must_use]
    pub fn error(&self) -> Option<&CallError> {
        match &self.kind {
            Kind::Failed(error) => Some(error),
            Kind::Done | Kind::ServiceError => None,
        }
    }

    /// What the caller of a call that did not go on is told.
    fn into_error(self) -> CallError {
        match self.kind {
            Kind::Failed(error) => error,
            // The outcome of another call.
            Kind::Done | Kind::ServiceError => CallError::Cancelled,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Done => f.write_str("done"),
            Kind::ServiceError => f.write_str("the service refused"),
            Kind::Failed(error) => error.fmt(f),
        }
    }
}

/// What comes behind an interceptor: the next one, and in the end the call itself.
#[must_use = "a call goes on when this is run"]
pub struct Next<'a> {
    rest: &'a [Arc<dyn Interceptor>],
    innermost: &'a mut dyn Innermost,
}

impl Next<'_> {
    /// Lets the call go on, and returns how it went.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the call is cancelled.
    pub async fn run(self, call: &mut InterceptedCall) -> Outcome {
        match self.rest.split_first() {
            Some((first, rest)) => first.intercept(call, Next { rest, innermost: self.innermost }).await,
            None => self.innermost.run(call).await,
        }
    }
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").field("interceptors", &self.rest.len()).finish_non_exhaustive()
    }
}

/// The call itself.
trait Innermost: Send {
    fn run<'a>(&'a mut self, call: &'a mut InterceptedCall) -> Intercepting<'a>;
}

/// Interceptors in their order.
#[derive(Clone)]
pub(crate) struct Chain(Arc<[Arc<dyn Interceptor>]>);

impl Chain {
    /// One more behind those that there are.
    pub(crate) fn with(before: Option<&Chain>, interceptor: Arc<dyn Interceptor>) -> Self {
        let before = before.map_or(&[][..], |chain| &chain.0);
        Chain(before.iter().cloned().chain([interceptor]).collect())
    }

    /// Those of another chain behind these.
    pub(super) fn followed_by(&self, other: &Chain) -> Self {
        Chain(self.0.iter().chain(other.0.iter()).cloned().collect())
    }

    async fn run(&self, call: &mut InterceptedCall, innermost: &mut dyn Innermost) -> Outcome {
        Next { rest: &self.0, innermost }.run(call).await
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Chain").field(&self.0.len()).finish()
    }
}

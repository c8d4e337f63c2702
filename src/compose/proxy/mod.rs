//! Passing calls on: a program that stands between others, and need not know what they say.
//!
//! - [`Forward`] is a dispatcher that passes every call on to another connection, whatever its service.
//! - [`LateBound`] takes the place of a dispatcher that does not exist yet, for programs that face both ways.
//! - [`pair`] and [`pass_connections`] give each client a virtual connection of its own behind the proxy, so that
//!   calls back arrive at the right one.
//!
//! ```
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{Options, local, proxy::Forward};
//!
//! #[adjoin::service]
//! trait Adder {
//!     async fn add(&self, a: u32, b: u32) -> u32;
//! }
//!
//! struct Plain;
//!
//! impl Adder for Plain {
//!     async fn add(&self, a: u32, b: u32) -> u32 {
//!         a + b
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // client ── proxy ── server; each link may be of any kind.
//! let (upstream, _server) = local::pair(Options::new(), Options::new().serve(AdderDispatcher::new(Plain)));
//! let (client, _proxy) = local::pair(Options::new(), Options::new().serve(Forward::to(upstream)));
//! assert_eq!(AdderClient::new(client).add(1, 2).await?, 3);
//! # Ok(()) }
//! # }
//! # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
//! # #[cfg(not(feature = "macros"))] fn main() {}
//! ```
//!
//! # What goes through, and what it costs
//!
//! Payloads, metadata, errors, streams both ways, cancellation and deadlines: see
//! [`IncomingRequest::forward`](crate::IncomingRequest::forward). Request and channel ids are each connection's own.
//!
//! Backpressure reaches from end to end: of each stream, at most one window (what the peers of the first link agreed
//! on as initial credit) waits in the proxy, beside what the links themselves hold. An element that is longer than
//! the window of the second link cannot go through; its stream is broken off.
//!
//! What a handler sent before it returned arrives before its answer, as it does without a proxy, unless its reader has no
//! credit left for it.
//!
//! A proxy reads no element, and does not know which way a stream goes. So what one client sends against the rules (an
//! element that cannot be read, or any on a stream that is the server's to send) breaks them on the connection behind
//! the proxy, and costs that, for all who share it. Clients that do not trust each other each get one of their own, by
//! [`pair`] or [`pass_connections`].
//!
//! Any number of proxies may stand in a row. A proxy that forwards calls to a link from that same link passes them
//! back and forth until the limits of concurrent requests stop it.

mod late;
mod pair;

pub use self::{
    late::{AlreadyBound, LateBound},
    pair::{Pair, PairError, pair, pass_connections},
};
use crate::rpc::{
    caller::Caller,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    method::Service,
};

/// Passes every call on to another connection. See the [module](self).
///
/// What it offers is told by the one it forwards to, if introspection is
/// [switched off](crate::Options::introspection) on the link that it serves, so that the question is passed on like
/// any other.
///
/// It keeps its connection open. Clones forward to the same one.
#[derive(Clone, Debug)]
#[must_use]
pub struct Forward {
    to: Caller,
}

impl Forward {
    /// Passes calls on to a connection, or to whatever else is a caller.
    pub fn to(caller: impl Into<Caller>) -> Self {
        Forward { to: caller.into() }
    }
}

/// A dispatcher that does not know what it serves.
static PASSED_ON: Service = Service { name: "proxy", methods: &[] };

impl ServiceDispatcher for Forward {
    fn service(&self) -> &'static Service {
        &PASSED_ON
    }

    /// None of its own.
    fn services(&self) -> Vec<&'static Service> {
        Vec::new()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        request.forward(&self.to)
    }
}

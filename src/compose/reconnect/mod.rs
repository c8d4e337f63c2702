//! Clients that go on when their link has ended: calls go out on the next one.
//!
//! A [`Reconnecting`] client is what generated clients are made of in place of a
//! [`Connection`](crate::Connection), and they work on it unchanged. It makes its connection when the first call needs
//! one, and another when that one is lost.
//!
//! ```no_run
//! # #[cfg(all(unix, feature = "macros"))] mod example {
//! use adjoin::{Options, reconnect::{self, Reconnecting}};
//!
//! #[adjoin::service]
//! trait Store {
//!     #[adjoin(idempotent)]
//!     async fn get(&self, key: String) -> Option<String>;
//!     async fn append(&self, key: String, text: String);
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Reconnecting::new(reconnect::uds("/run/store.sock", Options::new()));
//! let store = StoreClient::new(&server);
//!
//! // If the server restarts meanwhile, it is made again.
//! println!("{:?}", store.get("a".into()).await?);
//!
//! // If the server restarts meanwhile, it is made again if it was not sent.
//! if let Err(adjoin::CallError::OutcomeUnknown { end }) = store.append("a".into(), "x".into()).await {
//!     println!("it was sent, and whether it ran nobody knows: {end}");
//! }
//! # Ok(()) }
//! # }
//! # fn main() {}
//! ```
//!
//! # Where connections come from
//!
//! | connector | makes |
//! |---|---|
//! | [`address`] | links over whatever an [`Address`](crate::Address) names |
//! | [`uds`] | links over a Unix socket, by its path |
//! | [`tcp`] | links over TCP |
//! | `shm` | shared memory with the process that listens on a path (Linux) |
//! | `cell` | processes, each linked over shared memory (Linux) |
//! | a closure, or any [`Connector`] | whatever it returns |
//!
//! # Which calls are made again
//!
//! - A call whose request was not sent is made on the next connection, whatever it does.
//! - A call whose request was sent, and whose link ended before the answer came, may have run. It is made again if its
//!   method is marked `#[adjoin(idempotent)]`, or if the [server deduplicates](Builder::server_deduplicates); so often
//!   as [`Builder::max_repeats`] and the [`RetryBudget`] allow. Otherwise it fails with
//!   [`CallError::OutcomeUnknown`](crate::CallError::OutcomeUnknown), which says how the link ended.
//! - A call whose arguments carry streams is not made again once it was sent: what went through them is not kept. Streams
//!   in a result are no obstacle; those that came with an answer belong to their link, and end with it.
//! - What the peer answers is the answer. `Cancelled` is one: nobody can tell a handler that panicked from a server that
//!   [drains](crate::Connection::drain). `Rejected` is one: the peer does not want the call. `UpstreamEnded` is one: a
//!   proxy has decided that it does not try again. Whoever knows better makes the call again. After a repetition, an
//!   answer that says that the call did not run speaks of that repetition.
//!
//! A call's timeout, and the deadline of the handler that makes it, hold for all of this together: the wait for a
//! connection counts, and each attempt carries what is left. A call that has neither waits until the client
//! [gives up](Builder::max_outage): then it fails with
//! [`CallError::Unconnected`](crate::CallError::Unconnected), and nothing was sent.
//!
//! # How connections are made
//!
//! One attempt at a time, for all callers together. A caller that is dropped does not end it for the others. While no
//! call waits nothing is tried, unless the client is [eager](Builder::eager). Attempts that fail are followed by longer
//! and longer waits, see [`Backoff`]; so are connections that end before they were of any use. When the client gives up,
//! all calls that wait fail; the next one begins anew, though no sooner than the backoff allows.
//!
//! What the peer calls is served as the [`Options`](crate::Options) of the connector say, on each connection.

mod backoff;
mod budget;
mod builder;
mod call;
#[cfg(target_os = "linux")]
mod cell;
mod connector;
mod round;
mod shared;
mod state;

use std::{fmt, sync::Arc};

#[cfg(target_os = "linux")]
pub use self::cell::cell;
#[cfg(target_os = "linux")]
pub(crate) use self::connector::Final;
#[cfg(target_os = "linux")]
pub use self::connector::shm;
#[cfg(unix)]
pub use self::connector::uds;
use self::shared::Shared;
pub use self::{
    backoff::Backoff,
    budget::RetryBudget,
    builder::Builder,
    connector::{ConnectFailure, Connecting, Connector, Established, address, tcp},
    state::{State, Watch},
};
use crate::rpc::{
    caller::{Caller, Manage, OutgoingCall, Replying},
    connection::Connection,
    errors::CallError,
};

/// A client's way to a server, whichever connection leads there now. See the [module's documentation](self).
///
/// Cheap to clone; all clones are the same. When the last one is dropped, with all clients and calls that were made from
/// it, its connection is closed as soon as no stream uses it any longer.
#[derive(Clone)]
pub struct Reconnecting {
    handle: Arc<Handle>,
}

/// What clones share, and calls hold while they run.
struct Handle {
    shared: Arc<Shared>,
}

impl Reconnecting {
    /// A client with the defaults of [`Builder`].
    ///
    /// # Panics
    ///
    /// As [`Builder::build`].
    #[must_use]
    pub fn new(connector: impl Connector) -> Self {
        Self::builder(connector).build()
    }

    /// Sets how the client behaves.
    pub fn builder(connector: impl Connector) -> Builder {
        Builder::new(connector)
    }

    /// The connection that calls go out on now. Makes one if there is none, and waits for it as a call does.
    ///
    /// It is a plain one: what is called on it is not made again on the next one.
    ///
    /// # Errors
    ///
    /// [`CallError::Unconnected`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connection(&self) -> Result<Connection, CallError> {
        Ok(self.handle.shared.any_connection().await?.connection.clone())
    }

    /// Where the client stands now.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.shared.states.borrow().clone()
    }

    /// Follows where the client stands, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(self.handle.shared.states.subscribe())
    }

    /// Closes the client, with all its clones, and its connection. Calls that wait for one fail with
    /// [`CallError::Unconnected`], as do all later ones; those that were sent with [`CallError::OutcomeUnknown`].
    ///
    /// # Cancel safety
    ///
    /// It closes also if the future is dropped once it was polled.
    pub async fn close(&self) {
        if let Some(connection) = self.handle.shared.close() {
            connection.close().await;
        }
    }
}

impl Manage for Handle {
    fn start(self: Arc<Self>, call: OutgoingCall) -> Replying {
        Box::pin(call::run(self, call))
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        &self.shared.runtime
    }

    fn name(&self) -> &'static str {
        "Reconnecting"
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The connection closes with its last handle, which a stream may hold.
        drop(self.shared.close());
    }
}

impl From<&Reconnecting> for Caller {
    fn from(client: &Reconnecting) -> Self {
        Caller::managed(Arc::clone(&client.handle) as Arc<dyn Manage>)
    }
}

impl From<Reconnecting> for Caller {
    fn from(client: Reconnecting) -> Self {
        Caller::managed(client.handle)
    }
}

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").field("state", &self.state()).finish_non_exhaustive()
    }
}

//! The handle of a connection.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::task::JoinHandle;

use super::{
    call::Call,
    connect::{ConnectOptions, connect},
    driver::Driver,
    errors::ConnectError,
    hub::{ChannelLimits, DescriptorLimits, HeldByRequests, Hub, HubParts},
    keep_alive,
    method::Method,
    options::Options,
    outgoing::Outgoing,
    state::{ConnectionState, Guard},
    wire::Arguments,
};
use crate::{
    error::{ConnectionEnd, LinkEnd},
    link::Parts,
    session::{Quota, Session, connections::ConnKey, metadata::Metadata},
};

/// A connection to a peer. Calls go out on it, and what the peer calls is served on it.
///
/// A link has one from the start, its root; more of them, virtual ones, can be
/// [opened](Connection::connect) on it by either side. Each has calls, streams and a service of its own.
///
/// Cheap to clone; all clones are the same connection. It stays open while there is a clone, or a client, a call
/// or a stream made from one; when the last is gone, the peer is told goodbye. A virtual connection keeps its link
/// open in the same way.
///
/// ```
/// use adjoin::{LinkEnd, Options, local};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (here, there) = local::pair(Options::new(), Options::new());
/// assert!(there.end().is_none());
/// here.close().await;
/// assert!(matches!(there.closed().await, LinkEnd::Goodbye { reason } if reason.is_empty()));
/// # });
/// ```
#[derive(Clone)]
pub struct Connection {
    guard: Arc<Guard>,
}

/// How a [drain](Connection::drain) went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Everything that was open came to its end.
    Complete,
    /// Time ran out, and what was still open failed.
    TimedOut,
    /// The connection ended while it was drained, from the other side or with its link.
    Ended,
}

impl Connection {
    /// Takes a link into service: starts its driver on the current runtime.
    pub(crate) fn start(parts: Parts, options: &Options) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let settings = &options.settings;
        let quota =
            Quota { requests: settings.max_concurrent_requests, connections: settings.max_connections };
        let channels = ChannelLimits { ours: settings.channel_slots / 2, theirs: settings.max_channels };
        let root = ConnectionState::new(ConnKey::ROOT, options.dispatcher.clone(), Metadata::EMPTY);
        let descriptors = DescriptorLimits::new(settings, parts.sender.carries_descriptors());
        let hub = Hub::new(HubParts {
            limits: parts.limits,
            max_nesting: settings.max_nesting,
            descriptors,
            held: HeldByRequests::new(settings),
            session: Session::new(parts.role, parts.limits, quota, Arc::clone(&root)),
            out: Outgoing::new(parts.sender, settings.max_parked_messages),
            receiver: parts.receiver,
            credit: parts.credit,
            lending: parts.lending,
            interrupt: parts.interrupt,
            runtime: runtime.clone(),
            channels,
            window_growth: settings.window_growth,
            root: Arc::clone(&root),
            on_connect: options.on_connect.clone(),
            introspection: options.introspection,
        });
        let connection = Guard::first(Arc::clone(&hub), root, None);
        drop(runtime.spawn(Driver::new(hub, parts.watcher)));
        if let Some(how) = settings.keep_alive {
            let root = Arc::clone(connection.state());
            drop(runtime.spawn(keep_alive::watch(connection.downgrade(), root, how)));
        }
        connection
    }

    pub(crate) fn from_guard(guard: Arc<Guard>) -> Self {
        Connection { guard }
    }

    #[inline]
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.guard.hub
    }

    #[inline]
    pub(crate) fn state(&self) -> &Arc<ConnectionState> {
        &self.guard.state
    }

    #[inline]
    pub(crate) fn key(&self) -> ConnKey {
        self.guard.state.key
    }

    /// A handle that does not keep the connection open: for a service that calls back over the connection that it
    /// serves, or over one whose service holds this one. With a full handle neither would ever end by itself.
    #[must_use]
    pub fn downgrade(&self) -> WeakConnection {
        WeakConnection { guard: Arc::downgrade(&self.guard) }
    }

    /// Runs a task where the link's driver runs.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.hub().runtime.spawn(task)
    }

    /// Prepares a call of a method; generated clients do this.
    pub fn call<A: Arguments, T, E>(&self, method: &'static Method, arguments: A) -> Call<A, T, E> {
        Call::new(self.into(), method, arguments)
    }

    /// Opens a virtual connection on this connection's link (protocol section 7): one with ids, calls, streams
    /// and, at either side, a service of its own. Whether the peer accepts is for its
    /// [`Options::on_connect`] to say.
    ///
    /// ```
    /// use adjoin::{ConnectOptions, Metadata, Options, local};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let server = Options::new().on_connect(|incoming| {
    ///     if incoming.metadata().get("user").is_none() {
    ///         incoming.reject("who are you?");
    ///     } else if let Ok(connection) = incoming.accept(ConnectOptions::new()) {
    ///         tokio::spawn(async move { connection.closed().await }); // serves until its end
    ///     }
    /// });
    /// let (link, _server) = local::pair(Options::new(), server);
    ///
    /// let mut metadata = Metadata::new();
    /// metadata.push("user", "ada");
    /// let session = link.connect(ConnectOptions::new().metadata(metadata)).await?;
    /// session.close().await;
    /// assert!(link.end().is_none()); // the link goes on
    /// # Ok::<_, adjoin::ConnectError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectError::Rejected`] with the peer's reason; [`ConnectError::Refused`] when the metadata is beyond
    /// its limits, or the link has [`Settings::max_connections`](crate::Settings::max_connections) already;
    /// [`ConnectError::Ended`] when the link is over.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the connection is closed as soon as the peer has accepted it. Until the peer has
    /// decided, it counts as one of the link's.
    pub async fn connect(&self, options: ConnectOptions) -> Result<Connection, ConnectError> {
        connect(self, options).await
    }

    /// What the peer sent along when it asked for this virtual connection, or accepted it. Empty for a link's
    /// root.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.guard.state.metadata
    }

    /// The connection's id on its link: 0 for the root.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.key().id
    }

    /// The root of this connection's link: itself, unless it is a virtual connection.
    #[must_use]
    pub fn link(&self) -> &Connection {
        self.guard.link.as_ref().unwrap_or(self)
    }

    /// Waits for the end of the connection and says how it ended: for the root that is the end of the link.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> LinkEnd {
        self.guard.state.wait_for_end().await
    }

    /// How the connection ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<LinkEnd> {
        self.guard.state.ended().cloned()
    }

    /// Closes the connection now: the peer is told goodbye, and everything that is open on it fails with
    /// [`LinkEnd::Closed`], or [`ConnectionEnd::Closed`] if it is a virtual one. The root's end is the link's.
    /// Returns when that is done.
    ///
    /// # Cancel safety
    ///
    /// The connection closes also if the future is dropped.
    pub async fn close(&self) {
        if self.key().is_root() {
            self.hub().request_end(LinkEnd::Closed);
        } else {
            self.hub().close_connection(self.key(), ConnectionEnd::Closed);
        }
        self.closed().await;
    }

    /// Ends the connection gracefully: from now on what the peer calls is answered
    /// [`Cancelled`](crate::CallError::Cancelled); what runs has until `patience` is over to come to its end; then
    /// the connection is [closed](Connection::close).
    ///
    /// Waited for are the peer's requests that run here, this side's calls, and the streams of both. Handlers may
    /// still call and stream. Of the root, all connections of the link are drained.
    ///
    /// ```
    /// # async fn shut_down(connection: adjoin::Connection) {
    /// use adjoin::Drained;
    /// use std::time::Duration;
    ///
    /// if connection.drain(Duration::from_secs(10)).await == Drained::TimedOut {
    ///     eprintln!("some calls did not come to their end");
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the connection stays open, and goes on refusing calls.
    pub async fn drain(&self, patience: Duration) -> Drained {
        let (hub, state) = (self.hub(), self.state());
        hub.start_draining(self.key());
        let quiet = tokio::time::timeout(patience, hub.wait_until_quiet(state)).await.is_ok();
        if state.ended().is_some() {
            return Drained::Ended;
        }
        self.close().await;
        if quiet { Drained::Complete } else { Drained::TimedOut }
    }

    /// The limits that both peers agreed on: maximum payload and initial channel credit, in bytes.
    #[must_use]
    pub fn limits(&self) -> (u32, u32) {
        let limits = self.hub().limits;
        (limits.max_payload_size, limits.initial_channel_credit)
    }
}

/// A connection that this does not keep open. Made by [`Connection::downgrade`].
#[derive(Clone, Debug)]
pub struct WeakConnection {
    guard: Weak<Guard>,
}

impl WeakConnection {
    /// The connection, if anything still keeps it open.
    #[must_use]
    pub fn upgrade(&self) -> Option<Connection> {
        self.guard.upgrade().map(Connection::from_guard)
    }
}

impl From<&Connection> for Connection {
    fn from(connection: &Connection) -> Self {
        connection.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("end", &self.guard.state.ended())
            .finish_non_exhaustive()
    }
}

//! Where a reconnecting client gets its connections.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
};

use tokio::net::{TcpStream, ToSocketAddrs};

use crate::{
    open::{address::Address, stream},
    rpc::{connection::Connection, options::Options},
};

/// Makes connections, one whenever the one before is gone.
///
/// Implemented for closures that return a future of a [`Connection`], of a `Cell`, or of an [`Established`], with
/// any error. So what a connection needs before calls may go out on it, a login say, is done by its connector:
///
/// ```
/// # #[cfg(all(unix, feature = "macros"))] mod example {
/// use adjoin::{Options, reconnect::{ConnectFailure, Reconnecting}, stream};
/// use tokio::net::UnixStream;
///
/// #[adjoin::service]
/// trait Door {
///     async fn knock(&self, name: String) -> bool;
/// }
///
/// fn visitor() -> Reconnecting {
///     Reconnecting::new(|| async {
///         let socket = UnixStream::connect("/run/door.sock").await?;
///         let connection = stream::connect(socket, Options::new()).await?;
///         if !DoorClient::new(&connection).knock("ada".into()).await? {
///             return Err(ConnectFailure::from("nobody opens"));
///         }
///         Ok(connection)
///     })
/// }
/// # }
/// ```
pub trait Connector: Send + Sync + 'static {
    /// Makes one attempt. The future runs on the client's runtime, and is dropped when it takes longer than
    /// [`Builder::attempt_timeout`](super::Builder::attempt_timeout).
    fn connect(&self) -> Connecting;
}

/// An attempt to connect.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Established, ConnectFailure>> + Send>>;

/// Why an attempt to connect failed: any error.
pub type ConnectFailure = Box<dyn Error + Send + Sync>;

impl<F, Attempt, Made, Failure> Connector for F
where
    F: Fn() -> Attempt + Send + Sync + 'static,
    Attempt: Future<Output = Result<Made, Failure>> + Send + 'static,
    Made: Into<Established>,
    Failure: Into<ConnectFailure>,
{
    fn connect(&self) -> Connecting {
        let attempt = self();
        Box::pin(async move { attempt.await.map(Into::into).map_err(Into::into) })
    }
}

/// A connection that was made, and what has to live as long as it does.
pub struct Established {
    pub(super) connection: Connection,
    pub(super) keeper: Keeper,
    /// Set when its end is asked for, by whoever has made it.
    pub(super) asked: Option<Arc<AtomicBool>>,
}

/// Owns what a connection needs. Polled after the connection's end.
pub(super) type Keeper = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Established {
    /// A connection, and something that is dropped after its end.
    ///
    /// What holds the connection itself, or a clone of it, keeps it open for ever: so does a `Cell`, which is made
    /// into an `Established` by `into()` instead.
    pub fn keeping(connection: Connection, kept: impl Send + 'static) -> Self {
        Established { connection, keeper: Box::pin(async move { drop(kept) }), asked: None }
    }
}

#[cfg(target_os = "linux")]
impl Established {
    /// A connection, and what is set when its end is asked for: it is no failure then.
    pub(crate) fn ending(connection: Connection, asked: Arc<AtomicBool>) -> Self {
        Established { asked: Some(asked), ..Self::keeping(connection, ()) }
    }
}

/// Why an attempt failed which no other is to follow. It does not count as one.
#[derive(Debug)]
pub(crate) struct Final(String);

impl Final {
    #[cfg(target_os = "linux")]
    pub(crate) fn failure(why: String) -> ConnectFailure {
        Box::new(Final(why))
    }
}

impl fmt::Display for Final {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Final {}

impl From<Connection> for Established {
    fn from(connection: Connection) -> Self {
        Established::keeping(connection, ())
    }
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Connects to whatever an address names.
pub fn address(address: Address, options: Options) -> impl Connector {
    let address = Arc::new(address);
    move || {
        let (address, options) = (Arc::clone(&address), options.clone());
        async move { crate::open::address::connect(&address, options).await }
    }
}

/// Connects to a Unix socket, by its path or its abstract name.
#[cfg(unix)]
pub fn uds(path: impl Into<std::path::PathBuf>, options: Options) -> impl Connector {
    let path = Arc::new(path.into());
    move || {
        let (path, options) = (Arc::clone(&path), options.clone());
        async move { crate::open::uds::connect(&*path, options).await }
    }
}

/// Shares memory with the process that [listens](crate::shm::listen) on a path.
#[cfg(target_os = "linux")]
pub fn shm(path: impl Into<std::path::PathBuf>, options: Options) -> impl Connector {
    let path = Arc::new(path.into());
    move || {
        let (path, options) = (Arc::clone(&path), options.clone());
        async move { crate::open::shm::connect(&*path, options).await }
    }
}

/// Connects over TCP, with `TCP_NODELAY` set. A name is looked up anew each time.
pub fn tcp(address: impl ToSocketAddrs + Clone + Send + Sync + 'static, options: Options) -> impl Connector {
    let address = Arc::new(address);
    move || tcp_attempt(Arc::clone(&address), options.clone())
}

async fn tcp_attempt<A>(address: Arc<A>, options: Options) -> Result<Connection, ConnectFailure>
where
    A: ToSocketAddrs + Clone + Send + Sync,
{
    let addresses: Vec<_> = tokio::net::lookup_host(A::clone(&address)).await?.collect();
    let socket = TcpStream::connect(&*addresses).await?;
    socket.set_nodelay(true)?;
    Ok(stream::connect(socket, options).await?)
}

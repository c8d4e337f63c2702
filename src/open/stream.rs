//! Connections over byte streams: Unix sockets, TCP, pipes, anything `AsyncRead + AsyncWrite`.
//!
//! The wire is fixed to the byte (protocol sections 2 and 3). One side connects, the other accepts; after
//! that both are equal.
//!
//! ```
//! # #[cfg(unix)] {
//! use adjoin::{Options, stream};
//! use tokio::net::UnixStream;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let (ours, theirs) = UnixStream::pair()?;
//! let (client, server) =
//!     tokio::try_join!(stream::connect(ours, Options::new()), stream::accept(theirs, Options::new()))?;
//! assert_eq!(client.limits(), server.limits());
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! # }
//! ```
//!
//! On TCP, set `TCP_NODELAY` ([`TcpStream::set_nodelay`](tokio::net::TcpStream::set_nodelay)): messages are
//! written in batches already, and a delayed one is a slow call.

use tokio::io::{AsyncRead, AsyncWrite};

pub use crate::link::stream::HandshakeError;
use crate::{
    link::{Role, stream::establish},
    rpc::{connection::Connection, options::Options},
};

/// Makes a link of a stream that this side has connected.
///
/// Needs a tokio runtime with I/O and time enabled; the link's driver runs on it.
///
/// # Errors
///
/// [`HandshakeError`] when the peer does not greet in time, or not in this protocol.
///
/// # Cancel safety
///
/// Dropping the future drops the stream.
pub async fn connect<S>(stream: S, options: Options) -> Result<Connection, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    open(stream, Role::Initiator, options).await
}

/// Makes a link of a stream that this side has accepted. See [`connect`].
///
/// # Errors
///
/// As [`connect`].
///
/// # Cancel safety
///
/// Dropping the future drops the stream.
pub async fn accept<S>(stream: S, options: Options) -> Result<Connection, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    open(stream, Role::Acceptor, options).await
}

async fn open<S>(stream: S, role: Role, options: Options) -> Result<Connection, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let parts = establish(read, write, role, &options.settings).await?;
    Ok(Connection::start(parts, &options))
}

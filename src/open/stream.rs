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
//! Over a tokio `UnixStream`, on Linux, [descriptors](crate::Descriptor) travel with calls and answers.
//!
//! On TCP, set `TCP_NODELAY` ([`TcpStream::set_nodelay`](tokio::net::TcpStream::set_nodelay)): messages are
//! written in batches already, and a delayed one is a slow call.

use tokio::io::{AsyncRead, AsyncWrite};

pub use crate::link::stream::HandshakeError;
use crate::{
    error::LinkEnd,
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
    let settings = &options.settings;
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut stream = Some(stream);
    #[cfg(unix)]
    if let Some(socket) = take_unix_socket(&mut stream) {
        let (read, write) = socket.into_split();
        let parts = establish(read, write, role, settings).await?;
        return Ok(Connection::start(parts, &options));
    }
    let Some(stream) = stream else { return Err(HandshakeError::Ended(LinkEnd::Gone)) }; // never: it was not taken
    let (read, write) = tokio::io::split(stream);
    let parts = establish(read, write, role, settings).await?;
    Ok(Connection::start(parts, &options))
}

/// Takes the stream if it is a Unix socket, whose halves carry descriptors. The choice is made by type, and the compiler
/// folds it away.
#[cfg(unix)]
fn take_unix_socket<S: 'static>(stream: &mut Option<S>) -> Option<tokio::net::UnixStream> {
    let stream: &mut dyn std::any::Any = stream;
    stream.downcast_mut::<Option<tokio::net::UnixStream>>()?.take()
}

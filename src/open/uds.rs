//! Connections over Unix sockets, by the path of one.
//!
//! As [`stream`](crate::stream), which makes a link of any socket, with what belongs to a path: abstract names (a path that
//! begins with `@`, on Linux), files that nobody listens on any more, and a check of who is at the other end
//! ([`Options::policy`](crate::Options::policy)).
//!
//! ```
//! use adjoin::{Options, uds};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("here.sock");
//! let listener = uds::listen(&path)?;
//! tokio::spawn(listener.serve(Options::new()));
//!
//! let connection = uds::connect(&path, Options::new()).await?;
//! # connection.close().await;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

use super::{
    address,
    stream::{self, HandshakeError},
    unix::{Arrived, Bound, connect as connect_socket, credentials},
};
use crate::{
    link::stream::turn_away,
    policy::PeerCredentials,
    rpc::{connection::Connection, options::Options},
};

/// Why there is no link over a Unix socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// [`Options::policy`](crate::Options::policy) does not allow the process at the other end.
    #[error("{0} is not allowed here (Options::policy)")]
    NotAllowed(PeerCredentials),
    /// The two did not agree.
    #[error("the two processes did not agree on a link")]
    Handshake(#[from] HandshakeError),
    /// The system refused.
    #[error("the system refused")]
    Io(#[from] io::Error),
}

/// Listens on a path. Made by [`listen`].
///
/// Dropped, it removes the socket's file.
#[derive(Debug)]
pub struct Listener(Bound);

/// A process that has connected. Made by [`Listener::accept`].
#[derive(Debug)]
#[must_use = "dropped, it is turned away"]
pub struct Incoming(Arrived);

/// Listens on a path, or on an abstract name. A socket's file that nobody listens on any more is replaced.
///
/// # Errors
///
/// Somebody listens there already (`AddrInUse`), or the system refuses the path.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub fn listen(path: impl Into<PathBuf>) -> io::Result<Listener> {
    Ok(Listener(Bound::listen(path.into())?))
}

impl Listener {
    /// How many may have connected and not got their link yet. At least 1. Default: 64. More wait in the socket's queue,
    /// which the system bounds.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.0.set_max_handshakes(handshakes);
        self
    }

    /// Waits for the next process that connects. What follows with it ([`Incoming::establish`]) may take its time: do
    /// it in a task of its own.
    ///
    /// # Errors
    ///
    /// The system's, as when this process has no more descriptors; the listener can be used further, after a little wait.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> io::Result<Incoming> {
        Ok(Incoming(self.0.accept().await?))
    }

    /// Serves all that come, each with these options, until it is dropped: see
    /// [`address::Listener::serve`](crate::address::Listener::serve).
    pub async fn serve(self, options: Options) {
        address::Listener::from(self).serve(options).await;
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Incoming {
    /// Makes a link with the process, and serves it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after [`Settings::handshake_timeout`](crate::Settings::handshake_timeout) at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the process is turned away.
    pub async fn establish(mut self, options: Options) -> Result<Connection, OpenError> {
        let socket = allowed(self.0.take()?, &options).await?;
        Ok(stream::accept(socket, options).await?)
    }
}

/// Connects to the process that listens on a path or an abstract name.
///
/// # Errors
///
/// Nobody listens there, or the two do not agree: [`OpenError`].
///
/// # Cancel safety
///
/// Dropped before it is done, there is no link.
pub async fn connect(path: impl AsRef<Path>, options: Options) -> Result<Connection, OpenError> {
    let socket = allowed(connect_socket(path.as_ref()).await?, &options).await?;
    Ok(stream::connect(socket, options).await?)
}

/// The socket, if the process at its other end may be there. If not, that is told so, in a Goodbye.
async fn allowed(socket: UnixStream, options: &Options) -> Result<UnixStream, OpenError> {
    let peer = credentials(&socket)?;
    if options.policy.allows(&peer) {
        return Ok(socket);
    }
    turn_away(socket.into_split(), "this process is not allowed here (Options::policy)", &options.settings)
        .await;
    Err(OpenError::NotAllowed(peer))
}

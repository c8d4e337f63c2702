//! Connections over shared memory between processes that find each other by a path.
//!
//! One side listens on a Unix socket, the other connects to it; over that they agree on a segment, and use the socket
//! only to ring and to notice each other's end. For processes that one starts for the other, [`spawn`](crate::spawn)
//! is simpler.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use adjoin::{Options, shm};
//!
//! // The one process serves all that come:
//! let listener = shm::listen("/run/user/1000/thumbnailer.sock")?;
//! tokio::spawn(listener.serve(Options::new()));
//!
//! // The other:
//! let connection = shm::connect("/run/user/1000/thumbnailer.sock", Options::new()).await?;
//! # Ok(()) }
//! ```
//!
//! A path that begins with `@` is an abstract name, which has no file and goes with its listener; everybody in the network
//! namespace can reach it. (A file of that name is `./@name`.)
//!
//! Who may be at the other end is decided, on both sides, by [`Options::policy`](crate::Options::policy): by default
//! processes of the same user. Both have to be in one PID namespace. The side that listens is the host of the segment: its
//! settings hold, and the other refuses what it cannot live with.
//!
//! Those that have connected and have no link yet are bounded ([`Listener::max_handshakes`]), and each has
//! [`Settings::handshake_timeout`](crate::Settings::handshake_timeout). Where either side has no descriptors left, both
//! are told (`DescriptorLimit`), nothing is leaked, and a listener that [serves](Listener::serve) goes on when there are
//! some again.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    address,
    unix::{Arrived, Bound, connect as connect_socket, credentials},
};
pub use crate::segments::OpenError;
use crate::{
    rpc::{connection::Connection, options::Options},
    segments::{join, offer},
};

/// Listens on a path for processes that want to share memory. Made by [`listen`].
///
/// Dropped, it removes the socket's file.
#[derive(Debug)]
pub struct Listener(Bound);

/// A process that has connected, and has nothing yet. Made by [`Listener::accept`].
#[derive(Debug)]
#[must_use = "dropped, it is turned away"]
pub struct Incoming(Arrived);

/// Listens on a path, or on an abstract name. A socket's file that nobody listens on any more is replaced.
///
/// Who may connect is decided by the permissions of the path, and by [`Options::policy`](crate::Options::policy) in
/// [`Incoming::establish`].
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
    /// How many may have connected and not got their link yet: those that are between [`accept`](Listener::accept) and the
    /// end of [`Incoming::establish`]. At least 1. Default: 64. More wait in the socket's queue, which the system bounds.
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
    /// The system's, as when this process has no more descriptors; the listener can be used further. Wait a little before
    /// that: the one that could not be accepted is still there. ([`serve`](Listener::serve) does.)
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
    /// Agrees with the process on a segment, and serves it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after [`Settings::handshake_timeout`](crate::Settings::handshake_timeout) at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the process is turned away.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
    pub async fn establish(mut self, options: Options) -> Result<Connection, OpenError> {
        let socket = self.0.take()?;
        let peer = credentials(&socket)?;
        let parts = offer(socket.into_std()?, peer, &options.policy, &options.settings).await?;
        Ok(Connection::start(parts, &options))
    }
}

/// Connects to the process that listens on a path or an abstract name, and shares memory with it.
///
/// # Errors
///
/// Nobody listens there, or the two do not agree: [`OpenError`].
///
/// # Cancel safety
///
/// Dropped before it is done, there is no link.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
pub async fn connect(path: impl AsRef<Path>, options: Options) -> Result<Connection, OpenError> {
    let socket = connect_socket(path.as_ref()).await?;
    let peer = credentials(&socket)?;
    let parts = join(socket.into_std()?, peer, &options.policy, &options.settings).await?;
    Ok(Connection::start(parts, &options))
}

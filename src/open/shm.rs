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
//! // The one process:
//! let listener = shm::listen("/run/user/1000/thumbnailer.sock")?;
//! tokio::spawn(async move {
//!     while let Ok(incoming) = listener.accept().await {
//!         tokio::spawn(async move {
//!             if let Ok(connection) = incoming.establish(Options::new()).await {
//!                 connection.closed().await; // serves until then
//!             }
//!         });
//!     }
//! });
//!
//! // The other:
//! let connection = shm::connect("/run/user/1000/thumbnailer.sock", Options::new()).await?;
//! # Ok(()) }
//! ```
//!
//! Both have to run as the same user, in one PID namespace. The side that listens is the host of the segment: its
//! settings hold, and the other refuses what it cannot live with.

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket, socket_with},
};
use tokio::net::{UnixListener, UnixStream};

pub use crate::segments::OpenError;
use crate::{
    rpc::{connection::Connection, options::Options},
    segments::{join, offer},
};

/// Listens on a path for processes that want to share memory. Made by [`listen`].
///
/// Dropped, it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// The file as it was made: another one in its place is not this one's to remove.
    file: Option<(u64, u64)>,
}

/// A process that has connected, and has nothing yet. Made by [`Listener::accept`].
#[derive(Debug)]
#[must_use = "dropped, it is turned away"]
pub struct Incoming {
    socket: UnixStream,
}

/// Listens on a path. A socket's file that nobody listens on any more is replaced.
///
/// Who may connect is decided by the permissions of the path and by [`Incoming::establish`].
///
/// # Errors
///
/// Somebody listens there already (`AddrInUse`), or the system refuses the path.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub fn listen(path: impl Into<PathBuf>) -> io::Result<Listener> {
    let path = path.into();
    let socket = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path) => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)?
        }
        bound => bound?,
    };
    let file = identity(&path);
    Ok(Listener { socket, path, file })
}

/// Whether a path is a socket that nobody listens on.
fn is_stale(path: &Path) -> bool {
    // To connect to a file that is no socket is refused, too.
    if !std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return false;
    }
    // Without waiting: somebody who listens, and whose queue is full, would have this thread wait for ever.
    let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
    let (Ok(address), Ok(socket)) = (SocketAddrUnix::new(path), socket_with(kind.0, kind.1, kind.2, None))
    else {
        return false;
    };
    connect_socket(&socket, &address) == Err(Errno::CONNREFUSED)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Listener {
    /// Waits for the next process that connects. What follows with it ([`Incoming::establish`]) may take its time: do
    /// it in a task of its own.
    ///
    /// # Errors
    ///
    /// The system's, as when this process has no more descriptors; the listener can be used further.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> io::Result<Incoming> {
        let (socket, _) = self.socket.accept().await?;
        Ok(Incoming { socket })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path); // which somebody else may do at the same time
        }
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
    pub async fn establish(self, options: Options) -> Result<Connection, OpenError> {
        let parts = offer(self.socket.into_std()?, &options.settings).await?;
        Ok(Connection::start(parts, &options))
    }
}

/// Connects to the process that listens on a path, and shares memory with it.
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
    let socket = UnixStream::connect(path).await?;
    let parts = join(socket.into_std()?, &options.settings).await?;
    Ok(Connection::start(parts, &options))
}

//! Unix sockets that are listened on and connected to: paths, abstract names, files that nobody listens on any more.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::HANDSHAKES;
use crate::{link::descriptors::Closer, policy::PeerCredentials};

/// A socket that is listened on. Dropped, it removes its file.
#[derive(Debug)]
pub(super) struct Bound {
    /// Always there, until it is dropped.
    socket: Option<UnixListener>,
    path: PathBuf,
    /// The file as it was made: another one in its place is not this one's to remove.
    file: Option<(u64, u64)>,
    /// A place for each that has connected and has not got its link yet.
    handshakes: Arc<Semaphore>,
}

/// One that has connected, and its place among those that have no link yet.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Until it is taken.
    socket: Option<UnixStream>,
    /// Given back with this.
    _place: OwnedSemaphorePermit,
}

impl Arrived {
    /// The socket, which is taken once.
    pub(super) fn take(&mut self) -> io::Result<UnixStream> {
        self.socket.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// What a stranger has put into it is closed apart.
impl Drop for Arrived {
    fn drop(&mut self) {
        if let Some(Ok(socket)) = self.socket.take().map(UnixStream::into_std) {
            let _ = socket.shutdown(std::net::Shutdown::Both); // the other side hears of it at once
            Closer::new(0).close([socket.into()]);
        }
    }
}

impl Bound {
    /// Listens. A socket's file that nobody listens on any more is replaced.
    pub(super) fn listen(path: PathBuf) -> io::Result<Self> {
        // Also against those who find the path free: between their binding it and their listening it looks like a stale one.
        let _alone = if is_abstract(&path) { None } else { lock_folder(&path)? };
        let socket = match UnixListener::bind(address(&path)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path) => {
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)?
            }
            bound => bound?,
        };
        let file = if is_abstract(&path) { None } else { identity(&path) };
        let socket = Some(socket);
        Ok(Bound { socket, path, file, handshakes: Arc::new(Semaphore::new(HANDSHAKES)) })
    }

    /// Sets how many may be without a link at once, at least one.
    pub(super) fn set_max_handshakes(&mut self, handshakes: usize) {
        self.handshakes = Arc::new(Semaphore::new(handshakes.clamp(1, Semaphore::MAX_PERMITS)));
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a place, and for the next that connects.
    pub(super) async fn accept(&self) -> io::Result<Arrived> {
        let place = Arc::clone(&self.handshakes).acquire_owned().await.map_err(io::Error::other)?;
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let (socket, _) = socket.accept().await?;
        Ok(Arrived { socket: Some(socket), _place: place })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path); // which somebody else may do at the same time
        }
        // Those that have connected and were not accepted: the sockets, with what they have put into them, are not to be closed
        // here. The listening one is, so that its name is free at once.
        if let Some(Ok(socket)) = self.socket.take().map(UnixListener::into_std) {
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Read); // nobody connects any more
            let arrived = std::iter::from_fn(|| Some(OwnedFd::from(socket.accept().ok()?.0)));
            Closer::new(0).close(arrived);
        }
    }
}

/// Connects to who listens on a path or an abstract name.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(address(path)).await
}

/// Who is at the other end.
pub(super) fn credentials(socket: &UnixStream) -> io::Result<PeerCredentials> {
    let peer = socket.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    Ok(PeerCredentials::new(peer.uid(), peer.gid(), pid))
}

/// Whether a path stands for a name that has no file: one that begins with `@`, on Linux.
fn is_abstract(path: &Path) -> bool {
    cfg!(target_os = "linux") && path.as_os_str().as_bytes().first() == Some(&b'@')
}

/// The path as the runtime wants it: with a zero byte in front of a name that has no file.
fn address(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().as_bytes().to_vec();
    if is_abstract(path)
        && let Some(first) = name.first_mut()
    {
        *first = 0;
    }
    std::ffi::OsString::from_vec(name).into()
}

/// Keeps other listeners from binding or replacing files in the same folder, until it is dropped. Leaves no file. `None`:
/// the folder cannot be locked, by its permissions or its file system.
///
/// # Errors
///
/// Somebody has locked it for longer than any listener does.
fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = File::open(folder) else { return Ok(None) };
    for _ in 0..LOCK_ATTEMPTS {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder)),
            // Held for three or four system calls, if by one of us.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody has locked the folder of the socket (flock)"))
}

/// How often it is tried to lock a folder.
const LOCK_ATTEMPTS: u32 = 500;
/// What is waited between that.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Whether a path is a socket that nobody listens on.
fn is_stale(path: &Path) -> bool {
    // To connect to a file that is no socket is refused, too. And a name without a file goes with its listener.
    if is_abstract(path) || !std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return false;
    }
    refuses(path)
}

/// Whether nobody takes connections there. Without waiting: somebody who listens, and whose queue is full, would have this
/// thread wait for ever.
#[cfg(target_os = "linux")]
fn refuses(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    socket.is_ok_and(|socket| connect(&socket, &address) == Err(Errno::CONNREFUSED))
}

/// Elsewhere a listener whose queue is full refuses at once, and is taken for one that is gone.
#[cfg(not(target_os = "linux"))]
fn refuses(path: &Path) -> bool {
    let connected = std::os::unix::net::UnixStream::connect(path);
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

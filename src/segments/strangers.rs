//! Two processes that found each other by a path: neither has started the other.
//!
//! The socket between them is a connected Unix stream socket. The system says which user's process is at its other end,
//! and which process; that is checked before anything is mapped, and the process is watched from then on.

use std::{io, os::unix::net::UnixStream, time::Duration};

use adjoin_shm_layout::GeometryError;
use rustix::{
    fd::OwnedFd,
    net::{UCred, sockopt},
    process::{PidfdFlags, geteuid, getpid, pidfd_open},
};
use tokio::time::timeout;

use super::{
    bell::Bell,
    cell::check_host,
    control::Control,
    death::Peer,
    exit,
    handshake::{self, Halves, HandshakeError},
    link,
    spawn::geometry,
};
use crate::{
    link::{Parts, Role},
    settings::Settings,
};

/// Why there is no link over shared memory between two processes that are connected by a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A limit in the settings is out of bounds.
    #[error("the settings are impossible")]
    Settings(#[source] GeometryError),
    /// The process at the other end runs under another user.
    #[error("the peer's process runs as user {uid}, this one as user {own}")]
    Stranger {
        /// Its user.
        uid: u32,
        /// The user of this process.
        own: u32,
    },
    /// The process at the other end is gone, or this one cannot see it: it runs in another PID namespace.
    #[error("the peer's process is gone, or in a PID namespace of its own")]
    NoProcess,
    /// The two did not agree in time.
    #[error("the peer did not agree on a segment within {after:?}")]
    Timeout {
        /// How long it was given: [`Settings::handshake_timeout`].
        after: Duration,
    },
    /// The two did not agree.
    #[error("the two processes did not agree on a segment")]
    Handshake(#[from] HandshakeError),
    /// The system refused the socket, or what a link needs.
    #[error("the system refused")]
    Io(#[from] io::Error),
}

/// The side that listened: it offers a segment with its limits.
///
/// # Cancel safety
///
/// None: dropped before it is done, the socket is gone.
pub(crate) async fn offer(socket: UnixStream, settings: &Settings) -> Result<Parts, OpenError> {
    let geometry = geometry(settings);
    geometry.validate().map_err(OpenError::Settings)?;
    let (id, pidfd) = peer(&socket)?;
    let host = pidfd_open(getpid(), PidfdFlags::NONBLOCK).map_err(io::Error::from)?;
    let control = Control::new(socket)?;
    let halves = in_time(settings, handshake::host(&control, &geometry, host)).await?;
    // Its id may have been another process's by the time that the handle was opened; but then that one has not answered.
    if exit::pid(&pidfd) != Some(id) {
        return Err(OpenError::NoProcess);
    }
    parts(halves, control, pidfd, Role::Acceptor, settings)
}

/// The side that connected: it takes the segment that it is offered.
///
/// # Cancel safety
///
/// None: dropped before it is done, the socket is gone.
pub(crate) async fn join(socket: UnixStream, settings: &Settings) -> Result<Parts, OpenError> {
    let (id, _) = peer(&socket)?;
    let control = Control::new(socket)?;
    let agreed = handshake::guest(&control, |offered, pidfd| check_host(id, offered, pidfd));
    let (halves, pidfd) = in_time(settings, agreed).await?;
    parts(halves, control, pidfd, Role::Initiator, settings)
}

/// The process at the other end of a socket, which has to be of the same user.
fn peer(socket: &UnixStream) -> Result<(u32, OwnedFd), OpenError> {
    let UCred { pid, uid, .. } = sockopt::socket_peercred(socket).map_err(io::Error::from)?;
    let own = geteuid();
    if uid != own {
        return Err(OpenError::Stranger { uid: uid.as_raw(), own: own.as_raw() });
    }
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|_| OpenError::NoProcess)?;
    Ok((pid.as_raw_nonzero().get().unsigned_abs(), pidfd))
}

async fn in_time<T>(
    settings: &Settings,
    agreed: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, OpenError> {
    let after = settings.handshake_timeout;
    Ok(timeout(after, agreed).await.map_err(|_| OpenError::Timeout { after })??)
}

fn parts(
    halves: Halves,
    control: Control,
    pidfd: OwnedFd,
    role: Role,
    settings: &Settings,
) -> Result<Parts, OpenError> {
    let bell = Bell::new(control.into_socket());
    Ok(link::parts(halves, bell, Peer::other(pidfd)?, role, settings.into())?)
}

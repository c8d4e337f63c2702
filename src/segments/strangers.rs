//! Two processes that found each other by a path: neither has started the other.
//!
//! The socket between them is a connected Unix stream socket. The system says which user's process is at its other end,
//! and which process; that is checked before anything is mapped, and the process is watched from then on.

use std::{io, os::unix::net::UnixStream, time::Duration};

use adjoin_shm_layout::GeometryError;
use rustix::{
    fd::OwnedFd,
    io::Errno,
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};
use tokio::time::timeout;

use super::{
    bell::Bell,
    cell::check_host,
    control::Control,
    death::Peer,
    exit,
    handshake::{self, Halves, HandshakeError, PeerRefusal},
    link,
    spawn::geometry,
};
use crate::{
    link::{Parts, Role, descriptors::End},
    policy::{PeerCredentials, Policy},
    settings::Settings,
};

/// Why there is no link over shared memory between two processes that are connected by a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A limit in the settings is out of bounds.
    #[error("the settings are impossible")]
    Settings(#[source] GeometryError),
    /// [`Options::policy`](crate::Options::policy) does not allow the process at the other end.
    #[error("{0} is not allowed here (Options::policy)")]
    NotAllowed(PeerCredentials),
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
pub(crate) async fn offer(
    socket: UnixStream,
    peer: PeerCredentials,
    policy: &Policy,
    settings: &Settings,
) -> Result<Parts, OpenError> {
    let geometry = geometry(settings);
    geometry.validate().map_err(OpenError::Settings)?;
    let control = Control::new(socket, End::Own)?;
    let prepared = allowed(&peer, policy).and_then(|()| {
        let (id, pidfd) = process(&peer)?;
        Ok((id, pidfd, open_pidfd(getpid())?))
    });
    let (id, pidfd, host) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            in_time(settings, handshake::turn_guest_away(&control, error.refusal())).await?;
            return Err(error);
        }
    };
    let halves = in_time(settings, handshake::host(&control, &geometry, host)).await?;
    // Its id may have been another process's by the time that the handle was opened; but then that one has not answered.
    if exit::find_pid(&pidfd).map_err(HandshakeError::from)? != Some(id) {
        return Err(OpenError::NoProcess);
    }
    parts(halves, control, pidfd, Role::Acceptor, settings)
}

/// The side that connected: it takes the segment that it is offered.
///
/// # Cancel safety
///
/// None: dropped before it is done, the socket is gone.
pub(crate) async fn join(
    socket: UnixStream,
    peer: PeerCredentials,
    policy: &Policy,
    settings: &Settings,
) -> Result<Parts, OpenError> {
    let control = Control::new(socket, End::Own)?;
    let id = match allowed(&peer, policy).and_then(|()| process(&peer)) {
        Ok((id, _)) => id,
        Err(error) => {
            in_time(settings, handshake::turn_host_away(&control, error.refusal())).await?;
            return Err(error);
        }
    };
    let agreed = handshake::guest(&control, |offered, pidfd| check_host(id, offered, pidfd));
    let (halves, pidfd) = in_time(settings, agreed).await?;
    parts(halves, control, pidfd, Role::Initiator, settings)
}

fn allowed(peer: &PeerCredentials, policy: &Policy) -> Result<(), OpenError> {
    if policy.allows(peer) { Ok(()) } else { Err(OpenError::NotAllowed(*peer)) }
}

impl OpenError {
    /// What the peer is told of it.
    fn refusal(&self) -> PeerRefusal {
        match self {
            OpenError::NotAllowed(_) => PeerRefusal::NotAllowed,
            OpenError::Handshake(error) => error.refusal(),
            _ => PeerRefusal::Message,
        }
    }
}

/// The process at the other end of a socket.
fn process(peer: &PeerCredentials) -> Result<(u32, OwnedFd), OpenError> {
    let id = peer.pid.ok_or(OpenError::NoProcess)?;
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(OpenError::NoProcess)?;
    Ok((id, open_pidfd(pid)?))
}

fn open_pidfd(pid: Pid) -> Result<OwnedFd, OpenError> {
    pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| match error {
        Errno::SRCH => OpenError::NoProcess,
        error => HandshakeError::from(io::Error::from(error)).into(),
    })
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

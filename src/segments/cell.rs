//! A cell finds its host: the cell's side of [`spawn`](super::spawn).
#![allow(unsafe_code)]

use std::{
    env, io,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    io::{FdFlags, fcntl_setfd},
    net::{AddressFamily, SocketType, sockopt},
    process::{geteuid, getppid},
};
use tokio::time::timeout;

use super::{
    bell::Bell,
    control::Control,
    death::Peer,
    exit, guard,
    handshake::{self, HandshakeError},
    link,
    spawn::{LINK_VARIABLE, STAYS},
};
use crate::{
    link::{Parts, Role, descriptors::End},
    settings::Settings,
};

/// Why a cell could not attach to its host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// This process was not started as a cell.
    #[error("this process is no cell: let a host start it with `adjoin::spawn`, not a shell")]
    NotACell,
    /// The host that the environment names is not the parent of this process.
    #[error(
        "this process is no cell: its environment was made for a child of process {host}, and it is one of \
         process {parent:?}; let the host start it directly with `adjoin::spawn`"
    )]
    NotItsChild {
        /// The host, by the environment.
        host: u32,
        /// The parent of this process, if it is one that this process can see.
        parent: Option<u32>,
    },
    /// The descriptor that the environment names is not the host's socket: it was closed, or is in use for
    /// something else.
    #[error("descriptor {descriptor}, which should be the link, is not")]
    NotTheLink {
        /// Its number.
        descriptor: i32,
    },
    /// This process has attached already, or has tried to.
    #[error("this process has taken its link already: a cell can attach once")]
    Taken,
    /// The host did not offer a link in time.
    #[error("the host did not offer a link within {after:?}")]
    Timeout {
        /// How long it was given: [`Settings::handshake_timeout`].
        after: Duration,
    },
    /// The two did not agree.
    #[error("the host and this cell did not agree")]
    Handshake(#[from] HandshakeError),
    /// The system refused what attaching needs.
    #[error("the system refused what attaching needs")]
    Io(#[from] io::Error),
}

/// Attaches to the host that started this process. The host is told that the cell serves: call it when it
/// does.
///
/// # Errors
///
/// Also when it is called a second time: the link is taken by the first call, whatever comes of it.
///
/// # Cancel safety
///
/// None: dropped before it is done, the link is gone.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled.
pub(crate) async fn attach(settings: &Settings) -> Result<Parts, AttachError> {
    let (descriptor, host, stays) =
        invitation(env::var(LINK_VARIABLE).ok().as_deref()).ok_or(AttachError::NotACell)?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(host) {
        return Err(AttachError::NotItsChild { host, parent });
    }
    // Relaxed: only the swap itself decides, nothing is published by it.
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(AttachError::Taken);
    }
    let socket = take(descriptor)?;
    check_credentials(&socket, host)?;
    let control = Control::new(socket, End::Shared)?; // the host has made it, and may have kept this end
    let after = settings.handshake_timeout;
    let agreed = handshake::guest(&control, |offered, pidfd| check_host(host, offered, pidfd));
    let (halves, pidfd) = timeout(after, agreed).await.map_err(|_| AttachError::Timeout { after })??;
    if !stays {
        guard::start(&pidfd)?;
    }
    let bell = Bell::new(control.into_socket());
    Ok(link::parts(halves, bell, Peer::host(pidfd)?, Role::Initiator, settings.into())?)
}

/// Reads what the host put into the environment: the descriptor, the host, and whether this process outlives it.
fn invitation(variable: Option<&str>) -> Option<(RawFd, u32, bool)> {
    let variable = variable?;
    let (numbers, stays) = variable.strip_suffix(STAYS).map_or((variable, false), |numbers| (numbers, true));
    let (descriptor, host) = numbers.split_once(':')?;
    let (descriptor, host) = (descriptor.parse().ok()?, host.parse().ok()?);
    (descriptor >= 0 && host > 0).then_some((descriptor, host, stays))
}

/// Takes the descriptor if it is a connected Unix stream socket, and keeps it from the programs that this one
/// starts.
fn take(descriptor: RawFd) -> Result<UnixStream, AttachError> {
    let not_the_link = |_| AttachError::NotTheLink { descriptor };
    // SAFETY: in bounds and aligned, alone: no memory is touched; the number is not -1, and one that is not
    // open makes the system calls below fail. Alive: the borrow ends before the function does; no mapping is
    // involved.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let domain = sockopt::socket_domain(borrowed).map_err(not_the_link)?;
    let kind = sockopt::socket_type(borrowed).map_err(not_the_link)?;
    if (domain, kind) != (AddressFamily::UNIX, SocketType::STREAM) {
        return Err(AttachError::NotTheLink { descriptor });
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(not_the_link)?;
    // SAFETY: in bounds and aligned: no memory is touched. Alone: the host, our parent, has given us this
    // descriptor to own, and `TAKEN` makes this the only call; nothing else in this process was told its
    // number. Alive: no mapping is involved.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(socket.into())
}

/// Refuses a socket that was not made by the host, or by another user than ours. Root may hand a link to
/// anybody.
fn check_credentials(socket: &UnixStream, host: u32) -> Result<(), HandshakeError> {
    let peer = sockopt::socket_peercred(socket).map_err(io::Error::from)?;
    let trusted = peer.uid == geteuid() || peer.uid.is_root();
    if peer.pid.as_raw_nonzero().get().unsigned_abs() != host || !trusted {
        return Err(HandshakeError::Stranger { uid: peer.uid.as_raw() });
    }
    Ok(())
}

/// Refuses an offer by another process, or with a handle on another.
pub(super) fn check_host(host: u32, offered: u32, pidfd: &OwnedFd) -> Result<(), HandshakeError> {
    match exit::find_pid(pidfd)? {
        Some(found) if found == host && offered == host => Ok(()),
        _ => Err(HandshakeError::NoHost),
    }
}

/// Whether the link of this process is taken. A process has one, and descriptors have one owner.
static TAKEN: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_descriptor_and_a_process_are_an_invitation() {
        assert_eq!(invitation(Some("7:1234")), Some((7, 1234, false)));
        assert_eq!(invitation(Some("7:1234:stays")), Some((7, 1234, true)));
        for nonsense in
            [None, Some(""), Some("7"), Some("7:"), Some("-1:3"), Some("7:0"), Some("a:b"), Some("1:2:3")]
        {
            assert_eq!(invitation(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_descriptor_that_is_closed_or_no_unix_stream_is_not_taken() {
        use rustix::fd::AsRawFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
        for descriptor in [file.as_raw_fd(), datagram.as_raw_fd(), i32::MAX] {
            assert!(matches!(take(descriptor), Err(AttachError::NotTheLink { .. })));
        }
    }

    #[test]
    fn a_socket_of_another_process_is_a_strangers() {
        let (socket, _other) = UnixStream::pair().unwrap();
        check_credentials(&socket, std::process::id()).unwrap();
        assert!(matches!(check_credentials(&socket, 1), Err(HandshakeError::Stranger { .. })));
    }
}

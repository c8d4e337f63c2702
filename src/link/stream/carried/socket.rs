//! Reads and writes with descriptors, on Linux.

use std::{
    any::Any,
    io,
    os::fd::AsFd,
    task::{Context, Poll, ready},
};

use rustix::io::Errno;
use tokio::{
    io::Interest,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::Inbox;
use crate::{
    error::LinkEnd,
    link::{
        EncodeFault,
        descriptors::{self, Descriptors},
    },
};

/// The socket that a half of a stream belongs to, if it carries descriptors. The choice is made by type, and the
/// compiler folds it away.
fn socket<H: 'static>(half: &H) -> Option<&UnixStream> {
    let half: &dyn Any = half;
    let reads = half.downcast_ref::<OwnedReadHalf>().map(AsRef::as_ref);
    reads.or_else(|| half.downcast_ref::<OwnedWriteHalf>().map(AsRef::as_ref))
}

/// Whether a half of a stream carries descriptors.
pub(in super::super) fn carries<H: 'static>(half: &H) -> bool {
    socket(half).is_some()
}

/// Writes bytes, the first of them with descriptors. For a half that carries them.
pub(in super::super) fn poll_write<W: 'static>(
    writer: &W,
    cx: &mut Context<'_>,
    bytes: &[u8],
    carried: &Descriptors,
) -> Poll<io::Result<usize>> {
    let Some(socket) = socket(writer) else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
    let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let send = || descriptors::send(socket.as_fd(), bytes, &carried);
        match socket.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// Whether the system passes these descriptors now. Asked before their message is committed: behind that, a refusal would be
/// all that follow's, and not its own.
pub(in super::super) fn probe(descriptors: &Descriptors) -> Result<(), EncodeFault> {
    descriptors::probe(descriptors)
        .map_err(|error| EncodeFault::Descriptor { code: error.raw_os_error().unwrap_or_default() })
}

/// Whether the system has too many descriptors under way to take more: somebody has to receive some first.
pub(in super::super) fn is_crowded(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

/// Reads bytes, and keeps the descriptors that come with them. `None`: the half carries none, and nothing was read.
pub(in super::super) fn poll_read<R: 'static>(
    reader: &R,
    cx: &mut Context<'_>,
    room: &mut [u8],
    inbox: &mut Inbox,
) -> Option<Poll<Result<io::Result<usize>, LinkEnd>>> {
    let read = poll_receive(socket(reader)?, cx, room);
    Some(read.map(|received| {
        let Received { bytes, packet } = match received {
            Ok(received) => received,
            Err(error) => return Ok(Err(error)),
        };
        packet.map_or(Ok(()), |packet| inbox.push(packet))?;
        Ok(Ok(bytes))
    }))
}

/// What one read brought.
struct Received {
    bytes: usize,
    /// Descriptors, if some came; `None` for those that the system has closed.
    packet: Option<Option<Descriptors>>,
}

fn poll_receive(socket: &UnixStream, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<Received>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let mut received = None;
        let tried = socket.try_io(Interest::READABLE, || {
            let mut carried = Vec::new();
            let descriptors::Received { bytes, lost } =
                descriptors::receive(socket.as_fd(), room, &mut carried)?;
            let packet = if lost {
                Some(None)
            } else {
                (!carried.is_empty()).then(|| Some(carried.into_iter().collect()))
            };
            // A short read has emptied the socket, unless descriptors have ended it: the poller tells of what comes
            // next, and a system call that would find nothing is saved.
            let emptied = (1..room.len()).contains(&bytes) && packet.is_none();
            received = Some(Received { bytes, packet });
            if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (received, tried) {
            (Some(received), _) => return Poll::Ready(Ok(received)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

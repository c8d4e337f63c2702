//! Reads and writes with descriptors, on Linux.

use std::{
    any::Any,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll, ready},
};

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
        descriptors::{self, Closer, Descriptors, End, Look, Lost, Unread, is_drained},
        stream::retire::Retired,
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

/// The way out for descriptors.
pub(in super::super) struct Passage(Unread);

/// What a message with descriptors waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Waits {
    /// Room in the socket.
    Room,
    /// The peer has to receive what was sent.
    Reading,
}

impl Passage {
    /// No more than `most` are to be under way, but for a single message.
    pub(in super::super) fn new(most: usize) -> Self {
        Passage(Unread::new(most))
    }

    /// Whether so many more may be sent.
    pub(in super::super) fn takes<W: 'static>(&self, writer: &W, count: usize) -> bool {
        socket(writer).is_none_or(|socket| self.0.takes(socket.as_fd(), count))
    }

    /// So many were sent.
    pub(in super::super) fn sent(&self, count: usize) {
        self.0.sent(count);
    }
}

/// Writes as many bytes as the socket takes at once, the first of them with descriptors. For a half that carries them.
pub(in super::super) fn try_write<W: 'static>(
    writer: &W,
    bytes: &[u8],
    carried: &Descriptors,
) -> io::Result<usize> {
    let Some(socket) = socket(writer) else { return Err(io::ErrorKind::Unsupported.into()) };
    let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
    loop {
        let sent = socket.try_io(Interest::WRITABLE, || descriptors::send(socket.as_fd(), bytes, &carried));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent,
        }
    }
}

/// Why the system does not pass descriptors.
pub(in super::super) fn refused(error: &io::Error) -> EncodeFault {
    descriptors::refused(error)
}

/// Ready when what a message waits for has come; otherwise the task of `cx` is woken then.
pub(in super::super) fn poll_room<W: 'static>(writer: &W, waits: Waits, cx: &mut Context<'_>) -> Poll<()> {
    let Some(socket) = socket(writer) else { return Poll::Ready(()) };
    let drained = || if is_drained(socket.as_fd()) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
    loop {
        match ready!(socket.poll_write_ready(cx)) {
            Err(_) => return Poll::Ready(()), // what is wrong is told by the call that writes
            Ok(()) if waits == Waits::Room => return Poll::Ready(()),
            // The poller tells of each packet that the peer receives, once only a few are left.
            Ok(()) => match socket.try_io(Interest::WRITABLE, drained) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            },
        }
    }
}

/// Reads bytes, of which `before` have been read, and keeps the descriptors that come with them. `None`: the half
/// carries none, and nothing was read.
pub(in super::super) fn poll_read<R: 'static>(
    reader: &R,
    cx: &mut Context<'_>,
    (room, before): (&mut [u8], u64),
    inbox: &mut Inbox,
    retired: &Retired,
) -> Option<Poll<Result<io::Result<usize>, LinkEnd>>> {
    let socket = socket(reader)?;
    let read = poll_receive(socket, cx, room, retired.closer());
    Some(read.map(|received| {
        let Received { bytes, packet } = match received {
            Ok(received) => received,
            Err(error) => return Ok(Err(error)),
        };
        let packet = match packet {
            None => return Ok(Ok(bytes)),
            Some(Ok(descriptors)) => Some(descriptors),
            Some(Err(lost)) => {
                if lost == Lost::Left {
                    retired.discard(bytes);
                }
                None
            }
        };
        inbox.push(packet, before.saturating_add(bytes as u64))?;
        Ok(Ok(bytes))
    }))
}

/// What one read brought.
struct Received {
    bytes: usize,
    /// Descriptors, if some came.
    packet: Option<Result<Descriptors, Lost>>,
}

fn poll_receive(
    socket: &UnixStream,
    cx: &mut Context<'_>,
    room: &mut [u8],
    closer: &Arc<Closer>,
) -> Poll<io::Result<Received>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let mut received = None;
        let tried = socket.try_io(Interest::READABLE, || {
            let descriptors::Received { bytes, descriptors, lost } =
                descriptors::receive(socket.as_fd(), End::Own, Look::WithoutRoom, room, closer)?;
            let packet = match lost {
                Some(lost) => Some(Err(lost)),
                None => (!descriptors.is_empty()).then_some(Ok(descriptors)),
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

/// Prepares the socket of a half that carries descriptors.
pub(in super::super) fn adopt<R: 'static>(reader: &R) {
    if let Some(socket) = socket(reader) {
        descriptors::adopt(socket.as_fd());
    }
}

/// Another descriptor for the socket of a half that carries some.
pub(in super::super) fn duplicate<H: 'static>(half: &H) -> io::Result<Option<OwnedFd>> {
    socket(half).map(|socket| socket.as_fd().try_clone_to_owned()).transpose()
}

/// Nothing more comes for a half that carries descriptors.
pub(in super::super) fn hang_up<H: 'static>(half: &H) {
    if let Some(socket) = socket(half) {
        let _ = rustix::net::shutdown(socket.as_fd(), rustix::net::Shutdown::Read); // it fails where the peer was faster
    }
}

//! Descriptors that travel with a message, and the two system calls that carry them over a Unix socket.
//!
//! Whoever sends owns duplicates, made when the message was encoded, so that they live for as long as the message
//! waits. Whoever receives owns what arrived from the system call on: it is closed whatever happens next.

use std::collections::VecDeque;

#[cfg(unix)]
pub(crate) type Fd = std::os::fd::OwnedFd;
/// Nothing: there are no descriptors.
#[cfg(not(unix))]
pub(crate) type Fd = std::convert::Infallible;

/// The descriptors of a message, in their order. One word, since nearly all messages have none.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Option<Box<List>>);

#[derive(Debug)]
struct List(VecDeque<Fd>);

impl Descriptors {
    pub(crate) const NONE: Descriptors = Descriptors(None);

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |list| list.0.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Fd> {
        self.0.iter().flat_map(|list| &list.0)
    }

    pub(crate) fn push(&mut self, descriptor: Fd) {
        self.0.get_or_insert_with(|| Box::new(List(VecDeque::new()))).0.push_back(descriptor);
    }

    /// Takes the first one.
    #[cfg(unix)]
    pub(crate) fn pop(&mut self) -> Option<Fd> {
        let list = self.0.as_mut()?;
        let first = list.0.pop_front();
        if list.0.is_empty() {
            self.0 = None;
        }
        first
    }
}

impl Descriptors {
    /// Closes descriptors that a peer has passed, and that nobody takes. Not here: the last close of what a stranger has made
    /// may wait for as long as he likes, as that of a socket that lingers.
    pub(crate) fn close_apart(self) {
        if self.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(self))),
            Err(_) => drop(self), // a thread of the application's own
        }
    }
}

impl FromIterator<Fd> for Descriptors {
    fn from_iter<I: IntoIterator<Item = Fd>>(descriptors: I) -> Self {
        let list = VecDeque::from_iter(descriptors);
        Descriptors((!list.is_empty()).then(|| Box::new(List(list))))
    }
}

/// Descriptors that one message can carry: what Linux takes in one `sendmsg` (`SCM_MAX_FD`).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// The key in the metadata of a message that carries descriptors over a byte stream; its value says how many.
pub(crate) const ANNOUNCED: &str = "adjoin-descriptors";

#[cfg(target_os = "linux")]
pub(crate) use self::socket::{Received, probe, receive, send};

#[cfg(target_os = "linux")]
mod socket {
    use std::{
        io::{self, IoSlice, IoSliceMut},
        mem::MaybeUninit,
    };

    use rustix::{
        fd::AsFd,
        fd::BorrowedFd,
        net::{
            AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
            SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
            socketpair,
        },
    };

    use super::{Descriptors, Fd, MOST_DESCRIPTORS};

    /// What one `recvmsg` brought.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Received {
        pub(crate) bytes: usize,
        /// Descriptors came that this process may not have, and the system has closed them. Not since there were too
        /// many: nobody can send more at once than [`receive`] has room for.
        pub(crate) lost: bool,
    }

    /// One `sendmsg`, which does not wait: the descriptors go with the first of the bytes. Returns how many of those
    /// went.
    pub(crate) fn send(
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
    }

    /// Whether the system passes these descriptors now: tried on a socket that nobody reads. Four system calls.
    pub(crate) fn probe(descriptors: &Descriptors) -> io::Result<()> {
        let (near, _far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        send(near.as_fd(), &[0], &descriptors).map(drop)
    }

    /// One `recvmsg`, which does not wait. Descriptors are appended, and no program that this one starts inherits
    /// them.
    pub(crate) fn receive(
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
        descriptors: &mut Vec<Fd>,
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(Received { bytes: got.bytes, lost: got.flags.contains(ReturnFlags::CTRUNC) })
    }
}

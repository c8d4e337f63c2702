//! The system calls.
#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    sync::Arc,
};

use rustix::{
    fd::{BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg, sockopt,
    },
};

use super::{Closer, Descriptors, MOST_DESCRIPTORS, room};
use crate::link::EncodeFault;

/// What was received at once.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) descriptors: Descriptors,
    /// Descriptors came that this process may not have. Not since there were too many: nobody can send more at once than
    /// [`receive`] has room for.
    pub(crate) lost: Option<Lost>,
}

/// Where descriptors are that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The system has closed them.
    Gone,
    /// Still in the socket, with the bytes that they came with, which were looked at and not taken. They have to be taken
    /// out by [`discard`], before anything else is received, by a thread that may wait.
    Left,
}

/// Whether to look at a message before it is taken, so that descriptors in it that this process may not have stay where they
/// are. Else the system lets go of them in the call that receives. Where the peer may have the end, too, nobody looks: what is
/// taken then need not be what was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Each time: one system call more.
    Always,
    /// Where a message may bring more than this process has room for.
    WithoutRoom,
}

/// Whose the end of a socket is that is received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// This process's alone.
    Own,
    /// The peer may have it, too, and may have the system add things to what it brings (`SO_PASSPIDFD`).
    Shared,
}

/// One `sendmsg`, which does not wait: the descriptors go with the first of the bytes. Returns how many of those
/// went.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// Why the system does not pass descriptors, by its error.
pub(crate) fn refused(error: &io::Error) -> EncodeFault {
    match error.raw_os_error() {
        Some(libc::ETOOMANYREFS) => EncodeFault::Crowded,
        code => EncodeFault::Descriptor { code: code.unwrap_or_default() },
    }
}

/// Receives what is there, and does not wait: one `recvmsg`, and where it looks first, one `recv` more; and what is asked of
/// the system for the [room](super::room). No program that this one starts inherits the descriptors; what nobody takes,
/// `closer` closes.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    end: End,
    look: Look,
    bytes: &mut [u8],
    closer: &Arc<Closer>,
) -> io::Result<Received> {
    let aside = room::set_aside();
    let looks = end == End::Own && (look == Look::Always || !aside.enough);
    let mut received = receive_once(socket, end, looks, bytes, closer)?;
    match received.lost {
        Some(_) => aside.lost(),
        None => aside.came(received.descriptors.len()),
    }
    if looks && received.lost.is_none() {
        // The descriptors that come with it are here already, so that nothing is closed for the last time.
        received.bytes = recv(socket, &mut bytes[..received.bytes], RecvFlags::DONTWAIT)?.1;
    }
    Ok(received)
}

/// Takes bytes out of a socket, or a packet of them, with the descriptors that are among them. Waits for the last close of
/// each.
pub(crate) fn discard(socket: BorrowedFd<'_>, mut bytes: usize) {
    let mut into = [0; 4 << 10];
    loop {
        let most = bytes.clamp(1, into.len()); // a packet may have none
        match recv(socket, &mut into[..most], RecvFlags::DONTWAIT) {
            Ok((_, taken)) if taken == 0 || taken >= bytes => return,
            Ok((_, taken)) => bytes -= taken,
            Err(Errno::INTR) => {}
            Err(_) => return, // told to who receives next
        }
    }
}

fn receive_once(
    socket: BorrowedFd<'_>,
    end: End,
    looks: bool,
    bytes: &mut [u8],
    closer: &Arc<Closer>,
) -> io::Result<Received> {
    let mut space = Space([MaybeUninit::uninit(); SPACE]);
    if end == End::Shared {
        space.0.fill(MaybeUninit::new(0));
    }
    let mut ancillary = RecvAncillaryBuffer::new(&mut space.0);
    let mut flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    flags.set(RecvFlags::PEEK, looks);
    let got = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect::<Descriptors>().passed(closer);
    let lost = got.flags.contains(ReturnFlags::CTRUNC).then_some(if looks { Lost::Left } else { Lost::Gone });
    drop(ancillary);
    if end == End::Shared {
        // SAFETY: initialised: each byte was before, and the system writes bytes. In bounds, aligned: the slice is of
        // bytes, and as long. Alone: what borrowed it is dropped.
        let space = unsafe { std::slice::from_raw_parts(space.0.as_ptr().cast::<u8>(), SPACE) };
        unasked_for(space).for_each(drop);
    }
    Ok(Received { bytes: got.bytes, descriptors, lost })
}

/// Prepares a stream socket that a stranger has the other end of: what he sends out of band comes with everything else. Else
/// the system would skip it, and let go of its descriptors in the call that reads what comes behind.
pub(crate) fn adopt(socket: BorrowedFd<'_>) {
    // It fails for what is no stream, which has nothing out of band.
    let _ = sockopt::set_socket_oobinline(socket, true);
}

/// Room that begins where messages of the system may.
#[repr(align(8))]
struct Space([MaybeUninit<u8>; SPACE]);

/// Room for as many descriptors as can come at once.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// Takes what the system has added of itself, and nobody else knows of: handles on the sender's process (`SCM_PIDFD`).
/// `space` had only zeros in it before it was received into, and begins where messages of the system may.
fn unasked_for(space: &[u8]) -> impl Iterator<Item = OwnedFd> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        loop {
            let head = space.get(at..)?;
            let (len, rest) = head.split_first_chunk()?;
            let (level, rest) = rest.split_first_chunk()?;
            let (kind, rest) = rest.split_first_chunk()?;
            let len = usize::from_ne_bytes(*len);
            if len == 0 {
                return None;
            }
            at = at.checked_add(len)?.next_multiple_of(ALIGN);
            if (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)) == (libc::SOL_SOCKET, SCM_PIDFD) {
                let descriptor = i32::from_ne_bytes(*rest.first_chunk()?);
                if descriptor >= 0 {
                    // SAFETY: open, and alone: the system has just made it for this call, whose space it was written to
                    // and nobody else looks for its kind in, and this is done once.
                    return Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
                }
            }
        }
    })
}

/// What the messages of the system in a space are aligned to (`CMSG_ALIGN`).
const ALIGN: usize = size_of::<usize>();

/// The kind of a message that is a handle on a process; newer than the crate's headers on some architectures.
const SCM_PIDFD: i32 = 4;

//! The socket that carries the descriptors of messages.
//!
//! One packet a message, of one byte that means nothing, sent before the frame that says how many descriptors the message
//! has: who finds the frame finds the packet, without waiting. Nobody reads packets that no frame announces. They stay
//! where the system counts them as the sender's, until the socket is full or the link is over.
//!
//! A socket of its own, and not the bell: that is heard by the driver's task, whoever receives on the link.

use std::{
    io,
    task::{Context, Poll},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::poller;
use crate::{
    error::LinkEnd,
    link::descriptors::{self, Descriptors, Received},
};

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Passage(AsyncFd<OwnedFd>);

/// Why descriptors were not sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unpassed {
    /// The socket is full: the peer has to receive some first.
    Full,
    /// The peer has closed its end, or is gone.
    Closed,
    /// The system refused: the number of its error.
    Refused { code: i32 },
}

impl Passage {
    /// To be called within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Passage(poller::register(socket)?))
    }

    /// Sends the descriptors of one message, if it has any. One system call, which does not wait; none for none.
    #[inline]
    pub(super) fn send(&self, carried: &Descriptors) -> Result<(), Unpassed> {
        if carried.is_empty() { Ok(()) } else { self.send_packet(carried) }
    }

    fn send_packet(&self, carried: &Descriptors) -> Result<(), Unpassed> {
        let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        loop {
            let error = match descriptors::send(self.0.as_fd(), &[PACKET], &carried) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                Some(Errno::AGAIN) => return Err(Unpassed::Full),
                Some(Errno::PIPE | Errno::CONNRESET) => return Err(Unpassed::Closed),
                _ => return Err(Unpassed::Refused { code: error.raw_os_error().unwrap_or_default() }),
            }
        }
    }

    /// Receives the descriptors of a message that has `announced` of them. `None`: the system has closed some, since
    /// this process may not have so many open. One system call, which does not wait.
    pub(super) fn receive(&self, announced: u32) -> Result<Option<Descriptors>, LinkEnd> {
        let (mut carried, mut reset) = (Vec::new(), false);
        loop {
            match descriptors::receive(self.0.as_fd(), &mut [0], &mut carried) {
                Ok(Received { lost: true, .. }) => return Ok(None),
                Ok(_) => break,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Said once, by a peer that has closed its end with something of ours in it, and before what it has
                    // sent itself.
                    Some(Errno::CONNRESET) if !reset => reset = true,
                    Some(Errno::AGAIN | Errno::CONNRESET) => break,
                    _ => return Err(error.into()),
                },
            }
        }
        let (announced, arrived) = (u64::from(announced), carried.len());
        if arrived as u64 != announced {
            return Err(LinkEnd::Descriptors { announced, arrived });
        }
        Ok(Some(carried.into_iter().collect()))
    }

    /// Whether a socket that was full takes more by now. One system call.
    pub(super) fn has_room(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&at_once));
        // What is wrong with it is told by the call that sends.
        !matches!(found, Ok(0) | Err(Errno::INTR))
    }

    /// Ready when a socket that was full takes more; otherwise the task of `cx` is woken then.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.0.poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_)) if self.has_room() => return Poll::Ready(()),
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()), // as in `has_room`
            }
        }
    }
}

/// The byte of a packet.
const PACKET: u8 = 0;

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;

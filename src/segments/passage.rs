//! The sockets that carry the descriptors of messages.
//!
//! One packet a message, of one byte that means nothing, sent before the frame that says how many descriptors the message
//! has: who finds the frame finds the packet, without waiting. Nobody reads packets that no frame announces: they stay where
//! they are until the link is over, and no more than the socket takes.
//!
//! Of those that it sends, a side has as many under way as one message may have: more wait until the peer has received them.
//!
//! Sockets of their own, and not the bell: that is heard by the driver's task, whoever receives on the link. One for each
//! direction, made by the side that receives on it.

use std::{
    io,
    task::{Context, Poll},
};

use rustix::{fd::AsFd, io::Errno};
use tokio::io::unix::AsyncFd;

use super::{handshake::DescriptorSockets, mailbox::Mailbox, poller};
use crate::{
    error::LinkEnd,
    link::{
        EncodeFault,
        descriptors::{self, Apart, Closer, Descriptors, End, Look, Lost, Unread},
    },
};

/// This side's ends of both.
#[derive(Debug)]
pub(super) struct Passage {
    incoming: Mailbox,
    outgoing: AsyncFd<Apart>,
    unread: Unread,
}

/// Why descriptors were not sent.
#[derive(Clone, Debug)]
pub(super) enum Unpassed {
    /// The peer has to receive some first.
    Full,
    /// The peer has closed its end, or is gone.
    Closed,
    /// The system refused.
    Refused(EncodeFault),
}

impl Passage {
    /// A passage on which `under_way` descriptors may be under way, but for a single message, and of which `unclosed`, that
    /// nobody took, may wait to be closed. To be called within a runtime.
    pub(super) fn new(sockets: DescriptorSockets, under_way: usize, unclosed: usize) -> io::Result<Self> {
        let incoming = Mailbox::new(sockets.incoming.into_inner(), End::Own, Closer::new(unclosed))?;
        Ok(Passage {
            incoming,
            outgoing: poller::register(sockets.outgoing)?,
            unread: Unread::new(under_way),
        })
    }

    /// Sends the descriptors of one message, if it has any. One system call, which does not wait, and one more each time
    /// that as many are under way as may be; none for none.
    #[inline]
    pub(super) fn send(&self, carried: &Descriptors) -> Result<(), Unpassed> {
        if carried.is_empty() { Ok(()) } else { self.send_packet(carried) }
    }

    fn send_packet(&self, carried: &Descriptors) -> Result<(), Unpassed> {
        let (socket, count) = (self.outgoing.get_ref().as_fd(), carried.len());
        if !self.unread.takes(socket, count) {
            return Err(Unpassed::Full);
        }
        let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        loop {
            let error = match descriptors::send(socket, &[PACKET], &carried) {
                Ok(_) => {
                    self.unread.sent(count);
                    return Ok(());
                }
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                Some(Errno::AGAIN) => return Err(Unpassed::Full),
                Some(Errno::PIPE | Errno::CONNRESET) => return Err(Unpassed::Closed),
                _ => return Err(Unpassed::Refused(descriptors::refused(&error))),
            }
        }
    }

    /// Whether nothing is to be received now: more of the peer's wait to be closed than may.
    ///
    /// # Errors
    ///
    /// They have for long.
    #[inline]
    pub(super) fn holds_up(&self) -> Result<bool, LinkEnd> {
        self.incoming.holds_up()
    }

    /// Receives the descriptors of a message that has `announced` of them. `None`: this process may not have so many open.
    /// Two system calls, which do not wait. Not to be called while it is [held up](Passage::holds_up).
    pub(super) fn receive(&self, announced: u32) -> Result<Option<Descriptors>, LinkEnd> {
        let carried = loop {
            match self.incoming.receive(Look::Always, &mut [0]) {
                Ok(received) if received.lost.is_some() => {
                    if received.lost == Some(Lost::Left) {
                        self.incoming.discard(received.bytes);
                    }
                    return Ok(None);
                }
                Ok(received) => break received.descriptors,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::CONNRESET) => break Descriptors::NONE,
                    _ => return Err(error.into()),
                },
            }
        };
        let (announced, arrived) = (u64::from(announced), carried.len());
        if arrived as u64 != announced {
            return Err(LinkEnd::Descriptors { announced, arrived });
        }
        Ok(Some(carried))
    }

    /// Whether the peer has received all that was sent; also if its end is closed. One system call.
    pub(super) fn has_room(&self) -> bool {
        descriptors::is_drained(self.outgoing.get_ref().as_fd())
    }

    /// Ready when the peer has received all that was sent; otherwise the task of `cx` is woken then. The poller tells of
    /// each packet that is received, once only a few are left.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.outgoing.poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_)) if self.has_room() => return Poll::Ready(()),
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()), // told by the call that sends
            }
        }
    }
}

/// The byte of a packet.
const PACKET: u8 = 0;

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;

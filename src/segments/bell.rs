//! The bell: one byte on the control socket, which wakes the peer's task through its runtime's own poller.
//!
//! After the handshake the control socket carries nothing else. A byte has no meaning but "look", so bytes
//! may merge: where the socket is full of them, the peer has not looked yet, and will.
//!
//! A side rings once for each sleep that the other announces, so whoever has heard a ring announces its next
//! sleep anew; [`heard`](Bell::heard) tells it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    fd::AsFd,
    io::Errno,
    net::{self, SendFlags, Shutdown},
};

use super::mailbox::Mailbox;
use crate::{
    error::LinkEnd,
    link::descriptors::{Look, Received},
};

/// The control socket of an attached link. Any thread may ring.
#[derive(Debug)]
pub(super) struct Bell {
    socket: Mailbox,
    heard: AtomicU32,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The peer rang, once or more often.
    Rung,
    /// The peer closed its end.
    End,
}

impl Bell {
    /// Takes the socket over from the handshake.
    pub(super) fn new(socket: Mailbox) -> Arc<Self> {
        Arc::new(Bell { socket, heard: AtomicU32::new(0) })
    }

    /// Rings the peer, and returns whether it will hear it. Never waits: a full socket is one that rings
    /// already. `false` is no end of the link: that of a closed one is heard by whoever listens, and a system
    /// without memory may have some the next time. One system call.
    pub(super) fn ring(&self) -> bool {
        let sent = net::send(self.socket.as_fd(), &[RING], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        matches!(sent, Ok(_) | Err(Errno::AGAIN))
    }

    /// How many times rings were heard, mod 2^32: what the task that listens compares.
    pub(super) fn heard(&self) -> u32 {
        // Relaxed: counted by the task that listens.
        self.heard.load(Ordering::Relaxed)
    }

    /// Ready when the peer rang since the last call, or hung up. One system call for each time it is ready. A ring has no
    /// descriptors: a peer that sends some with it is let go.
    ///
    /// One task listens; what it reads at once is bounded, so that a peer that rings all the time costs a
    /// look at the link for each time, and no more.
    pub(super) fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Result<Heard, LinkEnd>> {
        let mut rings = [0; AT_ONCE];
        loop {
            let mut ready = ready!(self.socket.socket().poll_read_ready(cx)).map_err(LinkEnd::from)?;
            match self.socket.receive(Look::WithoutRoom, &mut rings) {
                Ok(Received { bytes: 0, .. }) => return Poll::Ready(Ok(Heard::End)),
                Ok(Received { descriptors, lost, .. }) if lost.is_some() || !descriptors.is_empty() => {
                    let arrived = descriptors.len();
                    return Poll::Ready(Err(LinkEnd::Descriptors { announced: 0, arrived }));
                }
                Ok(Received { bytes: read, .. }) => {
                    // Relaxed: see `heard`.
                    self.heard.fetch_add(1, Ordering::Relaxed);
                    // A short read has emptied the socket: the poller tells of the next byte, and keeps what
                    // it knows of the end.
                    if read < rings.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(Heard::Rung));
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN) => ready.clear_ready(),
                    Some(Errno::CONNRESET | Errno::PIPE) => return Poll::Ready(Ok(Heard::End)),
                    _ => return Poll::Ready(Err(error.into())),
                },
            }
        }
    }

    /// Lets the peer hear the end, whoever else still holds the bell here.
    pub(super) fn hang_up(&self) {
        let _ = net::shutdown(self.socket.as_fd(), Shutdown::Both);
    }
}

/// The byte.
const RING: u8 = 1;
/// How many rings one look takes away.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, os::unix::net::UnixStream};

    use super::*;
    use crate::link::descriptors::{Closer, End};

    fn pair() -> (Arc<Bell>, Arc<Bell>) {
        let (one, other) = UnixStream::pair().unwrap();
        let bell = |end: UnixStream| {
            end.set_nonblocking(true).unwrap();
            Bell::new(Mailbox::new(end.into(), End::Own, Closer::new(0)).unwrap())
        };
        (bell(one), bell(other))
    }

    async fn heard(bell: &Bell) -> Heard {
        poll_fn(|cx| bell.poll_heard(cx)).await.unwrap()
    }

    #[tokio::test]
    async fn rings_merge_and_the_end_is_heard_behind_them() {
        let (mine, peers) = pair();
        for _ in 0..3 {
            assert!(mine.ring());
        }
        assert_eq!(heard(&peers).await, Heard::Rung);
        assert_eq!(peers.heard(), 1);
        assert!(mine.ring());
        mine.hang_up();
        assert_eq!(heard(&peers).await, Heard::Rung);
        assert_eq!(heard(&peers).await, Heard::End);
        assert_eq!(heard(&peers).await, Heard::End);
    }

    #[tokio::test]
    async fn ringing_a_peer_that_never_listens_does_not_wait() {
        let (mine, peers) = pair();
        for _ in 0..100_000 {
            assert!(mine.ring());
        }
        assert_eq!(heard(&peers).await, Heard::Rung);
    }

    #[tokio::test]
    async fn ringing_a_peer_that_is_gone_does_nothing() {
        let (mine, peers) = pair();
        drop(peers);
        assert!(!mine.ring());
        assert_eq!(heard(&mine).await, Heard::End);
    }
}

//! Notices that the peer rang, hung up, or died.
//!
//! A process is watched by its pidfd, which becomes readable when it has ended, whatever descriptors a
//! grandchild of it keeps open. Its end of the socket tells of the rest: a peer that runs on but has let go
//! of the link. A process that dies closes its sockets slightly before its pidfd says so; hence a socket's
//! end alone is not believed for [`GRACE`].

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::{fd::OwnedFd, process::Pid};
use tokio::{io::unix::AsyncFd, time::Sleep};

use super::{
    bell::{Bell, Heard},
    exit::{self, GRACE, GRACES},
    guard, poller, process,
};
use crate::{error::LinkEnd, link::Watcher};

/// The peer's process.
#[derive(Debug)]
pub(super) enum Peer {
    /// A cell, which is our child.
    Child(Arc<process::Shared>),
    /// The host that has started this process, by its pidfd.
    Host(AsyncFd<OwnedFd>),
    /// Any other process, by its pidfd.
    Other(AsyncFd<OwnedFd>),
}

/// The watch on the peer of one link. Dropped, it hangs up: nobody listens here any more.
#[derive(Debug)]
pub(super) struct Watch {
    bell: Arc<Bell>,
    peer: Peer,
    hung_up: HungUp,
}

/// What is known of the peer's end of the socket.
#[derive(Debug)]
enum HungUp {
    /// It is open.
    No,
    /// It was closed, and whoever drives the link was told to look once more: a Goodbye may be there.
    Told,
    /// The process has this much time left to turn out dead, and so many times that again if it is on its
    /// way.
    Grace(Pin<Box<Sleep>>, u32),
}

impl Watch {
    pub(super) fn new(bell: Arc<Bell>, peer: Peer) -> Self {
        Watch { bell, peer, hung_up: HungUp::No }
    }
}

impl Watcher for Watch {
    /// Two looks at what the runtime's poller knows, and no system call when there is nothing; 1 for a ring.
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        if let Poll::Ready(end) = self.peer.poll_ended(cx) {
            return Poll::Ready(Err(end));
        }
        match &mut self.hung_up {
            HungUp::No => match ready!(self.bell.poll_heard(cx)) {
                Ok(Heard::Rung) => Poll::Ready(Ok(())),
                Ok(Heard::End) => {
                    self.hung_up = HungUp::Told;
                    Poll::Ready(Ok(()))
                }
                Err(end) => Poll::Ready(Err(end)),
            },
            HungUp::Told => {
                self.hung_up = HungUp::Grace(Box::pin(tokio::time::sleep(GRACE)), GRACES);
                self.poll_rung(cx)
            }
            HungUp::Grace(grace, left) => {
                ready!(grace.as_mut().poll(cx));
                if *left == 0 || !self.peer.is_ending() {
                    return Poll::Ready(Err(LinkEnd::Gone));
                }
                *left -= 1;
                *grace = Box::pin(tokio::time::sleep(GRACE));
                self.poll_rung(cx)
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.hang_up();
    }
}

impl Peer {
    /// Watches a process that is not our child.
    pub(super) fn other(pidfd: OwnedFd) -> std::io::Result<Self> {
        Ok(Peer::Other(poller::register(pidfd)?))
    }

    /// Watches the host that has started this process.
    pub(super) fn host(pidfd: OwnedFd) -> std::io::Result<Self> {
        Ok(Peer::Host(poller::register(pidfd)?))
    }

    /// Its process id, as this process sees it. The system may give it to another once it has ended.
    pub(super) fn pid(&self) -> Option<Pid> {
        let pid = match self {
            Peer::Child(child) => Some(child.id()),
            Peer::Host(pidfd) | Peer::Other(pidfd) => exit::pid(pidfd),
        };
        Pid::from_raw(pid?.cast_signed())
    }

    /// Whether the process is on its way out, or gone.
    fn is_ending(&self) -> bool {
        match self {
            Peer::Child(child) => exit::is_ending(child.pidfd()),
            Peer::Host(pidfd) | Peer::Other(pidfd) => exit::is_ending(pidfd),
        }
    }

    /// Ready when the process has ended.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        match self {
            Peer::Child(child) => {
                child.poll_ended(cx).map(|status| status.map_or(LinkEnd::Gone, exit::link_end))
            }
            Peer::Host(pidfd) | Peer::Other(pidfd) => {
                let _ready = ready!(pidfd.poll_read_ready(cx));
                if let Peer::Host(_) = self {
                    guard::host_is_gone(); // before anybody hears of it
                }
                Poll::Ready(exit::status(pidfd).map_or(LinkEnd::Gone, exit::link_end))
            }
        }
    }
}

//! A Unix socket whose peer may put descriptors into it: the control socket, which becomes the bell, and the passage.

use std::{io, sync::Arc};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

use super::poller;
use crate::{
    error::LinkEnd,
    link::descriptors::{self, Closer, End, Received},
};

/// Such a socket, in the runtime's poller. What comes with its bytes and nobody takes is closed apart, also what is left in
/// it when it is dropped.
#[derive(Debug)]
pub(super) struct Mailbox {
    socket: AsyncFd<OwnedFd>,
    closer: Arc<Closer>,
}

impl Mailbox {
    /// Takes a socket that does not block, with which so many descriptors may wait to be closed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(super) fn new(socket: OwnedFd, most: usize) -> io::Result<Self> {
        Ok(Mailbox { socket: poller::register(socket)?, closer: Closer::new(most) })
    }

    /// The socket, for the poller.
    pub(super) fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    /// One `recvmsg`, which does not wait.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> io::Result<Received> {
        descriptors::receive(self.as_fd(), End::Shared, bytes, &self.closer)
    }

    /// Whether no more wait to be closed than may.
    pub(super) fn check(&self) -> Result<(), LinkEnd> {
        self.closer.check()
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        descriptors::empty(self.socket.as_fd(), &self.closer);
    }
}

//! A Unix socket whose peer may put descriptors into it: the control socket, which becomes the bell, and the passage.

use std::{io, sync::Arc};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    net::{Shutdown, shutdown},
};
use tokio::io::unix::AsyncFd;

use super::poller;
use crate::{
    error::LinkEnd,
    link::descriptors::{self, Apart, Closer, End, Look, Received},
};

/// Such a socket, in the runtime's poller. What comes with its bytes and nobody takes is closed apart, and so is the socket,
/// with what is left in it.
#[derive(Debug)]
pub(super) struct Mailbox {
    socket: Arc<AsyncFd<Apart>>,
    end: End,
    closer: Arc<Closer>,
}

impl Mailbox {
    /// Takes a socket that does not block.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(super) fn new(socket: OwnedFd, end: End, closer: Arc<Closer>) -> io::Result<Self> {
        descriptors::adopt(socket.as_fd());
        let socket = poller::register(Apart::new(socket, Some(Arc::clone(&closer))))?;
        Ok(Mailbox { socket: Arc::new(socket), end, closer })
    }

    /// The socket, for the poller.
    pub(super) fn socket(&self) -> &AsyncFd<Apart> {
        &self.socket
    }

    /// Who closes what nobody takes.
    pub(super) fn closer(&self) -> &Arc<Closer> {
        &self.closer
    }

    /// Receives what is there, and does not wait.
    pub(super) fn receive(&self, look: Look, bytes: &mut [u8]) -> io::Result<Received> {
        descriptors::receive(self.as_fd(), self.end, look, bytes, &self.closer)
    }

    /// Has bytes taken out that were looked at, with descriptors that this process may not have. Nothing is to be received
    /// while that [holds up](Mailbox::holds_up).
    pub(super) fn discard(&self, bytes: usize) {
        let socket = Arc::clone(&self.socket);
        self.closer.discard(move || descriptors::discard(socket.get_ref().as_fd(), bytes));
    }

    /// Whether more wait to be closed than may.
    pub(super) fn holds_up(&self) -> Result<bool, LinkEnd> {
        self.closer.holds_up()
    }
}

/// The peer hears of it at once.
impl Drop for Mailbox {
    fn drop(&mut self) {
        let _ = shutdown(self.as_fd(), Shutdown::Both); // it fails where the peer was faster
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

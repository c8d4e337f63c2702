//! The end of a byte stream's socket.
//!
//! Who closes a Unix socket last closes what lies in it: a stranger may have put descriptors there whose close takes as long
//! as he likes. The two halves of a stream are dropped by tasks of the runtime, so that they must not be the last: a
//! duplicate of the socket outlives both, and is closed by the link's [`Closer`]. It is made at the beginning: at the end this
//! process may not have one more.

#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::{io, sync::Arc};

use super::carried;
#[cfg(target_os = "linux")]
use crate::link::descriptors;
use crate::link::descriptors::{Closer, Fd};

/// What both halves of a stream have, and let go of after the socket.
pub(super) struct Retired {
    closer: Arc<Closer>,
    /// The socket, where it carries descriptors.
    last: Option<Arc<Fd>>,
}

impl Retired {
    /// Of a stream with this half, of which so many descriptors may wait to be closed.
    ///
    /// # Errors
    ///
    /// The system has no further descriptor.
    pub(super) fn new<H: 'static>(half: &H, unclosed: usize) -> io::Result<Arc<Self>> {
        let last = carried::duplicate(half)?.map(Arc::new);
        Ok(Arc::new(Retired { closer: Closer::new(unclosed), last }))
    }

    /// Closes both halves of a stream for which there is none, not here.
    pub(super) fn without(halves: impl Send + 'static) {
        Closer::new(0).discard(|| drop(halves));
    }

    /// Who closes what nobody takes.
    pub(super) fn closer(&self) -> &Arc<Closer> {
        &self.closer
    }

    /// Has bytes taken out of the socket that were looked at, with descriptors that this process may not have.
    #[cfg(target_os = "linux")]
    pub(super) fn discard(&self, bytes: usize) {
        if let Some(socket) = self.last.clone() {
            self.closer.discard(move || descriptors::discard(socket.as_fd(), bytes));
        }
    }

    /// A half of the stream is about to be dropped: nothing more comes.
    pub(super) fn retire<H: 'static>(&self, half: &H) {
        carried::hang_up(half);
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        // Where something is being discarded, that has it for longer.
        if let Some(last) = self.last.take().and_then(Arc::into_inner) {
            self.closer.close([last]);
        }
    }
}

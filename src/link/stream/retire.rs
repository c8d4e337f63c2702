//! The end of a byte stream's socket.
//!
//! Who closes a Unix socket last closes what lies in it: a stranger may have put descriptors there whose close takes as long
//! as he likes. The two halves of a stream are dropped by tasks of the runtime, so that they must not be the last: a
//! duplicate of the socket, made when the first half goes, outlives both, and is closed by the link's [`Closer`].

use std::sync::Arc;

use super::carried;
use crate::link::descriptors::{Closer, Fd};

/// What both halves of a stream have, and let go of after the socket.
pub(super) struct Retired {
    pub(super) closer: Arc<Closer>,
    last: std::sync::OnceLock<Fd>,
}

impl Retired {
    /// Of a link of which so many descriptors may wait to be closed.
    pub(super) fn new(unclosed: usize) -> Arc<Self> {
        Arc::new(Retired { closer: Closer::new(unclosed), last: std::sync::OnceLock::new() })
    }

    /// A half of the stream is about to be dropped.
    pub(super) fn retire<H: 'static>(&self, half: &H) {
        if self.last.get().is_none()
            && let Some(duplicate) = carried::duplicate(half)
        {
            let _ = self.last.set(duplicate); // the other half was faster
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(last) = self.last.take() {
            self.closer.close([last]);
        }
    }
}

//! A descriptor that a peer has passed, or has the other end of.
#![allow(unsafe_code)]

use std::{
    mem::{self, ManuallyDrop},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
};

use super::Closer;

/// Closed by a [`Closer`], if it has one: with a socket, what lies in it is closed, too.
#[derive(Debug)]
pub(crate) struct Apart {
    descriptor: ManuallyDrop<OwnedFd>,
    closer: Option<Arc<Closer>>,
}

impl Apart {
    pub(crate) fn new(descriptor: OwnedFd, closer: Option<Arc<Closer>>) -> Self {
        Apart { descriptor: ManuallyDrop::new(descriptor), closer }
    }

    /// From now on it is closed by whoever has it.
    pub(crate) fn into_inner(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        drop(mem::take(&mut this.closer));
        // SAFETY: alone: `self` is never dropped, nor used again, so that this is the only one that is taken.
        unsafe { ManuallyDrop::take(&mut this.descriptor) }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // SAFETY: alone: this is dropped once, and not used again.
        let descriptor = unsafe { ManuallyDrop::take(&mut self.descriptor) };
        match &self.closer {
            Some(closer) => closer.close([descriptor]),
            None => drop(descriptor),
        }
    }
}

impl AsFd for Apart {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Apart {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

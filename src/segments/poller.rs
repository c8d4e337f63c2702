//! Descriptors in the runtime's poller.
#![allow(unsafe_code)]

use std::io;

use rustix::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the poller of the runtime that runs this.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub(super) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: in bounds and aligned: no memory is touched. Alone: an `OwnedFd` is the only owner of its
    // descriptor and always tells the same, and the `AsyncFd` becomes the only owner of it. Alive: so it
    // stays open for as long as it is registered.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

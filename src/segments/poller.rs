//! Descriptors in the runtime's poller.
#![allow(unsafe_code)]

use std::io;

use std::os::fd::AsRawFd;

use rustix::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

use crate::link::descriptors::Apart;

/// What owns a descriptor, tells the same of it for as long as it lives, and is the only one to close it.
pub(super) trait Owner: AsRawFd {}

impl Owner for OwnedFd {}
impl Owner for Apart {}

/// Registers a descriptor with the poller of the runtime that runs this.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub(super) fn register<T: Owner>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: in bounds and aligned: no memory is touched. Alone: an `Owner` is the only one of its
    // descriptor and always tells the same, and the `AsyncFd` becomes the only owner of it. Alive: so it
    // stays open for as long as it is registered.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

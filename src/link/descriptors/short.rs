//! Whether this process is short of descriptors.
//!
//! What a message brings that this process may not have, the system lets go of in the call that receives the message, where
//! the last close of what a stranger has made may take its time. So with few descriptors left, messages are looked at
//! before they are taken: see [`receive`](super::receive).
//!
//! The system gives the lowest number that is free. So the number of a descriptor that has just come says how many there are
//! at least, without a question.

use std::{
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::process::{Resource, getrlimit};

use super::Descriptors;

/// What was found last, in all of the process.
static SHORT: AtomicBool = AtomicBool::new(false);

/// Whether there were few left when descriptors last came.
#[inline]
pub(super) fn is_short() -> bool {
    // Relaxed, here and below: what is known is old anyway.
    SHORT.load(Ordering::Relaxed)
}

/// Descriptors have come. One system call.
pub(super) fn came(descriptors: &Descriptors) {
    let Some(highest) = descriptors.iter().map(AsRawFd::as_raw_fd).max() else { return };
    SHORT.store(are_few_left(highest), Ordering::Relaxed);
}

/// Descriptors have come that this process may not have.
pub(super) fn lost() {
    SHORT.store(true, Ordering::Relaxed);
}

/// Half of what there may be: what comes between two looks, on all threads that receive, has room in the other half.
fn are_few_left(highest: RawFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u64::try_from(highest).is_ok_and(|highest| highest >= limit / 2)
}

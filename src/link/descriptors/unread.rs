//! How many descriptors a peer has not received yet.
//!
//! The system counts those of a user that are under way, and refuses all of his processes more than `RLIMIT_NOFILE` of them
//! in all. So no link sends more than a peer takes in: one that does not read must not use up what others need.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{fd::BorrowedFd, ioctl};

/// Counts what was sent over one socket since it was last seen empty.
#[derive(Debug)]
pub(crate) struct Unread {
    sent: AtomicUsize,
    most: usize,
}

impl Unread {
    /// No more than `most` are to be under way, but for a single message.
    pub(crate) fn new(most: usize) -> Self {
        Unread { sent: AtomicUsize::new(0), most }
    }

    /// Whether so many more may be sent. A system call each time that the most are sent.
    pub(crate) fn takes(&self, socket: BorrowedFd<'_>, count: usize) -> bool {
        // Relaxed, here and below: a count of its one sender's.
        let sent = self.sent.load(Ordering::Relaxed);
        if sent == 0 || sent.saturating_add(count) <= self.most {
            return true;
        }
        let drained = is_drained(socket);
        if drained {
            self.sent.store(0, Ordering::Relaxed);
        }
        drained
    }

    /// So many were sent.
    pub(crate) fn sent(&self, count: usize) {
        self.sent.store(self.sent.load(Ordering::Relaxed).saturating_add(count), Ordering::Relaxed);
    }
}

/// Whether the peer has received all that was sent over a Unix socket; also where the system does not say.
pub(crate) fn is_drained(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: in bounds, aligned, alone: `SIOCOUTQ`, which has the number of `TIOCOUTQ`, writes one `int`, to where the
    // getter has room for it.
    let waiting = unsafe { ioctl::ioctl(socket, ioctl::Getter::<{ TIOCOUTQ }, c_int>::new()) };
    // The system tells of a packet that was read, and then takes its last byte off the count.
    waiting.is_ok_and(|bytes| bytes <= 1) || waiting.is_err()
}

const TIOCOUTQ: ioctl::Opcode = libc::TIOCOUTQ as ioctl::Opcode;

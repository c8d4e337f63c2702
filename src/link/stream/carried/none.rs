//! No byte stream carries descriptors, where the system is not Linux.

use std::{
    io,
    task::{Context, Poll},
};

use super::Inbox;
use crate::{
    error::LinkEnd,
    link::{
        EncodeFault,
        descriptors::{Descriptors, Fd},
        stream::retire::Retired,
    },
};

/// Whether a half of a stream carries descriptors.
pub(in super::super) fn carries<H: 'static>(_: &H) -> bool {
    false
}

/// The way out for descriptors: there is none.
pub(in super::super) struct Passage;

/// What a message with descriptors waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Waits {
    /// Room in the socket.
    Room,
    /// The peer has to receive what was sent.
    Reading,
}

impl Passage {
    pub(in super::super) fn new(_: usize) -> Self {
        Passage
    }

    /// Whether so many more may be sent.
    pub(in super::super) fn takes<W: 'static>(&self, _: &W, _: usize) -> bool {
        true
    }

    /// So many were sent.
    pub(in super::super) fn sent(&self, _: usize) {}
}

/// Writes bytes, the first of them with descriptors. For a half that carries them: there is none.
pub(in super::super) fn try_write<W: 'static>(_: &W, _: &[u8], _: &Descriptors) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Why the system does not pass descriptors.
pub(in super::super) fn refused(error: &io::Error) -> EncodeFault {
    EncodeFault::Descriptor { code: error.raw_os_error().unwrap_or_default() }
}

/// Ready when what a message waits for has come.
pub(in super::super) fn poll_room<W: 'static>(_: &W, _: Waits, _: &mut Context<'_>) -> Poll<()> {
    Poll::Ready(())
}

/// Reads bytes, and keeps the descriptors that come with them. `None`: the half carries none, and nothing was read.
pub(in super::super) fn poll_read<R: 'static>(
    _: &R,
    _: &mut Context<'_>,
    _: (&mut [u8], u64),
    _: &mut Inbox,
    _: &Retired,
) -> Option<Poll<Result<io::Result<usize>, LinkEnd>>> {
    None
}

/// Prepares the socket of a half that carries descriptors: there is none.
pub(in super::super) fn adopt<R: 'static>(_: &R) {}

/// Another descriptor for the socket of a half that carries some.
pub(in super::super) fn duplicate<H: 'static>(_: &H) -> io::Result<Option<Fd>> {
    Ok(None)
}

/// Nothing more comes for a half that carries descriptors.
pub(in super::super) fn hang_up<H: 'static>(_: &H) {}

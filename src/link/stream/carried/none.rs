//! No byte stream carries descriptors, where the system is not Linux.

use std::{
    io,
    task::{Context, Poll},
};

use super::Inbox;
use crate::{
    error::LinkEnd,
    link::{EncodeFault, descriptors::Descriptors},
};

/// Whether a half of a stream carries descriptors.
pub(in super::super) fn carries<H: 'static>(_: &H) -> bool {
    false
}

/// Writes bytes, the first of them with descriptors. For a half that carries them: there is none.
pub(in super::super) fn poll_write<W: 'static>(
    _: &W,
    _: &mut Context<'_>,
    _: &[u8],
    _: &Descriptors,
) -> Poll<io::Result<usize>> {
    Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
}

/// Whether the system passes these descriptors now.
pub(in super::super) fn probe(_: &Descriptors) -> Result<(), EncodeFault> {
    Ok(())
}

/// Whether the system has too many descriptors under way to take more.
pub(in super::super) fn is_crowded(_: &io::Error) -> bool {
    false
}

/// Reads bytes, and keeps the descriptors that come with them. `None`: the half carries none, and nothing was read.
pub(in super::super) fn poll_read<R: 'static>(
    _: &R,
    _: &mut Context<'_>,
    _: &mut [u8],
    _: &mut Inbox,
) -> Option<Poll<Result<io::Result<usize>, LinkEnd>>> {
    None
}

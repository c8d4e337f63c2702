//! The two halves of a segment, as typed parts: what the algorithms run on, be it a mapping or a model's
//! heap.

use crate::layout::channel::ChannelEntry;
use crate::layout::endpoint::Endpoint;
use crate::sync::{AtomicU32, Granule, ReadOnly};

/// Both halves of one segment: ours to write, the peer's to read.
///
/// Sealed: [`Mapped`](crate::Mapped) is the one, and under loom the heap of a model the other.
pub trait Halves: sealed::Halves + Send + Sync + 'static {}

pub(crate) mod sealed {
    /// The accessors, which only this crate calls.
    #[allow(unreachable_pub, reason = "a supertrait of a public trait has to be public")]
    pub trait Halves {
        /// The parts of our own half.
        fn own(&self) -> super::Own<'_>;
        /// The parts of the peer's half.
        fn peer(&self) -> super::Peer<'_>;
        /// How many bytes at the start of each arena may be lent.
        fn lending_bytes(&self) -> usize;
        /// What this side remembers of the peer's bell, in memory of its own: see `algo::park`.
        fn rung(&self) -> &super::Rung;
    }
}

/// The announcement of the peer's that this side has rung for last. Even, as it is at first: for none that
/// can be.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "named by a trait that has to be public")]
pub struct Rung(pub(crate) AtomicU32);

/// The parts of the half that this process alone writes.
#[allow(unreachable_pub, reason = "named by a trait that has to be public")]
pub struct Own<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) channels: &'a [ChannelEntry],
    /// Numbers of the peer's blocks that were given back: `returned` counts them.
    pub(crate) returned: &'a [AtomicU32],
    pub(crate) ring: &'a [Granule],
    pub(crate) arena: &'a [Granule],
}

/// The parts of the half that the peer writes and that this process has mapped read-only.
#[allow(unreachable_pub, reason = "named by a trait that has to be public")]
pub struct Peer<'a> {
    pub(crate) endpoint: ReadOnly<'a, Endpoint>,
    pub(crate) channels: ReadOnly<'a, [ChannelEntry]>,
    pub(crate) returned: ReadOnly<'a, [AtomicU32]>,
    pub(crate) ring: ReadOnly<'a, [Granule]>,
    pub(crate) arena: ReadOnly<'a, [Granule]>,
}

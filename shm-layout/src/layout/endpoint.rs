//! The endpoint block of a half: every word that one side publishes of itself while the link runs, but for
//! channels.

use crate::sync::{AtomicU32, AtomicU64, ReadOnly};

/// What one side publishes of itself: 512 bytes, written by the owner of this half alone.
///
/// | offset | field      | unit       | meaning                                                                    |
/// |--------|------------|------------|----------------------------------------------------------------------------|
/// | 0      | `head`     | bytes      | published on the ring out since attach, mod 2^64                           |
/// | 128    | `consumed` | bytes      | taken from the ring in since attach, mod 2^64                              |
/// | 256    | `returned` | blocks     | of the peer's arena given back since attach, mod 2^64                      |
/// | 384    | `parked`   | count, sequence | bits 0 to 31: this side's sleepers on the futex; bits 32 to 63: its sleeps on the bell, announced while odd, mod 2^32 |
/// | 392    | `wake`     | futex word | bumped by this side to wake the other, which sleeps on it                  |
/// | 396    | `starved`  | count      | of this side's senders that wait for room in the ring out, or for a block  |
///
/// Each group has a line of its own (128 bytes, for the processors that fetch pairs of lines): `head` changes
/// with every batch, `consumed` now and then, `returned` with every block, and the last group, which the peer looks at after every batch,
/// hardly ever.
#[repr(C, align(128))]
pub(crate) struct Endpoint {
    pub(crate) head: Line<AtomicU64>,
    pub(crate) consumed: Line<AtomicU64>,
    pub(crate) returned: Line<AtomicU64>,
    pub(crate) parked: AtomicU64,
    pub(crate) wake: AtomicU32,
    pub(crate) starved: AtomicU32,
}

/// A word that has its cache line to itself.
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

impl Endpoint {
    /// Bytes of the block.
    pub(crate) const BYTES: u64 = 512;
}

impl<'a> ReadOnly<'a, Endpoint> {
    pub(crate) fn head(self) -> ReadOnly<'a, AtomicU64> {
        self.part(|endpoint| &endpoint.head.0)
    }

    pub(crate) fn consumed(self) -> ReadOnly<'a, AtomicU64> {
        self.part(|endpoint| &endpoint.consumed.0)
    }

    pub(crate) fn returned(self) -> ReadOnly<'a, AtomicU64> {
        self.part(|endpoint| &endpoint.returned.0)
    }

    pub(crate) fn parked(self) -> ReadOnly<'a, AtomicU64> {
        self.part(|endpoint| &endpoint.parked)
    }

    pub(crate) fn wake(self) -> ReadOnly<'a, AtomicU32> {
        self.part(|endpoint| &endpoint.wake)
    }

    pub(crate) fn starved(self) -> ReadOnly<'a, AtomicU32> {
        self.part(|endpoint| &endpoint.starved)
    }
}

#[cfg(not(loom))] // loom's atomics have another size; a model never maps memory
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Endpoint>() == Endpoint::BYTES as usize);
    assert!(align_of::<Endpoint>() == 128);
    assert!(offset_of!(Endpoint, head) == 0);
    assert!(offset_of!(Endpoint, consumed) == 128);
    assert!(offset_of!(Endpoint, returned) == 256);
    assert!(offset_of!(Endpoint, parked) == 384);
    assert!(offset_of!(Endpoint, wake) == 392);
    assert!(offset_of!(Endpoint, starved) == 396);
};

//! How frames lie in a ring.
//!
//! A ring is granules of eight bytes. A frame is contiguous: one granule with its word, then its body,
//! rounded up to whole granules. Where a frame does not fit in front of the end of the ring, the word of a
//! pad says so, and the frame starts the ring anew. A frame takes at most half of the ring: then it fits an
//! empty ring at every position, since it is shorter than what lies in front of it or than what lies behind.
//!
//! | bits of the word | field | meaning                                                                       |
//! |------------------|-------|-------------------------------------------------------------------------------|
//! | 0 to 31          | `len` | bytes of the body; all ones for a pad, which takes the rest of the ring       |
//! | 32 to 63         | `tag` | not the ring's business; 0 for a pad                                          |

use crate::sync::Granule;

/// The word in front of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameWord {
    pub(crate) len: u32,
    pub(crate) tag: u32,
}

impl FrameWord {
    /// Bytes of the word: one granule.
    pub(crate) const BYTES: usize = Granule::BYTES;
    /// The `len` that marks a pad.
    pub(crate) const PAD_LEN: u32 = u32::MAX;
    /// The word of a pad.
    pub(crate) const PAD: Self = Self { len: Self::PAD_LEN, tag: 0 };

    pub(crate) const fn to_word(self) -> u64 {
        self.len as u64 | (self.tag as u64) << u32::BITS
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self { len: word as u32, tag: (word >> u32::BITS) as u32 }
    }
}

/// Bytes that a frame with a body of `len` bytes takes. `len` is at most the length of a ring.
pub(crate) const fn frame_bytes(len: usize) -> usize {
    FrameWord::BYTES + len.next_multiple_of(Granule::BYTES)
}

/// Bytes of the largest body that a frame in a ring of `ring_bytes` can have.
pub(crate) const fn max_body(ring_bytes: usize) -> usize {
    ring_bytes / 2 - FrameWord::BYTES
}

const _: () =
    assert!(FrameWord::PAD_LEN as usize > max_body(super::geometry::Geometry::RING_BYTES.1 as usize));

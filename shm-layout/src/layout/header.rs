//! The header of a half: fixed by its owner before the half is handed over.

use crate::sync::{AtomicU32, AtomicU64};

/// What a half is: 128 bytes, written by its owner before the descriptor is handed over, and never again.
///
/// | offset | field                    | unit    | meaning                                                 |
/// |--------|--------------------------|---------|---------------------------------------------------------|
/// | 0      | `magic`                  | id      | [`MAGIC`](Self::MAGIC)                                  |
/// | 8      | `version`                | count   | [`VERSION`](Self::VERSION) of this layout               |
/// | 12     | `header_len`             | bytes   | of this header                                          |
/// | 16     | `half_len`               | bytes   | of the whole half                                       |
/// | 24     | `ring_bytes`             | bytes   | of the ring                                             |
/// | 28     | `channel_slots`          | entries | of the channel table                                    |
/// | 32     | `max_payload_size`       | bytes   | of the largest payload of a message                     |
/// | 36     | `initial_channel_credit` | bytes   | that a channel's sender may send before any grant       |
/// | 40     | `arena_offset`           | bytes   | from the start of the half to the arena                 |
/// | 48     | `arena_bytes`            | bytes   | of the arena                                            |
/// | 56     | `arena_blocks`           | count   | of the arena's blocks that may be out at once           |
/// | 60     | `reserved`               |         | 0                                                       |
#[repr(C, align(128))]
pub(crate) struct Header {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU32,
    pub(crate) header_len: AtomicU32,
    pub(crate) half_len: AtomicU64,
    pub(crate) ring_bytes: AtomicU32,
    pub(crate) channel_slots: AtomicU32,
    pub(crate) max_payload_size: AtomicU32,
    pub(crate) initial_channel_credit: AtomicU32,
    pub(crate) arena_offset: AtomicU64,
    pub(crate) arena_bytes: AtomicU64,
    pub(crate) arena_blocks: AtomicU32,
    pub(crate) reserved: [AtomicU32; 17],
}

impl Header {
    /// Bytes of the header.
    pub(crate) const BYTES: u64 = 128;
    /// `adjoin` and a line end, so that neither another byte order nor a text file passes for a half.
    #[cfg(not(loom))]
    pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"adjoin\r\n");
    /// The layout that this crate knows. Any change of an offset or of a meaning takes the next.
    #[cfg(not(loom))]
    pub(crate) const VERSION: u32 = 2;
}

#[cfg(not(loom))] // loom's atomics have another size; a model never maps memory
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Header>() == Header::BYTES as usize);
    assert!(align_of::<Header>() == 128);
    assert!(offset_of!(Header, magic) == 0);
    assert!(offset_of!(Header, version) == 8);
    assert!(offset_of!(Header, header_len) == 12);
    assert!(offset_of!(Header, half_len) == 16);
    assert!(offset_of!(Header, ring_bytes) == 24);
    assert!(offset_of!(Header, channel_slots) == 28);
    assert!(offset_of!(Header, max_payload_size) == 32);
    assert!(offset_of!(Header, initial_channel_credit) == 36);
    assert!(offset_of!(Header, arena_offset) == 40);
    assert!(offset_of!(Header, arena_bytes) == 48);
    assert!(offset_of!(Header, arena_blocks) == 56);
    assert!(offset_of!(Header, reserved) == 60);
};

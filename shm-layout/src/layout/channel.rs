//! One entry of a half's channel table.

use crate::sync::{AtomicU32, AtomicU64, ReadOnly};

/// What one side says of the channel in one slot: 64 bytes, written by the owner of this half alone.
///
/// | offset | field           | unit  | meaning                                                                     |
/// |--------|-----------------|-------|-----------------------------------------------------------------------------|
/// | 0      | `granted_total` | bytes | that this side, as the channel's receiver, has ever allowed to be sent on it |
/// | 8      | `generation`    | id    | of the incarnation of the slot that `granted_total` is for; 0 for none      |
/// | 12     | `waiting`       | flag  | 1 while this side, as the channel's sender, waits for credit                |
///
/// An entry has a cache line to itself, so that channels do not slow each other down.
#[repr(C, align(64))]
pub(crate) struct ChannelEntry {
    pub(crate) granted_total: AtomicU64,
    pub(crate) generation: AtomicU32,
    pub(crate) waiting: AtomicU32,
}

impl ChannelEntry {
    /// Bytes of an entry.
    pub(crate) const BYTES: u64 = 64;
    /// The `generation` of no incarnation: nothing is open here, or it is just being opened.
    pub(crate) const NO_GENERATION: u32 = 0;
}

impl<'a> ReadOnly<'a, ChannelEntry> {
    pub(crate) fn granted_total(self) -> ReadOnly<'a, AtomicU64> {
        self.part(|entry| &entry.granted_total)
    }

    pub(crate) fn generation(self) -> ReadOnly<'a, AtomicU32> {
        self.part(|entry| &entry.generation)
    }

    pub(crate) fn waiting(self) -> ReadOnly<'a, AtomicU32> {
        self.part(|entry| &entry.waiting)
    }
}

#[cfg(not(loom))] // loom's atomics have another size; a model never maps memory
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ChannelEntry>() == ChannelEntry::BYTES as usize);
    assert!(align_of::<ChannelEntry>() == 64);
    assert!(offset_of!(ChannelEntry, granted_total) == 0);
    assert!(offset_of!(ChannelEntry, generation) == 8);
    assert!(offset_of!(ChannelEntry, waiting) == 12);
};

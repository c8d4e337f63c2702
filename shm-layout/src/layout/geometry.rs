//! The limits of a link, and where they put the regions of a half.

use super::channel::ChannelEntry;
use super::endpoint::Endpoint;
use super::header::Header;
use crate::error::{GeometryError, Rule};

/// The limits of a link. The host sets them; both halves are laid out by them.
///
/// Read once from the host's header, checked, and kept in private memory from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of each ring: a power of two.
    pub ring_bytes: u32,
    /// Entries of each half's channel table: even. The initiator allots those of the lower half of the
    /// indexes, the acceptor those of the upper half.
    pub channel_slots: u32,
    /// Bytes of the largest payload of a message.
    pub max_payload_size: u32,
    /// Bytes that the sender of a channel may send before it is granted more.
    pub initial_channel_credit: u32,
    /// Blocks of an arena that may be out at once. A quarter of them, one at least, are of the passing region.
    pub arena_blocks: u32,
    /// Bytes of each half's arena: whole pages. The last of them, as many as the largest payload takes, are the
    /// passing region; those in front of it the lending region.
    pub arena_bytes: u64,
}

/// A distance in bytes from the start of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(u64);

impl Offset {
    /// The distance in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset behind `len` bytes that start here, rounded up to a page.
    const fn page_behind(self, len: u64) -> Self {
        Self((self.0 + len).next_multiple_of(PAGE_BYTES))
    }
}

impl Default for Geometry {
    /// Rings of 1 MiB, 16384 channels, payloads of 64 MiB, 64 KiB of initial credit, 4096 blocks in 128 MiB.
    fn default() -> Self {
        Self {
            ring_bytes: 1 << 20,
            channel_slots: 16384,
            max_payload_size: 64 << 20,
            initial_channel_credit: 64 << 10,
            arena_blocks: 4096,
            arena_bytes: 128 << 20,
        }
    }
}

impl Geometry {
    /// Bounds of `ring_bytes`. With more, the length of a frame would come near to what marks a pad.
    pub const RING_BYTES: (u32, u32) = (4 << 10, 1 << 30);
    /// Bounds of `channel_slots`.
    pub const CHANNEL_SLOTS: (u32, u32) = (2, 1 << 20);
    /// Bounds of `max_payload_size`.
    pub const MAX_PAYLOAD_SIZE: (u32, u32) = (1, u32::MAX);
    /// Bounds of `initial_channel_credit`.
    pub const INITIAL_CHANNEL_CREDIT: (u32, u32) = (1, u32::MAX);
    /// Bounds of `arena_blocks`.
    pub const ARENA_BLOCKS: (u32, u32) = (1, 1 << 20);
    /// The most that `arena_bytes` can be. The least is what the largest payload takes.
    pub const MAX_ARENA_BYTES: u64 = 1 << 40;

    /// Checks every field against its bounds.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of bounds, its value, and the bounds.
    pub fn validate(&self) -> Result<(), GeometryError> {
        within("ring_bytes", self.ring_bytes, Self::RING_BYTES)?;
        if !self.ring_bytes.is_power_of_two() {
            let (least, most) = Self::RING_BYTES;
            let bound = Rule::PowerOfTwo(least.into(), most.into());
            return Err(GeometryError { field: "ring_bytes", value: self.ring_bytes.into(), bound });
        }
        within("channel_slots", self.channel_slots, Self::CHANNEL_SLOTS)?;
        if !self.channel_slots.is_multiple_of(2) {
            let value = self.channel_slots.into();
            return Err(GeometryError { field: "channel_slots", value, bound: Rule::MultipleOf(2) });
        }
        within("max_payload_size", self.max_payload_size, Self::MAX_PAYLOAD_SIZE)?;
        within("initial_channel_credit", self.initial_channel_credit, Self::INITIAL_CHANNEL_CREDIT)?;
        within("arena_blocks", self.arena_blocks, Self::ARENA_BLOCKS)?;
        let (value, least) = (self.arena_bytes, self.passing_bytes());
        if !(least..=Self::MAX_ARENA_BYTES).contains(&value) {
            let bound = Rule::Within(least, Self::MAX_ARENA_BYTES);
            return Err(GeometryError { field: "arena_bytes", value, bound });
        }
        if !value.is_multiple_of(PAGE_BYTES) {
            return Err(GeometryError { field: "arena_bytes", value, bound: Rule::MultipleOf(PAGE_BYTES) });
        }
        Ok(())
    }

    /// Where the header lies: at the start.
    #[must_use]
    pub const fn header_offset(&self) -> Offset {
        Offset(0)
    }

    /// Where the endpoint block lies: right behind the header.
    #[must_use]
    pub const fn endpoint_offset(&self) -> Offset {
        Offset(Header::BYTES)
    }

    /// Where the channel table lies: on a page of its own.
    #[must_use]
    pub const fn channels_offset(&self) -> Offset {
        self.endpoint_offset().page_behind(Endpoint::BYTES)
    }

    /// Where the numbers of returned blocks lie: on a page behind the channel table.
    #[must_use]
    pub const fn returned_offset(&self) -> Offset {
        self.channels_offset().page_behind(self.channel_slots as u64 * ChannelEntry::BYTES)
    }

    /// Where the ring's bytes lie: on a page behind the returned blocks.
    #[must_use]
    pub const fn ring_offset(&self) -> Offset {
        self.returned_offset().page_behind(self.arena_blocks as u64 * size_of::<u32>() as u64)
    }

    /// Where the arena for payloads that are too big for the ring lies: on a page behind the ring, at the end of the
    /// half.
    #[must_use]
    pub const fn arena_offset(&self) -> Offset {
        self.ring_offset().page_behind(self.ring_bytes as u64)
    }

    /// Bytes at the end of the arena that are for payloads on their way, and for nothing that stays: as many as the
    /// largest payload takes.
    #[must_use]
    pub const fn passing_bytes(&self) -> u64 {
        (self.max_payload_size as u64).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes at the start of the arena that may be lent: to this side's application before they are sent, and to the
    /// peer's after that.
    #[must_use]
    pub const fn lending_bytes(&self) -> u64 {
        self.arena_bytes.saturating_sub(self.passing_bytes())
    }

    /// The bytes of an arena that has room for one payload of `max_payload_size` bytes on its way, and as much again
    /// to be lent.
    #[must_use]
    pub const fn usual_arena_bytes(max_payload_size: u32) -> u64 {
        2 * (max_payload_size as u64).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of a half: whole pages.
    #[must_use]
    pub const fn half_len(&self) -> u64 {
        self.arena_offset().page_behind(self.arena_bytes).get()
    }
}

/// Refuses a value outside of its bounds.
fn within(field: &'static str, value: u32, (least, most): (u32, u32)) -> Result<(), GeometryError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(GeometryError { field, value: value.into(), bound: Rule::Within(least.into(), most.into()) })
}

/// What regions are aligned to. Written out: with pages of another size the halves of two builds still agree.
pub(crate) const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Geometry::default().validate(), Ok(()));
    }

    #[test]
    fn a_limit_out_of_bounds_is_named_with_its_value_and_its_bound() {
        let fault = |geometry: Geometry| geometry.validate().unwrap_err();
        let base = Geometry::default();
        let odd = fault(Geometry { channel_slots: 7, ..base });
        assert_eq!(odd, GeometryError { field: "channel_slots", value: 7, bound: Rule::MultipleOf(2) });
        let crooked = fault(Geometry { ring_bytes: 5000, ..base });
        assert_eq!((crooked.field, crooked.value), ("ring_bytes", 5000));
        assert_eq!(
            crooked.to_string(),
            "`ring_bytes` is 5000, must be a power of two from 4096 to 1073741824"
        );
        assert_eq!(fault(Geometry { ring_bytes: 8, ..base }).bound, Rule::Within(4096, 1 << 30));
        assert_eq!(fault(Geometry { channel_slots: 0, ..base }).field, "channel_slots");
        assert_eq!(fault(Geometry { max_payload_size: 0, ..base }).field, "max_payload_size");
        assert_eq!(fault(Geometry { initial_channel_credit: 0, ..base }).field, "initial_channel_credit");
        assert_eq!(fault(Geometry { arena_blocks: 0, ..base }).field, "arena_blocks");
        let small = fault(Geometry { arena_bytes: 64 << 20, max_payload_size: (64 << 20) + 1, ..base });
        assert_eq!(small.bound, Rule::Within((64 << 20) + 4096, 1 << 40), "a largest payload has to fit");
        let crooked = fault(Geometry { arena_bytes: (128 << 20) + 8, ..base });
        assert_eq!(crooked.bound, Rule::MultipleOf(4096));
    }

    #[test]
    fn regions_follow_each_other_without_overlap() {
        for (ring_bytes, channel_slots, arena_blocks) in
            [(4096, 2, 1), (8192, 66, 1025), (1 << 20, 16384, 4096), (1 << 30, 1 << 20, 1 << 20)]
        {
            let geometry = Geometry { ring_bytes, channel_slots, arena_blocks, ..Geometry::default() };
            geometry.validate().unwrap();
            let ends = [
                (geometry.header_offset(), Header::BYTES),
                (geometry.endpoint_offset(), Endpoint::BYTES),
                (geometry.channels_offset(), u64::from(channel_slots) * ChannelEntry::BYTES),
                (geometry.returned_offset(), u64::from(arena_blocks) * 4),
                (geometry.ring_offset(), ring_bytes.into()),
                (geometry.arena_offset(), geometry.arena_bytes),
                (Offset(geometry.half_len()), 0),
            ];
            for pair in ends.windows(2) {
                assert!(pair[0].0.get() + pair[0].1 <= pair[1].0.get(), "{geometry:?}: {pair:?}");
            }
        }
    }
}

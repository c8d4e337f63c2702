//! What a message looks like in the body of a frame. The ring does not look at it.
//!
//! | part     | bytes           | meaning                                                                          |
//! |----------|-----------------|----------------------------------------------------------------------------------|
//! | tag      | in the word     | [`Tag`]: kind, flags, number of channels                                         |
//! | head     | 32              | [`FrameHead`]                                                                    |
//! | metadata | `metadata_len`  | encoded by the session                                                           |
//! | payload  | what is left    | encoded by the caller, straight into the ring; or, with [`Tag::BLOCK`], a [`BlockRef`] |
//! | channels | 16 for each     | [`ChannelRef`]s; behind the payload, since encoding it is what finds them        |
//!
//! All numbers are little endian.

use core::ops::Range;

use crate::error::{Corrupt, Rule};

/// The tag of a frame: what every reader needs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The kind of message.
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// How many [`ChannelRef`]s end the body.
    pub channels: u16,
}

impl Tag {
    /// The flag of a message whose payload lies in a block of the sender's arena.
    pub const BLOCK: u8 = 1;

    /// Packs the tag: the kind in bits 0 to 7, the flags in 8 to 15, the number of channels in 16 to 31.
    #[must_use]
    #[inline]
    pub const fn to_u32(self) -> u32 {
        self.kind as u32 | (self.flags as u32) << 8 | (self.channels as u32) << 16
    }

    /// Unpacks a tag. Every value is one; what a kind means is the session's business.
    #[must_use]
    #[inline]
    pub const fn from_u32(tag: u32) -> Self {
        Self { kind: tag as u8, flags: (tag >> 8) as u8, channels: (tag >> 16) as u16 }
    }
}

/// The fixed head of a message.
///
/// | offset | field          | unit  | meaning                                            |
/// |--------|----------------|-------|----------------------------------------------------|
/// | 0      | `conn_id`      | id    | of the connection                                  |
/// | 8      | `id`           | id    | of the request or of the channel                   |
/// | 16     | `method_id`    | id    | of the method; 0 in what is not a request          |
/// | 24     | `metadata_len` | bytes | of the metadata behind the head                    |
/// | 28     | `extra`        |       | a number that the kind gives a meaning; else 0     |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// The connection.
    pub conn_id: u64,
    /// The request or the channel.
    pub id: u64,
    /// The method, in a request.
    pub method_id: u64,
    /// Bytes of metadata.
    pub metadata_len: u32,
    /// What the kind of message makes of it.
    pub extra: u32,
}

impl FrameHead {
    /// Bytes of an encoded head.
    pub const BYTES: usize = 32;

    /// Encodes the head.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.conn_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.method_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.metadata_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.extra.to_le_bytes());
        bytes
    }

    /// Decodes a head. Every value is one; `metadata_len` is checked by [`parse`].
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            conn_id: u64::from_le_bytes(part(bytes, 0)),
            id: u64::from_le_bytes(part(bytes, 8)),
            method_id: u64::from_le_bytes(part(bytes, 16)),
            metadata_len: u32::from_le_bytes(part(bytes, 24)),
            extra: u32::from_le_bytes(part(bytes, 28)),
        }
    }
}

/// A channel that a message opens: its id, and its place in the channel table.
///
/// | offset | field        | unit  | meaning                          |
/// |--------|--------------|-------|----------------------------------|
/// | 0      | `id`         | id    | of the channel                   |
/// | 8      | `slot`       | index | in the channel tables            |
/// | 12     | `generation` | id    | of this incarnation of the slot  |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelRef {
    /// The channel.
    pub id: u64,
    /// Its index in both channel tables; [`Partition::accept`](crate::Partition::accept) checks it.
    pub slot: u32,
    /// The incarnation of the slot.
    pub generation: u32,
}

impl ChannelRef {
    /// Bytes of an encoded entry.
    pub const BYTES: usize = 16;

    /// Encodes the entry.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.slot.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// Decodes an entry, unchecked.
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            id: u64::from_le_bytes(part(bytes, 0)),
            slot: u32::from_le_bytes(part(bytes, 8)),
            generation: u32::from_le_bytes(part(bytes, 12)),
        }
    }
}

/// Where in the sender's arena the payload of a message lies, which then has this in its place.
///
/// | offset | field    | unit  | meaning                                    |
/// |--------|----------|-------|--------------------------------------------|
/// | 0      | `block`  | index | of the block, by which it is given back    |
/// | 4      | `len`    | bytes | of the payload                             |
/// | 8      | `offset` | bytes | from the start of the arena to the payload |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The block's number, which only its owner gives a meaning.
    pub block: u32,
    /// Bytes of the payload.
    pub len: u32,
    /// Where it lies; [`PeerArena::check`](crate::PeerArena::check) checks all three.
    pub offset: u64,
}

impl BlockRef {
    /// Bytes of an encoded reference.
    pub const BYTES: usize = 16;

    /// Encodes the reference.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.block.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Decodes a reference, unchecked.
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            block: u32::from_le_bytes(part(bytes, 0)),
            len: u32::from_le_bytes(part(bytes, 4)),
            offset: u64::from_le_bytes(part(bytes, 8)),
        }
    }
}

/// Where the parts of a message lie in its body, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The metadata.
    pub metadata: Range<usize>,
    /// The payload.
    pub payload: Range<usize>,
    /// The [`ChannelRef`]s.
    pub channels: Range<usize>,
}

/// Finds the parts of a message with a body of `len` bytes.
///
/// # Errors
///
/// Names the field that claims more than the body holds.
#[inline]
pub fn parse(tag: Tag, len: usize, head: &FrameHead) -> Result<Parts, Corrupt> {
    let overrun = |field, found: u64, most: usize| Corrupt { field, found, rule: Rule::AtMost(most as u64) };
    let Some(rest) = len.checked_sub(FrameHead::BYTES) else {
        let rule = Rule::Within(FrameHead::BYTES as u64, u32::MAX.into());
        return Err(Corrupt { field: "frame.len", found: len as u64, rule });
    };
    let channels = usize::from(tag.channels) * ChannelRef::BYTES;
    let Some(rest) = rest.checked_sub(channels) else {
        let most = rest / ChannelRef::BYTES;
        return Err(overrun("frame.channels", tag.channels.into(), most));
    };
    if u64::from(head.metadata_len) > rest as u64 {
        return Err(overrun("frame.metadata_len", head.metadata_len.into(), rest));
    }
    let payload_at = FrameHead::BYTES + head.metadata_len as usize;
    let channels_at = len - channels;
    Ok(Parts {
        metadata: FrameHead::BYTES..payload_at,
        payload: payload_at..channels_at,
        channels: channels_at..len,
    })
}

/// The `N` bytes at `at`, which is a constant of the caller's that leaves room for them.
#[inline]
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: FrameHead =
        FrameHead { conn_id: 1 << 40, id: 2 << 40, method_id: 3 << 40, metadata_len: 8, extra: 5 };

    #[test]
    fn encoding_and_decoding_are_inverse() {
        assert_eq!(FrameHead::from_bytes(&HEAD.to_bytes()), HEAD);
        let channel = ChannelRef { id: 7 << 40, slot: 8, generation: u32::MAX };
        assert_eq!(ChannelRef::from_bytes(&channel.to_bytes()), channel);
        let block = BlockRef { block: 7, len: u32::MAX, offset: 9 << 40 };
        assert_eq!(BlockRef::from_bytes(&block.to_bytes()), block);
        let tag = Tag { kind: 1, flags: 2, channels: 0x0304 };
        assert_eq!(tag.to_u32(), 0x0304_0201);
        assert_eq!(Tag::from_u32(tag.to_u32()), tag);
    }

    #[test]
    fn the_parts_cover_the_body() {
        let tag = Tag { kind: 0, flags: 0, channels: 2 };
        let parts = parse(tag, 32 + 8 + 3 + 32, &HEAD).unwrap();
        assert_eq!(parts, Parts { metadata: 32..40, payload: 40..43, channels: 43..75 });
    }

    #[test]
    fn a_part_that_the_body_cannot_hold_is_named() {
        let field = |channels, len, metadata_len| {
            let tag = Tag { kind: 0, flags: 0, channels };
            parse(tag, len, &FrameHead { metadata_len, ..HEAD }).unwrap_err().field
        };
        assert_eq!(field(0, 31, 0), "frame.len");
        assert_eq!(field(1, 47, 0), "frame.channels");
        assert_eq!(field(u16::MAX, 1 << 19, 0), "frame.channels");
        assert_eq!(field(1, 48, 1), "frame.metadata_len");
        assert_eq!(field(0, 1 << 20, u32::MAX), "frame.metadata_len");
    }
}

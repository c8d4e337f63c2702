//! Messages as frames of a ring.
//!
//! The layout crate says where the parts of a message lie; this says which parts a message of each kind has.
//! A part that a kind does not have is zero or empty, and a peer that puts something there is not one of
//! ours. The number `extra` is the bytes of a Credit, and of a Request or a Response the descriptors that it carries.

use std::sync::Arc;

use adjoin_shm_layout::{self as layout, BlockRef, FrameHead, Tag};

use super::{blocks::PayloadOf, link::Mapped};
use crate::{
    error::{LinkEnd, Violation},
    link::{
        Brought, ChannelRef, CreditSlot, Head, Message,
        descriptors::MOST_DESCRIPTORS,
        pool::Pool,
        vector::{Front, MOST_FRONT, Vector},
    },
};

/// A head, taken apart as a frame wants it.
pub(super) struct Framed<'a> {
    pub(super) kind: u8,
    pub(super) head: FrameHead,
    pub(super) metadata: &'a [u8],
    /// Stands where the payload does, in the kinds that have no other.
    pub(super) reason: &'a str,
}

impl<'a> Framed<'a> {
    #[inline]
    pub(super) fn new(head: &Head<'a>) -> Self {
        let (kind, conn_id, id, metadata) = match *head {
            // Never sent over shared memory; a peer that gets it refuses it.
            Head::Hello { .. } => (kind::HELLO, 0, 0, NOTHING),
            Head::Connect { request_id, metadata } => (kind::CONNECT, 0, request_id, metadata),
            Head::Accept { request_id, conn_id, metadata } => (kind::ACCEPT, conn_id, request_id, metadata),
            Head::Reject { request_id, metadata, .. } => (kind::REJECT, 0, request_id, metadata),
            Head::Goodbye { conn_id, .. } => (kind::GOODBYE, conn_id, 0, NOTHING),
            Head::Request { conn_id, request_id, metadata, .. } => {
                (kind::REQUEST, conn_id, request_id, metadata)
            }
            Head::Response { conn_id, request_id, metadata } => {
                (kind::RESPONSE, conn_id, request_id, metadata)
            }
            Head::Cancel { conn_id, request_id } => (kind::CANCEL, conn_id, request_id, NOTHING),
            Head::Data { conn_id, channel_id } => (kind::DATA, conn_id, channel_id, NOTHING),
            Head::Close { conn_id, channel_id } => (kind::CLOSE, conn_id, channel_id, NOTHING),
            Head::Reset { conn_id, channel_id } => (kind::RESET, conn_id, channel_id, NOTHING),
            Head::Credit { conn_id, channel_id, .. } => (kind::CREDIT, conn_id, channel_id, NOTHING),
        };
        let method_id = if let Head::Request { method_id, .. } = *head { method_id } else { 0 };
        let extra = if let Head::Credit { bytes, .. } = *head { bytes } else { 0 };
        let reason = match *head {
            Head::Reject { reason, .. } | Head::Goodbye { reason, .. } => reason,
            _ => "",
        };
        let metadata_len = metadata.len() as u32; // one that is longer than a ring fits none
        let head = FrameHead { conn_id, id, method_id, metadata_len, extra };
        Framed { kind, head, metadata, reason }
    }
}

/// The body of a frame, as the layout stores one.
#[inline]
pub(super) fn channel_bytes(channel: &ChannelRef) -> [u8; layout::ChannelRef::BYTES] {
    let ChannelRef { id, slot: CreditSlot { index, generation } } = *channel;
    layout::ChannelRef { id, slot: index, generation }.to_bytes()
}

/// Where the payload of a message lies that has it in a block. `None`: it is in the frame.
#[inline]
pub(super) fn block(tag: u32, body: &[u8]) -> Result<Option<BlockRef>, LinkEnd> {
    let tag = Tag::from_u32(tag);
    // Anything else is for `parse` to refuse.
    if tag.flags != Tag::BLOCK || parts(tag.kind).is_none_or(|parts| parts & PAYLOAD == 0) {
        return Ok(None);
    }
    let (_, parts) = split(tag, body)?;
    let place = body.get(parts.payload).unwrap_or_default();
    let place: &[u8; BlockRef::BYTES] =
        place.try_into().map_err(|_| LinkEnd::Corrupt { field: "frame.len", value: body.len() as u64 })?;
    Ok(Some(BlockRef::from_bytes(place)))
}

/// What the payload of a frame belongs to.
#[inline]
pub(super) fn payload_of(tag: u32) -> PayloadOf {
    match Tag::from_u32(tag).kind {
        kind::RESPONSE => PayloadOf::Answer,
        kind::DATA => PayloadOf::Element,
        _ => PayloadOf::Request,
    }
}

/// Takes the vector out of a frame, if its payload is one. `body` gets everything else, as if the payload ended in front
/// of the vector's bytes.
///
/// Each byte of the frame is read once, so that what was looked at is what is used.
pub(super) fn take_vector(
    frame: &layout::Frame<'_, Mapped>,
    body: &mut Vec<u8>,
    pool: &Arc<Pool>,
) -> Option<Vector> {
    let (tag, len) = (Tag::from_u32(frame.tag()), frame.len());
    // Anything else is for `parse` to refuse.
    if tag.flags != 0 || parts(tag.kind).is_none_or(|parts| parts & PAYLOAD == 0) || len < FrameHead::BYTES {
        return None;
    }
    let mut head = [0; FrameHead::BYTES];
    frame.copy_to(0, &mut head);
    let parts = layout::parse(tag, len, &FrameHead::from_bytes(&head)).ok()?;
    let (payload, first) = (parts.payload, &mut [0; MOST_FRONT]);
    let first = first.get_mut(..payload.len().min(MOST_FRONT)).unwrap_or_default();
    frame.copy_to(payload.start, first);
    let front = Front::of(first, payload.len(), tag.kind == kind::RESPONSE)?;
    let start = payload.start + front.len();
    let vector = Vector::pooled(front, payload.len(), pool, |bytes| {
        frame.append_to(start, payload.end - start, bytes);
    });
    body.clear();
    body.extend_from_slice(&head);
    frame.append_to(FrameHead::BYTES, parts.metadata.len(), body);
    body.extend_from_slice(front.as_bytes());
    frame.append_to(parts.channels.start, parts.channels.len(), body);
    Some(vector)
}

/// The head of a body, and where the parts behind it lie.
#[inline]
fn split(tag: Tag, body: &[u8]) -> Result<(FrameHead, layout::Parts), LinkEnd> {
    let head: &[u8; FrameHead::BYTES] =
        body.first_chunk().ok_or(LinkEnd::Corrupt { field: "frame.len", value: body.len() as u64 })?;
    let head = FrameHead::from_bytes(head);
    let parts = layout::parse(tag, body.len(), &head).map_err(corrupt)?;
    Ok((head, parts))
}

/// Reads a message from a private copy of a frame. `channels` is memory that is used again; `outside` is the payload, if
/// it was in a block or is not part of the copy.
///
/// # Errors
///
/// Names the first field that no peer of ours would write so.
#[inline]
pub(super) fn parse<'a>(
    tag: u32,
    body: &'a [u8],
    channels: &'a mut Vec<ChannelRef>,
    outside: Option<Brought<'a>>,
) -> Result<Message<'a>, LinkEnd> {
    let tag = Tag::from_u32(tag);
    match tag.kind {
        // The three of which nearly all traffic is: each is checked by code of its own, which knows its parts.
        kind::REQUEST => parse_as(kind::REQUEST, tag, body, channels, outside),
        kind::RESPONSE => parse_as(kind::RESPONSE, tag, body, channels, outside),
        kind::DATA => parse_as(kind::DATA, tag, body, channels, outside),
        kind => parse_rare(kind, tag, body, channels, outside),
    }
}

#[inline(never)]
fn parse_rare<'a>(
    kind: u8,
    tag: Tag,
    body: &'a [u8],
    channels: &'a mut Vec<ChannelRef>,
    outside: Option<Brought<'a>>,
) -> Result<Message<'a>, LinkEnd> {
    parse_as(kind, tag, body, channels, outside)
}

/// Reads a message of a kind, which is the tag's.
#[inline(always)]
fn parse_as<'a>(
    kind: u8,
    tag: Tag,
    body: &'a [u8],
    channels: &'a mut Vec<ChannelRef>,
    outside: Option<Brought<'a>>,
) -> Result<Message<'a>, LinkEnd> {
    let parts_of_kind = match kind {
        kind::HELLO => return Err(Violation::HelloOrdering.into()),
        kind => parts(kind).ok_or(Violation::UnknownVariant { kind: kind.into() })?,
    };
    let (head, parts) = split(tag, body)?;
    // The ranges were checked against this very length.
    let part = |range| body.get(range).unwrap_or_default();
    let (metadata, payload, list) = (part(parts.metadata), part(parts.payload), part(parts.channels));
    let flags = if outside.is_some() { tag.flags & !Tag::BLOCK } else { tag.flags };
    let absent = |part: u8, field, value: u64| {
        if parts_of_kind & part == 0 && value != 0 { Err(LinkEnd::Corrupt { field, value }) } else { Ok(()) }
    };
    absent(0, "frame.flags", flags.into())?;
    absent(CONN, "frame.conn_id", head.conn_id)?;
    absent(ID, "frame.id", head.id)?;
    absent(METHOD, "frame.method_id", head.method_id)?;
    absent(METADATA, "frame.metadata_len", head.metadata_len.into())?;
    absent(EXTRA, "frame.extra", head.extra.into())?;
    absent(PAYLOAD | REASON, "frame.len", payload.len() as u64)?;
    absent(CHANNELS, "frame.channels", tag.channels.into())?;
    channels.clear();
    if !list.is_empty() {
        channels.extend(list.as_chunks().0.iter().map(channel));
    }
    let reason = if parts_of_kind & REASON == 0 { "" } else { reason(payload)? };
    let payload = match outside {
        _ if parts_of_kind & PAYLOAD == 0 => Brought::Here(NOTHING),
        Some(outside) => outside,
        None => Brought::Here(payload),
    };
    Ok(Message { head: typed(kind, &head, metadata, reason)?, channels, payload })
}

/// How many descriptors a message carries, by its frame.
#[inline]
pub(super) fn descriptors(tag: u32, body: &[u8]) -> Result<u32, LinkEnd> {
    let kind = Tag::from_u32(tag).kind;
    let Some(head) = body.first_chunk().filter(|_| kind == kind::REQUEST || kind == kind::RESPONSE) else {
        return Ok(0);
    };
    let FrameHead { extra, .. } = FrameHead::from_bytes(head);
    if extra as usize > MOST_DESCRIPTORS {
        return Err(LinkEnd::Corrupt { field: "frame.extra", value: extra.into() });
    }
    Ok(extra)
}

/// The typed head of a kind that has one.
#[inline]
fn typed<'a>(kind: u8, head: &FrameHead, metadata: &'a [u8], reason: &'a str) -> Result<Head<'a>, LinkEnd> {
    let FrameHead { conn_id, id, method_id, extra, .. } = *head;
    Ok(match kind {
        kind::CONNECT => Head::Connect { request_id: id, metadata },
        kind::ACCEPT => Head::Accept { request_id: id, conn_id, metadata },
        kind::REJECT => Head::Reject { request_id: id, reason, metadata },
        kind::GOODBYE => Head::Goodbye { conn_id, reason },
        kind::REQUEST => Head::Request { conn_id, request_id: id, method_id, metadata },
        kind::RESPONSE => Head::Response { conn_id, request_id: id, metadata },
        kind::CANCEL => Head::Cancel { conn_id, request_id: id },
        kind::DATA => Head::Data { conn_id, channel_id: id },
        kind::CLOSE => Head::Close { conn_id, channel_id: id },
        kind::RESET => Head::Reset { conn_id, channel_id: id },
        kind::CREDIT => Head::Credit { conn_id, channel_id: id, bytes: extra },
        kind => return Err(Violation::UnknownVariant { kind: kind.into() }.into()),
    })
}

/// What the layout crate found wrong, as the end of a link.
#[inline]
pub(super) fn corrupt(corrupt: layout::Corrupt) -> LinkEnd {
    LinkEnd::Corrupt { field: corrupt.field, value: corrupt.found }
}

#[inline]
fn channel(bytes: &[u8; layout::ChannelRef::BYTES]) -> ChannelRef {
    let layout::ChannelRef { id, slot, generation } = layout::ChannelRef::from_bytes(bytes);
    ChannelRef { id, slot: CreditSlot { index: slot, generation } }
}

#[inline]
fn reason(bytes: &[u8]) -> Result<&str, LinkEnd> {
    std::str::from_utf8(bytes).map_err(|_| Violation::Decode { len: bytes.len() }.into())
}

/// Which parts a message of a kind has; `None` for a kind that does not exist.
#[inline]
const fn parts(kind: u8) -> Option<u8> {
    Some(match kind {
        kind::CONNECT => ID | METADATA,
        kind::ACCEPT => CONN | ID | METADATA,
        kind::REJECT => ID | METADATA | REASON,
        kind::GOODBYE => CONN | REASON,
        kind::REQUEST => CONN | ID | METHOD | METADATA | EXTRA | PAYLOAD | CHANNELS,
        kind::RESPONSE => CONN | ID | METADATA | EXTRA | PAYLOAD | CHANNELS,
        kind::DATA => CONN | ID | PAYLOAD,
        kind::CANCEL | kind::CLOSE | kind::RESET => CONN | ID,
        kind::CREDIT => CONN | ID | EXTRA,
        _ => return None,
    })
}

/// The kinds of messages: the numbers of the protocol's table.
mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const CONNECT: u8 = 1;
    pub(super) const ACCEPT: u8 = 2;
    pub(super) const REJECT: u8 = 3;
    pub(super) const GOODBYE: u8 = 4;
    pub(super) const REQUEST: u8 = 5;
    pub(super) const RESPONSE: u8 = 6;
    pub(super) const CANCEL: u8 = 7;
    pub(super) const DATA: u8 = 8;
    pub(super) const CLOSE: u8 = 9;
    pub(super) const RESET: u8 = 10;
    pub(super) const CREDIT: u8 = 11;
}

const CONN: u8 = 1;
const ID: u8 = 1 << 1;
const METHOD: u8 = 1 << 2;
const METADATA: u8 = 1 << 3;
const REASON: u8 = 1 << 4;
const PAYLOAD: u8 = 1 << 5;
const CHANNELS: u8 = 1 << 6;
const EXTRA: u8 = 1 << 7;

const NOTHING: &[u8] = &[];

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;

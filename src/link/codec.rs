//! The bytes of a message: the postcard encoding of protocol section 2, for links that carry bytes.
//!
//! A message is its discriminant and its fields, in the order of the protocol's table; integers are
//! varints (seven bits a byte, lowest first), strings, lists and payloads stand behind their length. It is
//! written by hand rather than derived because the payload and the metadata are borrowed from the frame and
//! metadata is handed on unparsed: a derived decoder could not say where it ends. The tests hold it against
//! a derived one.
//!
//! Decoding is strict: one message has one encoding, and everything that decodes encodes to the same bytes
//! again. Work and memory are bounded by the bytes present: a count or a length costs nothing until that
//! which it counts has been seen. Per message: no copy of the payload, no allocation in steady state.

#[cfg(test)]
mod tests;

use super::message::{Brought, ChannelRef, CreditSlot, EncodeFault, Head, MAX_ENTRIES, MAX_TOTAL, Message};
use crate::error::Violation;

/// The longest message of a link with the given maximum payload, in bytes: the payload, and what may stand
/// around it. Longer ones are not sent, and refused when they come.
pub(crate) fn message_limit(max_payload_size: u32) -> usize {
    /// The protocol's 64 KiB of keys and values, the heads of its 128 entries, and as much again as is needed
    /// for a peer that oversteps to be told so.
    const METADATA: usize = (64 << 10) + 128 * 16 + (16 << 10);
    /// The list of channels: six thousand ids of the longest form.
    const CHANNELS: usize = 64 << 10;
    /// The discriminant, three ids, two counts and a length, at ten bytes each.
    const FIELDS: usize = 7 * MAX_VARINT;

    usize::try_from(max_payload_size).unwrap_or(usize::MAX).saturating_add(METADATA + CHANNELS + FIELDS)
}

/// Appends to `out` a message as far as the bytes of its payload, which follow: so they need not be copied.
/// Kinds without a payload are complete with this. Of `channels`, only the ids are on this wire.
pub(crate) fn encode_head(head: &Head<'_>, channels: &[ChannelRef], payload_len: usize, out: &mut Vec<u8>) {
    match *head {
        Head::Hello { max_payload_size, initial_channel_credit } => {
            put(out, [kind::HELLO, hello::V2, max_payload_size.into(), initial_channel_credit.into()]);
        }
        Head::Connect { request_id, metadata } => {
            put(out, [kind::CONNECT, request_id]);
            put_metadata(out, metadata);
        }
        Head::Accept { request_id, conn_id, metadata } => {
            put(out, [kind::ACCEPT, request_id, conn_id]);
            put_metadata(out, metadata);
        }
        Head::Reject { request_id, reason, metadata } => {
            put(out, [kind::REJECT, request_id]);
            put_bytes(out, reason.as_bytes());
            put_metadata(out, metadata);
        }
        Head::Goodbye { conn_id, reason } => {
            put(out, [kind::GOODBYE, conn_id]);
            put_bytes(out, reason.as_bytes());
        }
        Head::Request { conn_id, request_id, method_id, metadata } => {
            put(out, [kind::REQUEST, conn_id, request_id, method_id]);
            put_metadata(out, metadata);
            put_channels(out, channels);
            put_len(out, payload_len);
        }
        Head::Response { conn_id, request_id, metadata } => {
            put(out, [kind::RESPONSE, conn_id, request_id]);
            put_metadata(out, metadata);
            put_channels(out, channels);
            put_len(out, payload_len);
        }
        Head::Cancel { conn_id, request_id } => put(out, [kind::CANCEL, conn_id, request_id]),
        Head::Data { conn_id, channel_id } => {
            put(out, [kind::DATA, conn_id, channel_id]);
            put_len(out, payload_len);
        }
        Head::Close { conn_id, channel_id } => put(out, [kind::CLOSE, conn_id, channel_id]),
        Head::Reset { conn_id, channel_id } => put(out, [kind::RESET, conn_id, channel_id]),
        Head::Credit { conn_id, channel_id, bytes } => {
            put(out, [kind::CREDIT, conn_id, channel_id, bytes.into()]);
        }
    }
}

/// Appends to `out` a list of entries that is encoded already, with one more, a number, at its end. The codec decodes
/// what it encodes, so a list that is none is one without entries.
///
/// # Errors
///
/// The list has as many entries as it may, or as many bytes.
pub(crate) fn put_metadata_with(
    metadata: &[u8],
    key: &str,
    number: u64,
    out: &mut Vec<u8>,
) -> Result<(), EncodeFault> {
    let (mut count, mut bytes) = (1, key.len() + size_of_val(&number));
    for (key, value) in entries(metadata) {
        count += 1;
        bytes += key.len() + value.len();
    }
    for (what, value, limit) in
        [("the number of entries", count, MAX_ENTRIES), ("the length in all", bytes, MAX_TOTAL)]
    {
        if value > limit {
            return Err(EncodeFault::Metadata { what, value, limit });
        }
    }
    let mut list = Reader { rest: metadata };
    let _ = list.u64(); // the number of entries
    put(out, [count as u64]);
    out.extend_from_slice(list.rest);
    put_bytes(out, key.as_bytes());
    put(out, [value::U64, number]);
    Ok(())
}

/// The number that the last entry with this key has, in a list of entries that was decoded.
pub(crate) fn number_in_metadata(metadata: &[u8], key: &str) -> Option<u64> {
    let numbers = entries(metadata).filter_map(|(name, value)| match value {
        Entry::Number(number) if name == key => Some(number),
        _ => None,
    });
    numbers.last()
}

/// The value of an entry of metadata.
enum Entry<'a> {
    Bytes(&'a [u8]),
    Number(u64),
}

impl Entry<'_> {
    /// Its bytes, as `call.metadata.limits` counts them.
    fn len(&self) -> usize {
        match self {
            Entry::Bytes(bytes) => bytes.len(),
            Entry::Number(number) => size_of_val(number),
        }
    }
}

/// The entries of a list that was decoded, or encoded here.
fn entries(metadata: &[u8]) -> impl Iterator<Item = (&str, Entry<'_>)> {
    let mut list = Reader { rest: metadata };
    let count = list.u64().unwrap_or(0);
    (0..count).map_while(move |_| {
        let key = list.str().ok()?;
        let value = match list.u64().ok()? {
            value::U64 => Entry::Number(list.u64().ok()?),
            _ => Entry::Bytes(list.bytes().ok()?),
        };
        Some((key, value))
    })
}

/// Decodes the one message that `frame` is. Its channels are left in `channels`, which is reused from call
/// to call.
///
/// # Errors
///
/// The frame is not one message, and nothing but one message.
pub(crate) fn decode_message<'a>(
    frame: &'a [u8],
    channels: &'a mut Vec<ChannelRef>,
) -> Result<Message<'a>, Violation> {
    let mut rest = frame;
    let message = take_message(&mut rest, channels)?;
    if rest.is_empty() { Ok(message) } else { Err(Violation::Decode { len: frame.len() }) }
}

/// Decodes the message that `bytes` begins with, and leaves what comes behind it.
pub(crate) fn take_message<'a>(
    bytes: &mut &'a [u8],
    channels: &'a mut Vec<ChannelRef>,
) -> Result<Message<'a>, Violation> {
    let mut reader = Reader { rest: bytes };
    let parsed = reader.message(channels);
    let len = std::mem::replace(bytes, reader.rest).len();
    let (head, payload) = parsed.map_err(|fault| fault.violation(len))?;
    Ok(Message { head, channels, payload: Brought::Here(payload) })
}

/// What a message begins with that has a payload and no channels: its head, where its payload begins, and how long that is.
/// `None`: it is another message, or more has to come before that is known.
pub(crate) fn ahead(prefix: &[u8]) -> Option<(Head<'_>, usize, usize)> {
    let mut reader = Reader { rest: prefix };
    let head = reader.head().ok()?;
    let without_channels = !has_channels(&head) || reader.len().ok()? == 0;
    let len = if has_payload(&head) { reader.len().ok()? } else { return None };
    without_channels.then_some((head, prefix.len() - reader.rest.len(), len))
}

/// Says which rule a frame breaks that is longer than the link's limit, by the part of it that arrived.
pub(crate) fn oversize(prefix: &[u8], max_payload_size: u32) -> Violation {
    let undecodable = Violation::Decode { len: prefix.len() };
    let mut reader = Reader { rest: prefix };
    let Ok(head) = reader.head() else { return undecodable };
    if has_channels(&head) && reader.channels(&mut Vec::new()).is_err() {
        return undecodable;
    }
    let limit = usize::try_from(max_payload_size).unwrap_or(usize::MAX);
    match reader.len() {
        Ok(len) if len <= limit => undecodable,
        Ok(len) if has_channels(&head) => Violation::PayloadLimit { len, limit },
        Ok(len) if has_payload(&head) => Violation::DataSizeLimit { len, limit },
        _ => undecodable,
    }
}

/// Discriminants of the messages: protocol section 2.
mod kind {
    pub(super) const HELLO: u64 = 0;
    pub(super) const CONNECT: u64 = 1;
    pub(super) const ACCEPT: u64 = 2;
    pub(super) const REJECT: u64 = 3;
    pub(super) const GOODBYE: u64 = 4;
    pub(super) const REQUEST: u64 = 5;
    pub(super) const RESPONSE: u64 = 6;
    pub(super) const CANCEL: u64 = 7;
    pub(super) const DATA: u64 = 8;
    pub(super) const CLOSE: u64 = 9;
    pub(super) const RESET: u64 = 10;
    pub(super) const CREDIT: u64 = 11;
}

/// Discriminants of Hello.
mod hello {
    pub(super) const V2: u64 = 1;
}

/// Discriminants of a metadata value.
mod value {
    pub(super) const STRING: u64 = 0;
    pub(super) const BYTES: u64 = 1;
    pub(super) const U64: u64 = 2;
}

/// The longest varint of a u64, in bytes.
const MAX_VARINT: usize = 10;

/// The list of channels that is kept for the next message; one that grew beyond is given back.
const KEPT_CHANNELS: usize = 1024;

/// Whether messages of this kind list channels.
fn has_channels(head: &Head<'_>) -> bool {
    matches!(head, Head::Request { .. } | Head::Response { .. })
}

/// Whether messages of this kind carry a payload.
fn has_payload(head: &Head<'_>) -> bool {
    has_channels(head) || matches!(head, Head::Data { .. })
}

/// Appends integers.
fn put<const N: usize>(out: &mut Vec<u8>, values: [u64; N]) {
    for mut value in values {
        while let low @ 0x80.. = value {
            out.push(low as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}

/// Appends a length or a count.
fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, [len as u64]);
}

/// Appends bytes behind their length.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a list of entries that is encoded already.
fn put_metadata(out: &mut Vec<u8>, metadata: &[u8]) {
    if metadata.is_empty() {
        put_len(out, 0);
    }
    out.extend_from_slice(metadata);
}

/// Appends the list of channels.
fn put_channels(out: &mut Vec<u8>, channels: &[ChannelRef]) {
    put_len(out, channels.len());
    channels.iter().for_each(|channel| put(out, [channel.id]));
}

/// Why bytes are no message.
enum Fault {
    Malformed,
    UnknownVariant(u64),
    UnknownVersion,
}

impl Fault {
    /// The rule that a frame of `len` bytes broke.
    fn violation(self, len: usize) -> Violation {
        match self {
            Fault::Malformed => Violation::Decode { len },
            Fault::UnknownVariant(kind) => Violation::UnknownVariant { kind },
            Fault::UnknownVersion => Violation::UnknownVersion,
        }
    }
}

/// What is left of a frame. Each method takes one thing off its front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn message(&mut self, channels: &mut Vec<ChannelRef>) -> Result<(Head<'a>, &'a [u8]), Fault> {
        let head = self.head()?;
        channels.clear();
        if has_channels(&head) {
            self.channels(channels)?;
        }
        let payload: &[u8] = if has_payload(&head) { self.bytes()? } else { &[] };
        Ok((head, payload))
    }

    fn head(&mut self) -> Result<Head<'a>, Fault> {
        Ok(match self.u64()? {
            kind::HELLO => match self.u64()? {
                hello::V2 => {
                    Head::Hello { max_payload_size: self.u32()?, initial_channel_credit: self.u32()? }
                }
                _ => return Err(Fault::UnknownVersion),
            },
            kind::CONNECT => Head::Connect { request_id: self.u64()?, metadata: self.metadata()? },
            kind::ACCEPT => {
                Head::Accept { request_id: self.u64()?, conn_id: self.u64()?, metadata: self.metadata()? }
            }
            kind::REJECT => {
                Head::Reject { request_id: self.u64()?, reason: self.str()?, metadata: self.metadata()? }
            }
            kind::GOODBYE => Head::Goodbye { conn_id: self.u64()?, reason: self.str()? },
            kind::REQUEST => Head::Request {
                conn_id: self.u64()?,
                request_id: self.u64()?,
                method_id: self.u64()?,
                metadata: self.metadata()?,
            },
            kind::RESPONSE => {
                Head::Response { conn_id: self.u64()?, request_id: self.u64()?, metadata: self.metadata()? }
            }
            kind::CANCEL => Head::Cancel { conn_id: self.u64()?, request_id: self.u64()? },
            kind::DATA => Head::Data { conn_id: self.u64()?, channel_id: self.u64()? },
            kind::CLOSE => Head::Close { conn_id: self.u64()?, channel_id: self.u64()? },
            kind::RESET => Head::Reset { conn_id: self.u64()?, channel_id: self.u64()? },
            kind::CREDIT => {
                Head::Credit { conn_id: self.u64()?, channel_id: self.u64()?, bytes: self.u32()? }
            }
            kind => return Err(Fault::UnknownVariant(kind)),
        })
    }

    /// A varint in its one shortest form.
    #[inline]
    fn u64(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(MAX_VARINT) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let overlong = index > 0 && *byte == 0;
                let overflow = index == MAX_VARINT - 1 && *byte > 1;
                if overlong || overflow {
                    break;
                }
                self.rest = self.rest.get(index + 1..).ok_or(Fault::Malformed)?;
                return Ok(value);
            }
        }
        Err(Fault::Malformed)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        u32::try_from(self.u64()?).map_err(|_| Fault::Malformed)
    }

    fn len(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.u64()?).map_err(|_| Fault::Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.len()?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Fault::Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn str(&mut self) -> Result<&'a str, Fault> {
        str::from_utf8(self.bytes()?).map_err(|_| Fault::Malformed)
    }

    /// A list of entries: its bytes, once they are known to be one. Its limits are the session's concern.
    fn metadata(&mut self) -> Result<&'a [u8], Fault> {
        let whole = self.rest;
        let count = self.u64()?;
        if count == 0 {
            return Ok(&[]);
        }
        // Each round takes at least three bytes, or ends in an error: the count itself costs nothing.
        for _ in 0..count {
            self.str()?;
            match self.u64()? {
                value::STRING => self.str().map(drop)?,
                value::BYTES => self.bytes().map(drop)?,
                value::U64 => self.u64().map(drop)?,
                _ => return Err(Fault::Malformed),
            }
        }
        let len = whole.len() - self.rest.len();
        whole.get(..len).ok_or(Fault::Malformed)
    }

    fn channels(&mut self, channels: &mut Vec<ChannelRef>) -> Result<(), Fault> {
        let count = self.len()?;
        if count > self.rest.len() {
            return Err(Fault::Malformed);
        }
        channels.shrink_to(KEPT_CHANNELS);
        channels.reserve(count);
        for _ in 0..count {
            channels.push(ChannelRef { id: self.u64()?, slot: CreditSlot::NONE });
        }
        Ok(())
    }
}

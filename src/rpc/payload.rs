//! Payloads as they are kept, and values that are parts of them.
//!
//! A payload that came in a block of its own is kept as a handle on that. While it is decoded, it stands in a
//! thread-local scope, so that a [`Bytes`] in it, at whatever depth, can be a part of the same memory.

use std::{cell::RefCell, mem};

use bytes::Bytes as Shared;

use crate::{
    link::{Brought, pool::Owned, vector::Vector},
    session::answer::Verdict,
};

/// A payload that arrived: where it lies now.
pub(crate) enum Payload<'a> {
    /// In the receiver's memory.
    Borrowed(&'a [u8]),
    /// In memory of its own, to which it was copied.
    Copied(Vec<u8>),
    /// In memory that it can be kept in without a copy.
    Shared(Shared),
    /// In memory of its own, where a vector has what stands in front of it set apart.
    Vector(Vector),
}

impl<'a> Payload<'a> {
    /// A payload as a message has it, with what borrows from the receiver set apart; that is empty if nothing does.
    #[inline]
    pub(crate) fn arrived(payload: Brought<'a>) -> (&'a [u8], Payload<'static>) {
        match payload {
            Brought::Here(bytes) => (bytes, Payload::Borrowed(&[])),
            Brought::Shared(shared) => (&[], Payload::Shared(shared.clone())),
            Brought::Vector(vector) => (&[], Payload::Vector(vector.take())),
            Brought::TooLong(_) => (&[], Payload::Borrowed(&[])), // refused before
        }
    }

    /// The payload of an answer, kept beyond its message: one copy, unless it can be had without.
    pub(crate) fn answer(payload: Brought<'_>) -> Payload<'static> {
        match payload {
            Brought::Here(bytes) => kept(bytes, true),
            Brought::Shared(shared) => Payload::Shared(shared.clone()),
            Brought::Vector(vector) => Payload::Vector(vector.take()),
            Brought::TooLong(_) => Payload::Borrowed(&[]), // refused before
        }
    }

    /// Keeps a request's payload beyond the message: one copy, unless it is shared.
    pub(crate) fn into_kept(self) -> Payload<'static> {
        match self {
            Payload::Borrowed(bytes) => kept(bytes, false),
            Payload::Copied(bytes) => Payload::Copied(bytes),
            Payload::Shared(bytes) => Payload::Shared(bytes),
            Payload::Vector(vector) => Payload::Vector(vector),
        }
    }

    /// The payload in one piece.
    #[inline]
    pub(crate) fn whole(&mut self) -> &[u8] {
        if let Payload::Vector(vector) = self {
            *self = Payload::Copied(mem::take(vector).into_whole());
        }
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Copied(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
            Payload::Vector(_) => &[], // it is whole by now
        }
    }

    /// The payload in one piece or two.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        match self {
            Payload::Borrowed(bytes) => [bytes, &[]],
            Payload::Copied(bytes) => [bytes, &[]],
            Payload::Shared(bytes) => [bytes, &[]],
            Payload::Vector(vector) => vector.parts(),
        }
    }

    /// Memory of its own that it was copied to, to be used again.
    #[inline]
    pub(crate) fn into_room(self) -> Vec<u8> {
        if let Payload::Copied(room) = self { room } else { Vec::new() }
    }

    /// The verdict that an answer begins with.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self {
            Payload::Vector(_) => Some(Verdict::Ok),
            _ => Verdict::split(self.parts()[0]).map(|(verdict, _)| verdict),
        }
    }

    /// Hands over the vector that the payload is, if it was taken apart, to somebody who takes it or gives it back.
    #[inline]
    pub(crate) fn hand_over(&mut self, take: impl FnOnce(Owned) -> Result<(), Owned>) -> bool {
        let Payload::Vector(vector) = self else { return false };
        take(vector.take_bytes()).map_err(|back| vector.put_back(back)).is_ok()
    }

    /// Runs what decodes it, in one piece.
    #[inline]
    pub(crate) fn decode<R>(&mut self, decode: impl FnOnce(&[u8]) -> R) -> R {
        if let Payload::Vector(vector) = self {
            // Of a vector that is decoded as something else, parts can be had without a copy.
            let whole = Shared::from(mem::take(vector).into_whole());
            let decoded = decode_shared(&whole, decode);
            *self = Payload::Shared(whole);
            return decoded;
        }
        match self {
            Payload::Shared(shared) => decode_shared(shared, decode),
            _ => decode(self.whole()),
        }
    }
}

/// A copy of a payload. A vector is taken apart, for whoever wants just that.
fn kept(bytes: &[u8], answer: bool) -> Payload<'static> {
    match Vector::copied(bytes, answer) {
        Some(vector) => Payload::Vector(vector),
        None => Payload::Copied(bytes.to_vec()),
    }
}

thread_local! {
    /// What is decoded.
    static WHOLE: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// Runs what decodes a shared payload: its parts can be had without a copy meanwhile.
pub(crate) fn decode_shared<R>(shared: &Shared, decode: impl FnOnce(&[u8]) -> R) -> R {
    let _restore = Restore(WHOLE.replace(Some(shared.clone())));
    decode(shared)
}

/// Puts the outer payload back, also when a value's `Deserialize` panics.
struct Restore(Option<Shared>);

impl Drop for Restore {
    fn drop(&mut self) {
        let inner = WHOLE.replace(self.0.take());
        drop(inner); // under no borrow: what it holds may be the last handle
    }
}

/// A part of what is decoded as a handle on the same memory; a copy where that cannot be, or where little would keep much.
pub(crate) fn part(bytes: &[u8]) -> Shared {
    WHOLE
        .with_borrow(|whole| {
            let whole = whole.as_ref()?;
            let (outer, inner) = (whole.as_ptr_range(), bytes.as_ptr_range());
            let inside = !bytes.is_empty() && outer.start <= inner.start && inner.end <= outer.end;
            let worth_it = bytes.len() >= MIN_PART && bytes.len() >= whole.len() / LEAST_SHARE;
            (inside && worth_it).then(|| whole.slice_ref(bytes))
        })
        .unwrap_or_else(|| Shared::copy_from_slice(bytes))
}

/// Bytes of a part that is worth a handle: a shorter one is copied as fast.
const MIN_PART: usize = 256;

/// What a part has of the whole, at least, that it may keep: a sixteenth.
const LEAST_SHARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_decoded_is_not_copied_and_anything_else_is() {
        let whole = Shared::from(vec![1; 4096]);
        let other = [1; 300];
        let (kept, copied) = decode_shared(&whole, |bytes| (part(&bytes[1..301]), part(&other)));
        assert_eq!((kept.as_ptr(), &kept[..]), (whole[1..].as_ptr(), &other[..]));
        assert_eq!(copied[..], other);
        assert_ne!(copied.as_ptr(), other.as_ptr());
        assert_ne!(part(&whole[1..301]).as_ptr(), whole[1..].as_ptr(), "nothing is decoded any more");
    }

    #[test]
    fn a_part_that_is_little_does_not_keep_much() {
        let whole = Shared::from(vec![1; 1 << 20]);
        for (len, kept) in [(1, false), (MIN_PART, false), ((1 << 16) - 1, false), (1 << 16, true)] {
            let part = decode_shared(&whole, |bytes| part(&bytes[5..5 + len]));
            assert_eq!(part.as_ptr() == whole[5..].as_ptr(), kept, "{len}");
        }
    }

    /// The two layers say the same of what a vector is, and of what stands before an answer's value.
    #[test]
    fn what_is_taken_apart_is_what_the_reader_takes_for_a_vector() {
        let long = postcard::to_extend(serde_bytes::Bytes::new(&[7; 5000]), Vec::new()).unwrap();
        let read = |bytes: &[u8]| crate::rpc::wire::decode_value::<Vec<u8>>(bytes, 9).ok();
        for encoded in [&long[..], &long[..4999], &[&[0x88, 0xa7, 0], &long[2..]].concat(), &vec![0xff; 5000]]
        {
            let apart = Vector::copied(encoded, false).map(|mut vector| vector.take_bytes().bytes);
            assert_eq!(apart, read(encoded));
            let answer = [Verdict::Ok.bytes(), encoded].concat();
            let apart = Vector::copied(&answer, true).map(|mut vector| vector.take_bytes().bytes);
            assert_eq!(apart, read(encoded));
            assert!(Vector::copied(&[Verdict::User.bytes(), encoded].concat(), true).is_none());
        }
    }
}

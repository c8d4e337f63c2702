//! Payloads as they are kept, and values that are parts of them.
//!
//! A payload that came in a block of its own is kept as a handle on that. While it is decoded, it stands in a
//! thread-local scope, so that a [`Bytes`] in it, at whatever depth, can be a part of the same memory.

use std::{cell::RefCell, ops::Deref};

use bytes::Bytes as Shared;

/// A payload that arrived: where it lies now.
pub(crate) enum Payload<'a> {
    /// In the receiver's memory.
    Borrowed(&'a [u8]),
    /// In memory of its own, to which it was copied.
    Copied(Vec<u8>),
    /// In memory that it can be kept in without a copy.
    Shared(Shared),
}

impl<'a> Payload<'a> {
    /// A payload as a message has it.
    #[inline]
    pub(crate) fn arrived(payload: &'a [u8], shared: Option<&Shared>) -> Self {
        shared.map_or(Payload::Borrowed(payload), |shared| Payload::Shared(shared.clone()))
    }

    /// Keeps it beyond the message: one copy, unless it is shared.
    pub(crate) fn into_kept(self) -> Payload<'static> {
        match self {
            Payload::Borrowed(bytes) => Payload::Copied(bytes.to_vec()),
            Payload::Copied(bytes) => Payload::Copied(bytes),
            Payload::Shared(bytes) => Payload::Shared(bytes),
        }
    }

    /// Runs what decodes it.
    #[inline]
    pub(crate) fn decode<R>(&self, decode: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Payload::Shared(shared) => decode_shared(shared, decode),
            Payload::Borrowed(_) | Payload::Copied(_) => decode(self),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Copied(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
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

/// A part of what is decoded as a handle on the same memory; a copy where that cannot be.
pub(crate) fn part(bytes: &[u8]) -> Shared {
    WHOLE
        .with_borrow(|whole| {
            let whole = whole.as_ref()?;
            let (outer, inner) = (whole.as_ptr_range(), bytes.as_ptr_range());
            let inside = !bytes.is_empty() && outer.start <= inner.start && inner.end <= outer.end;
            inside.then(|| whole.slice_ref(bytes))
        })
        .unwrap_or_else(|| Shared::copy_from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_decoded_is_not_copied_and_anything_else_is() {
        let whole = Shared::from(vec![1, 2, 3, 4]);
        let other = [2, 3];
        let (kept, copied) = decode_shared(&whole, |bytes| (part(&bytes[1..3]), part(&other)));
        assert_eq!((kept.as_ptr(), &kept[..]), (whole[1..].as_ptr(), &other[..]));
        assert_eq!(copied[..], other);
        assert_ne!(copied.as_ptr(), other.as_ptr());
        assert_ne!(part(&whole[1..3]).as_ptr(), whole[1..].as_ptr(), "nothing is decoded any more");
    }
}

//! Payloads that are one byte vector and nothing else: copied once, into memory that the application gets.
//!
//! The encoding of a `Vec<u8>`, of a string or of [`Bytes`](crate::Bytes) is a length and the bytes themselves; in the
//! answer to a call a byte stands before that. Who copies a long payload of this shape out of a link sets the bytes apart
//! from what stands in front of them. If a vector is what the application wants, it gets this very one: one allocation
//! and one copy on the way. If the value has another type, [`Vector::into_whole`] makes the payload of it again, for one
//! move of its bytes.
//!
//! Only the shape is looked at: what is set apart is what the [strict](crate::DecodeError) reader would give for a
//! vector, and the payload is as long as the peer has sent.

use std::{fmt, mem, sync::Arc};

use super::pool::{Owned, Pool};

/// A payload that is one byte vector, taken apart.
#[derive(Default)]
pub(crate) struct Vector {
    front: Front,
    /// Empty while they are left where they lie.
    bytes: Vec<u8>,
    left: Option<Left>,
    /// Where its memory comes from.
    pool: Option<Arc<Pool>>,
}

/// Bytes that lie in a link's memory until somebody wants them.
struct Left {
    len: usize,
    memory: Arc<dyn LinkMemory>,
}

/// Memory of a link that is copied out when somebody wants it, and goes back to the peer when this is dropped.
pub(crate) trait LinkMemory: Send + Sync {
    /// Appends all of it.
    fn append_to(&self, bytes: &mut Vec<u8>);
}

/// What stands in front of the bytes: their length, and in an answer the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front {
    bytes: [u8; MOST_FRONT],
    len: usize,
}

/// Bytes of a [`Front`] at most: a verdict, and a length of 32 bits.
pub(crate) const MOST_FRONT: usize = 6;

/// Bytes of a payload that is worth being taken apart: a shorter one is copied as fast as memory is allocated for it.
pub(crate) const MIN_VECTOR: usize = 2 << 10;

/// The first byte of an answer that is a value (protocol section 4).
const VALUE: u8 = 0;

impl Front {
    /// Looks at the first bytes of a payload of `len` bytes, which is a message's of this kind. `None`: it is no vector,
    /// or too short a one.
    #[inline]
    pub(crate) fn of(first: &[u8], len: usize, answer: bool) -> Option<Front> {
        if len < MIN_VECTOR {
            return None;
        }
        let verdict = usize::from(answer);
        if answer && first.first() != Some(&VALUE) {
            return None;
        }
        let (mut length, mut at) = (0_u64, verdict);
        loop {
            let byte = *first.get(at).filter(|_| at < MOST_FRONT)?;
            length |= u64::from(byte & 0x7f) << (7 * (at - verdict));
            at += 1;
            if byte & 0x80 == 0 {
                // Shorter than it is: an encoding that the strict reader refuses.
                let shortest = byte != 0;
                let rest = (len - at) as u64; // `len` is beyond MOST_FRONT
                let mut bytes = [0; MOST_FRONT];
                bytes[..at].copy_from_slice(&first[..at]);
                return (shortest && length == rest).then_some(Front { bytes, len: at });
            }
        }
    }

    /// How many bytes it has.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Those bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Vector {
    /// Of what stands in front in a payload of `len` bytes, and of the bytes, which `append` copies.
    #[inline]
    pub(crate) fn new(front: Front, len: usize, append: impl FnOnce(&mut Vec<u8>)) -> Self {
        Vector::filled(front, Vec::with_capacity(len), append)
    }

    /// As [`new`](Vector::new), into memory of a pool.
    #[inline]
    pub(crate) fn pooled(
        front: Front,
        len: usize,
        pool: &Arc<Pool>,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        Vector { pool: Some(Arc::clone(pool)), ..Vector::filled(front, pool.take(len), append) }
    }

    /// Of what stands in front, and of memory that has room for the whole: see `into_whole`.
    #[inline]
    fn filled(front: Front, mut bytes: Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) -> Self {
        append(&mut bytes);
        Vector { front, bytes, left: None, pool: None }
    }

    /// Of what stands in front, and of the bytes.
    pub(crate) fn of(front: Front, bytes: Vec<u8>) -> Self {
        Vector { front, bytes, left: None, pool: None }
    }

    /// Of what stands in front, and of so many bytes, which are copied when somebody wants them: if he takes a long
    /// time, or others come in between, that is into memory that is still in his cache.
    pub(crate) fn left(front: Front, len: usize, memory: Arc<dyn LinkMemory>, pool: &Arc<Pool>) -> Self {
        let (left, pool) = (Some(Left { len, memory }), Some(Arc::clone(pool)));
        Vector { front, bytes: Vec::new(), left, pool }
    }

    /// Copies what was left where it lies.
    #[inline]
    fn fetch(&mut self) {
        if let Some(Left { len, memory }) = self.left.take() {
            let whole = self.front.len + len; // as in `new`
            self.bytes =
                self.pool.as_ref().map_or_else(|| Vec::with_capacity(whole), |pool| pool.take(whole));
            memory.append_to(&mut self.bytes);
        }
    }

    /// Takes a payload apart, with a copy, if it is a vector.
    #[inline]
    pub(crate) fn copied(payload: &[u8], answer: bool) -> Option<Self> {
        let front = Front::of(payload, payload.len(), answer)?;
        Some(Vector::new(front, payload.len(), |bytes| bytes.extend_from_slice(&payload[front.len..])))
    }

    /// Bytes of the whole payload.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.front.len + self.left.as_ref().map_or(self.bytes.len(), |left| left.len)
    }

    /// The bytes themselves, which are gone from here until they are [put back](Vector::put_back).
    #[inline]
    pub(crate) fn take_bytes(&mut self) -> Owned {
        self.fetch();
        Owned { bytes: mem::take(&mut self.bytes), pool: self.pool.clone() }
    }

    /// Has its bytes again.
    pub(crate) fn put_back(&mut self, owned: Owned) {
        self.bytes = owned.bytes;
    }

    /// The payload as it was sent: moves the bytes, and allocates nothing.
    pub(crate) fn into_whole(mut self) -> Vec<u8> {
        self.fetch();
        let mut whole = self.bytes;
        whole.splice(..0, self.front.as_bytes().iter().copied());
        whole
    }

    /// What is in front of the bytes, and they. Of an element, which may lie in the link's memory still, they are for
    /// nobody but who takes them.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [self.front.as_bytes(), &self.bytes]
    }
}

impl Clone for Vector {
    fn clone(&self) -> Self {
        let mut bytes = self.bytes.clone();
        if let Some(Left { len, memory }) = &self.left {
            bytes.reserve_exact(self.front.len + len);
            memory.append_to(&mut bytes);
        }
        Vector { front: self.front, bytes, left: None, pool: None }
    }
}

impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        self.clone().parts() == other.clone().parts()
    }
}

impl Eq for Vector {}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vector").field("front", &self.front).field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(len: usize) -> Vec<u8> {
        postcard::to_extend(serde_bytes::Bytes::new(&vec![7; len]), Vec::new()).unwrap()
    }

    #[test]
    fn a_long_vector_is_taken_apart_and_made_whole_again() {
        for len in [MIN_VECTOR, 1 << 14, (1 << 14) + 1, 1 << 21, 3 << 20] {
            let payload = encoded(len);
            let vector = Vector::copied(&payload, false).unwrap();
            assert_eq!(vector.len(), payload.len());
            assert_eq!(vector.parts().concat(), payload);
            let capacity = vector.bytes.capacity();
            let whole = vector.clone().into_whole();
            assert_eq!((&whole, whole.capacity() >= capacity), (&payload, true));
            assert_eq!(vector.bytes, vec![7; len]);
        }
    }

    #[test]
    fn in_an_answer_the_verdict_stands_before_it() {
        let payload = [&[VALUE], &encoded(5000)[..]].concat();
        assert_eq!(Vector::copied(&payload, true).unwrap().bytes, vec![7; 5000]);
        assert_eq!(Vector::copied(&payload, false), None);
        assert_eq!(Vector::copied(&encoded(5000), true), None);
        let error = [&[1, 0], &encoded(5000)[..]].concat();
        assert_eq!(Vector::copied(&error, true), None);
    }

    #[test]
    fn what_the_strict_reader_would_not_take_for_a_vector_stays_in_one_piece() {
        let long = encoded(5000);
        let overlong = [&[0x88, 0xa7, 0x00], &long[2..]].concat();
        let endless = vec![0xff; 5000];
        for payload in [&long[..4999], &[&long[..], &[7]].concat(), &overlong, &endless, &encoded(100), &[]] {
            assert_eq!(Vector::copied(payload, false), None, "{} bytes", payload.len());
        }
    }
}

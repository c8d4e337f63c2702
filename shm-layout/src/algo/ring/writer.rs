//! The producer of a ring. The protocol is told in the module above.
#![allow(unsafe_code)]

use alloc::sync::Arc;
use core::fmt;

use crate::algo::park::{self, Wake};
use crate::error::{Corrupt, Rule};
use crate::halves::Halves;
use crate::layout::ring::{FrameWord, frame_bytes, max_body};
use crate::sync::{self, Granule, Ordering, fence};

/// The producer of the ring out: one for a link, so `&mut self` is the only writer.
#[derive(Debug)]
pub struct RingWriter<H> {
    halves: Arc<H>,
    /// Bytes of the ring: a power of two.
    capacity: usize,
    /// Bytes committed since attach.
    head: u64,
    /// What of `head` the peer was told.
    published: u64,
    /// What the peer said last that it consumed.
    consumed: u64,
}

impl<H: Halves> RingWriter<H> {
    #[inline]
    pub(crate) fn new(halves: Arc<H>) -> Self {
        let capacity = halves.own().ring.len() * Granule::BYTES;
        Self { halves, capacity, head: 0, published: 0, consumed: 0 }
    }

    /// Bytes of the ring.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the longest body that a frame can have.
    #[must_use]
    #[inline]
    pub fn max_frame_len(&self) -> usize {
        max_body(self.capacity)
    }

    /// Finds room for a body of at least `min` bytes: all that is free in one piece, up to the longest body.
    ///
    /// Nothing is visible to the peer, and dropping the room leaves everything as it was. Looks at the peer's
    /// half only if what is known to be free does not do.
    ///
    /// # Errors
    ///
    /// When there is no room now, when there never will be, or when the peer's `consumed` cannot be.
    #[inline]
    pub fn reserve(&mut self, min: usize) -> Result<Room<'_, H>, Reserve> {
        let limit = self.max_frame_len();
        if min > limit {
            return Err(Reserve::TooLarge { len: min, limit });
        }
        let place = match self.place(min) {
            Some(place) => place,
            None => {
                self.refresh().map_err(Reserve::Corrupt)?;
                self.place(min).ok_or(Reserve::Full)?
            }
        };
        Ok(Room { writer: self, place })
    }

    /// Whether [`reserve`](Self::reserve) would find room now.
    ///
    /// # Errors
    ///
    /// When the peer's `consumed` cannot be.
    #[inline]
    pub fn has_room(&mut self, min: usize) -> Result<bool, Corrupt> {
        match self.reserve(min) {
            Ok(_) => Ok(true),
            Err(Reserve::Full | Reserve::TooLarge { .. }) => Ok(false),
            Err(Reserve::Corrupt(corrupt)) => Err(corrupt),
        }
    }

    /// Shows all committed frames to the peer, and says whom to wake.
    ///
    /// One store for a batch, a fence, and a look at the peer's `parked`. Nothing at all if nothing was
    /// committed.
    #[inline]
    pub fn publish(&mut self) -> Wake {
        if self.head == self.published {
            return Wake::Nobody;
        }
        self.published = self.head;
        // Release: pairs with the Acquire load of `head` in `RingReader::refresh`; publishes the frames up to
        // it.
        self.halves.own().endpoint.head.0.store(self.head, Ordering::Release);
        // SeqCst fence: store-load, pairs with the fence in `Park::prepare`; either we see `parked`, or the
        // sleeper's last look sees `head`.
        fence(Ordering::SeqCst);
        park::wake_sleepers(&*self.halves)
    }

    /// Bytes that are free as far as this side knows, frame words and pads included.
    #[must_use]
    #[inline]
    pub fn free(&self) -> usize {
        // No underflow: `place` and `refresh` keep head - consumed within the capacity.
        self.capacity - self.head.wrapping_sub(self.consumed) as usize
    }

    /// Where a frame with a body of at least `min` bytes can start, as far as this side knows.
    #[inline]
    fn place(&self, min: usize) -> Option<Place> {
        let (free, at) = (self.free(), self.at());
        let to_end = self.capacity - at;
        let need = frame_bytes(min);
        let in_place = free.min(to_end);
        if in_place >= need {
            return Some(Place { frame: at, pad: 0, room: self.body_in(in_place) });
        }
        let in_front = free.saturating_sub(to_end);
        (in_front >= need).then(|| Place { frame: 0, pad: to_end, room: self.body_in(in_front) })
    }

    /// Bytes of the longest body of a frame in `bytes` of the ring, which hold a frame word at least.
    #[inline]
    fn body_in(&self, bytes: usize) -> usize {
        self.max_frame_len().min(bytes - FrameWord::BYTES)
    }

    /// Where `head` stands in the ring.
    #[inline]
    fn at(&self) -> usize {
        self.head as usize & (self.capacity - 1)
    }

    /// Looks at what the peer has consumed.
    #[inline]
    fn refresh(&mut self) -> Result<(), Corrupt> {
        // Acquire: pairs with the Release store of `consumed` in `RingReader::publish_consumed`; the reader's
        // copies out of these bytes happen before we overwrite them.
        let consumed = self.halves.peer().endpoint.consumed().acquire();
        if consumed.wrapping_sub(self.consumed) > self.published.wrapping_sub(self.consumed) {
            let rule = Rule::Within(self.consumed, self.published);
            return Err(Corrupt { field: "consumed", found: consumed, rule });
        }
        if !consumed.is_multiple_of(Granule::BYTES as u64) {
            let rule = Rule::MultipleOf(Granule::BYTES as u64);
            return Err(Corrupt { field: "consumed", found: consumed, rule });
        }
        self.consumed = consumed;
        Ok(())
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Not now: the peer has to consume first.
    Full,
    /// Never in this ring.
    TooLarge {
        /// Bytes that were asked for.
        len: usize,
        /// Bytes of the longest body.
        limit: usize,
    },
    /// The peer's half is corrupt.
    Corrupt(Corrupt),
}

impl fmt::Display for Reserve {
    #[inline]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the ring has no room now"),
            Self::TooLarge { len, limit } => {
                write!(f, "a body of {len} bytes exceeds {limit}, half of the ring")
            }
            Self::Corrupt(corrupt) => corrupt.fmt(f),
        }
    }
}

impl core::error::Error for Reserve {}

/// Where a frame will lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The byte of the ring where its word goes.
    frame: usize,
    /// Bytes of the pad in front of it: 0, or all that is left before the end of the ring.
    pad: usize,
    /// Bytes for its body.
    room: usize,
}

/// Room for the body of one frame, in our own half, where nobody looks yet.
///
/// Dropped without [`commit`](Self::commit), it leaves everything as it was.
#[derive(Debug)]
pub struct Room<'a, H> {
    writer: &'a mut RingWriter<H>,
    place: Place,
}

#[allow(clippy::len_without_is_empty, reason = "room for no bytes is room")]
impl<H: Halves> Room<'_, H> {
    /// Bytes that there is room for.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.place.room
    }

    /// The bytes of the body, to be written in place. They hold whatever was there before.
    #[cfg(not(loom))] // loom has to see each access: models use `write_at`
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: in bounds: `place` is within the ring, by our own capacity (and checked by the callee).
        // Alone: the bytes from head to consumed + capacity are free, so the reader is not there, and the
        // `&mut` writer is the only one. Alive: `'_` borrows the writer, which holds the mapping.
        unsafe {
            sync::bytes_mut(self.writer.halves.own().ring, self.place.frame + FrameWord::BYTES, self.len())
        }
    }

    /// Copies `bytes` to `offset` in the body.
    ///
    /// # Panics
    ///
    /// When they leave the room.
    #[inline]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.len()), "{} bytes at {offset} leave the room", bytes.len());
        let at = self.place.frame + FrameWord::BYTES + offset;
        // SAFETY: in bounds: asserted, and the room is within the ring. Alone and alive: as in `bytes`.
        unsafe { sync::copy_in(self.writer.halves.own().ring, at, bytes) }
    }

    /// Makes a frame of the first `len` bytes. The peer sees it with the next [`RingWriter::publish`].
    ///
    /// # Panics
    ///
    /// When `len` is more than there is room for.
    #[inline]
    pub fn commit(self, tag: u32, len: usize) {
        let Place { frame, pad, room } = self.place;
        assert!(len <= room, "{len} bytes in a room for {room}");
        let (at, ring) = (self.writer.at(), self.writer.halves.own().ring);
        if pad > 0 {
            // SAFETY: in bounds: `at` is masked by our own capacity. Alone and alive: as in `bytes`; the pad
            // is free.
            unsafe { ring[at / Granule::BYTES].store(FrameWord::PAD.to_word()) }
        }
        let word = FrameWord { len: len as u32, tag };
        // SAFETY: in bounds: `frame` is within the ring. Alone and alive: as in `bytes`; the word is part of
        // what is free.
        unsafe { ring[frame / Granule::BYTES].store(word.to_word()) }
        self.writer.head = self.writer.head.wrapping_add((pad + frame_bytes(len)) as u64);
    }
}

//! The consumer of a ring. The protocol is told in the module above.
#![allow(unsafe_code)]

use alloc::sync::Arc;
#[cfg(not(loom))]
use alloc::vec::Vec;

use crate::algo::park::{self, Wake};
use crate::error::{Corrupt, Rule};
use crate::halves::Halves;
use crate::layout::ring::{FrameWord, frame_bytes, max_body};
use crate::sync::{self, Granule, Ordering, fence};

/// The consumer of the ring in: one for a link, so `&mut self` is the only reader.
#[derive(Debug)]
pub struct RingReader<H> {
    halves: Arc<H>,
    /// Bytes of the ring: a power of two.
    capacity: usize,
    /// Bytes released since attach.
    tail: u64,
    /// What of `tail` the peer was told.
    published: u64,
    /// What the peer said last that it published.
    head: u64,
}

impl<H: Halves> RingReader<H> {
    #[inline]
    pub(crate) fn new(halves: Arc<H>) -> Self {
        let capacity = halves.own().ring.len() * Granule::BYTES; // both halves are laid out alike
        Self { halves, capacity, tail: 0, published: 0, head: 0 }
    }

    /// Gives the next frame, or `None` when there is none now. The same again, until it is released.
    ///
    /// Looks at the peer's `head`, which is one load, only when all that is known to be there has been
    /// released.
    ///
    /// # Errors
    ///
    /// When what the peer says cannot be. The link is over: nothing behind it can be found.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_, H>>, Corrupt> {
        if self.tail == self.head {
            self.refresh()?;
        }
        let Some(mut word) = self.word()? else {
            return Ok(None);
        };
        if word.len == FrameWord::PAD_LEN {
            self.skip_pad(word)?;
            let behind = self.word()?;
            // A frame is committed along with the pad in front of it, and needs no other pad.
            word = behind.filter(|word| word.len != FrameWord::PAD_LEN).ok_or(Corrupt {
                field: "frame.pad",
                found: self.known() as u64,
                rule: Rule::Within(FrameWord::BYTES as u64, self.capacity as u64),
            })?;
        }
        let frame = self.check(word)?;
        Ok(Some(Frame { at: frame, word, reader: self }))
    }

    /// Whether nothing is there to be read, as a sleeper's last look.
    ///
    /// # Errors
    ///
    /// When the peer's `head` cannot be.
    #[inline]
    pub fn is_empty(&mut self) -> Result<bool, Corrupt> {
        if self.tail == self.head {
            self.refresh()?;
        }
        Ok(self.tail == self.head)
    }

    /// Bytes released that the peer has not been told of.
    #[must_use]
    #[inline]
    pub fn unpublished(&self) -> usize {
        self.tail.wrapping_sub(self.published) as usize
    }

    /// Whether the peer should be told now of what was released: a quarter of the ring is, or the peer waits
    /// for room.
    ///
    /// To be asked after every drain, also by a side that polls and never sleeps.
    #[must_use]
    #[inline]
    pub fn should_publish(&self) -> bool {
        let unpublished = self.unpublished();
        // Relaxed: a hint, asked for again; before a sleep, `publish_consumed` looks behind a fence.
        let starved = || self.halves.peer().endpoint.starved().relaxed() != 0;
        unpublished >= self.capacity / 4 || (unpublished > 0 && starved())
    }

    /// Gives all released room back to the peer, and says whom to wake.
    ///
    /// When to is the caller's decision, see [`should_publish`](Self::should_publish), but for one thing:
    /// always before it sleeps, since the peer may wait for this very room. A store, a fence, and a look at
    /// the peer's `starved`. Nothing at all if nothing was released.
    #[inline]
    pub fn publish_consumed(&mut self) -> Wake {
        if self.tail == self.published {
            return Wake::Nobody;
        }
        self.published = self.tail;
        let Self { halves, .. } = self;
        // Release: pairs with the Acquire load of `consumed` in `RingWriter::refresh`; our copies out of the
        // released bytes happen before they are overwritten.
        halves.own().endpoint.consumed.0.store(self.tail, Ordering::Release);
        // SeqCst fence: store-load, pairs with the fences in `Park::starve` and `Park::prepare`; either we
        // see `starved` and `parked`, or the sender's last look sees `consumed`.
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        if halves.peer().endpoint.starved().relaxed() == 0 {
            return Wake::Nobody;
        }
        park::wake_sleepers(&**halves)
    }

    /// Bytes known to be published and not released: at most the capacity, `refresh` keeps it so.
    #[inline]
    fn known(&self) -> usize {
        self.head.wrapping_sub(self.tail) as usize
    }

    /// Where `tail` stands in the ring.
    #[inline]
    fn at(&self) -> usize {
        self.tail as usize & (self.capacity - 1)
    }

    /// Looks at what the peer has published. All that was known is released, so a head that went back shows
    /// as one that is too far ahead.
    #[inline]
    fn refresh(&mut self) -> Result<(), Corrupt> {
        // Acquire: pairs with the Release store of `head` in `RingWriter::publish`; the frames up to it are
        // written.
        let head = self.halves.peer().endpoint.head().acquire();
        if head.wrapping_sub(self.tail) > self.capacity as u64 {
            let rule = Rule::Within(self.tail, self.tail.wrapping_add(self.capacity as u64));
            return Err(Corrupt { field: "head", found: head, rule });
        }
        if !head.is_multiple_of(Granule::BYTES as u64) {
            return Err(Corrupt {
                field: "head",
                found: head,
                rule: Rule::MultipleOf(Granule::BYTES as u64),
            });
        }
        self.head = head;
        Ok(())
    }

    /// The word at `tail`, read once; `None` when nothing is known to be there.
    #[inline]
    fn word(&self) -> Result<Option<FrameWord>, Corrupt> {
        if self.known() == 0 {
            return Ok(None);
        }
        let granule = self.halves.peer().ring.part(|ring| &ring[self.at() / Granule::BYTES]);
        // SAFETY: in bounds: `at` is masked by our own capacity. Alone: the granule is published and not
        // released, so an honest writer is not there. Alive: `self` holds the mapping.
        Ok(Some(FrameWord::from_word(unsafe { granule.load() })))
    }

    /// Releases the rest of the ring, which a pad takes.
    #[inline]
    fn skip_pad(&mut self, pad: FrameWord) -> Result<(), Corrupt> {
        if pad != FrameWord::PAD {
            return Err(Corrupt { field: "frame.tag", found: pad.tag.into(), rule: Rule::Exactly(0) });
        }
        let to_end = self.capacity - self.at();
        if to_end > self.known() || to_end == self.capacity {
            let rule = Rule::AtMost(self.known().min(self.capacity - 1) as u64);
            return Err(Corrupt { field: "frame.pad", found: to_end as u64, rule });
        }
        self.tail = self.tail.wrapping_add(to_end as u64);
        Ok(())
    }

    /// Checks that a frame with this word lies within what is published, in one piece; gives where its body
    /// starts.
    #[inline]
    fn check(&self, word: FrameWord) -> Result<usize, Corrupt> {
        let most = max_body(self.capacity)
            .min(self.known() - FrameWord::BYTES)
            .min(self.capacity - self.at() - FrameWord::BYTES);
        if word.len as usize > most {
            return Err(Corrupt {
                field: "frame.len",
                found: word.len.into(),
                rule: Rule::AtMost(most as u64),
            });
        }
        Ok(self.at() + FrameWord::BYTES)
    }
}

/// One frame in the peer's half. Its body is copied out; there is never a reference to it.
///
/// Dropped without [`release`](Self::release), it is the next one again.
#[derive(Debug)]
pub struct Frame<'a, H> {
    reader: &'a mut RingReader<H>,
    /// Where the body starts in the ring.
    at: usize,
    /// What the frame's word said when it was read and checked.
    word: FrameWord,
}

#[allow(clippy::len_without_is_empty, reason = "the length is that of the body; an empty frame is a frame")]
impl<H: Halves> Frame<'_, H> {
    /// What the writer tagged the frame with.
    #[must_use]
    #[inline]
    pub fn tag(&self) -> u32 {
        self.word.tag
    }

    /// Bytes of the body.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.word.len as usize
    }

    /// Copies `to.len()` bytes of the body, from `offset` on, out into `to`.
    ///
    /// # Panics
    ///
    /// When they leave the body.
    #[inline]
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) {
        let end = offset.checked_add(to.len());
        assert!(end.is_some_and(|end| end <= self.len()), "{} bytes at {offset} leave the frame", to.len());
        // SAFETY: in bounds: asserted, and `check` found the body within the ring. Alone: it is published and
        // not released, so an honest writer is not there. Alive: `'_` borrows the reader, which holds the
        // mapping.
        unsafe { sync::copy_out(self.reader.halves.peer().ring, self.at + offset, to) }
    }

    /// Appends `len` bytes of the body, from `offset` on, to `to`: one copy, into memory that need not be initialised
    /// before.
    ///
    /// # Panics
    ///
    /// When they leave the body.
    #[cfg(not(loom))]
    pub fn append_to(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len()), "{len} bytes at {offset} leave the frame");
        // SAFETY: as in `copy_to`.
        unsafe { sync::append_out(self.reader.halves.peer().ring, self.at + offset, len, to) }
    }

    /// Makes an end of the frame. The peer gets its room back with the next [`RingReader::publish_consumed`].
    #[inline]
    pub fn release(self) {
        self.reader.tail = self.reader.tail.wrapping_add(frame_bytes(self.len()) as u64);
    }
}

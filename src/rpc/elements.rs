//! Elements of a stream as they wait to be read.
//!
//! The reader takes all of them in exchange for its empty buffer, so that elements cost no allocation and the
//! channel's lock is taken once for a batch.
//!
//! Elements of zero bytes cost their sender no credit: the wire's credit counts the bytes of payloads (protocol
//! section 6), and a receiver that charged more would wait for bytes that a foreign peer does not know to be
//! due, or call an overrun what is none. So a peer may send any number of them to a reader that does not read.
//! They are not stored but counted: a run of them takes as much room as one. Runs are parted by elements that
//! have bytes, and those cost credit, which so bounds the memory that a channel takes.

//! Those that arrived in a block of their own are kept as handles, and not copied; long vectors in memory of their own,
//! which the application gets.

use std::{any::Any, collections::VecDeque, mem, ops::Range};

use bytes::Bytes as Shared;

use crate::link::{pool::Owned, vector::Vector};

/// An element that lies in memory of its own.
#[derive(Clone)]
pub(crate) enum Kept {
    Shared(Shared),
    Vector(Vector),
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Kept::Shared(bytes) => bytes.len(),
            Kept::Vector(vector) => vector.len(),
        }
    }
}

/// Elements in their order: `[length u32][bytes]` one behind the other, `[0 u32][count u64]` for a run of those of zero
/// bytes, and `[0 u32][all ones u64]` for the next one of `kept`.
///
/// Invariant: behind each run in `bytes` stands an element that has bytes, and `bytes` has as many places for kept
/// ones as there are.
#[derive(Default)]
pub(crate) struct Elements {
    bytes: Vec<u8>,
    kept: VecDeque<Kept>,
    /// How many of zero bytes come behind `bytes`.
    empty: u64,
}

impl Elements {
    /// Whether there are none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.empty == 0
    }

    /// Appends an element.
    #[inline]
    pub(crate) fn push(&mut self, element: &[u8]) {
        if element.is_empty() {
            self.empty += 1;
            return;
        }
        if self.empty > 0 {
            self.write_run();
        }
        if element.len() <= MOST_APART
            && let Some(vector) = Vector::copied(element, false)
        {
            return self.push_kept(Kept::Vector(vector));
        }
        // Elements are bounded by the payload limit, which is a u32.
        let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
        self.bytes.reserve(LENGTH + element.len());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(element);
    }

    /// Appends an element that needs no further copy.
    pub(crate) fn push_kept(&mut self, element: Kept) {
        if element.len() == 0 {
            self.empty += 1;
            return;
        }
        self.write_run();
        self.bytes.extend_from_slice(&RUN);
        self.bytes.extend_from_slice(&KEPT);
        self.kept.push_back(element);
    }

    /// Appends all of `more`, which is left empty, with room to be used again.
    pub(crate) fn append(&mut self, more: &mut Elements) {
        if self.is_empty() {
            mem::swap(self, more);
            return;
        }
        if !more.bytes.is_empty() {
            // Two runs that meet become one.
            if let Some(count) = more.first_run() {
                *count = (u64::from_le_bytes(*count) + mem::take(&mut self.empty)).to_le_bytes();
            }
            self.write_run();
            self.bytes.append(&mut more.bytes);
            self.kept.append(&mut more.kept);
        }
        self.empty += mem::take(&mut more.empty);
    }

    /// Forgets all of them, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.kept.clear();
        self.empty = 0;
    }

    /// The bytes of memory that this takes, beside those of kept elements.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.kept.capacity() * size_of::<Kept>()
    }

    /// Stores the run at the end, since elements with bytes come behind it.
    fn write_run(&mut self) {
        if self.empty > 0 {
            self.bytes.extend_from_slice(&RUN);
            self.bytes.extend_from_slice(&mem::take(&mut self.empty).to_le_bytes());
        }
    }

    /// The count of the run that `bytes` begins with, if it does.
    fn first_run(&mut self) -> Option<&mut [u8; COUNT]> {
        let (head, rest) = self.bytes.split_first_chunk_mut()?;
        let count = if *head == RUN { rest.first_chunk_mut() } else { None };
        count.filter(|count| **count != KEPT)
    }
}

/// Bytes of a vector that is copied into memory of its own. A window of longer ones is better off in one piece of memory,
/// which is used again: allocators give so much back to the system, and get it with a page fault for each 4 KiB.
const MOST_APART: usize = 256 << 10;

/// Bytes in front of each element.
const LENGTH: usize = size_of::<u32>();

/// What stands in front of a run's count, where others have their length.
const RUN: [u8; LENGTH] = [0; LENGTH];

/// Bytes of a run's count.
const COUNT: usize = size_of::<u64>();

/// What stands in place of a run's count for one that is kept. No run is as long.
const KEPT: [u8; COUNT] = [u8::MAX; COUNT];

/// The reader's private part: a batch of elements, taken out of the queue at once.
#[derive(Default)]
pub(crate) struct Reading {
    batch: Elements,
    /// Where in the batch's bytes it goes on.
    at: usize,
    /// What is left of a run of elements of zero bytes that was begun. They come before those at `at`.
    run: u64,
    /// The element that was gone on to last, if it is a kept one.
    current: Option<Kept>,
    /// Bytes handed to the application that the window has not heard of.
    taken: usize,
}

impl Reading {
    /// The next element of the batch.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let place = self.advance()?;
        self.make_whole();
        Some(self.bytes(place))
    }

    /// Goes on to the next element of the batch. Its [`bytes`](Reading::bytes) can be read until
    /// [`refill`](Reading::refill).
    #[inline]
    pub(crate) fn advance(&mut self) -> Option<Range<usize>> {
        const EMPTY: Range<usize> = 0..0;
        if self.current.is_some() {
            self.current = None;
        }
        if self.run > 0 {
            self.run -= 1;
            return Some(EMPTY);
        }
        let Some((length, rest)) = self.batch.bytes.get(self.at..)?.split_first_chunk() else {
            self.run = mem::take(&mut self.batch.empty).checked_sub(1)?;
            return Some(EMPTY);
        };
        if *length == RUN {
            if *rest.first_chunk()? == KEPT {
                return self.advance_kept();
            }
            self.run = u64::from_le_bytes(*rest.first_chunk()?).checked_sub(1)?;
            self.at += LENGTH + COUNT;
            return Some(EMPTY);
        }
        let len = rest.get(..u32::from_le_bytes(*length) as usize)?.len();
        let start = self.at + LENGTH;
        self.at = start + len;
        self.taken += len;
        Some(start..self.at)
    }

    fn advance_kept(&mut self) -> Option<Range<usize>> {
        let element = self.batch.kept.pop_front()?;
        self.at += LENGTH + COUNT;
        self.taken += element.len();
        let place = 0..element.len();
        self.current = Some(element);
        Some(place)
    }

    /// What lies at a place that [`advance`](Reading::advance) gave. Of a vector that is taken apart that is nothing,
    /// until it is [whole](Reading::make_whole).
    #[inline]
    pub(crate) fn bytes(&self, place: Range<usize>) -> &[u8] {
        let bytes: &[u8] = match &self.current {
            None => &self.batch.bytes,
            Some(Kept::Shared(shared)) => shared,
            Some(Kept::Vector(_)) => &[],
        };
        bytes.get(place).unwrap_or_default()
    }

    /// The value that the element is which was gone on to last, if it is a vector that is taken apart, and the value one
    /// that can be had from it.
    #[inline]
    pub(crate) fn take_vector<T: 'static>(
        &mut self,
        put: impl FnOnce(Owned, &mut dyn Any) -> Result<(), Owned>,
    ) -> Option<T> {
        let Some(Kept::Vector(vector)) = &mut self.current else { return None };
        let mut value = None;
        if let Err(back) = put(vector.take_bytes(), &mut value) {
            vector.put_back(back);
        }
        value
    }

    /// Makes the element that was gone on to last one piece.
    #[inline]
    pub(crate) fn make_whole(&mut self) {
        if let Some(Kept::Vector(vector)) = &mut self.current {
            self.current = Some(Kept::Shared(mem::take(vector).into_whole().into()));
        }
    }

    /// The element that was gone on to last, where it can be kept without a copy.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&Shared> {
        match &self.current {
            Some(Kept::Shared(shared)) => Some(shared),
            _ => None,
        }
    }

    /// Takes back the element that [`next`](Reading::next) gave last, of so many bytes, which nobody has counted yet.
    pub(crate) fn put_back(&mut self, len: usize) {
        if len == 0 {
            self.run += 1;
            return;
        }
        if let Some(kept) = self.current.take() {
            self.batch.kept.push_front(kept);
            self.at -= LENGTH + COUNT;
            self.taken -= len;
            return;
        }
        self.at -= LENGTH + len;
        self.taken -= len;
    }

    /// Exchanges the used batch for what is queued. `false`: nothing is.
    pub(crate) fn refill(&mut self, queue: &mut Elements) -> bool {
        self.batch.clear();
        self.at = 0;
        self.run = 0;
        self.current = None;
        mem::swap(&mut self.batch, queue);
        !self.batch.is_empty()
    }

    /// Makes a batch of elements that were queued elsewhere.
    pub(crate) fn of(batch: Elements) -> Self {
        Reading { batch, ..Reading::default() }
    }

    /// Bytes handed out since the last call.
    pub(crate) fn take_taken(&mut self) -> usize {
        mem::take(&mut self.taken)
    }

    /// Bytes handed out that [`take_taken`](Reading::take_taken) has not been asked for.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// A copy of what is left of the batch; of shared elements it is another handle.
    pub(crate) fn unread(&self) -> Elements {
        let bytes = self.batch.bytes.get(self.at..).unwrap_or_default().to_vec();
        let mut unread = Elements { empty: self.run, ..Elements::default() };
        unread.append(&mut Elements { bytes, kept: self.batch.kept.clone(), empty: self.batch.empty });
        unread
    }
}

#[cfg(test)]
mod tests;

//! Elements of a stream as they wait to be read: `[length u32][bytes]`, one behind the other.
//!
//! The reader takes the whole vector in exchange for its empty one, so that elements cost no allocation and
//! the channel's lock is taken once for a batch.

use std::mem;

/// The reader's private part: a batch of elements, taken out of the queue at once.
#[derive(Default)]
pub(crate) struct Reading {
    batch: Vec<u8>,
    at: usize,
    /// Bytes handed to the application that the window has not heard of.
    taken: usize,
}

impl Reading {
    /// The next element of the batch.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let (length, rest) = self.batch.get(self.at..)?.split_first_chunk()?;
        let element = rest.get(..u32::from_le_bytes(*length) as usize)?;
        self.at += LENGTH + element.len();
        self.taken += element.len();
        Some(element)
    }

    /// Exchanges the used batch for what is queued. `false`: nothing is.
    pub(crate) fn refill(&mut self, queue: &mut Vec<u8>) -> bool {
        self.batch.clear();
        self.at = 0;
        mem::swap(&mut self.batch, queue);
        !self.batch.is_empty()
    }

    /// Makes a batch of elements that were queued elsewhere.
    pub(crate) fn of(batch: Vec<u8>) -> Self {
        Reading { batch, at: 0, taken: 0 }
    }

    /// Bytes handed out since the last call.
    pub(crate) fn take_taken(&mut self) -> usize {
        mem::take(&mut self.taken)
    }

    /// Bytes handed out that [`take_taken`](Reading::take_taken) has not been asked for.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// A copy of what is left of the batch.
    pub(crate) fn unread(&self) -> Vec<u8> {
        self.batch.get(self.at..).unwrap_or_default().to_vec()
    }
}

/// Bytes in front of each queued element.
const LENGTH: usize = size_of::<u32>();

/// Appends an element to a queue.
#[inline]
pub(crate) fn append(queue: &mut Vec<u8>, element: &[u8]) {
    // Elements are bounded by the payload limit, which is a u32.
    let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
    queue.reserve(LENGTH + element.len());
    queue.extend_from_slice(&length.to_le_bytes());
    queue.extend_from_slice(element);
}

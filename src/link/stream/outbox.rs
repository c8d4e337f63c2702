//! What waits to be written: frames, and long messages that are not frames yet.
//!
//! A short message is stuffed at once, behind those that wait. A long one is kept as it is, and stuffed a piece at a time as the
//! stream takes it: the peer has the first of it while the rest is still here, and the stuffed bytes stay in the cache between
//! the two copies. Its memory is used again.

use std::{collections::VecDeque, mem};

use crate::link::frame::{Suspended, max_frame_len, push_frame, stuff_piece};

/// What waits, in order: `buffer[written..ready]`, then `queue`.
pub(super) struct Outbox {
    buffer: Vec<u8>,
    written: usize,
    ready: usize,
    queue: VecDeque<Chunk>,
    /// Bytes of what is in `queue`.
    queued: usize,
    /// Memory of payloads that were written.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    most_spare: usize,
}

enum Chunk {
    /// Whole frames, behind a long message.
    Frames(Vec<u8>),
    Message(Box<Long>),
}

/// A long message: `head`, and the first `len` bytes of `payload`.
struct Long {
    head: Vec<u8>,
    payload: Vec<u8>,
    len: usize,
    /// How much of head and payload is stuffed.
    stuffed: usize,
    run: Suspended,
}

/// Bytes of a payload that is stuffed as it is written.
pub(super) const MIN_LONG: usize = 32 << 10;

/// Bytes of a message that are stuffed at once.
const PIECE: usize = 64 << 10;

/// Those of the first piece: the peer wakes up while the next one is stuffed.
const FIRST_PIECE: usize = 16 << 10;

impl Outbox {
    /// Keeps memory of as many bytes for long messages.
    pub(super) fn new(most_spare: usize) -> Self {
        Outbox {
            buffer: Vec::new(),
            written: 0,
            ready: 0,
            queue: VecDeque::new(),
            queued: 0,
            spare: Vec::new(),
            spare_bytes: 0,
            most_spare,
        }
    }

    /// Bytes that wait: of messages that are not stuffed yet, those that they have now.
    pub(super) fn waiting(&self) -> usize {
        self.ready - self.written + self.queued
    }

    /// Appends a message that is stuffed at once.
    pub(super) fn push(&mut self, head: &[u8], payload: &[u8]) {
        if !self.queue.is_empty() {
            if !matches!(self.queue.back(), Some(Chunk::Frames(_))) {
                self.queue.push_back(Chunk::Frames(Vec::new()));
            }
            if let Some(Chunk::Frames(frames)) = self.queue.back_mut() {
                let before = frames.len();
                push_frame(frames, head, payload);
                self.queued += frames.len() - before;
            }
            return;
        }
        self.make_room(max_frame_len(head.len() + payload.len()) + 1);
        let (mut run, room) = (Suspended::default(), &mut self.buffer[self.ready..]);
        self.ready += stuff_piece(room, &mut run, [head, payload], true);
    }

    /// Appends a long message, whose payload is `len` bytes, and takes the payload's memory; gives other memory for it.
    pub(super) fn push_long(&mut self, head: &[u8], payload: &mut Vec<u8>, len: usize) {
        let other = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= other.len();
        let payload = mem::replace(payload, other);
        self.queued += head.len() + len;
        let long = Long { head: head.to_vec(), payload, len, stuffed: 0, run: Suspended::default() };
        self.queue.push_back(Chunk::Message(Box::new(long)));
    }

    /// What is to be written next; nothing, when nothing waits.
    pub(super) fn unwritten(&mut self) -> &[u8] {
        while self.written == self.ready {
            (self.written, self.ready) = (0, 0);
            match self.queue.front_mut() {
                None => break,
                Some(Chunk::Frames(frames)) => {
                    self.queued -= frames.len();
                    self.buffer = mem::take(frames);
                    self.ready = self.buffer.len();
                    self.queue.pop_front();
                }
                Some(Chunk::Message(_)) => self.stuff_next(),
            }
        }
        &self.buffer[self.written..self.ready]
    }

    /// The first `len` bytes of what is to be written were.
    pub(super) fn wrote(&mut self, len: usize) {
        self.written = self.ready.min(self.written + len);
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        (self.written, self.ready, self.queued) = (0, 0, 0);
        self.queue.clear();
    }

    /// Stuffs the next piece of the message that is the first in the queue, into the buffer, which is empty.
    fn stuff_next(&mut self) {
        self.make_room(max_frame_len(PIECE) + Suspended::MOST + 1);
        let Some(Chunk::Message(long)) = self.queue.front_mut() else { return };
        let whole = long.head.len() + long.len;
        let most = if long.stuffed == 0 { FIRST_PIECE } else { PIECE };
        let piece = long.stuffed..whole.min(long.stuffed + most);
        let head = &long.head[piece.start.min(long.head.len())..piece.end.min(long.head.len())];
        let payload = piece.start.saturating_sub(long.head.len())..piece.end.saturating_sub(long.head.len());
        let last = piece.end == whole;
        self.ready = stuff_piece(&mut self.buffer, &mut long.run, [head, &long.payload[payload]], last);
        long.stuffed = piece.end;
        self.queued -= piece.len();
        if last && let Some(Chunk::Message(long)) = self.queue.pop_front() {
            self.keep(long.payload);
        }
    }

    /// Keeps the memory of a payload for the next one.
    fn keep(&mut self, payload: Vec<u8>) {
        // One is kept whatever it has: there is one in any case.
        if self.spare.is_empty() || self.spare_bytes + payload.len() <= self.most_spare {
            self.spare_bytes += payload.len();
            self.spare.push(payload);
        }
    }

    /// Makes room behind what is ready.
    fn make_room(&mut self, room: usize) {
        if self.buffer.len() - self.ready >= room {
            return;
        }
        // Moves what waits to the front, once that is the smaller part.
        if self.written >= self.ready - self.written {
            self.buffer.copy_within(self.written..self.ready, 0);
            self.ready -= self.written;
            self.written = 0;
        }
        let needed = self.ready + room;
        if self.buffer.len() < needed {
            self.buffer.resize(needed.max(2 * self.ready), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Short and long messages in any order, some written in between, are the frames of all of them.
        #[test]
        fn what_is_written_is_what_was_pushed_in_its_order(
            lens in prop::collection::vec((prop_oneof![1..300usize, MIN_LONG..5 * MIN_LONG], 0..200_000usize), 1..12),
        ) {
            let (mut outbox, mut expected, mut written) = (Outbox::new(100_000), Vec::new(), Vec::new());
            let mut scratch = Vec::new();
            for (number, (len, write)) in lens.into_iter().enumerate() {
                let head = [number as u8; 3];
                scratch.resize(scratch.len().max(len), 0);
                scratch[..len].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251 + number % 2) as u8);
                push_frame(&mut expected, &head, &scratch[..len]);
                if len >= MIN_LONG {
                    outbox.push_long(&head, &mut scratch, len);
                } else {
                    outbox.push(&head, &scratch[..len]);
                }
                let mut left = write;
                while left > 0 && !outbox.unwritten().is_empty() {
                    let some = outbox.unwritten().len().min(left).min(30_000);
                    written.extend_from_slice(&outbox.unwritten()[..some]);
                    outbox.wrote(some);
                    left -= some;
                }
                let spare: usize = outbox.spare.iter().map(Vec::len).sum();
                prop_assert_eq!(spare, outbox.spare_bytes);
                prop_assert!(outbox.spare.len() <= 1 || spare <= 100_000);
            }
            while !outbox.unwritten().is_empty() {
                let rest = outbox.unwritten().to_vec();
                outbox.wrote(rest.len());
                written.extend(rest);
            }
            prop_assert_eq!(outbox.waiting(), 0);
            prop_assert!(written == expected);
        }
    }
}

//! Frames on a byte stream: each message COBS-encoded and ended by a zero byte (protocol section 2).
//!
//! COBS replaces each zero by the distance to the next one, and inserts such a code after each 254 bytes
//! without a zero. (S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing", 1999.)
//!
//! Written here rather than taken from the `cobs` crate, which goes byte by byte. That crate is the oracle of the tests.
//!
//! Per frame: one copy out ([`push_frame`]), one pass in place in ([`Deframer::next_frame`]), no allocation
//! in steady state.

mod stuffing;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::stuffing::{END, Stuffer, find_zero, unstuff};
pub(crate) use self::stuffing::{Suspended, Unstuffer, max_frame_len, stuff_piece};

/// Appends the frame of the message that `head` and `payload` are, one behind the other.
pub(crate) fn push_frame(out: &mut Vec<u8>, head: &[u8], payload: &[u8]) {
    let start = out.len();
    out.resize(start + max_frame_len(head.len() + payload.len()) + 1, END);
    let mut stuffer = Stuffer::new(&mut out[start..]);
    stuffer.push(head);
    stuffer.push(payload);
    let len = stuffer.finish();
    out.truncate(start + len + 1);
}

/// Cuts what arrives into frames, and decodes each in place.
///
/// `buffer[start..end]` has arrived and was not handed out; up to `scanned` it has no zero. The buffer grows
/// only when a single frame has filled it, and twofold: it takes at most the double of what the peer
/// has really sent, and never more than the longest frame and [`READ_ROOM`].
pub(crate) struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    end: usize,
    /// Where the zero is that ends the next frame, if it was looked for and has arrived.
    found: Option<usize>,
    max_frame: usize,
}

/// Why no frame could be handed out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameFault<'a> {
    /// A frame of this many bytes that is not COBS, or has no content.
    Malformed { len: usize },
    /// A frame that is longer than allowed, and need not be complete.
    TooLong {
        /// What could be decoded of it.
        prefix: &'a [u8],
    },
}

/// Room for one read, in bytes: what the buffer starts with, and has beside the longest frame.
const READ_ROOM: usize = 64 << 10;

/// A read into less room than this is not worth a system call.
const MIN_READ: usize = 4 << 10;

impl Deframer {
    /// Takes messages of up to `max_message` bytes.
    pub(crate) fn new(max_message: usize) -> Self {
        let buffer = vec![0; READ_ROOM];
        Deframer { buffer, start: 0, scanned: 0, end: 0, found: None, max_frame: max_frame_len(max_message) }
    }

    /// From now on, takes messages of up to `max_message` bytes.
    pub(crate) fn set_max_message(&mut self, max_message: usize) {
        self.max_frame = max_frame_len(max_message);
    }

    /// Where what arrives next goes; never empty after [`next_frame`](Deframer::next_frame) said that
    /// there is no more.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() - self.end < MIN_READ {
            // What is left is the beginning of one frame: it moves here at most once.
            self.buffer.copy_within(self.start..self.end, 0);
            self.scanned -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < MIN_READ {
            let most = self.max_frame.saturating_add(READ_ROOM);
            let grown = self.buffer.len().saturating_mul(2).min(most);
            self.buffer.resize(grown.max(self.buffer.len()), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `len` bytes of [`room`](Deframer::room) arrived.
    pub(crate) fn arrived(&mut self, len: usize) {
        self.end = self.end.saturating_add(len).min(self.buffer.len());
    }

    /// Bytes that arrived and were not handed out.
    pub(crate) fn left(&self) -> usize {
        self.end - self.start
    }

    /// What has arrived of the next frame, as it came, and whether that is all of it.
    #[inline]
    pub(crate) fn peek(&mut self) -> (&[u8], bool) {
        let frame = self.find();
        (&self.buffer[frame], self.found.is_some())
    }

    /// Drops what has arrived of the next frame, which was [seen](Deframer::peek).
    pub(crate) fn skip(&mut self) {
        let frame = self.find();
        self.take(frame.end);
    }

    /// Makes the buffer long enough for all that a socket has at once: a long frame takes several reads.
    pub(crate) fn widen(&mut self) {
        /// A little more than Linux lets wait in a Unix socket by default.
        const LONG_READ: usize = 256 << 10;
        if self.buffer.len() < LONG_READ {
            self.buffer.resize(LONG_READ, 0);
        }
    }

    /// Looks for the end of the next frame, and says where lies what has arrived of it.
    #[inline]
    fn find(&mut self) -> Range<usize> {
        if self.found.is_none() {
            self.found = find_zero(&self.buffer[self.scanned..self.end]).map(|at| self.scanned + at);
            self.scanned = self.found.unwrap_or(self.end);
        }
        self.start..self.scanned
    }

    /// Goes on behind what has arrived of the next frame.
    #[inline]
    fn take(&mut self, end: usize) {
        self.start = end + usize::from(self.found.take().is_some());
        self.scanned = self.start;
        if self.start == self.end {
            (self.start, self.scanned, self.end) = (0, 0, 0);
        }
    }

    /// The next message that has arrived whole.
    ///
    /// # Errors
    ///
    /// The stream is of no use any more.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameFault<'_>> {
        let frame = self.find();
        let complete = self.found.is_some();
        if complete {
            self.take(frame.end);
        }
        let len = frame.len();
        if len > self.max_frame {
            let frame = &mut self.buffer[frame];
            let (Ok(len) | Err(len)) = unstuff(frame);
            return Err(FrameFault::TooLong { prefix: &frame[..len] });
        }
        if !complete {
            return Ok(None);
        }
        let frame = &mut self.buffer[frame];
        match unstuff(frame) {
            Ok(content @ 1..) => Ok(Some(&frame[..content])),
            _ => Err(FrameFault::Malformed { len }),
        }
    }
}

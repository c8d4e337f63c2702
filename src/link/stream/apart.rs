//! A long vector as it arrives: unstuffed where the application gets it.
//!
//! A frame whose first bytes say that its payload is one byte vector ([`vector`](crate::link::vector)) is not kept until it is
//! complete. What has come is unstuffed into the vector's own memory, and its place in the buffer is free for the next read:
//! the buffer stays as short as one read is, and in the cache.
//!
//! The memory is no more than twice what has come, and [`AHEAD`], whatever length the frame claims.

use std::cell::RefCell;

use crate::{
    error::Violation,
    link::{
        Brought, Message, codec,
        frame::Unstuffer,
        message::Head,
        vector::{Front, MIN_VECTOR, Vector},
    },
};

/// A message whose payload is a vector, and of which some has come.
pub(super) struct Apart {
    /// The message as far as its payload, decoded.
    head: Vec<u8>,
    front: Front,
    bytes: Vec<u8>,
    /// How many there will be.
    len: usize,
    unstuffer: Unstuffer,
    /// Bytes of the frame that have come.
    come: usize,
    /// Those of the first piece that have been taken.
    begun: usize,
}

/// Bytes of a frame that is worth being taken apart.
pub(super) const MIN_FRAME: usize = MIN_VECTOR;

/// Bytes of a message that are looked at. A longer head is rare, and such a message is decoded as others are.
const FIRST: usize = 128;

/// Bytes for which there is memory before they have come.
const AHEAD: usize = 1 << 20;

/// Bytes of an element that is taken apart. Many may wait for their reader, and longer ones each in memory of its own are
/// what allocators give back to the system, and get again with a page fault for each 4 KiB.
const MOST_ELEMENT: usize = 256 << 10;

impl Apart {
    /// Begins with the frame whose first bytes are those of `piece`, if its payload is a vector of `most` bytes at most.
    pub(super) fn begin(piece: &[u8], most: u32) -> Option<Self> {
        let mut unstuffer = Unstuffer::default();
        let mut head = Vec::with_capacity(FIRST);
        let come = unstuffer.push(piece, &mut head, FIRST);
        let (said, at, len) = codec::ahead(&head)?;
        let most = match said {
            Head::Data { .. } => MOST_ELEMENT.min(most as usize),
            _ => most as usize,
        };
        let answer = matches!(said, Head::Response { .. });
        let front = Front::of(&head[at..], len, answer).filter(|_| len <= most)?;
        // For all of the payload, so that it can be made whole: see `Vector`.
        let mut bytes = Vec::with_capacity(len.min(AHEAD.max(piece.len())));
        bytes.extend_from_slice(&head[at + front.len()..]);
        head.truncate(at);
        Some(Apart { head, front, bytes, len: len - front.len(), unstuffer, come, begun: come })
    }

    /// Bytes of the piece that [`push`](Apart::push) takes next that were taken when this began.
    pub(super) fn begun(&mut self) -> usize {
        std::mem::take(&mut self.begun)
    }

    /// Takes what comes next of the frame.
    ///
    /// # Errors
    ///
    /// There is more than the message said.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), Violation> {
        let left = self.len - self.bytes.len();
        let room = self.bytes.capacity() - self.bytes.len();
        if room < piece.len().min(left) {
            let whole = self.front.len() + self.len;
            self.bytes.reserve_exact(self.bytes.len().max(piece.len()).min(whole - self.bytes.len()));
        }
        let took = self.unstuffer.push(piece, &mut self.bytes, left);
        self.come += took;
        if took < piece.len() { Err(self.malformed()) } else { Ok(()) }
    }

    /// The frame is complete: hands the message to `take`.
    ///
    /// # Errors
    ///
    /// There is less than the message said, or the frame ends within a run.
    pub(super) fn finish<R>(mut self, take: impl FnOnce(&Message<'_>) -> R) -> Result<R, Violation> {
        if !self.unstuffer.is_complete() || self.bytes.len() < self.len {
            return Err(self.malformed());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let vector = RefCell::new(Vector::of(self.front, bytes));
        let Some((head, ..)) = codec::ahead(&self.head) else { return Err(self.malformed()) };
        Ok(take(&Message { head, channels: &[], payload: Brought::Vector(&vector) }))
    }

    fn malformed(&self) -> Violation {
        Violation::Decode { len: self.come }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::{
        codec::encode_head,
        frame::push_frame,
        testing::{DATA, message},
    };

    const LIMIT: u32 = 64 << 20;

    /// The payload that is a vector of so many bytes, some of which are zeros.
    fn vector(len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 253).to_le_bytes()[0]).collect();
        postcard::to_extend(serde_bytes::Bytes::new(&bytes), Vec::new()).expect("memory takes it")
    }

    /// The frame of a message that says that its payload has `said` bytes, without the zero at its end.
    fn frame(head: &Head<'_>, said: usize, payload: &[u8]) -> Vec<u8> {
        let (mut encoded, mut frame) = (Vec::new(), Vec::new());
        encode_head(head, &[], said, &mut encoded);
        push_frame(&mut frame, &encoded, payload);
        frame.pop();
        frame
    }

    /// What comes of a frame that arrives in such pieces: the message, encoded.
    fn take(frame: &[u8], pieces: &[usize]) -> Option<Result<Vec<u8>, Violation>> {
        let mut pieces = pieces.iter().cycle();
        let mut next = |from: usize| from..frame.len().min(from + pieces.next().expect("there are some"));
        let mut piece = 0..frame.len().min(FIRST);
        let mut apart = Apart::begin(&frame[piece.clone()], LIMIT)?;
        piece.start = apart.begun();
        while piece.start < frame.len() {
            if let Err(violation) = apart.push(&frame[piece.clone()]) {
                return Some(Err(violation));
            }
            piece = next(piece.end);
        }
        Some(apart.finish(|found| message(&found.head, &found.payload.to_vec())))
    }

    proptest! {
        #[test]
        fn a_vector_in_pieces_is_the_message_that_was_sent(
            len in prop_oneof![MIN_VECTOR..3 * MIN_VECTOR, 60_000..70_000usize],
            answer in any::<bool>(),
            pieces in prop::collection::vec(1..5000usize, 1..6),
        ) {
            let mut payload = vector(len);
            let mut head = DATA;
            if answer {
                payload.insert(0, 0);
                head = Head::Response { conn_id: 0, request_id: 300, metadata: &[1, 1, b'k', 2, 7] };
            }
            let found = take(&frame(&head, payload.len(), &payload), &pieces).expect("it is a vector");
            prop_assert_eq!(found, Ok(message(&head, &payload)));
        }
    }

    #[test]
    fn what_is_no_vector_or_has_channels_or_is_too_long_is_left_alone() {
        let payload = vector(5000);
        let request = Head::Request { conn_id: 0, request_id: 1, method_id: 1, metadata: &[] };
        let answer = Head::Response { conn_id: 0, request_id: 1, metadata: &[] };
        assert!(take(&frame(&request, payload.len(), &payload), &[99]).is_some());
        for left_alone in [
            frame(&answer, payload.len(), &payload), // no verdict stands before it
            frame(&DATA, 5000, &payload[2..]),
            frame(&DATA, payload.len() + 1, &payload),
            frame(&Head::Goodbye { conn_id: 0, reason: &"why".repeat(1000) }, 0, &[]),
        ] {
            assert!(take(&left_alone, &[99]).is_none());
        }
        assert!(Apart::begin(&frame(&DATA, payload.len(), &payload), 5000).is_none());
        let long = vector(MOST_ELEMENT);
        assert!(take(&frame(&DATA, long.len(), &long), &[5000]).is_none());
        assert!(take(&frame(&request, long.len(), &long), &[5000]).is_some());
    }

    // Rule `message.decode-error`.
    #[test]
    fn a_vector_that_is_not_as_long_as_it_says_or_ends_within_a_run_is_refused() {
        let payload = vector(5000);
        let whole = frame(&DATA, payload.len(), &payload);
        for len in [1, 200, 3000] {
            let short = frame(&DATA, payload.len(), &payload[..payload.len() - len]);
            assert!(matches!(take(&short, &[700]), Some(Err(Violation::Decode { .. }))), "{len}");
            let long = frame(&DATA, payload.len(), &[&payload[..], &vec![0; len]].concat());
            assert!(matches!(take(&long, &[700]), Some(Err(Violation::Decode { .. }))), "{len}");
            let cut = &whole[..whole.len() - len];
            assert!(matches!(take(cut, &[700]), Some(Err(Violation::Decode { .. }))), "{len}");
        }
    }

    /// Fails, as a refusal to allocate or by its count, where memory is set aside for what a peer only says.
    #[test]
    fn memory_is_no_more_than_twice_what_has_come_and_what_is_set_aside() {
        let request = Head::Request { conn_id: 0, request_id: 1, method_id: 1, metadata: &[] };
        let len = LIMIT as usize - 10;
        let frame = frame(&request, vector(len).len(), &vector(len)[..8 << 20]);
        let mut apart = Apart::begin(&frame[..100], LIMIT).expect("it says that it is a vector");
        let begun = apart.begun();
        let mut come = 100;
        apart.push(&frame[begun..100]).expect("it is what was said");
        while come < frame.len() {
            assert!(apart.bytes.capacity() <= AHEAD.max(2 * come), "{} for {come}", apart.bytes.capacity());
            let next = frame.len().min(come + 100_000);
            apart.push(&frame[come..next]).expect("it is what was said");
            come = next;
        }
    }
}

//! The encoding of one frame: COBS.
//!
//! It replaces each zero by the distance to the next one, and inserts such a code after each 254 bytes without a zero. So
//! between two inserted codes all bytes stand where they stood, one place further on: they are copied as they are, sixteen at
//! a time, with a mask of where zeros are; only those are written again. No byte is looked at twice.

/// Ends a frame, and stands nowhere else.
pub(super) const END: u8 = 0;

/// The longest run of bytes without a zero that one code covers.
pub(super) const MAX_RUN: usize = 254;

/// The most bytes that the frame of a message of `len` bytes takes, without the zero at its end.
pub(crate) fn max_frame_len(len: usize) -> usize {
    len.saturating_add(len.div_ceil(MAX_RUN).max(1))
}

/// Encodes into room that is long enough for everything that is pushed, and one byte longer.
pub(super) struct Stuffer<'a> {
    room: &'a mut [u8],
    /// Where the code of the run being written goes: the run follows it.
    code: usize,
    at: usize,
}

impl<'a> Stuffer<'a> {
    /// Begins a frame at the start of `room`.
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Stuffer { room, code: 0, at: 1 }
    }

    #[inline]
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while let Some(block) = bytes.first_chunk::<BLOCK>() {
            let left = MAX_RUN + 1 - (self.at - self.code);
            if self.push_wide(&mut bytes, left) {
                continue;
            }
            // What is copied beyond the run is written over.
            let Some(place) = self.room.get_mut(self.at..).and_then(|room| room.first_chunk_mut()) else {
                break;
            };
            *place = *block;
            let zeros = zeros(block);
            if left < BLOCK && first(zeros) >= left {
                self.at += left;
                self.end_run();
                bytes = &bytes[left..];
                continue;
            }
            self.mark(zeros);
            self.at += BLOCK;
            bytes = &bytes[BLOCK..];
        }
        bytes.iter().for_each(|byte| self.push_byte(*byte));
    }

    /// Copies four blocks that have no zero, if they have none and the run has room for them.
    #[inline]
    fn push_wide(&mut self, bytes: &mut &[u8], left: usize) -> bool {
        const WIDE: usize = 4 * BLOCK;
        let Some(block) = bytes.first_chunk::<WIDE>().filter(|_| left >= WIDE) else { return false };
        let Some(place) = self.room.get_mut(self.at..).and_then(|room| room.first_chunk_mut()) else {
            return false;
        };
        if has_zero(block) {
            return false;
        }
        *place = *block;
        self.at += WIDE;
        *bytes = &bytes[WIDE..];
        true
    }

    /// Writes codes where the zeros are in a block that was copied to `at`.
    #[inline]
    fn mark(&mut self, zeros: [u64; 2]) {
        for (half, mut zeros) in zeros.into_iter().enumerate() {
            while zeros != 0 {
                let zero = self.at + half * BLOCK / 2 + zeros.trailing_zeros() as usize / 8;
                self.room[self.code] = (zero - self.code) as u8; // at most MAX_RUN + 1
                self.code = zero;
                zeros &= zeros - 1;
            }
        }
    }

    #[inline]
    fn push_byte(&mut self, byte: u8) {
        if self.at - self.code > MAX_RUN {
            self.end_run();
        }
        if byte == 0 {
            self.end_run();
        } else {
            self.room[self.at] = byte;
            self.at += 1;
        }
    }

    #[inline]
    fn end_run(&mut self) {
        self.room[self.code] = (self.at - self.code) as u8; // at most MAX_RUN + 1
        self.code = self.at;
        self.at += 1;
    }

    /// Ends the frame, and returns its length without the zero at its end.
    #[inline]
    pub(super) fn finish(mut self) -> usize {
        let len = self.at;
        self.end_run();
        self.room[len] = END;
        len
    }
}

/// The run of a frame that is not complete, between two pieces of its message: its code is not known yet.
pub(crate) struct Suspended {
    bytes: [u8; Suspended::MOST],
    /// With the place for the code. None before the first piece.
    len: usize,
}

impl Suspended {
    /// Bytes at most.
    pub(crate) const MOST: usize = MAX_RUN + 1;
}

impl Default for Suspended {
    fn default() -> Self {
        Suspended { bytes: [0; Suspended::MOST], len: 0 }
    }
}

/// Stuffs the next piece of a message, in two parts, to the start of `room`, and returns how many bytes of the frame are
/// complete there. The room is to be as long as a frame of the piece, with its end, and what was suspended.
pub(crate) fn stuff_piece(room: &mut [u8], run: &mut Suspended, piece: [&[u8]; 2], last: bool) -> usize {
    room[..run.len].copy_from_slice(&run.bytes[..run.len]);
    let mut stuffer = Stuffer { room, code: 0, at: run.len.max(1) };
    piece.iter().for_each(|part| stuffer.push(part));
    if last {
        return stuffer.finish() + 1;
    }
    let (complete, open) = (stuffer.code, &stuffer.room[stuffer.code..stuffer.at]);
    run.len = open.len();
    run.bytes[..open.len()].copy_from_slice(open);
    complete
}

/// Bytes that are looked at at once.
const BLOCK: usize = 16;

/// Where zeros are: of each half, from the lowest byte on, the lowest bit of those that are zero.
#[inline]
fn zeros(block: &[u8; BLOCK]) -> [u64; 2] {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let whole = u128::from_le_bytes(*block);
    let halves = [whole as u64, (whole >> 64) as u64];
    // Of each byte that is zero the highest bit, and no other.
    halves.map(|bytes| !(((bytes & LOW) + LOW) | bytes | LOW) >> 7)
}

/// The first byte that is zero, or one beyond.
#[inline]
fn first([low, high]: [u64; 2]) -> usize {
    let bits = if low != 0 { low.trailing_zeros() } else { u64::BITS + high.trailing_zeros() };
    bits as usize / 8
}

/// Written so that the compiler looks at many bytes at once.
#[inline]
fn has_zero<const LEN: usize>(bytes: &[u8; LEN]) -> bool {
    bytes.iter().fold(false, |found, byte| found | (*byte == 0))
}

/// Where the first zero is.
#[inline]
pub(super) fn find_zero(bytes: &[u8]) -> Option<usize> {
    const WIDE: usize = 64;
    let mut at = 0;
    while let Some(block) = bytes[at..].first_chunk::<WIDE>() {
        if has_zero(block) {
            break;
        }
        at += WIDE;
    }
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        let zeros = zeros(block);
        if zeros != [0, 0] {
            return Some(at + first(zeros));
        }
        at += BLOCK;
    }
    bytes[at..].iter().position(|byte| *byte == 0).map(|zero| at + zero)
}

/// Decodes a frame, without the zero at its end, in place, and returns the length of what it held. `Err` if
/// it ends within a run: with the length of what came before.
pub(super) fn unstuff(frame: &mut [u8]) -> Result<usize, usize> {
    let (mut from, mut to) = (0, 0);
    while let Some(&code) = frame.get(from) {
        let (run, end) = (from + 1, from + usize::from(code));
        if code == 0 || end > frame.len() {
            return Err(to);
        }
        if run < end {
            frame.copy_within(run..end, to); // never overtakes: `to <= from`
        }
        to += end - run;
        from = end;
        if usize::from(code) <= MAX_RUN && from < frame.len() {
            frame[to] = 0;
            to += 1;
        }
    }
    Ok(to)
}

/// Decodes a frame that comes in pieces, none of which has a zero.
#[derive(Debug, Default)]
pub(crate) struct Unstuffer {
    /// Bytes of the run that have not come.
    left: usize,
    /// A zero stands behind the run, unless the frame ends there.
    zero: bool,
}

impl Unstuffer {
    /// Appends what the next piece holds, `most` bytes at most; returns how much of the piece that took. With less than all
    /// of it, the message has more than `most` bytes more.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>, most: usize) -> usize {
        let end = out.len().saturating_add(most);
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if self.left > 0 {
                let run = self.left.min(rest.len()).min(end - out.len());
                if run == 0 {
                    break;
                }
                out.extend_from_slice(&rest[..run]);
                self.left -= run;
                rest = &rest[run..];
                continue;
            }
            if self.zero {
                if out.len() == end {
                    break;
                }
                out.push(0);
            }
            let run = usize::from(first).saturating_sub(1); // it is no zero
            (self.left, self.zero) = (run, run < MAX_RUN);
            rest = &rest[1..];
        }
        piece.len() - rest.len()
    }

    /// Whether a frame may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zeros_are_found_where_they_are(block in prop::array::uniform16(prop_oneof![Just(0u8), Just(1), Just(0x80), any::<u8>()])) {
            let flags: Vec<u64> = block.iter().map(|byte| u64::from(*byte == 0)).collect();
            let half = |at: usize| (0..8).fold(0, |bits, byte| bits | flags[at + byte] << (8 * byte));
            prop_assert_eq!(zeros(&block), [half(0), half(8)]);
            prop_assert_eq!(first(zeros(&block)), block.iter().position(|byte| *byte == 0).unwrap_or(BLOCK));
            prop_assert_eq!(has_zero(&block), block.contains(&0));
        }

        #[test]
        fn a_message_in_pieces_has_the_frame_that_it_has_in_one(
            bytes in prop::collection::vec(prop_oneof![1 => Just(0u8), 200 => 1..=255u8], 1..1500),
            pieces in prop::collection::vec(0..300usize, 1..10),
        ) {
            let (mut room, mut frame, mut run) = (vec![9; 2000], Vec::new(), Suspended::default());
            let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
            while !rest.is_empty() {
                let len = rest.len().min(1 + pieces.next().unwrap());
                let (piece, behind) = rest.split_at(len);
                rest = behind;
                let parts = piece.split_at(len / 2);
                let complete = stuff_piece(&mut room, &mut run, [parts.0, parts.1], rest.is_empty());
                frame.extend_from_slice(&room[..complete]);
            }
            let mut whole = vec![0; max_frame_len(bytes.len()) + 1];
            let mut stuffer = Stuffer::new(&mut whole);
            stuffer.push(&bytes);
            let len = stuffer.finish();
            prop_assert_eq!(frame, &whole[..=len]);
        }

        #[test]
        fn pieces_of_a_frame_give_what_the_frame_does(
            bytes in prop::collection::vec(prop_oneof![1 => Just(0u8), 200 => 1..=255u8], 1..1500),
            pieces in prop::collection::vec((1..300usize, 0..300usize), 1..10),
        ) {
            let mut room = vec![0; max_frame_len(bytes.len()) + 1];
            let mut stuffer = Stuffer::new(&mut room);
            stuffer.push(&bytes);
            let len = stuffer.finish();
            let (mut unstuffer, mut out, mut rest) = (Unstuffer::default(), Vec::new(), &room[..len]);
            // The last one of a round gets on, whatever the others are.
            for (piece, most) in pieces.iter().chain(&[(300, 300)]).cycle() {
                let piece = &rest[..rest.len().min(*piece)];
                let before = out.len();
                let took = unstuffer.push(piece, &mut out, *most);
                prop_assert!(out.len() <= before + most && (took == piece.len() || out.len() == before + most));
                rest = &rest[took..];
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(unstuffer.is_complete());
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn the_first_zero_is_found_wherever_it_is(len in 0..300usize, zeros in prop::collection::vec(0..300usize, 0..3)) {
            let mut bytes = vec![7; len];
            zeros.iter().for_each(|at| bytes.get_mut(*at).into_iter().for_each(|byte| *byte = 0));
            prop_assert_eq!(find_zero(&bytes), bytes.iter().position(|byte| *byte == 0));
        }
    }
}

//! What payloads look like, so that a wrong one is found.
//!
//! A payload is a template of its size, with a number in its first eight bytes. Its receiver adds up words of it; what has to come out
//! for so many payloads follows from the template and the numbers. Sizes are multiples of eight.

/// How much of a payload its receiver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The number.
    Stamp,
    /// One word of each cache line.
    Lines,
    /// Everything.
    Whole,
}

/// The byte that lent payloads are filled with.
pub(crate) const FILL: u8 = 0xa5;

/// A payload with the number zero, whose bytes differ.
pub(crate) fn template(size: usize) -> Vec<u8> {
    let byte = |at: usize| (at ^ at >> 8).wrapping_mul(31).to_le_bytes()[0];
    let mut payload: Vec<u8> = (0..size).map(byte).collect();
    stamp(&mut payload, 0);
    payload
}

/// A payload with the number zero that is [filled](FILL).
pub(crate) fn filled(size: usize) -> Vec<u8> {
    let mut payload = vec![FILL; size];
    stamp(&mut payload, 0);
    payload
}

/// Writes a payload's number.
pub(crate) fn stamp(payload: &mut [u8], number: u64) {
    payload[..8].copy_from_slice(&number.to_le_bytes());
}

/// The sum of the words that are read.
pub(crate) fn sum(payload: &[u8], reading: Reading) -> u64 {
    let word = |chunk: &[u8]| chunk.first_chunk().copied().map_or(0, u64::from_le_bytes);
    match reading {
        Reading::Stamp => word(payload),
        Reading::Lines => payload.chunks(64).fold(0, |sum: u64, line| sum.wrapping_add(word(line))),
        Reading::Whole => payload.chunks(8).fold(0, |sum: u64, chunk| sum.wrapping_add(word(chunk))),
    }
}

/// What a receiver of many payloads has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) sum: u64,
}

impl Totals {
    /// Reads one more.
    pub(crate) fn read(&mut self, payload: &[u8], reading: Reading) {
        self.count += 1;
        self.bytes += payload.len() as u64;
        self.sum = self.sum.wrapping_add(sum(payload, reading));
    }

    /// What has to come out of the numbers up to `count` on a template.
    pub(crate) fn expected(count: u64, template: &[u8], reading: Reading) -> Self {
        let numbers = (u128::from(count) * u128::from(count.saturating_sub(1)) / 2) as u64;
        let sum = sum(template, reading).wrapping_mul(count).wrapping_add(numbers);
        Totals { count, bytes: count * template.len() as u64, sum }
    }

    /// As it is sent.
    pub(crate) fn to_words(self) -> [u64; 3] {
        [self.count, self.bytes, self.sum]
    }

    /// As it was sent.
    pub(crate) fn from_words([count, bytes, sum]: [u64; 3]) -> Self {
        Totals { count, bytes, sum }
    }
}

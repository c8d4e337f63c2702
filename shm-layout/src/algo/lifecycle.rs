//! Attach: the header is written before a half is handed over, and checked when it was received.
//!
//! The owner writes the header when nobody else has the memory yet, hands the descriptor over, and never
//! writes the header again. The hand-over (a socket) orders the two. The peer reads each word once, into
//! private memory, and checks it there: an owner that goes on writing fools nobody, since no word of it is
//! ever looked at again.

use crate::error::{LayoutError, Rule};
use crate::layout::geometry::Geometry;
use crate::layout::header::Header;
use crate::sync::{AtomicU32, AtomicU64, Ordering, ReadOnly};

/// Writes the header of our own half.
pub(crate) fn write_header(header: &Header, geometry: &Geometry) {
    // Relaxed, all of them: only this side writes the header, and the hand-over of the descriptor publishes
    // it.
    let word = |to: &AtomicU32, value| to.store(value, Ordering::Relaxed);
    let long = |to: &AtomicU64, value| to.store(value, Ordering::Relaxed);
    long(&header.magic, Header::MAGIC);
    word(&header.version, Header::VERSION);
    word(&header.header_len, Header::BYTES as u32);
    long(&header.half_len, geometry.half_len());
    word(&header.ring_bytes, geometry.ring_bytes);
    word(&header.channel_slots, geometry.channel_slots);
    word(&header.max_payload_size, geometry.max_payload_size);
    word(&header.initial_channel_credit, geometry.initial_channel_credit);
    long(&header.arena_offset, geometry.arena_offset().get());
    long(&header.arena_bytes, geometry.arena_bytes);
    word(&header.arena_blocks, geometry.arena_blocks);
}

/// Reads the header of the peer's half, of which `mapped_len` bytes are mapped, and checks it against itself.
pub(crate) fn read_header(header: ReadOnly<'_, Header>, mapped_len: u64) -> Result<Geometry, LayoutError> {
    // Relaxed, all of them: pair with the stores in `write_header`, ordered by the hand-over of the
    // descriptor.
    let word = |part: fn(&Header) -> &AtomicU32| header.part(part).relaxed();
    let long = |part: fn(&Header) -> &AtomicU64| header.part(part).relaxed();
    expect("magic", long(|header| &header.magic), Header::MAGIC)?;
    expect("version", word(|header| &header.version).into(), Header::VERSION.into())?;
    expect("header_len", word(|header| &header.header_len).into(), Header::BYTES)?;
    let geometry = Geometry {
        ring_bytes: word(|header| &header.ring_bytes),
        channel_slots: word(|header| &header.channel_slots),
        max_payload_size: word(|header| &header.max_payload_size),
        initial_channel_credit: word(|header| &header.initial_channel_credit),
        arena_blocks: word(|header| &header.arena_blocks),
        arena_bytes: long(|header| &header.arena_bytes),
    };
    geometry.validate()?;
    expect("half_len", long(|header| &header.half_len), geometry.half_len())?;
    expect("arena_offset", long(|header| &header.arena_offset), geometry.arena_offset().get())?;
    for word in header.part(|header| header.reserved.as_slice()).words() {
        expect("reserved", word.relaxed().into(), 0)?;
    }
    expect("mapped_len", mapped_len, geometry.half_len())?;
    Ok(geometry)
}

/// Refuses limits that are not the ones agreed on.
pub(crate) fn check_equal(found: &Geometry, expected: &Geometry) -> Result<(), LayoutError> {
    let equal = |field, found: u32, expected: u32| expect(field, found.into(), expected.into());
    equal("ring_bytes", found.ring_bytes, expected.ring_bytes)?;
    equal("channel_slots", found.channel_slots, expected.channel_slots)?;
    equal("max_payload_size", found.max_payload_size, expected.max_payload_size)?;
    equal("initial_channel_credit", found.initial_channel_credit, expected.initial_channel_credit)?;
    equal("arena_blocks", found.arena_blocks, expected.arena_blocks)?;
    expect("arena_bytes", found.arena_bytes, expected.arena_bytes)
}

/// Refuses a value other than the one expected.
fn expect(field: &'static str, found: u64, expected: u64) -> Result<(), LayoutError> {
    if found == expected {
        return Ok(());
    }
    Err(LayoutError { field, found, expected: Rule::Exactly(expected) })
}

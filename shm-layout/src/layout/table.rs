//! The golden table: what the compiler makes of the layout, as the crate's documentation shows it.

use core::mem::offset_of;
use std::fmt::Write;
use std::string::String;

use super::channel::ChannelEntry;
use super::endpoint::Endpoint;
use super::geometry::Geometry;
use super::header::Header;

#[test]
fn the_table_in_the_docs_is_the_layout() {
    let table = table();
    assert_eq!(include_str!("table.md"), table, "layout/table.md should be:\n{table}");
}

/// The whole table.
fn table() -> String {
    let mut table = String::from("| part | field | offset | bytes |\n|---|---|---|---|\n");
    let mut row = |part: &str, field: &str, offset: u64, bytes: u64| {
        let field = if field.is_empty() { String::new() } else { format!("`{field}`") };
        writeln!(table, "| {part} | {field} | {offset} | {bytes} |").expect("a string takes all");
    };
    regions(&mut row);
    for (field, offset, bytes) in header() {
        row("in the header", field, offset, bytes);
    }
    for (field, offset, bytes) in endpoint() {
        row("in the endpoint", field, offset, bytes);
    }
    for (field, offset, bytes) in channel() {
        row("in a channel entry", field, offset, bytes);
    }
    table
}

fn regions(row: &mut impl FnMut(&str, &str, u64, u64)) {
    let geometry = Geometry::default();
    let entries = u64::from(geometry.channel_slots) * size_of::<ChannelEntry>() as u64;
    row("header", "", geometry.header_offset().get(), size_of::<Header>() as u64);
    row("endpoint", "", geometry.endpoint_offset().get(), size_of::<Endpoint>() as u64);
    row("channels", "", geometry.channels_offset().get(), entries);
    let numbers = u64::from(geometry.arena_blocks) * size_of::<u32>() as u64;
    row("returned", "", geometry.returned_offset().get(), numbers);
    row("ring", "", geometry.ring_offset().get(), geometry.ring_bytes.into());
    row("arena", "", geometry.arena_offset().get(), geometry.arena_bytes);
    row("the half", "", 0, geometry.half_len());
}

/// The fields of a type, in the order given: name, offset, bytes up to the next or to the end.
macro_rules! fields {
    ($of:ident: $($field:ident $(. $part:tt)?),+ $(,)?) => {{
        fn bytes<T>(_: fn(&$of) -> &T) -> u64 {
            size_of::<T>() as u64
        }
        [$((stringify!($field), offset_of!($of, $field) as u64, bytes(|of| &of.$field $(.$part)?))),+]
    }};
}

fn header() -> [(&'static str, u64, u64); 12] {
    fields!(Header: magic, version, header_len, half_len, ring_bytes, channel_slots, max_payload_size,
        initial_channel_credit, arena_offset, arena_bytes, arena_blocks, reserved)
}

fn endpoint() -> [(&'static str, u64, u64); 6] {
    fields!(Endpoint: head.0, consumed.0, returned.0, parked, wake, starved)
}

fn channel() -> [(&'static str, u64, u64); 3] {
    fields!(ChannelEntry: granted_total, generation, waiting)
}

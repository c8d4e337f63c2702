//! Metadata: the limits of protocol section 4, at each of them and one above, and what must be kept.

use super::{
    cases,
    links::{Ground, Kind},
    note::{Entries, Note, Text, Value},
    rig::{OK, Rig, of},
    service::{Event, GATED, NOP, THEIRS},
};
use crate::{
    error::Violation,
    rpc::errors::{CallError, Refusal},
    session::metadata::{Metadata, MetadataValue},
};

cases! {
    "Metadata (protocol section 4)" on connections;
    ["call.metadata.limits"] a_request_beyond_a_limit_of_metadata_costs_the_connection: everywhere;
    ["call.metadata.limits"] a_response_beyond_a_limit_of_metadata_costs_the_connection: everywhere;
    ["call.metadata.limits"] metadata_at_each_limit_arrives: everywhere;
    ["call.metadata.limits"] a_call_beyond_a_limit_of_metadata_is_refused_here_with_both_numbers: everywhere;
    ["message.decode-error"] metadata_that_does_not_decode_costs_the_link: everywhere;
    [] order_duplicates_and_case_are_kept: everywhere;
    [] unknown_keys_and_oddly_typed_known_ones_are_ignored: everywhere;
}

/// One entry whose key has `key` bytes, and its value `value`.
fn entry(key: usize, value: usize) -> (Text, Value) {
    (Text(vec![b'k'; key]), Value::Bytes(vec![7; value]))
}

/// So many entries of so many bytes each.
fn many(count: usize, key: usize, value: usize) -> Entries {
    vec![entry(key, value); count]
}

/// Metadata at each limit.
pub(super) fn at_the_limits() -> [Entries; 6] {
    let text = |value: usize| (Text::from(""), Value::String(Text(vec![b'v'; value])));
    [
        many(128, 1, 1),
        many(1, 256, 0),
        many(1, 0, 16 << 10),
        vec![text(16 << 10)],
        // Keys and values count, and a number counts as eight bytes.
        [many(3, 0, 16 << 10), many(1, 256, (16 << 10) - 256)].concat(),
        [many(3, 0, 16 << 10), many(1, 0, (16 << 10) - 8), vec![(Text::from(""), Value::U64(1))]].concat(),
    ]
}

/// Metadata one above each limit, with what the limit is called, what was found, and the limit.
pub(super) fn beyond_the_limits() -> [(Entries, &'static str, usize, usize); 5] {
    let text = |value: usize| (Text::from(""), Value::String(Text(vec![b'v'; value])));
    [
        (many(129, 1, 1), "the number of entries", 129, 128),
        (many(1, 257, 0), "a key's length", 257, 256),
        (many(1, 0, (16 << 10) + 1), "a value's length", (16 << 10) + 1, 16 << 10),
        (vec![text((16 << 10) + 1)], "a value's length", (16 << 10) + 1, 16 << 10),
        (
            [many(3, 0, 16 << 10), many(1, 1, 16 << 10)].concat(),
            "the length in all",
            (64 << 10) + 1,
            64 << 10,
        ),
    ]
}

async fn a_request_beyond_a_limit_of_metadata_costs_the_connection(ground: Ground) {
    for (entries, what, value, limit) in beyond_the_limits() {
        ground
            .costs_the_connection(async |rig| {
                let request_id = rig.fresh_request();
                rig.say(Note::request(rig.conn, request_id, &NOP, &[]).with(entries)).await;
                Violation::MetadataLimits { what, value, limit }
            })
            .await;
    }
}

/// Also where nobody waits for the Response: its metadata is nobody's to see.
async fn a_response_beyond_a_limit_of_metadata_costs_the_connection(ground: Ground) {
    for (index, (entries, what, value, limit)) in beyond_the_limits().into_iter().enumerate() {
        ground
            .costs_the_connection(async |rig| {
                let request_id = if index == 0 { 77 } else { rig.calling().await.1 };
                rig.say(Note::response(rig.conn, request_id, OK).with(entries)).await;
                Violation::MetadataLimits { what, value, limit }
            })
            .await;
    }
}

async fn metadata_at_each_limit_arrives(ground: Ground) {
    let mut rig = ground.rig().await;
    for entries in at_the_limits() {
        arrives(&mut rig, &entries).await;
        let (call, request_id) = rig.calling().await;
        rig.say(Note::response(rig.conn, request_id, OK).with(entries.clone())).await;
        of(call).await.expect("it was answered");
        let call = rig.ours.call::<(), (), u8>(&THEIRS, ()).with_metadata(ours(&entries));
        let call = tokio::spawn(call);
        let Note::Request { request_id, metadata, .. } = rig.hear().await else { panic!("no request") };
        assert_eq!(metadata, entries);
        rig.answer(request_id, OK).await;
        of(call).await.expect("it was answered");
    }
    rig.goes_on().await;
}

/// A handler of ours sees these entries.
async fn arrives(rig: &mut Rig, entries: &Entries) {
    let request_id = rig.fresh_request();
    rig.say(Note::request(rig.conn, request_id, &NOP, &[]).with(entries.clone())).await;
    rig.hears_answer(request_id, OK).await;
    let Event::Metadata(seen) = rig.event().await else { panic!("the handler saw none") };
    assert_eq!(seen, ours(entries));
}

/// Entries, as the library has them.
pub(super) fn ours(entries: &Entries) -> Metadata {
    let mut metadata = Metadata::new();
    let text = |text: &Text| String::from_utf8(text.0.clone()).expect("it is text");
    for (key, value) in entries {
        metadata.push(
            text(key),
            match value {
                Value::String(value) => MetadataValue::String(text(value)),
                Value::Bytes(bytes) => MetadataValue::Bytes(bytes.clone()),
                Value::U64(number) => MetadataValue::U64(*number),
                Value::Fourth(_) => panic!("the library has no such value"),
            },
        );
    }
    metadata
}

async fn a_call_beyond_a_limit_of_metadata_is_refused_here_with_both_numbers(ground: Ground) {
    let mut rig = ground.rig().await;
    for (entries, what, value, limit) in beyond_the_limits() {
        let refused = rig.ours.call::<(), (), u8>(&THEIRS, ()).with_metadata(ours(&entries)).await;
        let Err(CallError::Refused(Refusal::Metadata(error))) = refused else { panic!("{refused:?}") };
        assert_eq!(error.to_string(), format!("metadata: {what} is {value}, at most {limit} are allowed"));
        rig.goes_on().await;
    }
    // The timeout takes a place of its own.
    let full = ours(&many(128, 1, 1));
    let call = rig.ours.call::<(), (), u8>(&THEIRS, ()).with_metadata(full);
    let refused = call.with_timeout(std::time::Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Metadata(_)))), "{refused:?}");
    rig.goes_on().await;
}

async fn metadata_that_does_not_decode_costs_the_link(ground: Ground) {
    let text = || Text(vec![b'a', 0xff]);
    let bad = [
        (text(), Value::U64(1)),
        ("key".into(), Value::String(text())),
        // A surrogate, and an overlong form of '/'.
        (Text(vec![0xed, 0xa0, 0x80]), Value::U64(1)),
        ("key".into(), Value::String(Text(vec![0xc0, 0xaf]))),
        ("key".into(), Value::Fourth(1)),
    ];
    for entry in bad {
        for in_response in [false, true] {
            let entries = vec![("first".into(), Value::U64(1)), entry.clone()];
            let breaks = async |rig: &mut Rig| {
                let request_id = rig.fresh_request();
                let note = if in_response {
                    Note::response(rig.conn, request_id, OK)
                } else {
                    Note::request(rig.conn, request_id, &NOP, &[])
                };
                let note = note.with(entries);
                rig.say(note.clone()).await;
                Violation::Decode { len: undecodable_len(rig, &note) }
            };
            // "One that cannot be laid to a connection (undecodable bytes)": in a segment the head of the message
            // lies apart from its metadata, and names the connection.
            match ground.kind {
                Kind::Shm => ground.costs_the_connection(breaks).await,
                Kind::Memory | Kind::Unix | Kind::Tcp => ground.costs_the_link(breaks).await,
            }
        }
    }
}

/// What the links hand on as undecodable: byte streams and the link within the process the whole message, shared
/// memory the metadata.
pub(super) fn undecodable_len(rig: &Rig, note: &Note) -> usize {
    let (Note::Connect { metadata, .. }
    | Note::Accept { metadata, .. }
    | Note::Reject { metadata, .. }
    | Note::Request { metadata, .. }
    | Note::Response { metadata, .. }) = note
    else {
        panic!("{note:?} has no metadata")
    };
    match rig.ground.kind {
        Kind::Shm => postcard::to_extend(metadata, Vec::new()).expect("it has an encoding").len(),
        _ => note.to_bytes().len(),
    }
}

async fn order_duplicates_and_case_are_kept(ground: Ground) {
    let mut rig = ground.rig().await;
    let entries: Entries = vec![
        ("b".into(), Value::U64(u64::MAX)),
        ("a".into(), Value::String("first".into())),
        ("A".into(), Value::Bytes(vec![0, 255])),
        ("a".into(), Value::String("second".into())),
        ("b".into(), Value::U64(u64::MAX)),
        ("".into(), Value::String("".into())),
        ("\u{fc}\u{1f980}\0".into(), Value::Bytes(Vec::new())),
    ];
    arrives(&mut rig, &entries).await;
    let metadata = ours(&entries);
    assert_eq!(metadata.get("a").and_then(MetadataValue::as_str), Some("first"));
    let call = tokio::spawn(rig.ours.call::<(), (), u8>(&THEIRS, ()).with_metadata(metadata));
    let Note::Request { request_id, metadata, .. } = rig.hear().await else { panic!("no request") };
    assert_eq!(metadata, entries);
    rig.answer(request_id, OK).await;
    of(call).await.expect("it was answered");
    rig.goes_on().await;
}

async fn unknown_keys_and_oddly_typed_known_ones_are_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    let odd = [Value::String("1".into()), Value::Bytes(vec![0; 8]), Value::U64(u64::MAX)];
    for value in odd {
        for key in ["timeout-ns", "roam-nonce", "Timeout-Ns", "whatever"] {
            let entries = vec![(key.into(), value.clone())];
            arrives(&mut rig, &entries).await;
            // No time is over, and nothing is answered before it is done.
            let request_id = rig.fresh_request();
            rig.say(Note::request(rig.conn, request_id, &GATED, &[]).with(entries)).await;
            assert!(matches!(rig.event().await, Event::Started));
            rig.goes_on().await;
            rig.gate.add_permits(1);
            rig.hears_answer(request_id, OK).await;
        }
    }
}

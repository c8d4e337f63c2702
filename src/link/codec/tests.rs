use proptest::{collection::vec, prelude::*};
use serde::Serialize;

use super::*;
use crate::link::testing;

/// The protocol's table, derived: what the codec has to agree with.
#[derive(Serialize)]
enum Wire {
    Hello(WireHello),
    Connect(u64, WireMetadata),
    Accept(u64, u64, WireMetadata),
    Reject(u64, String, WireMetadata),
    Goodbye(u64, String),
    Request(u64, u64, u64, WireMetadata, Vec<u64>, Vec<u8>),
    Response(u64, u64, WireMetadata, Vec<u64>, Vec<u8>),
    Cancel(u64, u64),
    Data(u64, u64, Vec<u8>),
    Close(u64, u64),
    Reset(u64, u64),
    Credit(u64, u64, u32),
}

#[derive(Serialize)]
enum WireHello {
    #[expect(dead_code, reason = "its place in the order counts")]
    V1,
    V2(u32, u32),
}

#[derive(Clone, Debug, Serialize)]
enum WireValue {
    String(String),
    Bytes(Vec<u8>),
    U64(u64),
}

type WireMetadata = Vec<(String, WireValue)>;

/// A head, its metadata, its channels, its payload.
#[derive(Clone, Debug)]
struct Parts {
    kind: u64,
    ids: [u64; 3],
    small: [u32; 2],
    text: String,
    metadata: WireMetadata,
    channels: Vec<u64>,
    payload: Vec<u8>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let id = || prop_oneof![0..300u64, any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit)];
    let value = prop_oneof![
        any::<String>().prop_map(WireValue::String),
        vec(any::<u8>(), 0..200).prop_map(WireValue::Bytes),
        id().prop_map(WireValue::U64),
    ];
    let metadata = vec((any::<String>(), value), 0..4);
    let rest = (metadata, vec(id(), 0..5), vec(any::<u8>(), 0..300));
    (kind::HELLO..=kind::CREDIT, [id(), id(), id()], any::<[u32; 2]>(), any::<String>(), rest).prop_map(
        |(kind, ids, small, text, (metadata, channels, payload))| Parts {
            kind,
            ids,
            small,
            text,
            metadata,
            channels,
            payload,
        },
    )
}

fn wire(parts: &Parts) -> Wire {
    let Parts { kind, ids: [a, b, c], small: [max, credit], text, metadata, channels, payload } =
        parts.clone();
    match kind {
        kind::HELLO => Wire::Hello(WireHello::V2(max, credit)),
        kind::CONNECT => Wire::Connect(a, metadata),
        kind::ACCEPT => Wire::Accept(a, b, metadata),
        kind::REJECT => Wire::Reject(a, text, metadata),
        kind::GOODBYE => Wire::Goodbye(a, text),
        kind::REQUEST => Wire::Request(a, b, c, metadata, channels, payload),
        kind::RESPONSE => Wire::Response(a, b, metadata, channels, payload),
        kind::CANCEL => Wire::Cancel(a, b),
        kind::DATA => Wire::Data(a, b, payload),
        kind::CLOSE => Wire::Close(a, b),
        kind::RESET => Wire::Reset(a, b),
        _ => Wire::Credit(a, b, max),
    }
}

fn head<'a>(parts: &'a Parts, metadata: &'a [u8]) -> Head<'a> {
    let Parts { kind, ids: [a, b, c], small: [max, credit], text, .. } = parts;
    let (request_id, conn_id, channel_id, method_id) = (*b, *a, *b, *c);
    match *kind {
        kind::HELLO => Head::Hello { max_payload_size: *max, initial_channel_credit: *credit },
        kind::CONNECT => Head::Connect { request_id: *a, metadata },
        kind::ACCEPT => Head::Accept { request_id: *a, conn_id: *b, metadata },
        kind::REJECT => Head::Reject { request_id: *a, reason: text, metadata },
        kind::GOODBYE => Head::Goodbye { conn_id, reason: text },
        kind::REQUEST => Head::Request { conn_id, request_id, method_id, metadata },
        kind::RESPONSE => Head::Response { conn_id, request_id, metadata },
        kind::CANCEL => Head::Cancel { conn_id, request_id },
        kind::DATA => Head::Data { conn_id, channel_id },
        kind::CLOSE => Head::Close { conn_id, channel_id },
        kind::RESET => Head::Reset { conn_id, channel_id },
        _ => Head::Credit { conn_id, channel_id, bytes: *max },
    }
}

fn postcard(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).expect("a Vec takes everything")
}

fn refs(ids: &[u64]) -> Vec<ChannelRef> {
    ids.iter().map(|&id| ChannelRef { id, slot: CreditSlot::NONE }).collect()
}

fn encoded(head: &Head<'_>, channels: &[u64], payload: &[u8]) -> Vec<u8> {
    testing::encoded(head, &refs(channels), payload)
}

fn refused(frame: &[u8]) -> Violation {
    decode_message(frame, &mut Vec::new()).expect_err("it is no message")
}

proptest! {
    #[test]
    fn a_message_encodes_as_the_protocol_table_says_and_decodes_again(parts in parts()) {
        let metadata = if parts.metadata.is_empty() { Vec::new() } else { postcard(&parts.metadata) };
        let head = head(&parts, &metadata);
        let frame = encoded(&head, &parts.channels, &parts.payload);
        prop_assert_eq!(&frame, &postcard(&wire(&parts)));

        let mut channels = Vec::new();
        let message = decode_message(&frame, &mut channels).expect("we encoded it");
        prop_assert_eq!(message.head, head);
        prop_assert_eq!(message.payload, Brought::Here(if has_payload(&head) { &parts.payload } else { &[] }));
        prop_assert_eq!(message.channels, if has_channels(&head) { refs(&parts.channels) } else { Vec::new() });
    }

    #[test]
    fn a_message_cut_short_or_followed_by_a_byte_is_refused(parts in parts(), cut in any::<prop::sample::Index>()) {
        let metadata = if parts.metadata.is_empty() { Vec::new() } else { postcard(&parts.metadata) };
        let mut frame = encoded(&head(&parts, &metadata), &parts.channels, &parts.payload);
        let cut = cut.index(frame.len());
        prop_assert_eq!(refused(&frame[..cut]), Violation::Decode { len: cut });
        frame.push(0);
        prop_assert_eq!(refused(&frame), Violation::Decode { len: frame.len() });
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(
        kind in kind::HELLO..=kind::CREDIT + 1,
        rest in vec(prop_oneof![0..4u8, any::<u8>()], 0..40),
    ) {
        let mut frame = vec![kind as u8];
        frame.extend(rest);
        let mut channels = Vec::new();
        if let Ok(message) = decode_message(&frame, &mut channels) {
            let again = testing::encoded(&message.head, message.channels, &message.payload.to_vec());
            prop_assert_eq!(again, frame);
        }
    }
}

#[test]
fn integers_in_a_longer_form_than_needed_are_refused() {
    let plain = encoded(&Head::Cancel { conn_id: 0, request_id: 5 }, &[], &[]);
    assert_eq!(plain, [kind::CANCEL as u8, 0, 5]);
    assert_eq!(refused(&[kind::CANCEL as u8, 0x80, 0, 5]), Violation::Decode { len: 4 });
    assert_eq!(refused(&[kind::CANCEL as u8, 0, 0x85, 0]), Violation::Decode { len: 4 });
    assert_eq!(refused(&[kind::CANCEL as u8 | 0x80, 0, 0, 5]), Violation::Decode { len: 4 });
}

#[test]
fn integers_beyond_their_width_are_refused() {
    let mut frame = encoded(&Head::Cancel { conn_id: 0, request_id: u64::MAX }, &[], &[]);
    *frame.last_mut().expect("it has ten bytes") += 1;
    assert_eq!(refused(&frame), Violation::Decode { len: frame.len() });

    let mut frame = encoded(&Head::Credit { conn_id: 0, channel_id: 1, bytes: u32::MAX }, &[], &[]);
    *frame.last_mut().expect("it has five bytes") += 1;
    assert_eq!(refused(&frame), Violation::Decode { len: frame.len() });
}

// Rule `message.unknown-variant`.
#[test]
fn a_message_of_an_unknown_kind_is_refused_by_its_kind() {
    for kind in [kind::CREDIT + 1, 0x7f, 0x80, u64::from(u32::MAX), u64::MAX] {
        let mut frame = Vec::new();
        put(&mut frame, [kind, 1, 2, 3]);
        assert_eq!(refused(&frame), Violation::UnknownVariant { kind });
    }
}

// Rule `message.hello.unknown-version`.
#[test]
fn a_hello_of_another_version_is_refused_whatever_follows() {
    for version in [0, 2, u64::MAX] {
        let mut frame = Vec::new();
        put(&mut frame, [kind::HELLO, version, 1, 2, 3]);
        assert_eq!(refused(&frame), Violation::UnknownVersion);
    }
}

#[test]
fn counts_and_lengths_beyond_the_bytes_present_are_refused_without_memory() {
    for count in [2, 1 << 32, u64::MAX >> 1, u64::MAX] {
        let heads: [&[u64]; 5] = [
            &[kind::REQUEST, 0, 1, 9, count],
            &[kind::REQUEST, 0, 1, 9, 0, count],
            &[kind::REQUEST, 0, 1, 9, 0, 0, count],
            &[kind::GOODBYE, 0, count],
            &[kind::CONNECT, 1, 1, count],
        ];
        for head in heads {
            let (mut frame, mut channels) = (Vec::new(), Vec::new());
            head.iter().for_each(|&field| put(&mut frame, [field]));
            put(&mut frame, [0]);
            let refused = decode_message(&frame, &mut channels).map(drop);
            assert_eq!(refused, Err(Violation::Decode { len: frame.len() }));
            assert!(channels.capacity() < 64);
        }
    }
}

#[test]
fn metadata_that_is_not_text_or_of_an_unknown_type_is_refused() {
    let entry = |key: &[u8], value: &[u8]| {
        let mut frame = Vec::new();
        put(&mut frame, [kind::CONNECT, 1, 1]);
        put_bytes(&mut frame, key);
        frame.extend(value);
        decode_message(&frame, &mut Vec::new()).map(drop).is_ok()
    };
    let (bad, u64_one) = ([0xff], [value::U64 as u8, 1]);
    assert!(entry(b"key", &u64_one));
    assert!(!entry(&bad, &u64_one));
    assert!(!entry(b"key", &[value::U64 as u8 + 1, 1]));
    assert!(entry(b"key", &[value::BYTES as u8, 1, bad[0]]));
    assert!(!entry(b"key", &[value::STRING as u8, 1, bad[0]]));
}

#[test]
fn an_explicit_empty_list_of_metadata_is_handed_out_as_nothing() {
    let frame = encoded(&Head::Connect { request_id: 1, metadata: &[] }, &[], &[]);
    assert_eq!(frame, [kind::CONNECT as u8, 1, 0]);
    let mut channels = Vec::new();
    let message = decode_message(&frame, &mut channels).expect("it is a message");
    assert_eq!(message.head, Head::Connect { request_id: 1, metadata: &[] });
}

// Rules `flow.call.payload-limit`, `channeling.data.size-limit`, `message.decode-error`.
#[test]
fn a_frame_beyond_the_limit_breaks_the_rule_of_its_kind() {
    let payload = vec![7; 1000];
    let request = Head::Request { conn_id: 0, request_id: 1, method_id: 2, metadata: &[] };
    let data = Head::Data { conn_id: 0, channel_id: 1 };
    let goodbye = Head::Goodbye { conn_id: 0, reason: &"x".repeat(1000) };
    let told = |head: &Head<'_>, max| oversize(&encoded(head, &[3], &payload)[..500], max);
    assert_eq!(told(&request, 999), Violation::PayloadLimit { len: 1000, limit: 999 });
    assert_eq!(told(&data, 999), Violation::DataSizeLimit { len: 1000, limit: 999 });
    assert_eq!(told(&data, 1000), Violation::Decode { len: 500 });
    assert_eq!(told(&goodbye, 999), Violation::Decode { len: 500 });
}

#[test]
fn a_number_is_added_to_metadata_and_found_in_it() {
    #[derive(Serialize)]
    enum Value<'a> {
        String(&'a str),
        Bytes(&'a [u8]),
        U64(u64),
    }
    let entries = [("a", Value::String("x")), ("count", Value::Bytes(&[9])), ("count", Value::U64(7))];
    let some = postcard::to_extend(entries.as_slice(), Vec::new()).unwrap();
    for (metadata, known) in [(some.as_slice(), Some(7)), (&[], None)] {
        assert_eq!(number_in_metadata(metadata, "count"), known);
        let mut with = Vec::new();
        put_metadata_with(metadata, "count", 300, &mut with).unwrap();
        assert_eq!(number_in_metadata(&with, "count"), Some(300), "the last one counts");
        assert_eq!(number_in_metadata(&with, "other"), None);
        let head = Head::Response { conn_id: 0, request_id: 1, metadata: &with };
        let mut message = Vec::new();
        encode_head(&head, &[], 0, &mut message);
        assert_eq!(decode_message(&message, &mut Vec::new()).unwrap().head, head);
    }
}

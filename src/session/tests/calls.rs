//! Our calls, and the limits of what their messages carry.

use std::time::{Duration, Instant};

use super::{MAX_PAYLOAD, METHOD, Scene, Seen, accepted, rule};
use crate::{
    error::Violation,
    session::{
        connections::ConnKey,
        deadlines::Due,
        metadata::{Metadata, MetadataValue},
    },
};

#[test]
fn request_ids_start_at_one_and_grow() {
    let mut scene = Scene::new();
    assert_eq!([scene.call(&[]), scene.call(&[]), scene.call(&[])], [1, 2, 3]);
    scene.response(2, &[]).unwrap();
    assert_eq!(scene.call(&[]), 4, "an id that is free again is not used again");
}

#[test]
fn responses_may_come_in_any_order() {
    let mut scene = Scene::new();
    let (first, second) = (scene.call(&[]), scene.call(&[]));
    assert_eq!(scene.response(second, &[]), Ok(Seen::Response { call: Some(2), opened: vec![] }));
    assert_eq!(scene.response(first, &[]), Ok(Seen::Response { call: Some(1), opened: vec![] }));
}

#[test]
fn a_response_names_the_channels_that_its_call_has_opened() {
    let mut scene = Scene::new();
    let call = scene.call(&[20, 30]);
    assert_eq!(scene.response(call, &[]), Ok(Seen::Response { call: Some(1), opened: vec![20, 30] }));
}

#[test]
fn a_response_for_an_unknown_id_is_ignored() {
    let mut scene = Scene::new();
    assert_eq!(scene.response(1, &[]), Ok(Seen::Nothing));
    let call = scene.call(&[]);
    scene.response(call, &[]).unwrap();
    assert_eq!(scene.response(call, &[]), Ok(Seen::Nothing), "a second one for the same call");
}

#[test]
fn the_channels_of_a_response_that_was_ignored_are_spent() {
    let mut scene = Scene::new();
    assert_eq!(scene.response(1, &[1, 3]), Ok(Seen::Nothing));
    assert_eq!(scene.data(3, b"x"), Ok(Seen::Nothing));
    assert_eq!(rule(&scene.data(5, b"x")), Some("channeling.unknown"));
}

#[test]
fn a_call_that_was_abandoned_is_in_flight_until_its_response() {
    let mut scene = Scene::new();
    let call = scene.call(&[20]);
    assert_eq!(scene.session.root.calls.abandon(call), Some((1, None)));
    assert_eq!(scene.session.root.calls.abandon(call), None, "Cancel goes out once");
    assert_eq!(scene.session.root.calls.in_flight(), 1);
    assert_eq!(scene.response(call, &[]), Ok(Seen::Response { call: None, opened: vec![20] }));
    assert_eq!(scene.session.root.calls.in_flight(), 0);
}

#[test]
fn the_deadline_of_a_call_goes_with_its_response() {
    let mut scene = Scene::new();
    let (now, later) = (Instant::now(), Duration::from_secs(1));
    let due = Due::Call { conn: ConnKey::ROOT, request_id: 1 };
    scene.session.root.calls.start(1, vec![], Some(now + later));
    assert!(scene.session.deadlines.add(now + later, due));
    assert_eq!(scene.session.deadlines.pop(now), None, "not yet");
    scene.response(1, &[]).unwrap();
    assert_eq!(scene.session.deadlines.next(), None);
}

#[test]
fn deadlines_come_up_in_order() {
    let mut scene = Scene::new();
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let call = |request_id| Due::Call { conn: ConnKey::ROOT, request_id };
    assert!(scene.session.deadlines.add(now + 2 * second, call(1)));
    assert!(scene.session.deadlines.add(now + second, call(2)), "it is the next one now");
    assert!(!scene.session.deadlines.add(now + 3 * second, call(3)));
    assert_eq!(scene.session.deadlines.pop(now + 2 * second), Some(call(2)));
    assert_eq!(scene.session.deadlines.pop(now + 2 * second), Some(call(1)));
    assert_eq!(scene.session.deadlines.pop(now + 2 * second), None);
    assert_eq!(scene.session.deadlines.next(), Some(now + 3 * second));
}

// flow.call.payload-limit
#[test]
fn a_payload_at_the_limit_passes_and_one_above_is_a_violation() {
    let mut scene = Scene::new();
    let too_long = Violation::PayloadLimit { len: MAX_PAYLOAD + 1, limit: MAX_PAYLOAD };
    assert_eq!(too_long.rule(), "flow.call.payload-limit");
    assert_eq!(scene.request_with(1, &[], &[], &[0; MAX_PAYLOAD]), accepted());
    assert_eq!(scene.request_with(2, &[], &[], &[0; MAX_PAYLOAD + 1]), Err(too_long.clone()));
    let call = scene.call(&[]);
    assert_eq!(scene.response_with(call, &[], &[], &[0; MAX_PAYLOAD + 1]), Err(too_long));
    let answered = Seen::Response { call: Some(1), opened: vec![] };
    assert_eq!(scene.response_with(call, &[], &[], &[0; MAX_PAYLOAD]), Ok(answered));
}

/// Metadata at every limit, and the same a step beyond it.
fn at_and_beyond() -> [(&'static str, Metadata, Metadata); 4] {
    let entries = |count: usize, key: usize, value: usize| {
        let mut metadata = Metadata::new();
        for _ in 0..count {
            metadata.push("k".repeat(key), vec![0; value]);
        }
        metadata
    };
    let total = |last: usize| {
        let mut metadata = entries(3, 0, Metadata::MAX_VALUE);
        metadata.push("", vec![0; Metadata::MAX_VALUE - 8 - 1]);
        metadata.push("k".repeat(last), 1u64); // 8 bytes
        metadata
    };
    [
        ("entries", entries(Metadata::MAX_ENTRIES, 1, 1), entries(Metadata::MAX_ENTRIES + 1, 1, 1)),
        ("key", entries(1, Metadata::MAX_KEY, 0), entries(1, Metadata::MAX_KEY + 1, 0)),
        ("value", entries(1, 0, Metadata::MAX_VALUE), entries(1, 0, Metadata::MAX_VALUE + 1)),
        ("total", total(1), total(2)),
    ]
}

// call.metadata.limits
#[test]
fn metadata_at_its_limits_passes_and_beyond_them_is_a_violation() {
    for (what, at, beyond) in at_and_beyond() {
        assert!(at.check().is_ok() && beyond.check().is_err(), "{what}: refused here as over there");
        let (at, beyond) = (at.encode().unwrap(), beyond.encode().unwrap());
        let mut scene = Scene::new();
        assert!(scene.request_with(1, &at, &[], &[]).is_ok(), "{what}");
        assert_eq!(rule(&scene.request_with(2, &beyond, &[], &[])), Some("call.metadata.limits"), "{what}");
        let call = scene.call(&[]);
        let seen = scene.response_with(call, &beyond, &[], &[]);
        assert_eq!(rule(&seen), Some("call.metadata.limits"), "{what}");
        assert!(scene.response_with(call, &at, &[], &[]).is_ok(), "{what}");
    }
}

// message.decode-error
#[test]
fn metadata_that_does_not_decode_is_a_violation() {
    let mut scene = Scene::new();
    for bytes in [&[1][..], &[1, 1, b'k', 3, 0], &[0, 0], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
        let seen = scene.request_with(1, bytes, &[], &[]);
        assert_eq!(rule(&seen), Some("message.decode-error"), "{bytes:?}");
    }
}

#[test]
fn metadata_keeps_order_and_duplicates_and_tells_keys_apart_by_case() {
    let mut metadata = Metadata::new();
    for (key, value) in [("b", 1u64), ("a", 2), ("A", 3), ("b", 4)] {
        metadata.push(key, value);
    }
    let mut scene = Scene::new();
    let seen = scene.request_with(1, &metadata.encode().unwrap(), &[], &[]).unwrap();
    assert_eq!(seen, Seen::Request { method_id: METHOD, metadata: metadata.clone(), timeout: None });
    assert_eq!(metadata.get("b"), Some(&MetadataValue::U64(1)), "the first one");
}

#[test]
fn a_timeout_is_read_from_the_metadata() {
    let timeout_of = |value: MetadataValue| {
        let mut metadata = Metadata::new();
        metadata.push("timeout-ns", value);
        match Scene::new().request_with(1, &metadata.encode().unwrap(), &[], &[]) {
            Ok(Seen::Request { timeout, .. }) => timeout,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(timeout_of(1_500u64.into()), Some(Duration::from_nanos(1_500)));
    assert_eq!(timeout_of("soon".into()), None, "of another type it is a key like any other");
}

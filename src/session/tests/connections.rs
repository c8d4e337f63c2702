//! Connections, the handshake's afterlife, and the end.

use super::{METHOD, Scene, Seen, rule};
use crate::link::Head;

const NOWHERE: u64 = 9;

// message.hello.ordering
#[test]
fn a_second_hello_is_a_violation() {
    let hello = Head::Hello { max_payload_size: 1 << 20, initial_channel_credit: 1 << 16 };
    assert_eq!(rule(&Scene::new().head(hello)), Some("message.hello.ordering"));
}

// message.conn-id
#[test]
fn a_message_on_a_connection_that_was_never_opened_is_a_violation() {
    let conn_id = NOWHERE;
    for head in [
        Head::Request { conn_id, request_id: 1, method_id: METHOD, metadata: &[] },
        Head::Response { conn_id, request_id: 1, metadata: &[] },
        Head::Cancel { conn_id, request_id: 1 },
        Head::Data { conn_id, channel_id: 1 },
        Head::Close { conn_id, channel_id: 1 },
        Head::Reset { conn_id, channel_id: 1 },
        Head::Credit { conn_id, channel_id: 1, bytes: 1 },
    ] {
        assert_eq!(rule(&Scene::new().head(head)), Some("message.conn-id"), "{head:?}");
    }
}

#[test]
fn goodbye_for_an_unknown_connection_is_ignored() {
    let goodbye = Head::Goodbye { conn_id: NOWHERE, reason: "call.metadata.limits" };
    assert_eq!(Scene::new().head(goodbye), Ok(Seen::Nothing));
}

#[test]
fn goodbye_for_the_root_ends_the_link_with_its_reason() {
    for reason in ["", "channeling.unknown"] {
        let goodbye = Head::Goodbye { conn_id: 0, reason };
        assert_eq!(Scene::new().head(goodbye), Ok(Seen::Goodbye { reason: reason.to_owned() }));
    }
}

// message.unknown-variant
#[test]
fn virtual_connections_are_refused_as_unknown() {
    for head in [
        Head::Connect { request_id: 1, metadata: &[] },
        Head::Accept { request_id: 1, conn_id: 1, metadata: &[] },
        Head::Reject { request_id: 1, reason: "", metadata: &[] },
    ] {
        assert_eq!(rule(&Scene::new().head(head)), Some("message.unknown-variant"), "{head:?}");
    }
}

#[test]
fn the_end_gives_back_what_was_open_and_nothing_else() {
    let mut scene = Scene::new();
    let (answered, abandoned, _waiting) = (scene.call(&[]), scene.call(&[20]), scene.call(&[]));
    scene.response(answered, &[]).unwrap();
    scene.session.root.calls.abandon(abandoned);
    scene.request(1, &[1, 3]).unwrap();
    scene.session.root.serving.attach(1, 10).unwrap();
    scene.request(2, &[]).unwrap();
    scene.session.root.serving.attach(2, 11).unwrap();
    scene.cancel(2).unwrap();
    scene.reset(3).unwrap();

    let mut open = scene.session.end();
    open.channels.sort_unstable();
    assert_eq!((open.calls, open.channels, open.handlers), (vec![3], vec![1, 20], vec![10]));
    let again = scene.session.end();
    assert!(again.calls.is_empty() && again.channels.is_empty() && again.handlers.is_empty());
}

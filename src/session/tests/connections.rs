//! Connections, the handshake's afterlife, and the end.

use super::{MAX_CONNECTIONS, MAX_PAYLOAD, METHOD, Numbers, Scene, Seen, rule};
use crate::{
    error::Violation,
    link::{Head, Limits, Role},
    session::{
        Quota, Session,
        connections::ConnKey,
        metadata::{Metadata, MetadataValue},
        serving::Attached,
    },
};

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

impl Scene {
    /// The peer asks for a connection.
    fn connect(&mut self, request_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Connect { request_id, metadata: &[] })
    }

    /// The peer asks, and we accept.
    fn accepted(&mut self, request_id: u64) -> ConnKey {
        assert_eq!(self.connect(request_id), asked());
        self.session.accept(request_id, |key| key.id).expect("it was asked for")
    }

    /// We ask, and the peer accepts with the id.
    fn opened(&mut self, conn_id: u64) -> ConnKey {
        let request_id = self.ask();
        let seen = self.accept(request_id, conn_id);
        let (connect, metadata) = (request_id as u32, Metadata::EMPTY);
        assert_eq!(seen, Ok(Seen::Accepted { connect, conn_id, metadata }));
        self.session.open_accepted(conn_id, |key| key.id)
    }

    /// We ask for a connection. The request's id is also the number of its end.
    fn ask(&mut self) -> u64 {
        let request_id = self.session.connections.next_request();
        self.session.connections.start(request_id as u32);
        request_id
    }

    fn accept(&mut self, request_id: u64, conn_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Accept { request_id, conn_id, metadata: &[] })
    }

    fn reject(&mut self, request_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Reject { request_id, reason: "no", metadata: &[] })
    }

    /// The peer sends a request on a connection. Accepted, it is started, and its channels are opened.
    fn request_on(&mut self, conn: ConnKey, request_id: u64, channels: &[u64]) -> Result<Seen, Violation> {
        let head = Head::Request { conn_id: conn.id, request_id, method_id: METHOD, metadata: &[] };
        let seen = self.message(head, channels, &[])?;
        if let Seen::Request { .. } = seen {
            self.session.start(conn, request_id, None);
            let open = self.session.connection(conn).expect("it is open");
            channels.iter().for_each(|id| open.channels.insert_peers(*id, *id as u32));
        }
        Ok(seen)
    }
}

fn asked() -> Result<Seen, Violation> {
    Ok(Seen::Connect { metadata: Metadata::EMPTY })
}

#[test]
fn an_acceptor_hands_out_even_ids_and_an_initiator_odd_ones() {
    let mut scene = Scene::new(); // the acceptor
    assert_eq!([1, 2, 3].map(|request| scene.accepted(request).id), [2, 4, 6]);
    let limits = Limits { max_payload_size: 1, initial_channel_credit: 1 };
    let quota = Quota { requests: 1, connections: 2 };
    let mut initiator = Session::<Numbers>::new(Role::Initiator, limits, quota, 0);
    for (request, id) in [(1, 1), (2, 3)] {
        assert_eq!(initiator.connections.ask(request), Ok(Ok(())));
        assert_eq!(initiator.accept(request, |key| key.id).map(|key| key.id), Some(id));
    }
}

#[test]
fn an_id_that_the_peer_has_given_is_passed_over() {
    let mut scene = Scene::new();
    scene.opened(2); // a peer that counts 1, 2, 3
    let closed = scene.opened(6);
    assert!(scene.session.close(closed).is_some());
    assert_eq!([1, 2].map(|request| scene.accepted(request).id), [4, 8]);
}

#[test]
fn connections_have_ids_of_their_own() {
    let mut scene = Scene::new();
    let (first, second) = (scene.accepted(1), scene.accepted(2));
    for conn in [first, second] {
        assert!(matches!(scene.request_on(conn, 1, &[1]), Ok(Seen::Request { .. })));
    }
    for (conn, payload) in [(first, b"a"), (second, b"b")] {
        let data = Head::Data { conn_id: conn.id, channel_id: 1 };
        let seen = scene.message(data, &[], payload);
        assert_eq!(seen, Ok(Seen::Element { channel: 1, payload: payload.to_vec() }));
    }
}

#[test]
fn both_sides_may_ask_at_once_and_with_the_same_request_id() {
    let mut scene = Scene::new();
    let ours = scene.ask();
    assert_eq!(scene.connect(ours), asked());
    assert_eq!(scene.session.accept(ours, |key| key.id).map(|key| key.id), Some(2));
    assert!(matches!(scene.accept(ours, 1), Ok(Seen::Accepted { conn_id: 1, .. })));
}

// call.request-id.duplicate-detection
#[test]
fn a_connect_with_the_id_of_one_that_is_open_is_a_violation_until_that_is_decided() {
    let mut scene = Scene::new();
    assert_eq!(scene.connect(7), asked());
    assert_eq!(rule(&scene.connect(7)), Some("call.request-id.duplicate-detection"));
    assert!(scene.session.reject(7) && !scene.session.reject(7));
    assert_eq!(scene.connect(7), asked());
}

#[test]
fn an_accept_with_an_id_in_use_is_refused_and_the_other_one_is_not_touched() {
    let mut scene = Scene::new();
    let live = scene.opened(1);
    for conn_id in [1, 0] {
        let request_id = scene.ask();
        let connect = request_id as u32;
        assert_eq!(scene.accept(request_id, conn_id), Ok(Seen::AcceptedTwice { connect, conn_id }));
    }
    assert!(scene.session.connection(live).is_some());
}

#[test]
fn an_id_that_the_peer_gives_again_names_another_connection() {
    let mut scene = Scene::new();
    let before = scene.opened(1);
    assert!(scene.session.close(before).is_some());
    let after = scene.opened(1);
    assert!(scene.session.connection(before).is_none() && scene.session.connection(after).is_some());
    assert!(scene.session.close(before).is_none());
}

#[test]
fn an_answer_to_no_connect_is_ignored() {
    let mut scene = Scene::new();
    assert_eq!(scene.accept(1, 1), Ok(Seen::Nothing));
    assert_eq!(scene.reject(1), Ok(Seen::Nothing));
    let request_id = scene.ask();
    let rejected = Seen::Rejected { connect: 1, reason: "no".to_owned(), metadata: Metadata::EMPTY };
    assert_eq!(scene.reject(request_id), Ok(rejected));
    assert_eq!(scene.accept(request_id, 1), Ok(Seen::Nothing), "it has its answer");
}

#[test]
fn connections_open_and_asked_for_by_both_sides_are_limited() {
    let mut scene = Scene::new();
    let (open, _asked) = (scene.accepted(1), scene.ask());
    assert_eq!((scene.connect(2), scene.connect(3)), (asked(), asked()));
    let full = Ok(Seen::TooManyConnections { limit: MAX_CONNECTIONS as usize });
    assert_eq!(scene.connect(4), full);
    assert!(scene.session.connections.check_limit().is_err());
    assert!(scene.session.close(open).is_some());
    assert_eq!(scene.connect(4), asked());
}

// call.metadata.limits
#[test]
fn metadata_of_connect_accept_and_reject_has_the_same_limits() {
    let metadata = |len: usize| {
        let mut metadata = Metadata::new();
        metadata.push("k", MetadataValue::Bytes(vec![0; len]));
        metadata.encode().unwrap()
    };
    let (at, beyond) = (metadata(Metadata::MAX_VALUE), metadata(Metadata::MAX_VALUE + 1));
    for kind in 0..3 {
        let mut scene = Scene::new();
        let request_id = scene.ask();
        let mut send = |metadata: &[u8]| {
            scene.head(match kind {
                0 => Head::Connect { request_id, metadata },
                1 => Head::Accept { request_id, conn_id: 1, metadata },
                _ => Head::Reject { request_id, reason: "", metadata },
            })
        };
        assert_eq!(rule(&send(&beyond)), Some("call.metadata.limits"));
        assert!(send(&at).is_ok());
        assert_eq!(scene.breach, Some(ConnKey::ROOT), "it is the link's");
    }
}

#[test]
fn a_violation_costs_the_connection_that_it_can_be_laid_to() {
    let mut scene = Scene::new();
    let open = scene.opened(1);
    let on = |conn_id| Head::Data { conn_id, channel_id: 99 };
    assert_eq!(rule(&scene.head(on(open.id))), Some("channeling.unknown"));
    assert_eq!(scene.breach, Some(open));
    assert_eq!(rule(&scene.head(on(0))), Some("channeling.unknown"));
    assert_eq!(scene.breach, Some(ConnKey::ROOT));
    scene.breach = None;
    assert_eq!(rule(&scene.head(on(NOWHERE))), Some("message.conn-id"));
    assert_eq!(scene.breach, Some(ConnKey::ROOT));
}

/// A peer that breaks a rule twice, before it hears that the connection is closed, keeps its link.
#[test]
fn whatever_is_wrong_with_what_arrives_for_a_connection_that_is_gone_is_ignored() {
    let (beyond, nonsense) = ([0; MAX_PAYLOAD + 1], [0xff]);
    let mut scene = Scene::new();
    for conn in [scene.accepted(1), scene.opened(1)] {
        let conn_id = conn.id;
        let request = Head::Request { conn_id, request_id: 1, method_id: METHOD, metadata: &[] };
        assert_eq!(rule(&scene.message(request, &[], &beyond)), Some("flow.call.payload-limit"));
        assert_eq!(scene.breach, Some(conn));
        assert!(scene.session.close(conn).is_some());
        assert_eq!(scene.message(request, &[], &beyond), Ok(Seen::Nothing));
        assert_eq!(scene.message(Head::Data { conn_id, channel_id: 1 }, &[], &beyond), Ok(Seen::Nothing));
        for head in [
            Head::Request { conn_id, request_id: 1, method_id: METHOD, metadata: &nonsense },
            Head::Response { conn_id, request_id: 1, metadata: &nonsense },
        ] {
            assert_eq!(scene.head(head), Ok(Seen::Nothing));
        }
    }
}

#[test]
fn goodbye_ends_one_connection_and_what_crosses_it_is_ignored() {
    let mut scene = Scene::new();
    for conn in [scene.accepted(1), scene.opened(1)] {
        scene.request_on(conn, 1, &[1]).unwrap();
        let root = scene.request(conn.id, &[]).unwrap();
        assert!(matches!(root, Seen::Request { .. }));
        let goodbye = Head::Goodbye { conn_id: conn.id, reason: "" };
        let open = (vec![], vec![1], vec![]);
        assert_eq!(scene.head(goodbye), Ok(Seen::ConnectionGoodbye { open, reason: String::new() }));
        assert_eq!(scene.request_on(conn, 2, &[3]), Ok(Seen::Nothing));
        assert_eq!(scene.head(Head::Data { conn_id: conn.id, channel_id: 77 }), Ok(Seen::Nothing));
        assert_eq!(scene.head(goodbye), Ok(Seen::Nothing));
        assert!(scene.session.root.serving.is_running(conn.id), "the root goes on");
        scene.session.finish(conn, 1);
        scene.session.finish(ConnKey::ROOT, conn.id);
    }
}

/// Otherwise a peer that closes its connections and opens others would start any number of handlers.
#[test]
fn a_request_keeps_its_place_until_its_handler_is_gone_also_beyond_its_connection() {
    let mut scene = Scene::new();
    let conn = scene.accepted(1);
    for request_id in 1..=3 {
        scene.request_on(conn, request_id, &[]).unwrap();
    }
    assert!(scene.session.close(conn).is_some());
    assert_eq!(scene.request(1, &[]), Ok(Seen::Refused { request_id: 1 }));
    scene.session.finish(conn, 1);
    assert!(matches!(scene.request(1, &[]), Ok(Seen::Request { .. })));
}

#[test]
fn a_peer_that_opens_and_closes_for_ever_costs_bounded_memory() {
    let mut scene = Scene::new();
    for number in 1..10_000 {
        let key = scene.opened(number);
        assert!(scene.session.close(key).is_some());
    }
    let late = |conn_id| Head::Data { conn_id, channel_id: 1 };
    assert_eq!(scene.head(late(9_999)), Ok(Seen::Nothing), "of late it was open");
    assert_eq!(rule(&scene.head(late(1))), Some("message.conn-id"), "long ago");
    assert!(scene.session.connections.check_limit().is_ok());
}

#[test]
fn whatever_is_opened_moves_the_activity_on_and_what_is_over_does_not_move_it_back() {
    let mut scene = Scene::new();
    let mut last = scene.session.activity();
    let mut moves = |scene: &Scene, what: &str| {
        let now = scene.session.activity();
        assert!(now > last, "{what}");
        last = now;
    };
    assert!(matches!(scene.request(1, &[]), Ok(Seen::Request { .. })));
    moves(&scene, "a request");
    scene.session.finish(ConnKey::ROOT, 1);
    assert!(matches!(scene.request(1, &[]), Ok(Seen::Request { .. })));
    moves(&scene, "another one with its id");
    let conn = scene.accepted(1);
    moves(&scene, "a connection");
    assert!(matches!(scene.request_on(conn, 1, &[]), Ok(Seen::Request { .. })));
    moves(&scene, "a request on it");
    assert!(scene.session.close(conn).is_some());
    scene.accepted(2);
    moves(&scene, "a connection in place of it");
}

#[test]
fn draining_refuses_requests_on_one_connection_or_on_all() {
    let mut scene = Scene::new();
    let conn = scene.accepted(1);
    scene.session.drain(conn);
    assert_eq!(scene.request_on(conn, 1, &[]), Ok(Seen::Refused { request_id: 1 }));
    assert!(matches!(scene.request(1, &[]), Ok(Seen::Request { .. })));
    assert!(scene.session.is_quiet(conn) && !scene.session.is_quiet(ConnKey::ROOT));
    scene.session.finish(ConnKey::ROOT, 1);
    assert!(scene.session.is_quiet(ConnKey::ROOT));
    let other = scene.accepted(2);
    scene.session.drain(ConnKey::ROOT);
    assert_eq!(scene.request_on(other, 1, &[]), Ok(Seen::Refused { request_id: 1 }));
}

#[test]
fn the_end_gives_back_what_was_open_and_nothing_else() {
    let mut scene = Scene::new();
    let (answered, abandoned, _waiting) = (scene.call(&[]), scene.call(&[20]), scene.call(&[]));
    scene.response(answered, &[]).unwrap();
    scene.session.root.calls.abandon(abandoned);
    scene.request(1, &[1, 3]).unwrap();
    assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Running);
    scene.request(2, &[]).unwrap();
    assert_eq!(scene.session.root.serving.attach(2, 11), Attached::Running);
    scene.cancel(2).unwrap();
    scene.reset(3).unwrap();

    assert_eq!(scene.left_open(), (vec![3], vec![1, 20], vec![10]));
    assert_eq!(scene.left_open(), (vec![], vec![], vec![]));
}

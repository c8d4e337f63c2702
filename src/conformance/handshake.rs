//! The handshake of byte streams: protocol section 3.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{
    cases,
    links::{Ground, settings},
    note::{Hello, Note, Text, Value},
    peer::{
        Heard,
        socket::{SocketPeer, frame, frame_of},
    },
    rig::{OK, UNKNOWN_METHOD, of},
    service::NOP,
};
use crate::{
    error::{LinkEnd, Violation},
    open::stream::HandshakeError,
    rpc::{connection::Connection, options::Options},
    settings::Settings,
};

cases! {
    "The handshake (protocol section 3)" on links;
    [] both_say_hello_at_once_and_the_lower_limits_hold: streams;
    [] our_side_says_hello_and_nothing_else_until_it_has_heard_one: streams;
    [] a_request_right_behind_hello_is_served: streams;
    [] a_hello_that_arrives_byte_by_byte_is_a_hello: streams;
    ["message.hello.unknown-version"] a_hello_of_another_version_is_refused_with_its_rule: streams;
    ["message.hello.ordering"] anything_before_hello_is_refused_with_its_rule: streams;
    ["message.hello.ordering"] a_second_hello_costs_the_link: everywhere;
    ["message.decode-error"] bytes_that_are_no_message_in_place_of_hello_are_refused_with_their_rule: streams;
    [] a_frame_without_an_end_in_place_of_hello_is_refused_while_it_arrives: streams;
    [] a_limit_of_zero_is_refused_by_its_name: streams;
    [] a_goodbye_in_place_of_hello_is_told_with_its_reason: streams;
    [] a_peer_that_is_gone_before_hello_is_told_apart: streams;
    [] a_peer_that_says_nothing_is_given_up_in_time: streams;
}

/// A peer that has said nothing, and our side, which waits for it.
async fn met(
    ground: Ground,
    settings: Settings,
) -> (SocketPeer, JoinHandle<Result<Connection, HandshakeError>>) {
    let (ours, theirs) = ground.sockets().await;
    let options = Options::new().settings(settings);
    (SocketPeer::new(theirs), tokio::spawn(ground.establish(ours, options)))
}

fn hello(max_payload_size: u32, initial_channel_credit: u32) -> Note {
    Note::Hello(Hello::V2 { max_payload_size, initial_channel_credit })
}

/// Our side's Hello, with these limits in its settings.
async fn hears_hello(peer: &mut SocketPeer, settings: &Settings) {
    let (payload, credit) = settings.limits();
    assert_eq!(peer.hear().await, Heard::Note(hello(payload, credit)));
}

async fn both_say_hello_at_once_and_the_lower_limits_hold(ground: Ground) {
    for (theirs, ours, agreed) in [
        ((1000, 5000), (2000, 4000), (1000, 4000)),
        ((2000, 4000), (1000, 5000), (1000, 4000)),
        ((u32::MAX, u32::MAX), (1, 1), (1, 1)),
        ((1, 1), (u32::MAX, u32::MAX), (1, 1)),
    ] {
        let settings = Settings::default().max_payload_size(ours.0).initial_channel_credit(ours.1);
        let (mut peer, meeting) = met(ground, settings.clone()).await;
        peer.say_together(&[hello(theirs.0, theirs.1)]).await;
        hears_hello(&mut peer, &settings).await;
        let connection = of(meeting).await.expect("both have greeted");
        assert_eq!(connection.limits(), agreed);
    }
}

async fn our_side_says_hello_and_nothing_else_until_it_has_heard_one(ground: Ground) {
    let (mut peer, meeting) = met(ground, settings()).await;
    hears_hello(&mut peer, &settings()).await;
    assert!(!meeting.is_finished());
    let (payload, credit) = settings().limits();
    peer.say_together(&[hello(payload, credit)]).await;
    let connection = of(meeting).await.expect("both have greeted");
    connection.close().await;
    assert_eq!(peer.hear().await, Heard::Note(Note::goodbye(0, "")));
}

async fn a_request_right_behind_hello_is_served(ground: Ground) {
    let (mut peer, meeting) = met(ground, settings()).await;
    let request = Note::request(0, 1, &NOP, &[]);
    peer.say_together(&[hello(1 << 20, 1 << 16), request]).await;
    hears_hello(&mut peer, &settings()).await;
    let _connection = of(meeting).await.expect("both have greeted");
    assert_eq!(peer.hear().await, Heard::Note(Note::response(0, 1, UNKNOWN_METHOD)));
}

async fn a_hello_that_arrives_byte_by_byte_is_a_hello(ground: Ground) {
    let (mut peer, meeting) = met(ground, settings()).await;
    hears_hello(&mut peer, &settings()).await;
    for byte in frame(&hello(1 << 20, 1 << 16)) {
        peer.write(&[byte]).await;
        for _ in 0..100 {
            tokio::task::yield_now().await; // it is read
        }
    }
    of(meeting).await.expect("both have greeted");
}

/// Our side refuses what the peer opens with: the peer hears Hello, Goodbye with the rule, and the end.
async fn refused(ground: Ground, bytes: &[u8]) -> Violation {
    let (mut peer, meeting) = met(ground, settings()).await;
    peer.write(bytes).await;
    let refused = of(meeting).await;
    let Err(HandshakeError::Ended(LinkEnd::Violation(violation))) = refused else { panic!("{refused:?}") };
    hears_hello(&mut peer, &settings()).await;
    assert_eq!(peer.hear().await, Heard::Note(Note::goodbye(0, violation.rule())));
    assert_eq!(peer.hear().await, Heard::End);
    violation
}

async fn a_hello_of_another_version_is_refused_with_its_rule(ground: Ground) {
    let (max_payload_size, initial_channel_credit) = (1 << 20, 1 << 16);
    for hello in [
        Hello::V1 { max_payload_size, initial_channel_credit },
        Hello::V3 { max_payload_size, initial_channel_credit },
    ] {
        assert_eq!(refused(ground, &frame(&Note::Hello(hello))).await, Violation::UnknownVersion);
    }
    // Whatever the fields of other versions are.
    for message in [&[0, 0][..], &[0, 77, 1, 2, 3, 4, 5], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
        assert_eq!(refused(ground, &frame_of(message)).await, Violation::UnknownVersion);
    }
}

async fn anything_before_hello_is_refused_with_its_rule(ground: Ground) {
    let (conn_id, request_id, channel_id, metadata) = (0, 1, 1, vec![("a".into(), Value::U64(1))]);
    for note in [
        Note::Connect { request_id, metadata: metadata.clone() },
        Note::Accept { request_id, conn_id: 1, metadata: metadata.clone() },
        Note::Reject { request_id, reason: Text::from("no"), metadata: metadata.clone() },
        Note::request(conn_id, request_id, &NOP, &[]).with(metadata),
        Note::response(conn_id, request_id, OK),
        Note::Cancel { conn_id, request_id },
        Note::data(conn_id, channel_id, &[1]),
        Note::Close { conn_id, channel_id },
        Note::Reset { conn_id, channel_id },
        Note::Credit { conn_id, channel_id, bytes: 1 },
    ] {
        let late = frame(&hello(1 << 20, 1 << 16));
        assert_eq!(refused(ground, &[frame(&note), late].concat()).await, Violation::HelloOrdering);
    }
    // Not even what is no message of this protocol.
    assert_eq!(refused(ground, &frame_of(&[12, 1, 2])).await, Violation::HelloOrdering);
}

/// Also one of another version, and on links that have no Hello at all.
async fn a_second_hello_costs_the_link(ground: Ground) {
    let (max_payload_size, initial_channel_credit) = (1 << 20, 1 << 16);
    for second in [
        Hello::V2 { max_payload_size, initial_channel_credit },
        Hello::V1 { max_payload_size, initial_channel_credit },
    ] {
        ground
            .costs_the_link(async |rig| {
                rig.say(Note::Hello(second)).await;
                Violation::HelloOrdering
            })
            .await;
    }
}

async fn bytes_that_are_no_message_in_place_of_hello_are_refused_with_their_rule(ground: Ground) {
    let [hello, with_more] = [frame(&hello(1, 1)), [&hello(1, 1).to_bytes()[..], &[9]].concat()];
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n\0"[..],
        &[0],
        &[&[0][..], &hello].concat(),
        &frame_of(&with_more),
        &frame_of(&[0, 1, 1]),
        &frame_of(&[0, 1, 0xff, 0xff, 0xff, 0xff, 0x10, 1]),
        &frame_of(&[0, 1, 0x81, 0, 1]),
        &frame_of(&[0, 0x81, 0, 1, 1]),
    ] {
        let violation = refused(ground, bytes).await;
        assert!(matches!(violation, Violation::Decode { .. }), "{bytes:?}: {violation:?}");
    }
}

async fn a_frame_without_an_end_in_place_of_hello_is_refused_while_it_arrives(ground: Ground) {
    let (mut peer, meeting) = met(ground, settings()).await;
    let flood = tokio::spawn(async move {
        for _ in 0..64 {
            peer.write(&vec![7; 64 << 10]).await;
        }
        peer // which has not read our Hello: closed now, it would take back what it has written
    });
    let refused = of(meeting).await;
    let Err(HandshakeError::Ended(LinkEnd::Violation(violation))) = refused else { panic!("{refused:?}") };
    assert!(matches!(violation, Violation::HelloOrdering | Violation::Decode { .. }), "{violation:?}");
    drop(of(flood).await);
}

async fn a_limit_of_zero_is_refused_by_its_name(ground: Ground) {
    for (hello, name) in [(hello(0, 1), "max_payload_size"), (hello(1, 0), "initial_channel_credit")] {
        let (mut peer, meeting) = met(ground, settings()).await;
        peer.say_together(&[hello]).await;
        let refused = of(meeting).await;
        assert!(matches!(refused, Err(HandshakeError::PeerLimit { limit }) if limit == name), "{refused:?}");
        hears_hello(&mut peer, &settings()).await;
        assert_eq!(peer.hear().await, Heard::End);
    }
    // Our own is refused before the peer hears anything.
    let (mut peer, meeting) = met(ground, settings().max_payload_size(0)).await;
    let refused = of(meeting).await;
    assert!(matches!(refused, Err(HandshakeError::OwnLimit { setting: "max_payload_size" })), "{refused:?}");
    assert_eq!(peer.hear().await, Heard::End);
}

async fn a_goodbye_in_place_of_hello_is_told_with_its_reason(ground: Ground) {
    for told in ["", "message.hello.unknown-version"] {
        let (mut peer, meeting) = met(ground, settings()).await;
        peer.say_together(&[Note::goodbye(0, told)]).await;
        let refused = of(meeting).await;
        let Err(HandshakeError::Ended(LinkEnd::Goodbye { reason })) = refused else { panic!("{refused:?}") };
        assert_eq!(&*reason, told);
        // Our Hello may have been on its way. A Goodbye is not answered.
        let (payload, credit) = settings().limits();
        let first = peer.hear().await;
        if first != Heard::End {
            assert_eq!(first, Heard::Note(hello(payload, credit)));
            assert_eq!(peer.hear().await, Heard::End);
        }
    }
}

async fn a_peer_that_is_gone_before_hello_is_told_apart(ground: Ground) {
    let whole = frame(&hello(1 << 20, 1 << 16));
    for said in [&[][..], &whole[..whole.len() - 1]] {
        let (mut peer, meeting) = met(ground, settings()).await;
        hears_hello(&mut peer, &settings()).await;
        peer.write(said).await;
        drop(peer);
        let refused = of(meeting).await;
        assert!(matches!(refused, Err(HandshakeError::Ended(LinkEnd::Gone))), "{refused:?}");
    }
}

async fn a_peer_that_says_nothing_is_given_up_in_time(ground: Ground) {
    let time = Duration::from_millis(20);
    let whole = frame(&hello(1 << 20, 1 << 16));
    for said in [&[][..], &whole[..whole.len() - 1]] {
        let (mut peer, meeting) = met(ground, settings().handshake_timeout(time)).await;
        peer.write(said).await;
        let refused = of(meeting).await;
        assert!(matches!(refused, Err(HandshakeError::TimedOut { after }) if after == time), "{refused:?}");
        hears_hello(&mut peer, &settings()).await;
        assert_eq!(peer.hear().await, Heard::End);
    }
}

//! Virtual connections: protocol section 7. What a violation on one costs, and how one ends, is looked at by the cases
//! of the other files, which run on virtual connections, too.

use tokio::task::JoinHandle;

use super::{
    cases,
    links::{Ground, Place, WINDOW, settings},
    metadata::ours,
    note::{Entries, Note, Text, Value},
    rig::{OK, Rig, USER_7, element, of, value},
    service::{Event, GATED, Handlers, LISTEN, NOP},
};
use crate::{
    error::{ConnectionEnd, LinkEnd},
    rpc::{
        connect::ConnectOptions,
        connection::Connection,
        errors::{CallError, ConnectError, Refusal},
    },
};

cases! {
    "Virtual connections (protocol section 7)" on links;
    [] a_connection_that_the_peer_asks_for_is_accepted_with_metadata_both_ways: everywhere;
    [] a_connection_that_our_side_asks_for_is_accepted_with_metadata_both_ways: everywhere;
    [] a_rejection_carries_its_reason_and_metadata_both_ways: everywhere;
    [] where_nobody_listens_the_peer_is_told_so: everywhere;
    [] a_connection_that_is_not_decided_on_is_rejected: everywhere;
    [] both_sides_may_ask_at_the_same_time: everywhere;
    [] our_connection_ids_are_of_our_parity_and_are_never_used_again: everywhere;
    [] a_peer_that_counts_its_connections_one_two_three_is_understood: everywhere;
    [] an_accept_with_an_id_that_is_in_use_is_refused_and_touches_nobody: everywhere;
    [] a_peer_may_use_an_id_again_when_its_connection_is_closed: everywhere;
    [] the_id_of_a_connect_that_is_decided_may_be_used_again: everywhere;
    [] what_comes_right_behind_an_accept_finds_its_connection: everywhere;
    [] each_connection_has_ids_of_its_own: everywhere;
    [] connections_beyond_the_limit_are_rejected_and_refused: everywhere;
    [] hundreds_of_connections_live_on_one_link: everywhere;
    [] a_connect_that_is_dropped_closes_its_connection_when_it_comes: everywhere;
    [] what_waits_for_a_connection_fails_with_the_link: everywhere;
}

pub(super) type Connecting = JoinHandle<Result<Connection, ConnectError>>;

/// Our side asks for a connection, which the peer hears. The request's id.
pub(super) async fn connecting(rig: &mut Rig, metadata: &Entries) -> (Connecting, u64) {
    let link = rig.ours.clone();
    let options = ConnectOptions::new().metadata(ours(metadata)).serve(Handlers::new().0);
    let connecting = tokio::spawn(async move { link.connect(options).await });
    let Note::Connect { request_id, metadata: heard } = rig.hear().await else { panic!("no connect") };
    assert_eq!(heard, *metadata);
    (connecting, request_id)
}

/// Our side asks, and the peer accepts with this id.
async fn connected(rig: &mut Rig, conn_id: u64) -> Connection {
    let (connecting, request_id) = connecting(rig, &Vec::new()).await;
    rig.say(Note::Accept { request_id, conn_id, metadata: Vec::new() }).await;
    of(connecting).await.expect("the peer has accepted")
}

/// The peer asks, and our side accepts.
async fn accepted(rig: &mut Rig) -> Connection {
    let (request_id, incoming) = rig.asked(Vec::new()).await;
    let connection = incoming.accept(ConnectOptions::new().serve(Handlers::new().0)).expect("the link lives");
    let conn_id = connection.id();
    rig.hears(Note::Accept { request_id, conn_id, metadata: Vec::new() }).await;
    connection
}

/// The peer calls on a connection, and is answered.
async fn is_served(rig: &mut Rig, conn_id: u64, request_id: u64) {
    rig.say(Note::request(conn_id, request_id, &NOP, &[])).await;
    rig.hears(Note::response(conn_id, request_id, OK)).await;
}

pub(super) fn entry(value: u64) -> Entries {
    vec![("a".into(), Value::U64(value)), ("a".into(), Value::String("b".into()))]
}

async fn a_connection_that_the_peer_asks_for_is_accepted_with_metadata_both_ways(ground: Ground) {
    let mut rig = ground.rig().await;
    let (request_id, incoming) = rig.asked(entry(1)).await;
    assert_eq!(*incoming.metadata(), ours(&entry(1)));
    let options = ConnectOptions::new().metadata(ours(&entry(2))).serve(Handlers::new().0);
    let connection = incoming.accept(options).expect("the link lives");
    let conn_id = connection.id();
    rig.hears(Note::Accept { request_id, conn_id, metadata: entry(2) }).await;
    assert_eq!(*connection.metadata(), ours(&entry(1)));
    is_served(&mut rig, conn_id, 1).await;
    rig.goes_on().await;
}

async fn a_connection_that_our_side_asks_for_is_accepted_with_metadata_both_ways(ground: Ground) {
    let mut rig = ground.rig().await;
    for expected in 1..4 {
        let (connecting, request_id) = connecting(&mut rig, &entry(1)).await;
        assert_eq!(request_id, expected, "they are counted");
        let conn_id = rig.peers_conn_id(request_id);
        rig.say(Note::Accept { request_id, conn_id, metadata: entry(2) }).await;
        let connection = of(connecting).await.expect("the peer has accepted");
        assert_eq!((connection.id(), connection.metadata()), (conn_id, &ours(&entry(2))));
        is_served(&mut rig, conn_id, 1).await;
        rig.goes_on().await;
        connection.close().await;
        rig.hears(Note::goodbye(conn_id, "")).await;
    }
}

async fn a_rejection_carries_its_reason_and_metadata_both_ways(ground: Ground) {
    let mut rig = ground.rig().await;
    let (connecting, request_id) = connecting(&mut rig, &Vec::new()).await;
    let reason = Text::from("not today");
    rig.say(Note::Reject { request_id, reason: reason.clone(), metadata: entry(3) }).await;
    let rejected = of(connecting).await;
    let Err(ConnectError::Rejected { reason: told, metadata }) = rejected else { panic!("{rejected:?}") };
    assert_eq!((told.as_str(), metadata), ("not today", ours(&entry(3))));
    let (request_id, incoming) = rig.asked(Vec::new()).await;
    incoming.reject_with("not today", &ours(&entry(4))).expect("it is within the limits");
    rig.hears(Note::Reject { request_id, reason, metadata: entry(4) }).await;
    rig.goes_on().await;
}

async fn where_nobody_listens_the_peer_is_told_so(ground: Ground) {
    let mut rig = ground.rig_that_does_not_listen().await;
    let request_id = rig.fresh_connect();
    rig.say(Note::Connect { request_id, metadata: entry(1) }).await;
    rig.hears(Note::Reject { request_id, reason: "not listening".into(), metadata: Vec::new() }).await;
    rig.goes_on().await;
}

async fn a_connection_that_is_not_decided_on_is_rejected(ground: Ground) {
    let mut rig = ground.rig().await;
    let (request_id, incoming) = rig.asked(Vec::new()).await;
    rig.goes_on().await; // it may take its time
    drop(incoming);
    rig.hears(Note::Reject { request_id, reason: "not accepted".into(), metadata: Vec::new() }).await;
    rig.goes_on().await;
}

/// With the same request id: each side counts its own.
async fn both_sides_may_ask_at_the_same_time(ground: Ground) {
    let mut rig = ground.rig().await;
    for _ in 0..3 {
        let (ours, our_id) = connecting(&mut rig, &Vec::new()).await;
        let (their_id, incoming) = rig.asked(Vec::new()).await;
        assert_eq!(our_id, their_id);
        let theirs = incoming.accept(ConnectOptions::new()).expect("the link lives");
        let conn_id = rig.peers_conn_id(our_id);
        rig.say(Note::Accept { request_id: our_id, conn_id, metadata: Vec::new() }).await;
        rig.hears(Note::Accept { request_id: their_id, conn_id: theirs.id(), metadata: Vec::new() }).await;
        let ours = of(ours).await.expect("the peer has accepted");
        assert_ne!(ours.id(), theirs.id());
        rig.keep((ours, theirs));
    }
    rig.goes_on().await;
}

/// "The link's initiator hands out odd `conn_id`s and its acceptor even ones."
async fn our_connection_ids_are_of_our_parity_and_are_never_used_again(ground: Ground) {
    let mut rig = ground.rig().await;
    for index in 0..4 {
        let connection = accepted(&mut rig).await;
        // As with channels.
        assert_eq!(connection.id(), rig.our_first_channel() + 2 * index);
        if index % 2 == 0 {
            connection.close().await;
            rig.hears(Note::goodbye(connection.id(), "")).await;
        } else {
            rig.keep(connection);
        }
    }
    rig.goes_on().await;
}

async fn a_peer_that_counts_its_connections_one_two_three_is_understood(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut ids = Vec::new();
    for conn_id in 1..6 {
        let connection = connected(&mut rig, conn_id).await;
        ids.push(conn_id);
        rig.keep(connection);
    }
    // What our side hands out goes round them.
    for _ in 0..5 {
        let connection = accepted(&mut rig).await;
        assert!(!ids.contains(&connection.id()), "{} is in use", connection.id());
        ids.push(connection.id());
        rig.keep(connection);
    }
    for conn_id in ids {
        is_served(&mut rig, conn_id, 1).await;
    }
    rig.goes_on().await;
}

/// One of our side's, one of the peer's, and the root.
async fn an_accept_with_an_id_that_is_in_use_is_refused_and_touches_nobody(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut others = [rig.open_line(Place::Accepted).await, rig.open_line(Place::Connected).await];
    for taken in [others[0].conn, others[1].conn, 0] {
        let (connecting, request_id) = connecting(&mut rig, &Vec::new()).await;
        rig.say(Note::Accept { request_id, conn_id: taken, metadata: Vec::new() }).await;
        let refused = of(connecting).await;
        assert!(matches!(refused, Err(ConnectError::IdInUse { conn_id }) if conn_id == taken), "{refused:?}");
        for other in &mut others {
            rig.on(other, async |rig| rig.goes_on().await).await;
        }
        rig.goes_on().await;
    }
}

async fn a_peer_may_use_an_id_again_when_its_connection_is_closed(ground: Ground) {
    let mut rig = ground.rig().await;
    let conn_id = rig.peers_conn_id(7);
    for by_peer in [false, true, true, false] {
        let connection = connected(&mut rig, conn_id).await;
        is_served(&mut rig, conn_id, 1).await;
        if by_peer {
            rig.say(Note::goodbye(conn_id, "")).await;
            let end = connection.closed().await;
            let goodbye = ConnectionEnd::Goodbye { reason: "".into() };
            assert!(matches!(&end, LinkEnd::Connection(end) if *end == goodbye), "{end:?}");
        } else {
            connection.close().await;
            rig.hears(Note::goodbye(conn_id, "")).await;
        }
        // What was on its way to the last one is not the next one's.
        rig.say(Note::Cancel { conn_id, request_id: 1 }).await;
    }
    rig.goes_on().await;
}

async fn the_id_of_a_connect_that_is_decided_may_be_used_again(ground: Ground) {
    let mut rig = ground.rig().await;
    for accepts in [true, false, true] {
        rig.say(Note::Connect { request_id: 5, metadata: Vec::new() }).await;
        let incoming = rig.incoming().await;
        if accepts {
            let connection = incoming.accept(ConnectOptions::new()).expect("the link lives");
            let conn_id = connection.id();
            rig.hears(Note::Accept { request_id: 5, conn_id, metadata: Vec::new() }).await;
            rig.keep(connection);
        } else {
            incoming.reject("no");
            rig.hears(Note::Reject { request_id: 5, reason: "no".into(), metadata: Vec::new() }).await;
        }
    }
    rig.goes_on().await;
}

async fn what_comes_right_behind_an_accept_finds_its_connection(ground: Ground) {
    let mut rig = ground.rig().await;
    let (connecting, request_id) = connecting(&mut rig, &Vec::new()).await;
    let conn_id = rig.peers_conn_id(1);
    let together = [
        Note::Accept { request_id, conn_id, metadata: Vec::new() },
        Note::request(conn_id, 1, &NOP, &[]),
        Note::goodbye(conn_id, "that was all"),
        Note::Cancel { conn_id, request_id: 1 },
    ];
    rig.peer.say_together(&together).await;
    rig.hears(Note::response(conn_id, 1, OK)).await;
    let connection = of(connecting).await.expect("the peer has accepted");
    let end = connection.closed().await;
    let goodbye = ConnectionEnd::Goodbye { reason: "that was all".into() };
    assert!(matches!(&end, LinkEnd::Connection(end) if *end == goodbye), "{end:?}");
    rig.goes_on().await;
}

/// The same ids of requests and channels, on three connections, with all of them in flight at once.
async fn each_connection_has_ids_of_its_own(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut others = [rig.open_line(Place::Accepted).await, rig.open_line(Place::Connected).await];
    let mut in_flight = Vec::new();
    let opens = async |rig: &mut Rig| {
        let (call, request_id) = rig.calling().await;
        let sending = rig.calling_to_send().await;
        let gated = rig.peer_calls(&GATED, &[]).await;
        assert!(matches!(rig.event().await, Event::Started));
        let (listening, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
        assert_eq!((request_id, sending.request_id, gated, listening), (1, 2, 1, 2));
        assert_eq!(sending.channel_id, rig.our_first_channel());
        (call, sending, channel_id)
    };
    in_flight.push(opens(&mut rig).await);
    for other in &mut others {
        in_flight.push(rig.on(other, opens).await);
    }
    let finishes =
        async |rig: &mut Rig, (call, sending, channel_id): (_, super::rig::Streaming<_>, u64), len| {
            let tx: crate::rpc::tx::Tx<Vec<u8>> = sending.half;
            tx.send(value(len)).await.expect("the stream is open");
            rig.hears(Note::data(rig.conn, sending.channel_id, &element(len))).await;
            rig.say(Note::data(rig.conn, channel_id, &element(len))).await;
            let Event::Element(seen) = rig.event().await else { panic!("no element") };
            assert_eq!(seen, value(len));
            let conn = rig.conn;
            rig.peer.more_credit(conn, channel_id, WINDOW.into()).await;
            rig.gate.add_permits(1);
            rig.hears_answer(1, OK).await;
            rig.answer(1, USER_7).await;
            let call: super::rig::Calling = call;
            assert!(matches!(of(call).await, Err(CallError::User(7))));
            rig.keep((tx, sending.call));
        };
    for (index, other) in others.iter_mut().enumerate().rev() {
        let open = in_flight.remove(index + 1);
        rig.on(other, async |rig| finishes(rig, open, index + 10).await).await;
    }
    finishes(&mut rig, in_flight.remove(0), 20).await;
}

/// Opened and asked for, by either side.
async fn connections_beyond_the_limit_are_rejected_and_refused(ground: Ground) {
    let mut rig = ground.rig_with(settings().max_connections(3)).await;
    let first = accepted(&mut rig).await;
    let conn_id = rig.peers_conn_id(1);
    let second = connected(&mut rig, conn_id).await;
    let (waiting, incoming) = rig.asked(Vec::new()).await;
    let request_id = rig.fresh_connect();
    rig.say(Note::Connect { request_id, metadata: Vec::new() }).await;
    let reason = "too many connections: at most 3 on this link".into();
    rig.hears(Note::Reject { request_id, reason, metadata: Vec::new() }).await;
    let refused = rig.ours.connect(ConnectOptions::new()).await;
    let limit = Refusal::TooManyConnections { limit: 3 };
    assert!(matches!(&refused, Err(ConnectError::Refused(refusal)) if *refusal == limit), "{refused:?}");
    rig.goes_on().await;
    // One that is gone makes room.
    incoming.reject("no");
    rig.hears(Note::Reject { request_id: waiting, reason: "no".into(), metadata: Vec::new() }).await;
    let third = accepted(&mut rig).await;
    first.close().await;
    rig.hears(Note::goodbye(first.id(), "")).await;
    let conn_id = rig.peers_conn_id(2);
    let fourth = connected(&mut rig, conn_id).await;
    rig.keep((second, third, fourth));
    rig.goes_on().await;
}

async fn hundreds_of_connections_live_on_one_link(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut open = Vec::new();
    for index in 1..=200 {
        let conn_id = rig.peers_conn_id(index);
        open.push(connected(&mut rig, conn_id).await);
        open.push(accepted(&mut rig).await);
    }
    for connection in &open {
        is_served(&mut rig, connection.id(), 1).await;
    }
    for connection in open {
        connection.close().await;
        rig.hears(Note::goodbye(connection.id(), "")).await;
    }
    rig.goes_on().await;
}

async fn a_connect_that_is_dropped_closes_its_connection_when_it_comes(ground: Ground) {
    let mut rig = ground.rig().await;
    let (connecting, request_id) = connecting(&mut rig, &Vec::new()).await;
    connecting.abort();
    assert!(connecting.await.is_err());
    let conn_id = rig.peers_conn_id(1);
    rig.say(Note::Accept { request_id, conn_id, metadata: Vec::new() }).await;
    rig.hears(Note::goodbye(conn_id, "")).await;
    rig.goes_on().await;
}

async fn what_waits_for_a_connection_fails_with_the_link(ground: Ground) {
    let mut rig = ground.rig().await;
    let (connecting, _) = connecting(&mut rig, &Vec::new()).await;
    let (_, incoming) = rig.asked(Vec::new()).await;
    rig.say(Note::goodbye(0, "over")).await;
    rig.hears_the_end().await;
    let is_over = |end: &LinkEnd| matches!(end, LinkEnd::Goodbye { reason } if &**reason == "over");
    let ended = of(connecting).await;
    assert!(matches!(&ended, Err(ConnectError::Ended(end)) if is_over(end)), "{ended:?}");
    let accepted = incoming.accept(ConnectOptions::new());
    assert!(matches!(&accepted, Err(ConnectError::Ended(end)) if is_over(end)), "{accepted:?}");
    let ended = rig.ours.connect(ConnectOptions::new()).await;
    assert!(matches!(&ended, Err(ConnectError::Ended(end)) if is_over(end)), "{ended:?}");
}

//! Virtual connections between adjoin and roam, opened by either.

use std::pin::pin;

use adjoin::{
    CallError, ConnectError, ConnectOptions, Connection, ConnectionEnd, LinkEnd, Metadata, MetadataValue,
    channel,
};
use roam_session::{
    CallError as TheirCallError, ConnectError as TheirConnectError, ConnectionHandle, RoamError, Tx,
};
use roam_wire::MetadataValue as TheirValue;

use crate::{
    interface::{InteropClient, InteropDispatcher, id},
    link::{Link, begun},
    ours::Ours,
    theirs::{Theirs, call},
};

whoever_connects! {
    ours_carries_calls_and_streams_both_ways
    theirs_carries_calls_and_streams_both_ways
    a_connection_without_a_service_knows_no_method
    metadata_crosses_with_the_request_and_the_acceptance
    a_rejection_arrives_with_its_reason
    where_nobody_takes_connections_they_are_rejected
    ours_is_closed_alone
    theirs_is_closed_alone
    a_stream_that_outlives_its_connection_costs_nobody_anything
    both_sides_open_connections_at_once
    ids_that_roam_hands_out_twice_are_refused_and_not_mixed_up
    a_connection_each_keeps_apart_the_ids_that_roam_counts_twice
}

/// Our side's service, on a connection that we ask for.
fn serving() -> ConnectOptions {
    ConnectOptions::new().serve(InteropDispatcher::new(Ours::default()))
}

/// A connection that we have asked for, with a service at either end, seen from both.
async fn ours(link: &mut Link) -> (Connection, ConnectionHandle) {
    let accept = async {
        let asked = link.asked.recv().await.unwrap();
        asked.accept(Vec::new(), Some(Box::new(Theirs::default()))).await.unwrap()
    };
    let (ours, theirs) = tokio::join!(link.ours.connect(serving()), accept);
    (ours.unwrap(), theirs)
}

/// One that roam has asked for.
async fn theirs(link: &mut Link) -> (Connection, ConnectionHandle) {
    let theirs = link.theirs.connect(Vec::new(), Some(Box::new(Theirs::default()))).await.unwrap();
    (link.opened.recv().await.unwrap(), theirs)
}

/// Calls and streams, from either side.
async fn is_of_use(ours: &Connection, theirs: &ConnectionHandle) {
    let client = InteropClient::new(ours);
    assert_eq!(client.add(2, -5).await.unwrap(), -3);
    assert_eq!(call::<_, i32>(theirs, id::ADD, (2, -5)).await.unwrap(), -3);

    let (tx, rx) = channel();
    let (out, mut numbers) = channel();
    for number in 0..100 {
        tx.send(number).await.unwrap();
    }
    drop(tx);
    assert_eq!(client.sum(rx).await.unwrap(), 4950);
    client.count(3, out).await.unwrap();
    for expected in 0..3 {
        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
    }
    assert_eq!(numbers.recv().await.unwrap(), None);

    let (tx, rx) = roam_session::channel::<u64>();
    let (out, mut numbers) = roam_session::channel::<u32>();
    for number in 0..100 {
        tx.send(&number).await.unwrap();
    }
    drop(tx);
    assert_eq!(call::<_, u64>(theirs, id::SUM, (rx,)).await.unwrap(), 4950);
    call::<_, ()>(theirs, id::COUNT, (3u32, out)).await.unwrap();
    for expected in 0..3 {
        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
    }
    assert_eq!(numbers.recv().await.unwrap(), None);
}

async fn ours_carries_calls_and_streams_both_ways(mut link: Link) {
    let (ours, theirs) = ours(&mut link).await;
    assert_ne!(ours.id(), 0);
    assert_eq!(ours.id(), theirs.conn_id().raw());
    is_of_use(&ours, &theirs).await;
    is_of_use(&link.ours, &link.theirs).await;
}

async fn theirs_carries_calls_and_streams_both_ways(mut link: Link) {
    let (ours, theirs) = theirs(&mut link).await;
    assert_ne!(ours.id(), 0);
    assert_eq!(ours.id(), theirs.conn_id().raw());
    is_of_use(&ours, &theirs).await;
    is_of_use(&link.ours, &link.theirs).await;
}

/// The link's own service is not that of its connections, on our side; on roam's it is.
async fn a_connection_without_a_service_knows_no_method(mut link: Link) {
    let accept = async { link.asked.recv().await.unwrap().accept(Vec::new(), None).await.unwrap() };
    let (ours, theirs) = tokio::join!(link.ours.connect(ConnectOptions::new()), accept);
    let unknown = call::<_, i32>(&theirs, id::ADD, (1, 2)).await;
    assert!(matches!(unknown, Err(TheirCallError::Roam(RoamError::UnknownMethod))), "{unknown:?}");
    assert_eq!(InteropClient::new(ours.unwrap()).add(1, 2).await.unwrap(), 3);
}

async fn metadata_crosses_with_the_request_and_the_acceptance(mut link: Link) {
    let mut asking = Metadata::new();
    asking.push("user", "ada");
    asking.push("user", 7);
    let accept = async {
        let asked = link.asked.recv().await.unwrap();
        let said =
            vec![("user".into(), TheirValue::String("ada".into())), ("user".into(), TheirValue::U64(7))];
        assert_eq!(asked.metadata, said);
        let answer = vec![("welcome".into(), TheirValue::Bytes(vec![0, 1]))];
        asked.accept(answer, None).await.unwrap()
    };
    let (ours, _theirs) = tokio::join!(link.ours.connect(ConnectOptions::new().metadata(asking)), accept);
    let answer = MetadataValue::Bytes(vec![0, 1]);
    assert_eq!(ours.unwrap().metadata().iter().collect::<Vec<_>>(), [("welcome", &answer)]);

    let asking = vec![("user".into(), TheirValue::U64(7))];
    let _theirs = link.theirs.connect(asking, None).await.unwrap();
    let opened = link.opened.recv().await.unwrap();
    assert_eq!(opened.metadata().iter().collect::<Vec<_>>(), [("user", &MetadataValue::U64(7))]);
}

async fn a_rejection_arrives_with_its_reason(mut link: Link) {
    let reject = async {
        let metadata = vec![("code".into(), TheirValue::U64(401))];
        link.asked.recv().await.unwrap().reject("who are you?".into(), metadata);
    };
    match tokio::join!(link.ours.connect(ConnectOptions::new()), reject).0 {
        Err(ConnectError::Rejected { reason, metadata }) => {
            assert_eq!(reason, "who are you?");
            assert_eq!(metadata.get("code"), Some(&MetadataValue::U64(401)));
        }
        other => panic!("{other:?}"),
    }
    let asking = vec![("reject".into(), TheirValue::String("no room".into()))];
    match link.theirs.connect(asking, None).await.map(drop) {
        Err(TheirConnectError::Rejected(reason)) => assert_eq!(reason, "no room"),
        other => panic!("{other:?}"),
    }
    is_of_use(&link.ours, &link.theirs).await;
}

async fn where_nobody_takes_connections_they_are_rejected(link: Link) {
    drop(link.asked);
    match link.ours.connect(ConnectOptions::new()).await {
        Err(ConnectError::Rejected { reason, .. }) => assert_eq!(reason, "not listening"),
        other => panic!("{other:?}"),
    }
    is_of_use(&link.ours, &link.theirs).await;
}

/// roam has no call for it: only this side closes. See `wire` for the other way.
async fn ours_is_closed_alone(mut link: Link) {
    let (ours, theirs) = ours(&mut link).await;
    is_closed_alone(ours, theirs).await;
    is_of_use(&link.ours, &link.theirs).await;
}

async fn theirs_is_closed_alone(mut link: Link) {
    let (ours, theirs) = theirs(&mut link).await;
    is_closed_alone(ours, theirs).await;
    is_of_use(&link.ours, &link.theirs).await;
}

async fn is_closed_alone(ours: Connection, theirs: ConnectionHandle) {
    let client = InteropClient::new(&ours);
    let (mut we_hang, mut they_hang) = (pin!(client.hang()), pin!(call::<_, ()>(&theirs, id::HANG, ())));
    begun(we_hang.as_mut()).await;
    begun(they_hang.as_mut()).await;
    call::<_, i32>(&theirs, id::ADD, (1, 2)).await.unwrap(); // arrives behind it
    ours.close().await;
    let failed = we_hang.await;
    assert!(
        matches!(failed, Err(CallError::Ended(LinkEnd::Connection(ConnectionEnd::Closed)))),
        "{failed:?}"
    );
    let failed = they_hang.await;
    assert!(matches!(failed, Err(TheirCallError::ConnectionClosed)), "{failed:?}");
    let late = call::<_, i32>(&theirs, id::ADD, (1, 2)).await;
    assert!(matches!(late, Err(TheirCallError::ConnectionClosed)), "{late:?}");
}

/// An element, or a Close, for a connection that roam does not know any more would end the link. What roam
/// goes on sending on it is dropped.
async fn a_stream_that_outlives_its_connection_costs_nobody_anything(mut link: Link) {
    let (ours, theirs) = ours(&mut link).await;
    let client = InteropClient::new(&ours);
    let (tx, rx) = channel();
    let mut sum = pin!(client.sum(rx));
    begun(sum.as_mut()).await;
    tx.send(1).await.unwrap();
    let (their_tx, their_rx) = roam_session::channel::<u64>();
    let mut their_sum = pin!(call::<_, u64>(&theirs, id::SUM, (their_rx,)));
    begun(their_sum.as_mut()).await;
    call::<_, i32>(&theirs, id::ADD, (1, 2)).await.unwrap(); // arrives behind it

    drop(client);
    ours.close().await;
    assert!(tx.send(2).await.is_err());
    drop(tx);
    assert!(sum.await.is_err());
    assert!(their_sum.await.is_err());
    for number in 0..100 {
        their_tx.send(&number).await.unwrap();
    }
    drop(their_tx);
    is_of_use(&link.ours, &link.theirs).await;
}

/// We skip what roam has handed out; roam counts 1, 2, 3 and so on.
async fn both_sides_open_connections_at_once(mut link: Link) {
    let (first, their_first) = ours(&mut link).await;
    let (second, their_second) = theirs(&mut link).await;
    assert_ne!(first.id(), second.id());
    for _ in 0..10 {
        is_of_use(&first, &their_first).await;
        is_of_use(&second, &their_second).await;
    }
}

/// roam takes no account of the ids that we hand out, and comes by each of them.
async fn ids_that_roam_hands_out_twice_are_refused_and_not_mixed_up(mut link: Link) {
    let (first, _their_first) = theirs(&mut link).await;
    let mut refused = None;
    let mut opened = Vec::new();
    while refused.is_none() && opened.len() < 4 {
        let accept = async { link.asked.recv().await.unwrap().accept(Vec::new(), None).await.unwrap() };
        match tokio::join!(link.ours.connect(ConnectOptions::new()), accept).0 {
            Ok(connection) => opened.push(connection),
            Err(ConnectError::IdInUse { conn_id }) => refused = Some(conn_id),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, Some(first.id()));
    // Ours goes on, and so do the others and the link.
    for connection in opened.iter().chain([&first, &link.ours]) {
        assert_eq!(InteropClient::new(connection).add(1, 2).await.unwrap(), 3);
    }
}

/// What ends a link on which it all happens: see `ends`.
async fn a_connection_each_keeps_apart_the_ids_that_roam_counts_twice(mut link: Link) {
    let (ours, _theirs) = ours(&mut link).await;
    let client = InteropClient::new(&ours);
    for upto in 1..10 {
        let (out, mut numbers): (Tx<u32>, _) = roam_session::channel();
        call::<_, ()>(&link.theirs, id::COUNT, (1u32, out)).await.unwrap(); // roam passes on the root
        let mut returned = client.later().await.unwrap(); // and returns on the other
        client.go(upto).await.unwrap();
        for expected in 0..upto {
            assert_eq!(returned.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(numbers.recv().await.unwrap(), Some(0));
    }
}

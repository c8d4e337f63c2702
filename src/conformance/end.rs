//! How links and connections end: protocol sections 3 and 7, and the graceful end.

use std::time::Duration;

use super::{
    cases,
    links::{Ground, Place, Process},
    note::Note,
    peer::{Heard, Peer},
    rig::{CANCELLED, OK, Rig, assert_same, element, of, value},
    service::{Event, GATED, NOP},
};
use crate::{
    error::{ConnectionEnd, LinkEnd},
    rpc::{
        connection::Drained,
        errors::{CallError, RecvError},
    },
};

cases! {
    "The end of a connection and of a link (protocol section 7)" on connections;
    [] a_goodbye_ends_what_it_names_and_is_not_answered: everywhere;
    [] a_goodbye_for_the_root_ends_all_connections: everywhere;
    [] what_came_before_a_goodbye_is_received_first: everywhere;
    [] what_comes_behind_a_goodbye_is_not_looked_at: everywhere;
    [] a_goodbye_for_an_unknown_connection_is_ignored: everywhere;
    [] closing_says_goodbye_and_fails_what_is_open: everywhere;
    [] the_last_handle_that_is_dropped_says_goodbye: everywhere;
    [] a_drain_refuses_new_requests_and_waits_for_what_runs: everywhere;
    [] a_peer_that_is_gone_ends_the_link: everywhere;
    [] a_peer_that_stops_within_a_message_is_gone: streams;
    [] a_process_that_exits_or_is_killed_is_told_by_how: shm;
}

const REASONS: [&str; 2] = ["", "going home"];

async fn a_goodbye_ends_what_it_names_and_is_not_answered(ground: Ground) {
    for reason in REASONS {
        if ground.place == Place::Root {
            continue; // see the next case
        }
        ground
            .ends_the_connection(async |rig| {
                rig.say(Note::goodbye(rig.conn, reason)).await;
                ConnectionEnd::Goodbye { reason: reason.into() }
            })
            .await;
    }
}

async fn a_goodbye_for_the_root_ends_all_connections(ground: Ground) {
    for reason in REASONS {
        ground
            .ends_the_link(async |rig| {
                rig.say(Note::goodbye(0, reason)).await;
                rig.hears_the_end().await;
                LinkEnd::Goodbye { reason: reason.into() }
            })
            .await;
    }
}

/// How a Goodbye of the peer's looks on our side.
fn goodbye(ground: Ground, reason: &str) -> LinkEnd {
    match ground.place {
        Place::Root => LinkEnd::Goodbye { reason: reason.into() },
        Place::Accepted | Place::Connected => ConnectionEnd::Goodbye { reason: reason.into() }.into(),
    }
}

async fn what_came_before_a_goodbye_is_received_first(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut receiving = rig.calling_to_receive().await;
    let (answered, request_id) = rig.calling().await;
    let (conn_id, channel_id) = (rig.conn, receiving.channel_id);
    let together = [
        Note::data(conn_id, channel_id, &element(5)),
        Note::response(conn_id, request_id, OK),
        Note::data(conn_id, channel_id, &element(6)),
        Note::goodbye(conn_id, "done"),
    ];
    rig.peer.say_together(&together).await;
    of(answered).await.expect("the answer came before");
    for len in [5, 6] {
        assert_eq!(receiving.half.recv().await.expect("it came before"), Some(value(len)));
    }
    let end = goodbye(ground, "done");
    assert_same(&receiving.half.recv().await, &Err::<(), _>(RecvError::Ended(end.clone())));
    assert_same(&of(receiving.call).await, &Err::<(), _>(CallError::<u8>::Ended(end)));
}

/// Not even for what it breaks.
async fn what_comes_behind_a_goodbye_is_not_looked_at(ground: Ground) {
    let mut rig = ground.rig().await;
    let conn_id = rig.conn;
    let together = [
        Note::goodbye(conn_id, ""),
        Note::request(conn_id, 1, &NOP, &[]),
        Note::data(conn_id, 0, &[]),
        Note::request(conn_id, 1, &NOP, &[]).naming(&[0]),
    ];
    rig.peer.say_together(&together).await;
    assert_same(&rig.ours.closed().await, &goodbye(ground, ""));
    if ground.place == Place::Root {
        rig.hears_the_end().await;
    } else {
        assert!(rig.unseen().is_none());
        let root = rig.others.remove(0);
        rig.go_to(root);
        rig.goes_on().await;
    }
}

async fn a_goodbye_for_an_unknown_connection_is_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    for conn_id in [77, 78, u64::MAX] {
        rig.say(Note::goodbye(conn_id, "message.decode-error")).await;
    }
    rig.goes_on().await;
}

async fn closing_says_goodbye_and_fails_what_is_open(ground: Ground) {
    let closes = async |rig: &mut Rig| {
        rig.ours.close().await;
        rig.hears(Note::goodbye(rig.conn, "")).await;
    };
    if ground.place == Place::Root {
        let ends = async |rig: &mut Rig| {
            closes(rig).await;
            rig.hears_the_end().await;
            LinkEnd::Closed
        };
        ground.ends_the_link(ends).await;
    } else {
        let ends = async |rig: &mut Rig| {
            closes(rig).await;
            ConnectionEnd::Closed
        };
        ground.ends_the_connection(ends).await;
    }
}

/// What is open on it keeps a connection open, too: a stream that nobody has closed, a call that is awaited.
async fn the_last_handle_that_is_dropped_says_goodbye(ground: Ground) {
    let mut rig = ground.rig().await;
    let (conn_id, sending) = (rig.conn, rig.calling_to_send().await);
    rig.answer(sending.request_id, OK).await;
    of(sending.call).await.expect("the peer has answered");
    let (call, request_id) = rig.calling().await;
    let (mut peer, _rest) = rig.let_go();
    sending.half.send(value(5)).await.expect("the stream keeps the connection open");
    let channel_id = sending.channel_id;
    assert_eq!(peer.hear().await, Heard::Note(Note::data(conn_id, channel_id, &element(5))));
    drop(sending.half);
    assert_eq!(peer.hear().await, Heard::Note(Note::Close { conn_id, channel_id }));
    peer.say(Note::response(conn_id, request_id, OK)).await;
    of(call).await.expect("the peer has answered");
    assert_eq!(peer.hear().await, Heard::Note(Note::goodbye(conn_id, "")));
}

async fn a_drain_refuses_new_requests_and_waits_for_what_runs(ground: Ground) {
    let mut rig = ground.rig().await;
    let running = rig.peer_calls(&GATED, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    let (ours, ours_id) = rig.calling().await;
    let connection = rig.ours.clone();
    let drain = tokio::spawn(async move { connection.drain(Duration::from_secs(60)).await });
    tokio::task::yield_now().await; // it begins
    let refused = rig.peer_calls(&NOP, &[]).await;
    rig.hears_answer(refused, CANCELLED).await;
    rig.gate.add_permits(1);
    rig.hears_answer(running, OK).await;
    rig.answer(ours_id, OK).await;
    of(ours).await.expect("the peer has answered");
    rig.hears(Note::goodbye(rig.conn, "")).await;
    assert_eq!(of(drain).await, Drained::Complete);
}

async fn a_peer_that_is_gone_ends_the_link(ground: Ground) {
    ground
        .ends_the_link(async |rig| {
            rig.peer = Peer::Gone;
            // A puppet's process ends with its strings.
            let is_here = matches!(rig.process, Process::None);
            if is_here { LinkEnd::Gone } else { LinkEnd::Exited { code: 0 } }
        })
        .await;
}

async fn a_peer_that_stops_within_a_message_is_gone(ground: Ground) {
    ground
        .ends_the_link(async |rig| {
            let frame = super::peer::socket::frame(&Note::request(rig.conn, 1, &NOP, &[]));
            rig.peer.socket().write(&frame[..frame.len() - 1]).await;
            rig.peer.socket().shut_down().await;
            LinkEnd::Gone
        })
        .await;
}

#[cfg(target_os = "linux")]
async fn a_process_that_exits_or_is_killed_is_told_by_how(ground: Ground) {
    if ground.role == crate::link::Role::Initiator {
        return; // its host is this process
    }
    ground
        .ends_the_link(async |rig| {
            let Peer::Puppet(peer) = &mut rig.peer else { panic!("no puppet") };
            peer.exit(7).await;
            LinkEnd::Exited { code: 7 }
        })
        .await;
    ground
        .ends_the_link(async |rig| {
            let Process::Puppet(process) = &rig.process else { panic!("no puppet") };
            process.kill().expect("it lives");
            LinkEnd::Killed { signal: 9 }
        })
        .await;
}

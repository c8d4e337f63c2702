//! Virtual connections: what a peer may not say about one, and what our side does not, by protocol section 7.

use super::{
    cases,
    connections::{connecting, entry},
    links::Ground,
    metadata::{at_the_limits, beyond_the_limits, ours, undecodable_len},
    note::{Entries, Note, Text, Value},
    rig::{OK, Rig, element, of},
    service::NOP,
};
use crate::{
    error::{LinkEnd, Violation},
    rpc::{
        connect::ConnectOptions,
        errors::{ConnectError, Refusal},
    },
};

cases! {
    "Virtual connections, broken (protocol section 7)" on links;
    [] answers_to_no_connect_are_ignored: everywhere;
    ["call.request-id.duplicate-detection"] a_connect_with_the_id_of_one_that_waits_costs_the_link: everywhere;
    ["call.metadata.limits"] a_connect_or_its_answer_beyond_a_limit_of_metadata_costs_the_link: everywhere;
    ["call.metadata.limits"] a_connect_and_its_answers_may_carry_metadata_at_each_limit: everywhere;
    ["call.metadata.limits"] metadata_beyond_a_limit_is_refused_here_when_asking_and_answering: everywhere;
    ["message.decode-error"] metadata_of_a_connect_or_its_answer_that_does_not_decode_costs_the_link: everywhere;
    ["message.conn-id"] a_message_for_a_connection_that_was_never_opened_costs_the_link: everywhere;
    ["message.conn-id"] a_message_for_a_connection_before_its_accept_costs_the_link: everywhere;
}

async fn answers_to_no_connect_are_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    let (connecting, answered) = connecting(&mut rig, &Vec::new()).await;
    rig.say(Note::Reject { request_id: answered, reason: "no".into(), metadata: Vec::new() }).await;
    assert!(of(connecting).await.is_err());
    let conn_id = rig.peers_conn_id(9);
    for request_id in [answered, 0, 77, u64::MAX] {
        rig.say(Note::Accept { request_id, conn_id, metadata: entry(1) }).await;
        rig.say(Note::Reject { request_id, reason: "no".into(), metadata: entry(1) }).await;
    }
    rig.goes_on().await;
}

async fn a_connect_with_the_id_of_one_that_waits_costs_the_link(ground: Ground) {
    ground
        .costs_the_link(async |rig| {
            let (request_id, incoming) = rig.asked(Vec::new()).await;
            rig.keep(incoming);
            rig.say(Note::Connect { request_id, metadata: entry(1) }).await;
            Violation::DuplicateRequest { request_id }
        })
        .await;
}

/// A Connect, an Accept and a Reject, of a Connect that our side has sent.
fn about_connections(rig: &Rig, request_id: u64) -> [Note; 3] {
    let metadata = Vec::new();
    [
        Note::Connect { request_id: 77, metadata: metadata.clone() },
        Note::Accept { request_id, conn_id: rig.peers_conn_id(9), metadata: metadata.clone() },
        Note::Reject { request_id, reason: "no".into(), metadata },
    ]
}

/// Our own Connect waits for nothing any more, whether or not it was answered in that way.
async fn a_connect_or_its_answer_beyond_a_limit_of_metadata_costs_the_link(ground: Ground) {
    for (entries, what, value, limit) in beyond_the_limits() {
        for index in 0..3 {
            let mut waiting = None;
            ground
                .costs_the_link(async |rig| {
                    let (connecting, request_id) = connecting(rig, &Vec::new()).await;
                    waiting = Some(connecting);
                    let note = about_connections(rig, request_id)[index].clone().with(entries.clone());
                    rig.say(note).await;
                    Violation::MetadataLimits { what, value, limit }
                })
                .await;
            let ended = of(waiting.expect("it was asked")).await;
            assert!(matches!(ended, Err(ConnectError::Ended(LinkEnd::Violation(_)))), "{ended:?}");
        }
    }
}

async fn a_connect_and_its_answers_may_carry_metadata_at_each_limit(ground: Ground) {
    let mut rig = ground.rig().await;
    for entries in at_the_limits() {
        let (request_id, incoming) = rig.asked(entries.clone()).await;
        assert_eq!(*incoming.metadata(), ours(&entries));
        let options = ConnectOptions::new().metadata(ours(&entries));
        let connection = incoming.accept(options).expect("it is within the limits");
        let conn_id = connection.id();
        rig.hears(Note::Accept { request_id, conn_id, metadata: entries.clone() }).await;
        rig.keep(connection);

        let (request_id, incoming) = rig.asked(entries.clone()).await;
        incoming.reject_with("no", &ours(&entries)).expect("it is within the limits");
        rig.hears(Note::Reject { request_id, reason: "no".into(), metadata: entries.clone() }).await;

        for index in [1, 2] {
            let (connecting, request_id) = connecting(&mut rig, &entries).await;
            rig.say(about_connections(&rig, request_id)[index].clone().with(entries.clone())).await;
            match of(connecting).await {
                Ok(connection) => {
                    assert_eq!(*connection.metadata(), ours(&entries));
                    connection.close().await;
                    rig.hears(Note::goodbye(connection.id(), "")).await;
                }
                Err(ConnectError::Rejected { metadata, .. }) => assert_eq!(metadata, ours(&entries)),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    rig.goes_on().await;
}

/// Asking, nothing is sent; answering, the peer gets a rejection, since it waits for an answer.
async fn metadata_beyond_a_limit_is_refused_here_when_asking_and_answering(ground: Ground) {
    let mut rig = ground.rig().await;
    for (entries, what, value, limit) in beyond_the_limits() {
        let options = || ConnectOptions::new().metadata(ours(&entries));
        let told = format!("metadata: {what} is {value}, at most {limit} are allowed");
        let refused = rig.ours.connect(options()).await.map(drop).expect_err("it is too much");
        assert!(
            matches!(&refused, ConnectError::Refused(Refusal::Metadata(error)) if error.to_string() == told)
        );
        rig.goes_on().await;

        let (request_id, incoming) = rig.asked(Vec::new()).await;
        let refused = incoming.accept(options()).map(drop).expect_err("it is too much");
        assert_eq!(refused.to_string(), told);
        rig.hears(Note::Reject { request_id, reason: "not accepted".into(), metadata: Vec::new() }).await;

        let (request_id, incoming) = rig.asked(Vec::new()).await;
        let refused = incoming.reject_with("no", &ours(&entries)).expect_err("it is too much");
        assert_eq!(refused.to_string(), told);
        rig.hears(Note::Reject { request_id, reason: "not accepted".into(), metadata: Vec::new() }).await;
    }
    rig.goes_on().await;
}

async fn metadata_of_a_connect_or_its_answer_that_does_not_decode_costs_the_link(ground: Ground) {
    let entries: Entries = vec![(Text(vec![0xff]), Value::U64(1))];
    for index in 0..3 {
        ground
            .costs_the_link(async |rig| {
                let note = about_connections(rig, 1)[index].clone().with(entries.clone());
                rig.say(note.clone()).await;
                Violation::Decode { len: undecodable_len(rig, &note) }
            })
            .await;
    }
}

async fn a_message_for_a_connection_that_was_never_opened_costs_the_link(ground: Ground) {
    for index in 0..7 {
        for which in 0..3 {
            ground
                .costs_the_link(async |rig| {
                    let conn_id = [rig.our_first_channel(), rig.peers_conn_id(1), u64::MAX][which];
                    rig.say(messages_on(conn_id)[index].clone()).await;
                    Violation::UnknownConnection { conn_id }
                })
                .await;
        }
    }
}

/// Each kind of message that belongs to a connection, but Goodbye.
fn messages_on(conn_id: u64) -> [Note; 7] {
    let (request_id, channel_id) = (1, 1);
    [
        Note::request(conn_id, request_id, &NOP, &[]),
        Note::response(conn_id, request_id, OK),
        Note::Cancel { conn_id, request_id },
        Note::data(conn_id, channel_id, &element(3)),
        Note::Close { conn_id, channel_id },
        Note::Reset { conn_id, channel_id },
        Note::Credit { conn_id, channel_id, bytes: 1 },
    ]
}

/// The peer may know which id it would get: it has not got it yet.
async fn a_message_for_a_connection_before_its_accept_costs_the_link(ground: Ground) {
    ground
        .costs_the_link(async |rig| {
            let (_, incoming) = rig.asked(Vec::new()).await;
            rig.keep(incoming);
            let conn_id = rig.our_first_channel();
            rig.say(Note::request(conn_id, 1, &NOP, &[])).await;
            Violation::UnknownConnection { conn_id }
        })
        .await;
}

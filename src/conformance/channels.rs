//! Channels: what costs a connection, by protocol section 5.

use super::{
    cases,
    links::{Ground, MAX_PAYLOAD},
    note::Note,
    rig::{OK, Rig, assert_same, element, of, value},
    service::{Event, HOLD, LISTEN, TALK},
};
use crate::{
    error::Violation,
    rpc::errors::{RecvError, Refusal, SendError},
    strict,
};

cases! {
    "Channels, broken (protocol section 5)" on connections;
    ["channeling.id.zero-reserved"] a_request_or_response_with_a_channel_zero_costs_the_connection: everywhere;
    ["channeling.id.zero-reserved"] a_message_for_channel_zero_costs_the_connection: everywhere;
    ["channeling.unknown"] a_message_for_a_channel_that_was_never_opened_costs_the_connection: everywhere;
    ["channeling.unknown"] a_channel_with_an_id_of_ours_cannot_be_opened_by_the_peer: everywhere;
    ["channeling.unknown"] a_channel_cannot_be_opened_twice: everywhere;
    ["channeling.unknown"] data_on_a_channel_that_we_send_costs_the_connection: everywhere;
    ["channeling.unknown"] a_close_from_the_receiving_side_costs_the_connection: everywhere;
    ["channeling.data.invalid"] an_element_that_does_not_decode_costs_the_connection_when_it_is_read: everywhere;
    ["channeling.data.invalid"] an_element_that_does_not_decode_and_that_nobody_reads_costs_nothing: everywhere;
    ["channeling.data.size-limit"] an_element_beyond_the_maximum_costs_the_connection: everywhere;
    ["channeling.data.size-limit"] an_element_beyond_the_maximum_is_refused_here_with_both_numbers: everywhere;
    ["channeling.data-after-close"] data_behind_close_costs_the_connection: everywhere;
    ["channeling.data-after-close"] a_second_close_costs_the_connection: everywhere;
}

async fn a_request_or_response_with_a_channel_zero_costs_the_connection(ground: Ground) {
    for in_response in [false, true] {
        for behind_another in [false, true] {
            ground
                .costs_the_connection(async |rig| {
                    let mut ids = vec![0];
                    if behind_another {
                        ids.insert(0, rig.fresh_channel());
                    }
                    let note = if in_response {
                        Note::response(rig.conn, rig.calling().await.1, OK)
                    } else {
                        Note::request(rig.conn, rig.fresh_request(), &LISTEN, &[0])
                    };
                    rig.say(note.naming(&ids)).await;
                    Violation::ZeroChannel
                })
                .await;
        }
    }
}

/// Each kind of message that a channel's id stands in.
fn messages_for(conn_id: u64, channel_id: u64) -> [Note; 4] {
    [
        Note::data(conn_id, channel_id, &element(3)),
        Note::Close { conn_id, channel_id },
        Note::Reset { conn_id, channel_id },
        Note::Credit { conn_id, channel_id, bytes: 1 },
    ]
}

async fn a_message_for_channel_zero_costs_the_connection(ground: Ground) {
    for index in 0..4 {
        ground
            .costs_the_connection(async |rig| {
                let note = messages_for(rig.conn, 0)[index].clone();
                rig.say(note).await;
                Violation::ZeroChannel
            })
            .await;
    }
}

/// Of either parity: far away, and the very next one.
async fn a_message_for_a_channel_that_was_never_opened_costs_the_connection(ground: Ground) {
    for index in 0..4 {
        for which in 0..4 {
            ground
                .costs_the_connection(async |rig| {
                    // Our side has opened two, for the streams of a busy connection.
                    let next = [rig.fresh_channel(), rig.our_first_channel() + 4];
                    let channel_id = [next[0], next[1], u64::MAX, u64::MAX - 1][which];
                    let note = messages_for(rig.conn, channel_id)[index].clone();
                    rig.say(note).await;
                    Violation::UnknownChannel { channel_id }
                })
                .await;
        }
    }
}

async fn a_channel_with_an_id_of_ours_cannot_be_opened_by_the_peer(ground: Ground) {
    for in_response in [false, true] {
        ground
            .costs_the_connection(async |rig| {
                let channel_id = rig.our_first_channel() + 100;
                let note = if in_response {
                    Note::response(rig.conn, rig.calling().await.1, OK)
                } else {
                    Note::request(rig.conn, rig.fresh_request(), &LISTEN, &[0])
                };
                rig.say(note.naming(&[channel_id])).await;
                Violation::UnknownChannel { channel_id }
            })
            .await;
    }
}

/// Neither while it is open, nor later, nor twice by one message.
async fn a_channel_cannot_be_opened_twice(ground: Ground) {
    for when in ["in one message", "while it is open", "when it is spent"] {
        ground
            .costs_the_connection(async |rig| {
                let (request_id, channel_id) = (rig.fresh_request(), rig.fresh_channel());
                let opening = rig.opening(request_id, &LISTEN, channel_id, &[]);
                match when {
                    "in one message" => rig.say(opening.naming(&[channel_id; 2])).await,
                    "while it is open" => {
                        rig.say(opening).await;
                        let again = rig.fresh_request();
                        rig.say(rig.opening(again, &LISTEN, channel_id, &[])).await;
                    }
                    _ => {
                        rig.say(opening.clone()).await;
                        rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
                        assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
                        rig.hears_answer(request_id, OK).await;
                        rig.say(opening).await;
                    }
                }
                Violation::UnknownChannel { channel_id }
            })
            .await;
    }
}

/// A handler's stream, and one of a caller's.
async fn data_on_a_channel_that_we_send_costs_the_connection(ground: Ground) {
    for callers in [false, true] {
        ground
            .costs_the_connection(async |rig| {
                let channel_id = sent_by_us(rig, callers).await;
                rig.say(Note::data(rig.conn, channel_id, &element(3))).await;
                Violation::UnknownChannel { channel_id }
            })
            .await;
    }
}

async fn a_close_from_the_receiving_side_costs_the_connection(ground: Ground) {
    for callers in [false, true] {
        ground
            .costs_the_connection(async |rig| {
                let channel_id = sent_by_us(rig, callers).await;
                rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
                Violation::UnknownChannel { channel_id }
            })
            .await;
    }
}

/// A channel that our side sends, open, with credit left: opened by a call of ours, or by the peer's.
async fn sent_by_us(rig: &mut Rig, callers: bool) -> u64 {
    if callers {
        let sending = rig.calling_to_send().await;
        let tx = sending.half;
        tokio::spawn(async move { tx.closed().await });
        return sending.channel_id;
    }
    // Its second element exceeds what is left of the window.
    let arguments = postcard::to_extend(&(2_u32, 700_u32), Vec::new()).expect("it has an encoding");
    let (_, channel_id) = rig.peer_opens(&TALK, &arguments).await;
    let Note::Data { channel_id: sent, .. } = rig.hear().await else { panic!("no element") };
    assert_eq!(sent, channel_id);
    channel_id
}

/// The reader itself is told which rule the peer broke. What came before is read first.
async fn an_element_that_does_not_decode_costs_the_connection_when_it_is_read(ground: Ground) {
    for bad in [&[][..], &[5, 1], &[1, 7, 7], &[0xff; 11]] {
        ground
            .costs_the_connection(async |rig| {
                let receiving = rig.calling_to_receive().await;
                let (channel_id, mut rx) = (receiving.channel_id, receiving.half);
                let reader = tokio::spawn(async move {
                    let first = rx.recv().await;
                    (first, rx.recv().await, rx)
                });
                let good = Note::data(rig.conn, channel_id, &element(3));
                rig.peer.say_together(&[good, Note::data(rig.conn, channel_id, bad)]).await;
                let violation = undecodable(channel_id, bad);
                let (first, second, rx) = of(reader).await;
                rig.keep(rx); // dropped, it says Reset, which may go out before the Goodbye
                assert_eq!(first.expect("it decodes"), Some(value(3)));
                assert_same(&second, &Err::<(), _>(RecvError::Ended(rig.violated(&violation))));
                violation
            })
            .await;
        // The same, read by a handler.
        ground
            .costs_the_connection(async |rig| {
                let (_, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
                rig.say(Note::data(rig.conn, channel_id, bad)).await;
                let violation = undecodable(channel_id, bad);
                let Event::Ended(ended) = rig.event().await else { panic!("the handler has read nothing") };
                assert_same(&ended, &Err::<(), _>(RecvError::Ended(rig.violated(&violation))));
                violation
            })
            .await;
    }
}

/// What this is instead of an element.
fn undecodable(channel_id: u64, element: &[u8]) -> Violation {
    let why = strict::decode::<serde_bytes::ByteBuf>(element, strict::NESTING).expect_err("it is none");
    Violation::InvalidData { channel_id, why }
}

async fn an_element_that_does_not_decode_and_that_nobody_reads_costs_nothing(ground: Ground) {
    let mut rig = ground.rig().await;
    let (request_id, channel_id) = rig.peer_opens(&HOLD, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    rig.say(Note::data(rig.conn, channel_id, &[5, 1])).await;
    rig.goes_on().await;
    rig.say(Note::Cancel { conn_id: rig.conn, request_id }).await;
    // Its receiver is dropped with its handler.
    let heard = [rig.hear().await, rig.hear().await];
    assert!(heard.contains(&Note::Reset { conn_id: rig.conn, channel_id }), "{heard:?}");
    assert!(matches!(rig.event().await, Event::Stopped));
    rig.goes_on().await;
}

/// Whether there is credit for it or not, and whether the channel is open or not.
async fn an_element_beyond_the_maximum_costs_the_connection(ground: Ground) {
    let limit = MAX_PAYLOAD as usize;
    for spent in [false, true] {
        ground
            .costs_the_connection(async |rig| {
                let (request_id, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
                if spent {
                    rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
                    assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
                    rig.hears_answer(request_id, OK).await;
                }
                rig.say(Note::data(rig.conn, channel_id, &element(limit + 1))).await;
                Violation::DataSizeLimit { len: limit + 1, limit }
            })
            .await;
    }
}

async fn an_element_beyond_the_maximum_is_refused_here_with_both_numbers(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    let limit = MAX_PAYLOAD as usize;
    let refused = sending.half.send(value(limit + 1)).await;
    let Err(SendError::Refused(Refusal::PayloadTooLarge { len, limit: most })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((len, most), (limit + 1, limit));
    rig.goes_on().await;
    // The stream itself goes on, too.
    sending.half.send(value(3)).await.expect("it fits");
    rig.hears(Note::data(rig.conn, sending.channel_id, &element(3))).await;
}

/// While its reader has not taken everything: afterwards the id is spent.
async fn data_behind_close_costs_the_connection(ground: Ground) {
    for with_element in [false, true] {
        ground
            .costs_the_connection(async |rig| {
                let channel_id = held(rig).await;
                let (conn_id, data) = (rig.conn, Note::data(rig.conn, channel_id, &element(3)));
                if with_element {
                    rig.say(data.clone()).await;
                }
                rig.say(Note::Close { conn_id, channel_id }).await;
                rig.say(data).await;
                Violation::DataAfterClose { channel_id }
            })
            .await;
    }
}

async fn a_second_close_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let channel_id = held(rig).await;
            for _ in 0..2 {
                rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
            }
            Violation::DataAfterClose { channel_id }
        })
        .await;
}

/// A channel whose reader, a caller of ours, does not read. Its call is answered already.
async fn held(rig: &mut Rig) -> u64 {
    let receiving = rig.calling_to_receive().await;
    rig.answer(receiving.request_id, OK).await;
    of(receiving.call).await.expect("it was answered");
    rig.keep(receiving.half);
    receiving.channel_id
}

//! Channels: what is kept, and what is no violation, by protocol section 5.

use super::{
    cases,
    links::{Ground, settings},
    note::Note,
    rig::{CANCELLED, INVALID_PAYLOAD, OK, Rig, UNKNOWN_METHOD, USER_7, element, of, value},
    service::{BOTH, Event, GATED, GIVE, HOLD, LISTEN, NOP, TAKE, TALK, THEIRS},
};
use crate::rpc::{
    errors::{CallError, RecvError, Refusal, SendError},
    rx::Rx,
    tx::{Tx, channel},
};

cases! {
    "Channels, kept (protocol section 5)" on connections;
    [] our_channel_ids_are_of_our_parity_and_are_never_used_again: everywhere;
    [] the_peers_channel_ids_may_come_in_any_order: everywhere;
    [] the_list_of_channels_counts_and_not_what_stands_in_the_payload: everywhere;
    [] a_list_that_is_longer_or_shorter_than_the_handles_is_an_invalid_payload: everywhere;
    [] data_right_behind_its_request_is_received: everywhere;
    [] data_right_behind_the_response_that_opened_its_channel_is_received: everywhere;
    [] a_returned_sender_lets_the_caller_send_to_the_callee: everywhere;
    [] what_a_handler_sent_comes_before_its_response: everywhere;
    [] what_a_handler_left_in_a_returned_stream_comes_behind_its_response: everywhere;
    [] a_channels_data_comes_before_its_close: everywhere;
    [] what_was_sent_before_the_call_comes_behind_its_request: everywhere;
    [] a_stream_may_outlive_its_call_in_both_directions: everywhere;
    [] a_receiver_that_is_dropped_sends_reset_and_ignores_what_follows: everywhere;
    [] a_reset_from_the_receiver_closes_our_sender: everywhere;
    [] a_reset_from_the_sender_breaks_our_receiver_off: everywhere;
    [] messages_for_a_spent_channel_are_ignored: everywhere;
    [] an_error_of_the_protocol_kills_the_calls_channels: everywhere;
    [] an_error_of_the_service_leaves_the_calls_channels_open: everywhere;
    [] a_request_that_is_refused_spends_its_channels: everywhere;
    [] a_response_to_nobody_has_its_channels_reset: everywhere;
    [] a_result_that_does_not_decode_has_its_channels_reset: everywhere;
    [] a_cancelled_call_resets_what_its_handler_received: everywhere;
    [] a_stream_in_an_element_or_an_error_is_refused_here: everywhere;
}

/// A call of ours that returns a stream of one kind or another.
macro_rules! returning {
    ($rig:ident, $half:ty) => {{
        let call = tokio::spawn($rig.ours.call::<(), $half, u8>(&THEIRS, ()));
        let (request_id, channels) = $rig.hears_call().await;
        assert!(channels.is_empty());
        (call, request_id)
    }};
}

async fn our_channel_ids_are_of_our_parity_and_are_never_used_again(ground: Ground) {
    let mut rig = ground.rig().await;
    let first = rig.our_first_channel();
    for index in 0..3 {
        let (tx, rx) = channel::<Vec<u8>>();
        let (tx2, rx2) = channel::<Vec<u8>>();
        type Handles = (Rx<Vec<u8>>, Tx<Vec<u8>>);
        let call = tokio::spawn(rig.ours.call::<Handles, (), u8>(&THEIRS, (rx, tx2)));
        let (request_id, channels) = rig.hears_call().await;
        assert_eq!(channels, [first + 6 * index, first + 6 * index + 2], "in the order of the handles");
        rig.answer(request_id, CANCELLED).await; // both are dead
        assert!(of(call).await.is_err());
        drop((tx, rx2));
        // A handler's result takes the next one.
        let request_id = rig.peer_calls(&TAKE, &[]).await;
        let response = rig.hear().await;
        let Note::Response { request_id: answered, channels, .. } = &response else { panic!("{response:?}") };
        assert_eq!((*answered, &channels[..]), (request_id, &[first + 6 * index + 4][..]));
        let channel_id = channels[0];
        rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
        assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
    }
    rig.goes_on().await;
}

async fn the_peers_channel_ids_may_come_in_any_order(ground: Ground) {
    let mut rig = ground.rig().await;
    let ids = [(); 4].map(|()| rig.fresh_channel());
    for channel_id in [ids[2], ids[0], ids[3], ids[1]] {
        let request_id = rig.fresh_request();
        let opening = rig.opening(request_id, &LISTEN, channel_id, &[]);
        let close = Note::Close { conn_id: rig.conn, channel_id };
        rig.peer.say_together(&[opening, close]).await;
        assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
        rig.hears_answer(request_id, OK).await;
    }
    rig.goes_on().await;
}

/// "The u64 that stands inside the payload is ignored by the receiver."
async fn the_list_of_channels_counts_and_not_what_stands_in_the_payload(ground: Ground) {
    let mut rig = ground.rig().await;
    for inside in [&[0, 0][..], &[1, 2], &[0xff, 0xff, 0x7f, 0]] {
        let (request_id, one, other) = (rig.fresh_request(), rig.fresh_channel(), rig.fresh_channel());
        // The first handle gets the first of the list, though its id is the higher one.
        rig.say(Note::request(rig.conn, request_id, &BOTH, inside).naming(&[other, one])).await;
        for (channel_id, len) in [(one, 5), (other, 4)] {
            rig.say(Note::data(rig.conn, channel_id, &element(len))).await;
            rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
        }
        for len in [4, 5] {
            let Event::Element(seen) = rig.event().await else { panic!("no element") };
            assert_eq!(seen, value(len));
            assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
        }
        rig.hears_answer(request_id, OK).await;
    }
    rig.goes_on().await;
}

async fn a_list_that_is_longer_or_shorter_than_the_handles_is_an_invalid_payload(ground: Ground) {
    let mut rig = ground.rig().await;
    for (method, payload, count) in
        [(&LISTEN, &[0][..], 0), (&LISTEN, &[0], 2), (&BOTH, &[0, 0], 1), (&NOP, &[], 1)]
    {
        let ids: Vec<_> = (0..count).map(|_| rig.fresh_channel()).collect();
        let request_id = rig.fresh_request();
        rig.say(Note::request(rig.conn, request_id, method, payload).naming(&ids)).await;
        answered_with_resets(&mut rig, request_id, INVALID_PAYLOAD).await;
        // Their ids are spent: what is on its way is ignored.
        for channel_id in ids {
            rig.say(Note::data(rig.conn, channel_id, &element(3))).await;
            rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
        }
        rig.goes_on().await;
    }
}

/// The peer hears the answer to its request, which no handler took, and around it, perhaps, that channels of it
/// are reset.
async fn answered_with_resets(rig: &mut Rig, request_id: u64, payload: &[u8]) {
    let marker = rig.peer_calls(&NOP, &[]).await;
    let (answer, end) = (Note::response(rig.conn, request_id, payload), Note::response(rig.conn, marker, OK));
    let mut heard = Vec::new();
    loop {
        match rig.hear().await {
            Note::Reset { .. } => {}
            note if note == end => break,
            note => heard.push(note),
        }
    }
    assert_eq!(heard, [answer]);
}

async fn data_right_behind_its_request_is_received(ground: Ground) {
    let mut rig = ground.rig().await;
    let (conn_id, request_id, channel_id) = (rig.conn, rig.fresh_request(), rig.fresh_channel());
    let together = [
        rig.opening(request_id, &LISTEN, channel_id, &[]),
        Note::data(conn_id, channel_id, &element(5)),
        Note::data(conn_id, channel_id, &element(6)),
        Note::Close { conn_id, channel_id },
    ];
    rig.peer.say_together(&together).await;
    for len in [5, 6] {
        let Event::Element(seen) = rig.event().await else { panic!("no element") };
        assert_eq!(seen, value(len));
    }
    assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
    rig.hears_answer(request_id, OK).await;
    rig.goes_on().await;
}

/// "From the moment the Response arrives, not from when application code looks at it."
async fn data_right_behind_the_response_that_opened_its_channel_is_received(ground: Ground) {
    let mut rig = ground.rig().await;
    let (call, request_id) = returning!(rig, Rx<Vec<u8>>);
    let (conn_id, channel_id) = (rig.conn, rig.fresh_channel());
    let together = [
        Note::response(conn_id, request_id, &[0, 0]).naming(&[channel_id]),
        Note::data(conn_id, channel_id, &element(5)),
        Note::Close { conn_id, channel_id },
    ];
    rig.peer.say_together(&together).await;
    rig.goes_on().await; // all of it has arrived
    let mut rx = of(call).await.expect("the peer has answered");
    assert_eq!(rx.recv().await.expect("it decodes"), Some(value(5)));
    assert_eq!(rx.recv().await.expect("it was closed"), None);
    drop(rx);
    rig.goes_on().await;
}

async fn a_returned_sender_lets_the_caller_send_to_the_callee(ground: Ground) {
    let mut rig = ground.rig().await;
    let (call, request_id) = returning!(rig, Tx<Vec<u8>>);
    let (conn_id, channel_id) = (rig.conn, rig.fresh_channel());
    rig.say(Note::response(conn_id, request_id, &[0, 0]).naming(&[channel_id])).await;
    let tx = of(call).await.expect("the peer has answered");
    for len in [5, 1000] {
        tx.send(value(len)).await.expect("it fits the window");
        rig.hears(Note::data(conn_id, channel_id, &element(len))).await;
    }
    let sender = tokio::spawn(async move { tx.send(value(100)).await });
    rig.goes_on().await; // there is no credit left for it
    rig.peer.grant(conn_id, channel_id, 100).await;
    rig.hears(Note::data(conn_id, channel_id, &element(100))).await;
    of(sender).await.expect("the stream is open");
    rig.hears(Note::Close { conn_id, channel_id }).await;
    rig.goes_on().await;
}

/// The arguments of `TALK` behind its stream, or those of `GIVE`: so many elements of so many bytes.
fn elements(times: u32, len: usize) -> Vec<u8> {
    postcard::to_extend(&(times, value(len).len() as u32), Vec::new()).expect("it has an encoding")
}

async fn what_a_handler_sent_comes_before_its_response(ground: Ground) {
    let mut rig = ground.rig().await;
    let (request_id, channel_id) = rig.peer_opens(&TALK, &elements(3, 5)).await;
    for number in 0..3_u8 {
        rig.hears(Note::data(rig.conn, channel_id, &[4, number, number, number, number])).await;
    }
    // Its sender is dropped when it returns.
    rig.hears(Note::Close { conn_id: rig.conn, channel_id }).await;
    rig.hears_answer(request_id, OK).await;
    rig.goes_on().await;
}

async fn what_a_handler_left_in_a_returned_stream_comes_behind_its_response(ground: Ground) {
    let mut rig = ground.rig().await;
    let request_id = rig.peer_calls(&GIVE, &elements(3, 5)).await;
    let channel_id = rig.our_first_channel();
    let payload = [0, channel_id as u8];
    rig.hears(Note::response(rig.conn, request_id, &payload).naming(&[channel_id])).await;
    for number in 0..3_u8 {
        rig.hears(Note::data(rig.conn, channel_id, &[4, number, number, number, number])).await;
    }
    rig.hears(Note::Close { conn_id: rig.conn, channel_id }).await;
    rig.goes_on().await;
}

async fn a_channels_data_comes_before_its_close(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    for len in 4..20 {
        sending.half.send(value(len)).await.expect("it fits the window");
    }
    drop(sending.half);
    for len in 4..20 {
        rig.hears(Note::data(rig.conn, sending.channel_id, &element(len))).await;
    }
    rig.hears(Note::Close { conn_id: rig.conn, channel_id: sending.channel_id }).await;
    rig.goes_on().await;
}

async fn what_was_sent_before_the_call_comes_behind_its_request(ground: Ground) {
    let mut rig = ground.rig().await;
    let (tx, rx) = channel();
    for len in 4..8 {
        tx.send(value(len)).await.expect("it fits");
    }
    drop(tx);
    let _call = tokio::spawn(rig.ours.call::<(Rx<Vec<u8>>,), (), u8>(&THEIRS, (rx,)));
    let (_, channels) = rig.hears_call().await;
    for len in 4..8 {
        rig.hears(Note::data(rig.conn, channels[0], &element(len))).await;
    }
    rig.hears(Note::Close { conn_id: rig.conn, channel_id: channels[0] }).await;
    // Also where its sender is dropped while it waits for credit.
    let (tx, rx) = channel();
    for _ in 0..3 {
        tx.send(value(600)).await.expect("it fits");
    }
    let _call = tokio::spawn(rig.ours.call::<(Rx<Vec<u8>>,), (), u8>(&THEIRS, (rx,)));
    let (_, channels) = rig.hears_call().await;
    let (conn_id, channel_id) = (rig.conn, channels[0]);
    rig.hears(Note::data(conn_id, channel_id, &element(600))).await;
    drop(tx);
    rig.goes_on().await;
    for _ in 0..2 {
        rig.peer.grant(conn_id, channel_id, 600).await;
        rig.hears(Note::data(conn_id, channel_id, &element(600))).await;
    }
    rig.hears(Note::Close { conn_id, channel_id }).await;
    rig.goes_on().await;
}

async fn a_stream_may_outlive_its_call_in_both_directions(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    let mut receiving = rig.calling_to_receive().await;
    for (call, request_id) in [(sending.call, sending.request_id), (receiving.call, receiving.request_id)] {
        rig.answer(request_id, OK).await;
        of(call).await.expect("the peer has answered");
    }
    sending.half.send(value(5)).await.expect("the stream is open");
    rig.hears(Note::data(rig.conn, sending.channel_id, &element(5))).await;
    rig.say(Note::data(rig.conn, receiving.channel_id, &element(6))).await;
    assert_eq!(receiving.half.recv().await.expect("the stream is open"), Some(value(6)));
    rig.goes_on().await;
}

/// "Whatever arrives for it later is ignored, and its credit is gone."
async fn a_receiver_that_is_dropped_sends_reset_and_ignores_what_follows(ground: Ground) {
    let mut rig = ground.rig().await;
    let receiving = rig.calling_to_receive().await;
    let (conn_id, channel_id) = (rig.conn, receiving.channel_id);
    rig.say(Note::data(conn_id, channel_id, &element(900))).await;
    rig.goes_on().await;
    drop(receiving.half);
    rig.hears(Note::Reset { conn_id, channel_id }).await;
    // More than there was credit for, and no credit comes for it.
    for _ in 0..3 {
        rig.say(Note::data(conn_id, channel_id, &element(900))).await;
    }
    rig.say(Note::Close { conn_id, channel_id }).await;
    rig.goes_on().await;
}

async fn a_reset_from_the_receiver_closes_our_sender(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    let (conn_id, channel_id) = (rig.conn, sending.channel_id);
    let tx = sending.half;
    for _ in 0..2 {
        tx.send(value(500)).await.expect("it fits the window");
        rig.hears(Note::data(conn_id, channel_id, &element(500))).await;
    }
    let waits = tokio::spawn(async move { (tx.send(value(500)).await, tx) });
    rig.say(Note::Reset { conn_id, channel_id }).await;
    let (waited, tx) = of(waits).await;
    assert!(matches!(waited, Err(SendError::Closed)), "{waited:?}");
    assert!(tx.is_closed());
    drop(tx); // no Close behind a Reset
    // Credit for it is late, and ignored.
    rig.say(Note::Credit { conn_id, channel_id, bytes: 1000 }).await;
    rig.goes_on().await;
}

/// What came before it is read first.
async fn a_reset_from_the_sender_breaks_our_receiver_off(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut receiving = rig.calling_to_receive().await;
    let (conn_id, channel_id) = (rig.conn, receiving.channel_id);
    let together = [Note::data(conn_id, channel_id, &element(5)), Note::Reset { conn_id, channel_id }];
    rig.peer.say_together(&together).await;
    assert_eq!(receiving.half.recv().await.expect("it came before"), Some(value(5)));
    let ended = receiving.half.recv().await;
    assert!(matches!(ended, Err(RecvError::Reset)), "{ended:?}");
    drop(receiving.half);
    let (request_id, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
    rig.say(Note::Reset { conn_id, channel_id }).await;
    assert!(matches!(rig.event().await, Event::Ended(Err(RecvError::Reset))));
    rig.hears_answer(request_id, OK).await;
    rig.goes_on().await;
}

/// Spent by Close, by Reset, by the other side's Reset; opened by us, and by the peer.
async fn messages_for_a_spent_channel_are_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    let conn_id = rig.conn;
    let mut spent = Vec::new();

    let closed = rig.calling_to_send().await;
    drop(closed.half);
    rig.hears(Note::Close { conn_id, channel_id: closed.channel_id }).await;
    spent.push(closed.channel_id);

    let reset = rig.calling_to_receive().await;
    drop(reset.half);
    rig.hears(Note::Reset { conn_id, channel_id: reset.channel_id }).await;
    spent.push(reset.channel_id);

    let (request_id, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
    rig.say(Note::Close { conn_id, channel_id }).await;
    assert!(matches!(rig.event().await, Event::Ended(Ok(()))));
    rig.hears_answer(request_id, OK).await;
    spent.push(channel_id);

    let (request_id, channel_id) = rig.peer_opens(&TALK, &elements(1000, 500)).await;
    for number in 0..2 {
        let Note::Data { channel_id: on, .. } = rig.hear().await else { panic!("no element {number}") };
        assert_eq!(on, channel_id);
    }
    rig.say(Note::Reset { conn_id, channel_id }).await;
    assert!(matches!(rig.event().await, Event::NotSent(SendError::Closed)));
    rig.hears_answer(request_id, OK).await;
    spent.push(channel_id);

    for channel_id in spent {
        for note in [
            Note::data(conn_id, channel_id, &element(900)),
            Note::data(conn_id, channel_id, &element(900)),
            Note::data(conn_id, channel_id, &[5, 1]),
            Note::Credit { conn_id, channel_id, bytes: u32::MAX },
            Note::Close { conn_id, channel_id },
            Note::Close { conn_id, channel_id },
            Note::Reset { conn_id, channel_id },
        ] {
            rig.say(note).await;
        }
        rig.goes_on().await;
    }
}

async fn an_error_of_the_protocol_kills_the_calls_channels(ground: Ground) {
    let mut rig = ground.rig().await;
    for error in [UNKNOWN_METHOD, INVALID_PAYLOAD, CANCELLED] {
        let sending = rig.calling_to_send().await;
        let mut receiving = rig.calling_to_receive().await;
        for (call, request_id) in [(sending.call, sending.request_id), (receiving.call, receiving.request_id)]
        {
            rig.answer(request_id, error).await;
            assert!(of(call).await.is_err());
        }
        let sent = sending.half.send(value(5)).await;
        assert!(matches!(sent, Err(SendError::Closed)), "{sent:?}");
        let received = receiving.half.recv().await;
        assert!(matches!(received, Err(RecvError::Reset)), "{received:?}");
        drop((sending.half, receiving.half)); // neither Close nor Reset: both sides know
        for channel_id in [sending.channel_id, receiving.channel_id] {
            rig.say(Note::Credit { conn_id: rig.conn, channel_id, bytes: 1 }).await;
            rig.say(Note::data(rig.conn, channel_id, &element(5))).await;
            rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
        }
        rig.goes_on().await;
    }
}

async fn an_error_of_the_service_leaves_the_calls_channels_open(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    rig.answer(sending.request_id, USER_7).await;
    assert!(matches!(of(sending.call).await, Err(CallError::User(7))));
    sending.half.send(value(5)).await.expect("the stream is open");
    rig.hears(Note::data(rig.conn, sending.channel_id, &element(5))).await;
    rig.goes_on().await;
}

/// Beyond the limit of concurrent requests, and for a method that nobody has.
async fn a_request_that_is_refused_spends_its_channels(ground: Ground) {
    let mut rig = ground.rig_with(settings().max_concurrent_requests(1)).await;
    let (request_id, channel_id) = rig.peer_opens(&THEIRS, &[]).await;
    rig.hears_answer(request_id, UNKNOWN_METHOD).await; // and no Reset: both sides know
    let running = rig.peer_calls(&GATED, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    let (request_id, beyond) = rig.peer_opens(&LISTEN, &[]).await;
    rig.hears_answer(request_id, CANCELLED).await;
    for channel_id in [channel_id, beyond] {
        rig.say(Note::data(rig.conn, channel_id, &element(900))).await;
        rig.say(Note::data(rig.conn, channel_id, &element(900))).await;
        rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
    }
    rig.gate.add_permits(1);
    rig.hears_answer(running, OK).await;
    rig.goes_on().await;
}

/// The caller is gone, whose half would have been the peer's to feed, or to read.
async fn a_response_to_nobody_has_its_channels_reset(ground: Ground) {
    let mut rig = ground.rig().await;
    let (call, request_id) = returning!(rig, Rx<Vec<u8>>);
    call.abort();
    rig.hears(Note::Cancel { conn_id: rig.conn, request_id }).await;
    let (conn_id, ids) = (rig.conn, [rig.fresh_channel(), rig.fresh_channel()]);
    let response = Note::response(conn_id, request_id, &[0, 0]).naming(&ids);
    let together = [response, Note::data(conn_id, ids[0], &element(5))];
    rig.peer.say_together(&together).await;
    for channel_id in ids {
        rig.hears(Note::Reset { conn_id, channel_id }).await;
    }
    rig.say(Note::data(conn_id, ids[0], &element(5))).await;
    rig.say(Note::Close { conn_id, channel_id: ids[0] }).await;
    rig.goes_on().await;
}

async fn a_result_that_does_not_decode_has_its_channels_reset(ground: Ground) {
    let mut rig = ground.rig().await;
    for (payload, count) in [(&[0, 0, 9][..], 1), (&[0], 1), (&[0, 0], 2), (&[7], 1), (&[1, 0, 7], 1)] {
        let (call, request_id) = returning!(rig, Rx<Vec<u8>>);
        let ids: Vec<_> = (0..count).map(|_| rig.fresh_channel()).collect();
        rig.say(Note::response(rig.conn, request_id, payload).naming(&ids)).await;
        let error = of(call).await.expect_err("it is no result");
        assert!(matches!(error, CallError::InvalidResponse(_) | CallError::User(7)), "{error:?}");
        let mut reset = Vec::new();
        for _ in 0..count {
            let Note::Reset { channel_id, .. } = rig.hear().await else { panic!("no reset") };
            reset.push(channel_id);
        }
        reset.sort_unstable();
        assert_eq!(reset, ids);
        rig.goes_on().await;
    }
}

async fn a_cancelled_call_resets_what_its_handler_received(ground: Ground) {
    let mut rig = ground.rig().await;
    let (request_id, channel_id) = rig.peer_opens(&HOLD, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    rig.say(Note::Cancel { conn_id: rig.conn, request_id }).await;
    rig.hears(Note::Reset { conn_id: rig.conn, channel_id }).await;
    rig.hears_answer(request_id, CANCELLED).await;
    assert!(matches!(rig.event().await, Event::Stopped));
    rig.say(Note::data(rig.conn, channel_id, &element(5))).await;
    rig.say(Note::Close { conn_id: rig.conn, channel_id }).await;
    rig.goes_on().await;
}

/// "And not inside an error type." The peer's wire would be as it is for a u64, so that nobody could tell.
async fn a_stream_in_an_element_or_an_error_is_refused_here(ground: Ground) {
    let mut rig = ground.rig().await;
    let (tx, rx) = channel::<Tx<Vec<u8>>>();
    let _call = tokio::spawn(rig.ours.call::<(Rx<Tx<Vec<u8>>>,), (), u8>(&THEIRS, (rx,)));
    rig.hears_call().await;
    let refused = tx.send(channel().0).await;
    assert!(matches!(refused, Err(SendError::Refused(Refusal::HandleMisplaced))), "{refused:?}");
    rig.goes_on().await;
}

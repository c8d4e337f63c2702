//! Flow control: protocol section 6.

use super::{
    cases,
    links::{Ground, MAX_PAYLOAD, WINDOW},
    note::Note,
    rig::{OK, Rig, element, of, value},
    service::{Event, HOLD, LISTEN, TALK, THEIRS},
};
use crate::{
    error::Violation,
    rpc::{
        errors::{Refusal, SendError},
        rx::Rx,
        tx::{Tx, channel},
    },
};

cases! {
    "Flow control (protocol section 6)" on connections;
    ["flow.channel.credit-overrun"] more_than_the_window_costs_the_connection: everywhere;
    ["flow.channel.credit-overrun"] more_than_was_granted_since_costs_the_connection: everywhere;
    ["flow.channel.credit-overrun"] a_peer_cannot_grant_credit_to_itself: everywhere;
    ["flow.channel.credit-overrun"] our_sender_stops_at_its_credit_and_goes_on_with_more: everywhere;
    [] a_whole_window_and_its_close_arrive_where_nobody_reads: everywhere;
    [] a_reset_costs_no_credit: everywhere;
    [] credit_comes_back_as_values_are_taken: everywhere;
    [] credit_beyond_all_counting_does_no_harm: everywhere;
    [] an_element_of_the_whole_window_passes_and_a_longer_one_is_refused_here_with_both_numbers: everywhere;
    [] elements_of_zero_bytes_cost_no_credit: everywhere;
    [] a_reader_that_does_not_read_stalls_its_own_channel_alone: everywhere;
}

const LIMIT: usize = WINDOW as usize;

/// A channel that the peer sends and nobody reads: a caller's of ours, or a handler's.
async fn unread(rig: &mut Rig, callers: bool) -> u64 {
    if callers {
        let receiving = rig.calling_to_receive().await;
        rig.keep(receiving.half);
        return receiving.channel_id;
    }
    let (_, channel_id) = rig.peer_opens(&HOLD, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    channel_id
}

/// By one element, by the first behind a whole window, and by one of many that arrive together.
async fn more_than_the_window_costs_the_connection(ground: Ground) {
    for callers in [false, true] {
        for lens in
            [vec![LIMIT + 1], vec![MAX_PAYLOAD as usize], vec![LIMIT, 1], vec![1, LIMIT], vec![100; 11]]
        {
            ground
                .costs_the_connection(async |rig| {
                    let channel_id = unread(rig, callers).await;
                    let elements = lens.iter().map(|len| Note::data(rig.conn, channel_id, &vec![0; *len]));
                    rig.peer.say_together(&elements.collect::<Vec<_>>()).await;
                    Violation::CreditOverrun { channel_id, sent: overrun(&lens), granted: WINDOW.into() }
                })
                .await;
        }
    }
}

/// What has been sent of these when the window is overrun.
fn overrun(lens: &[usize]) -> u64 {
    let mut sent = 0;
    for len in lens {
        sent += *len as u64;
        if sent > u64::from(WINDOW) {
            break;
        }
    }
    sent
}

async fn more_than_was_granted_since_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let mut receiving = rig.calling_to_receive().await;
            let channel_id = receiving.channel_id;
            let granted = exchange_a_window(rig, &mut receiving.half, channel_id).await;
            rig.keep(receiving.half);
            // All of the credit, to the byte, while nobody reads.
            for len in split(granted - u64::from(WINDOW)) {
                rig.say(Note::data(rig.conn, channel_id, &element(len))).await;
            }
            rig.say(Note::data(rig.conn, channel_id, &element(1))).await;
            Violation::CreditOverrun { channel_id, sent: granted + 1, granted }
        })
        .await;
}

/// The peer sends a whole window, our side reads it. What it has granted then in all.
async fn exchange_a_window(rig: &mut Rig, rx: &mut Rx<Vec<u8>>, channel_id: u64) -> u64 {
    rig.say(Note::data(rig.conn, channel_id, &element(LIMIT))).await;
    assert_eq!(rx.recv().await.expect("it decodes"), Some(value(LIMIT)));
    // Credit is given when the reader comes back for more.
    let conn = rig.conn;
    tokio::select! {
        received = rx.recv() => panic!("{received:?}"),
        granted = rig.peer.more_credit(conn, channel_id, WINDOW.into()) => granted,
    }
}

/// Elements that can be, of so many bytes in all.
fn split(bytes: u64) -> [usize; 2] {
    let bytes = bytes as usize;
    assert!((200..=2 * LIMIT).contains(&bytes), "{bytes}");
    [bytes / 2, bytes - bytes / 2]
}

/// Credit for a channel comes from its receiver: what its sender says of it changes nothing.
async fn a_peer_cannot_grant_credit_to_itself(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let channel_id = unread(rig, true).await;
            rig.say(Note::Credit { conn_id: rig.conn, channel_id, bytes: 5000 }).await;
            rig.say(Note::data(rig.conn, channel_id, &element(LIMIT + 1))).await;
            Violation::CreditOverrun { channel_id, sent: u64::from(WINDOW) + 1, granted: WINDOW.into() }
        })
        .await;
}

async fn our_sender_stops_at_its_credit_and_goes_on_with_more(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    let (conn_id, channel_id) = (rig.conn, sending.channel_id);
    let tx = sending.half;
    let sender = tokio::spawn(async move {
        for _ in 0..5 {
            tx.send(value(400)).await?;
        }
        Ok::<_, SendError>(tx)
    });
    let data = Note::data(conn_id, channel_id, &element(400));
    for _ in 0..2 {
        rig.hears(data.clone()).await;
    }
    rig.goes_on().await; // 224 bytes are left
    rig.peer.grant(conn_id, channel_id, 175).await;
    rig.goes_on().await;
    rig.peer.grant(conn_id, channel_id, 1).await;
    rig.hears(data.clone()).await;
    rig.goes_on().await;
    rig.peer.grant(conn_id, channel_id, 1000).await;
    for _ in 0..2 {
        rig.hears(data.clone()).await;
    }
    drop(of(sender).await.expect("the stream is open"));
    rig.hears(Note::Close { conn_id, channel_id }).await;
    // A handler's stream in the same way.
    let arguments = postcard::to_extend(&(3_u32, 700_u32), Vec::new()).expect("it has an encoding");
    let (request_id, channel_id) = rig.peer_opens(&TALK, &arguments).await;
    for number in 0..3 {
        if number > 0 {
            rig.goes_on().await;
            rig.peer.grant(conn_id, channel_id, 702).await;
        }
        let Note::Data { channel_id: on, payload, .. } = rig.hear().await else { panic!("no element") };
        assert_eq!((on, payload.len()), (channel_id, 702));
    }
    rig.hears(Note::Close { conn_id, channel_id }).await;
    rig.hears_answer(request_id, OK).await;
    rig.goes_on().await;
}

/// "Close and Reset cost none."
async fn a_whole_window_and_its_close_arrive_where_nobody_reads(ground: Ground) {
    let mut rig = ground.rig().await;
    for lens in [vec![LIMIT], vec![LIMIT - 1, 1], vec![256; 4]] {
        let mut receiving = rig.calling_to_receive().await;
        let (conn_id, channel_id) = (rig.conn, receiving.channel_id);
        for len in &lens {
            rig.say(Note::data(conn_id, channel_id, &element(*len))).await;
        }
        rig.say(Note::Close { conn_id, channel_id }).await;
        rig.goes_on().await; // all of it has arrived
        for len in &lens {
            assert_eq!(receiving.half.recv().await.expect("it decodes"), Some(value(*len)));
        }
        assert_eq!(receiving.half.recv().await.expect("it was closed"), None);
        drop(receiving.half);
        rig.goes_on().await; // no credit comes for what is closed
    }
}

async fn a_reset_costs_no_credit(ground: Ground) {
    let mut rig = ground.rig().await;
    let (conn_id, channel_id) = (rig.conn, unread(&mut rig, true).await);
    rig.say(Note::data(conn_id, channel_id, &element(LIMIT))).await;
    rig.say(Note::Reset { conn_id, channel_id }).await;
    rig.goes_on().await;
    // And the other way: our own Reset, where our sender has none left.
    let sending = rig.calling_to_send().await;
    sending.half.send(value(LIMIT)).await.expect("it fits the window");
    rig.hears(Note::data(conn_id, sending.channel_id, &element(LIMIT))).await;
    drop(sending.half);
    rig.hears(Note::Close { conn_id, channel_id: sending.channel_id }).await;
    rig.goes_on().await;
}

/// A stream of many windows: the peer goes by the credit that it is given, and no more.
async fn credit_comes_back_as_values_are_taken(ground: Ground) {
    let mut rig = ground.rig().await;
    let (_, channel_id) = rig.peer_opens(&LISTEN, &[]).await;
    let (mut sent, mut granted) = (0, u64::from(WINDOW));
    while sent < 10 * u64::from(WINDOW) {
        while granted - sent < 300 {
            let conn = rig.conn;
            granted = rig.peer.more_credit(conn, channel_id, granted).await;
            assert!(granted <= sent + u64::from(WINDOW) * 5 / 4, "{granted} granted, {sent} taken");
        }
        rig.say(Note::data(rig.conn, channel_id, &element(300))).await;
        let Event::Element(seen) = rig.event().await else { panic!("no element") };
        assert_eq!(seen, value(300));
        sent += 300;
    }
}

async fn credit_beyond_all_counting_does_no_harm(ground: Ground) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    let conn = rig.conn;
    for _ in 0..3 {
        rig.peer.grant(conn, sending.channel_id, u32::MAX).await;
    }
    for _ in 0..10 {
        sending.half.send(value(900)).await.expect("the stream is open");
        rig.hears(Note::data(rig.conn, sending.channel_id, &element(900))).await;
    }
    rig.goes_on().await;
}

async fn an_element_of_the_whole_window_passes_and_a_longer_one_is_refused_here_with_both_numbers(
    ground: Ground,
) {
    let mut rig = ground.rig().await;
    let sending = rig.calling_to_send().await;
    for len in [LIMIT + 1, MAX_PAYLOAD as usize] {
        let refused = sending.half.send(value(len)).await;
        let Err(SendError::Refused(Refusal::ElementTooLarge { len: told, window })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((told, window), (len, LIMIT));
        rig.goes_on().await;
    }
    sending.half.send(value(LIMIT)).await.expect("it fits the window");
    rig.hears(Note::data(rig.conn, sending.channel_id, &element(LIMIT))).await;
    rig.goes_on().await;
}

/// "Credit in bytes: the length of Data's payload."
async fn elements_of_zero_bytes_cost_no_credit(ground: Ground) {
    let mut rig = ground.rig().await;
    let (tx, mut rx) = channel::<()>();
    let _call = tokio::spawn(rig.ours.call::<(Tx<()>,), (), u8>(&THEIRS, (tx,)));
    let (_, channels) = rig.hears_call().await;
    let (conn_id, channel_id) = (rig.conn, channels[0]);
    let count = WINDOW * 3;
    for _ in 0..count / 256 {
        rig.peer.say_together(&vec![Note::data(conn_id, channel_id, &[]); 256]).await;
        rig.goes_on().await; // they have arrived, and nobody reads
    }
    rig.say(Note::Close { conn_id, channel_id }).await;
    for _ in 0..count {
        assert_eq!(rx.recv().await.expect("it decodes"), Some(()));
    }
    assert_eq!(rx.recv().await.expect("it was closed"), None);
    rig.goes_on().await;
    // And from our side, where the window is used up.
    let sending = rig.calling_to_send().await;
    sending.half.send(value(LIMIT)).await.expect("it fits the window");
    rig.hears(Note::data(conn_id, sending.channel_id, &element(LIMIT))).await;
    let (tx, rx) = channel::<()>();
    let _call = tokio::spawn(rig.ours.call::<(Rx<()>,), (), u8>(&THEIRS, (rx,)));
    let (_, channels) = rig.hears_call().await;
    for _ in 0..10 {
        tx.send(()).await.expect("the stream is open");
        rig.hears(Note::data(conn_id, channels[0], &[])).await;
    }
}

async fn a_reader_that_does_not_read_stalls_its_own_channel_alone(ground: Ground) {
    let mut rig = ground.rig().await;
    for callers in [false, true] {
        let stalled = unread(&mut rig, callers).await;
        rig.say(Note::data(rig.conn, stalled, &element(LIMIT))).await;
    }
    let sending = rig.calling_to_send().await;
    sending.half.send(value(LIMIT)).await.expect("it fits the window");
    rig.hears(Note::data(rig.conn, sending.channel_id, &element(LIMIT))).await;
    let blocked = tokio::spawn(async move { sending.half.send(value(1)).await });

    rig.goes_on().await;
    let mut receiving = rig.calling_to_receive().await;
    rig.say(Note::data(rig.conn, receiving.channel_id, &element(400))).await;
    assert_eq!(receiving.half.recv().await.expect("it decodes"), Some(value(400)));
    let other = rig.calling_to_send().await;
    other.half.send(value(5)).await.expect("it fits the window");
    rig.hears(Note::data(rig.conn, other.channel_id, &element(5))).await;
    assert!(!blocked.is_finished());
}

//! What a peer that writes and does not read, or opens and does not close, can make this side hold.

use std::{future::Future, pin::pin};

use super::{NOP, Opening, RECEIVE, Raw, end_of, nop, poll, request, settle, until};
use crate::{
    error::LinkEnd,
    link::{
        ChannelRef, CreditSlot, Head, Message, Parts, Sink, memory,
        testing::{Collector, encoded, message},
    },
    rpc::{
        connect::ConnectOptions,
        connection::Connection,
        errors::{CallError, Never},
        options::Options,
        rx::Rx,
        tx::{Tx, channel},
        waiters::lock,
    },
    session::{answer::Verdict, metadata::Metadata},
    settings::Settings,
};

/// Our side, the acceptor, and the peer's.
fn link(options: Options) -> (Connection, Parts) {
    let (peer, ours) = memory::pair(&Settings::default(), &options.settings);
    (Connection::start(ours, &options), peer)
}

fn serving(settings: Settings) -> (Connection, Parts) {
    link(Options::new().settings(settings).serve(Raw::default()))
}

fn channel_of(id: u64) -> ChannelRef {
    ChannelRef { id, slot: CreditSlot::NONE }
}

/// Writes one message, which finds room.
fn send(peer: &mut Parts, head: &Head<'_>, payload: &[u8], channels: &[ChannelRef]) {
    peer.sender.send(head, &mut Opening(payload, channels)).expect("there is room");
    let _ = peer.sender.publish();
}

/// All that has arrived at the peer.
fn heard(peer: &mut Parts) -> Vec<Vec<u8>> {
    let mut sink = Collector::all();
    while peer.receiver.drain(&mut sink).is_ok_and(|messages| messages > 0) {}
    sink.messages
}

fn answer(request_id: u64, verdict: Verdict) -> Vec<u8> {
    message(&Head::Response { conn_id: 0, request_id, metadata: &[] }, verdict.bytes())
}

/// A peer that does not read, and callers that give up. Fails when a `Place` stays in its queue: each call left its
/// waker there, and with that the memory of its task, until the peer read or the link was over.
#[tokio::test]
async fn those_that_give_up_waiting_for_room_leave_nothing_behind() {
    let (connection, _peer) = serving(Settings::default().send_buffer(1));
    let mut first = pin!(nop(&connection));
    assert!(poll(first.as_mut()).is_pending(), "it was sent, and fills the link");
    let (tx, rx) = channel::<Vec<u8>>();
    let waiting = || lock(&connection.hub().room).len();
    gives_up(connection.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)), &waiting);
    gives_up(nop(&connection), &waiting);
    gives_up(connection.connect(ConnectOptions::new()), &waiting);
    drop(tx);
}

/// Polls a future that finds the link full, and drops it.
fn gives_up<F: Future>(future: F, waiting: &dyn Fn() -> usize) {
    let before = waiting();
    {
        let mut future = pin!(future);
        assert!(poll(future.as_mut()).is_pending());
        assert_eq!(waiting(), before + 1);
        assert!(poll(future.as_mut()).is_pending());
        assert_eq!(waiting(), before + 1, "it has one place, however often it asks");
    }
    assert_eq!(waiting(), before);
}

/// Answers that wait for room, and whose handlers are stopped. Fails as the one before.
#[tokio::test]
async fn answers_that_are_cancelled_while_they_wait_for_room_leave_nothing_behind() {
    let (connection, mut peer) = serving(Settings::default().send_buffer(1));
    for id in 1..=100 {
        send(&mut peer, &request(&NOP, id), &[], &[]);
    }
    let hub = connection.hub();
    until(|| lock(&hub.room).len() == 99).await; // the first one filled the link
    for id in 1..=100 {
        send(&mut peer, &Head::Cancel { conn_id: 0, request_id: id }, &[], &[]);
    }
    until(|| lock(&hub.room).is_empty()).await;
}

/// Fails without the look at `admits` in `open_request`: a peer opened as many as it wanted, in requests that run or in
/// one alone.
#[tokio::test]
async fn requests_that_open_more_channels_than_the_limit_are_answered_cancelled() {
    let (connection, mut peer) = serving(Settings::default().max_channels(4));
    for id in [1, 2, 3, 4, 5] {
        send(&mut peer, &request(&RECEIVE, id), &[1], &[channel_of(2 * id - 1)]);
    }
    settle().await;
    assert_eq!(heard(&mut peer), [answer(5, Verdict::Cancelled)]);
    // What still comes for a channel that was refused is for one that is over.
    send(&mut peer, &Head::Data { conn_id: 0, channel_id: 9 }, &[0], &[]);
    // The handler of the first ends with its stream, and makes room for one more.
    send(&mut peer, &Head::Close { conn_id: 0, channel_id: 1 }, &[], &[]);
    settle().await;
    assert_eq!(heard(&mut peer), [answer(1, Verdict::Ok)]);
    let many = [11, 13].map(channel_of);
    send(&mut peer, &request(&RECEIVE, 6), &[1], &many);
    send(&mut peer, &request(&RECEIVE, 7), &[1], &[channel_of(15)]);
    settle().await;
    assert_eq!(heard(&mut peer), [answer(6, Verdict::Cancelled)]);
    assert!(connection.end().is_none());
}

/// Fails when `open_channels` is asked for an answer's channels without the look at `admits`.
#[tokio::test]
async fn an_answer_that_opens_more_channels_than_the_limit_is_not_read_and_its_channels_are_reset() {
    let (connection, mut peer) = serving(Settings::default().max_channels(2));
    let mut call = pin!(connection.call::<(), Vec<Rx<u64>>, Never>(&NOP, ()));
    assert!(poll(call.as_mut()).is_pending());
    settle().await;
    assert_eq!(heard(&mut peer).len(), 1);
    let head = Head::Response { conn_id: 0, request_id: 1, metadata: &[] };
    send(&mut peer, &head, &[0, 3, 1, 3, 5], &[1, 3, 5].map(channel_of));
    let read = call.await;
    assert!(matches!(read, Err(CallError::InvalidResponse(_))), "{read:?}");
    settle().await;
    let reset = |channel_id| message(&Head::Reset { conn_id: 0, channel_id }, &[]);
    assert_eq!(heard(&mut peer), [reset(1), reset(3), reset(5)]);
    // Of one that opens as many as may be, all can be read.
    let mut call = pin!(connection.call::<(), Vec<Rx<u64>>, Never>(&NOP, ()));
    assert!(poll(call.as_mut()).is_pending());
    settle().await;
    assert_eq!(heard(&mut peer).len(), 1);
    let head = Head::Response { conn_id: 0, request_id: 2, metadata: &[] };
    send(&mut peer, &head, &[0, 2, 7, 9], &[7, 9].map(channel_of));
    assert_eq!(call.await.expect("it is read").len(), 2);
}

/// Fails when `allot` gives as many as are asked for, or when one that is over is not given back.
#[tokio::test]
async fn a_call_that_would_open_more_channels_than_the_limit_waits_until_one_is_over() {
    let (connection, mut peer) = serving(Settings::default().channel_slots(2));
    let call = |tx| connection.call::<(Tx<Vec<u8>>,), (), Never>(&RECEIVE, (tx,));
    let ((first_tx, first_rx), (second_tx, _second_rx)) = (channel(), channel());
    let (mut first, mut second) = (pin!(call(first_tx)), pin!(call(second_tx)));
    assert!(poll(first.as_mut()).is_pending());
    for _ in 0..3 {
        assert!(poll(second.as_mut()).is_pending());
    }
    settle().await;
    let sent = |id| {
        let head = Head::Request { conn_id: 0, request_id: id, method_id: RECEIVE.id.get(), metadata: &[] };
        let channel = 2 * id;
        encoded(&head, &[channel_of(channel)], &[channel as u8])
    };
    assert_eq!(heard(&mut peer), [sent(1)]);
    drop(first_rx); // which resets it
    assert!(poll(second.as_mut()).is_pending(), "it was sent");
    settle().await;
    let reset = message(&Head::Reset { conn_id: 0, channel_id: 2 }, &[]);
    assert_eq!(heard(&mut peer), [reset, sent(2)]);
}

/// A peer that opens connections, is told a lot about each, and reads none of it. Fails when each of the answers counts
/// for one: 65,536 of them may wait, with 64 KiB of metadata each.
#[tokio::test]
async fn large_answers_to_connects_count_for_what_they_hold() {
    let settings = Settings::default().send_buffer(1).max_parked_messages(100);
    let options = Options::new().settings(settings).on_connect(|incoming| {
        let mut metadata = Metadata::new();
        metadata.push("motd", "x".repeat(4096));
        drop(incoming.accept(ConnectOptions::new().metadata(metadata)));
    });
    let (connection, mut peer) = link(options);
    for request_id in 1..=4 {
        send(&mut peer, &Head::Connect { request_id, metadata: &[] }, &[], &[]);
        settle().await;
    }
    // The first is in the link; three, and the Goodbyes behind each, are more than a hundred.
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Unread { messages: 6 }), "{end:?}");
}

/// Takes and forgets.
struct Nothing;

impl Sink for Nothing {
    fn message(&mut self, _: Message<'_>) -> bool {
        true
    }
}

/// A burst leaves no room behind that a link never needs again. Fails when the room for parked messages is kept.
#[tokio::test]
async fn the_room_for_what_was_parked_is_given_back_when_it_is_read() {
    let (connection, mut peer) = serving(Settings::default().send_buffer(1));
    for id in 1..=3_000 {
        // Of a method that nobody has: answered at once.
        let head = Head::Request { conn_id: 0, request_id: id, method_id: 0, metadata: &[] };
        send(&mut peer, &head, &[], &[]);
        if id % 1000 == 0 {
            settle().await;
        }
    }
    let room = || lock(&connection.hub().out).parked_capacity();
    assert!(room() >= 2_999);
    until(|| {
        while peer.receiver.drain(&mut Nothing).is_ok_and(|messages| messages > 0) {}
        room() == 0
    })
    .await;
}

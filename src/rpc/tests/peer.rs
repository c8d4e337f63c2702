//! A peer that writes what it wants to a link within the process.

use std::{
    future::pending,
    panic,
    pin::pin,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use super::{NOP, Opening, RECEIVE, Raw, SEND, end_of, nop, poll, request, settle, until, within};
use crate::{
    error::{LinkEnd, Violation},
    link::{
        Brought, ChannelRef, CreditSlot, Head, Message, Parts, SendFault, Sink, memory,
        testing::{Collector, message},
    },
    rpc::{
        connection::Connection,
        deliver::Deliver,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, Never, RecvError},
        method::{Service, service},
        options::Options,
        rx::Rx,
        waiters::lock,
    },
    session::{answer::Verdict, channels::Arrived, connections::ConnKey},
    settings::Settings,
};

const CHANNEL: [ChannelRef; 1] = [ChannelRef { id: 1, slot: CreditSlot::NONE }];

/// Our side, which serves `Raw`, and the peer's, which is the initiator.
fn pair(settings: Settings) -> (Connection, Parts) {
    let (peer, ours) = memory::pair(&Settings::default(), &settings);
    (Connection::start(ours, &Options::new().settings(settings).serve(Raw::default())), peer)
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

/// Its entry stayed in the session, and kept the link open, for good. Fails without the arm of `Closed` that
/// looks at the channel's way.
#[tokio::test]
async fn a_close_from_the_receiving_side_ends_the_link_as_a_violation() {
    let (connection, mut peer) = pair(Settings::default());
    send(&mut peer, &request(&SEND, 1), &[1], &CHANNEL);
    send(&mut peer, &Head::Close { conn_id: 0, channel_id: 1 }, &[], &[]);
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Violation(Violation::UnknownChannel { channel_id: 1 })), "{end:?}");
    let goodbye = message(&Head::Goodbye { conn_id: 0, reason: "channeling.unknown" }, &[]);
    assert_eq!(heard(&mut peer).last(), Some(&goodbye));
}

/// Two requests wait with their results, the next ones are refused; four refusals may be parked. Fails
/// without the bound in `Outgoing::send_or_park`: this side grew for as long as the peer wrote.
#[tokio::test]
async fn a_peer_that_calls_and_never_reads_is_let_go_when_too_much_is_parked() {
    let settings = Settings::default().send_buffer(64).max_concurrent_requests(2).max_parked_messages(4);
    let (connection, mut peer) = pair(settings);
    for id in 1..1000 {
        match peer.sender.send(&request(&NOP, id), &mut Opening(&[], &[])) {
            Ok(_) => drop(peer.sender.publish()),
            Err(SendFault::Ended(LinkEnd::Gone)) => break,
            Err(fault) => panic!("{fault:?}"),
        }
        settle().await;
    }
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Unread { messages: 4 }), "{end:?}");
}

/// Nothing at all may be parked here. Fails when `answer` parks a result that finds the link full.
#[tokio::test]
async fn results_that_find_the_link_full_wait_in_their_tasks_for_a_peer_that_reads_late() {
    let (connection, mut peer) = pair(Settings::default().send_buffer(1).max_parked_messages(0));
    for id in 1..=100 {
        send(&mut peer, &request(&NOP, id), &[], &[]);
    }
    settle().await;
    assert!(connection.end().is_none(), "{:?}", connection.end());
    let mut answers = Vec::new();
    until(|| {
        answers.extend(heard(&mut peer));
        answers.len() == 100
    })
    .await;
    for id in 1..=100 {
        let head = Head::Response { conn_id: 0, request_id: id, metadata: &[] };
        assert!(answers.contains(&message(&head, Verdict::Ok.bytes())), "{id}");
    }
}

/// A thread that reads its own answer may be in its drain while the driver ends the link. Fails without the
/// look at `ended` in `Deliver::receive`: a handler ran, and its channel stayed open, on a link that was
/// over.
#[tokio::test]
async fn a_request_that_is_delivered_after_the_links_end_opens_nothing() {
    let (_peer, ours) = memory::pair(&Settings::default(), &Settings::default());
    let raw = Raw::default();
    let dispatched = Arc::clone(&raw.dispatched);
    let connection = Connection::start(ours, &Options::new().serve(raw));
    let hub = connection.hub();
    hub.end(LinkEnd::Closed);
    let mut deliver = Deliver::new(hub);
    let request = Message { head: request(&RECEIVE, 1), channels: &CHANNEL, payload: Brought::Here(&[1]) };
    assert!(!deliver.message(request), "the drain is over");
    assert!(matches!(deliver.finish(), Some(LinkEnd::Closed)));
    assert_eq!(dispatched.load(Ordering::Relaxed), 0); // Relaxed: counted by this thread
    let mut session = lock(&hub.session);
    let open = session.connection(ConnKey::ROOT).expect("the root is always there");
    assert!(!matches!(open.channels.arrived(1), Ok(Arrived::Open(_))));
    assert!(!open.serving.is_running(1));
}

/// The peer never answers, so the session keeps its entry of the stream. Fails when `Tx::drop` does not let
/// the link go.
#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_and_its_stream_keep_no_link_open() {
    for with_stream in [false, true] {
        let (connection, _peer) = pair(Settings::default());
        let hub = Arc::clone(connection.hub());
        let timeout = Duration::from_millis(30);
        let called = if with_stream {
            let (tx, rx) = crate::channel::<Vec<u8>>();
            let call = connection.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)).with_timeout(timeout);
            let called = within(call).await;
            drop(tx);
            called
        } else {
            within(connection.call::<(), (), Never>(&NOP, ()).with_timeout(timeout)).await
        };
        assert!(matches!(called, Err(CallError::TimedOut { .. })), "{called:?}");
        drop(connection);
        assert!(
            matches!(within(hub.root.wait_for_end()).await, LinkEnd::Closed),
            "with a stream: {with_stream}"
        );
    }
}

/// A waker, or a subscriber of the application's, may panic under it. Fails when `try_lock` takes a poisoned
/// lock for one that is held.
#[tokio::test]
async fn a_receive_role_that_was_poisoned_is_taken_all_the_same() {
    let (theirs, ours) = memory::pair(&Settings::default(), &Settings::default());
    let client = Connection::start(theirs, &Options::new());
    let server = Connection::start(ours, &Options::new().serve(Raw::default()));
    let hub = Arc::clone(server.hub());
    let poisoned = thread::spawn(move || {
        let _role = hub.receive.lock();
        panic::resume_unwind(Box::new("under the role")); // without a word of the panic's hook
    });
    assert!(poisoned.join().is_err() && server.hub().receive.is_poisoned());
    let called = within(nop(&client)).await;
    assert!(called.is_ok(), "{called:?}");
}

/// The link's sender is the first to know that nobody reads any more; what the peer said last waits to be read. Fails
/// when whoever sends is told at once, or when the driver takes the sender's word: both heard `Gone`.
#[tokio::test]
async fn whoever_finds_the_peer_gone_hears_what_it_said_last() {
    let (connection, mut peer) = pair(Settings::default());
    let mut answered = pin!(nop(&connection));
    assert!(poll(answered.as_mut()).is_pending(), "it was sent");
    settle().await;
    let answer = Head::Response { conn_id: 0, request_id: 1, metadata: &[] };
    send(&mut peer, &answer, Verdict::Ok.bytes(), &[]);
    send(&mut peer, &Head::Goodbye { conn_id: 0, reason: "" }, &[], &[]);
    drop(peer);
    let late = within(nop(&connection)).await;
    assert!(matches!(late, Err(CallError::Ended(LinkEnd::Goodbye { .. }))), "{late:?}");
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Goodbye { .. }), "{end:?}");
    let answered = within(answered).await;
    assert!(answered.is_ok(), "{answered:?}");
}

/// Gives its stream to a task of its own, and goes on for good.
struct Keeper {
    ended: mpsc::Sender<Result<Option<Vec<u8>>, RecvError>>,
}

impl ServiceDispatcher for Keeper {
    fn service(&self) -> &'static Service {
        static KEEPER: Service = service("Keeper", &[RECEIVE]);
        &KEEPER
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let ended = self.ended.clone();
        request.serve(&RECEIVE, |(mut rx,): (Rx<Vec<u8>>,)| async move {
            tokio::spawn(async move { ended.send(rx.recv().await) });
            pending::<()>().await;
        })
    }
}

/// "If the Response is an error of the protocol, the call's channels are dead": for both sides, and nothing else
/// would tell the task. Fails when the answer leaves the request's channels open: it waited for good.
#[tokio::test]
async fn a_stream_that_outlives_its_cancelled_handler_ends() {
    let (mut peer, ours) = memory::pair(&Settings::default(), &Settings::default());
    let (ended, has_ended) = mpsc::channel();
    let connection = Connection::start(ours, &Options::new().serve(Keeper { ended }));
    send(&mut peer, &request(&RECEIVE, 1), &[1], &CHANNEL);
    settle().await;
    send(&mut peer, &Head::Cancel { conn_id: 0, request_id: 1 }, &[], &[]);
    let mut end = None;
    until(|| {
        end = has_ended.try_recv().ok();
        end.is_some()
    })
    .await;
    assert!(matches!(end, Some(Err(RecvError::Reset))), "{end:?}");
    let answer = Head::Response { conn_id: 0, request_id: 1, metadata: &[] };
    assert_eq!(heard(&mut peer), [message(&answer, Verdict::Cancelled.bytes())]);
    assert!(lock(&connection.hub().session).is_quiet(ConnKey::ROOT));
}

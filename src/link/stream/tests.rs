use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Wake, Waker},
};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    net::UnixStream,
};

use super::*;
use crate::{
    link::{
        Publish, SendFault,
        codec::message_limit,
        frame::push_frame,
        testing::{Collector, DATA, Raw, message},
    },
    settings::Waiting,
};

const GREETING: Head<'static> = Head::Hello { max_payload_size: 64 << 20, initial_channel_credit: 64 << 10 };

/// Frames as a foreign peer would write them.
fn frames(messages: &[(Head<'_>, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|(head, payload)| push_frame(&mut out, &message(head, payload), &[]));
    out
}

/// The handshake with a peer that has written `bytes` and, if `ends`, then closed its side; and what that
/// peer has received when the handshake was over.
async fn meet(bytes: &[u8], ends: bool, settings: &Settings) -> (Result<Parts, HandshakeError>, Vec<u8>) {
    let (ours, mut theirs) = duplex(4096);
    theirs.write_all(bytes).await.expect("it fits");
    if ends {
        theirs.shutdown().await.expect("it is open");
    }
    let (read, write) = split(ours);
    let outcome = establish(read, write, Role::Acceptor, settings).await;
    let mut heard = vec![0; 4096];
    let len = theirs.read(&mut heard).await.expect("it is open");
    heard.truncate(len);
    (outcome, heard)
}

/// The peer, and our end behind the handshake.
async fn greeted(room: usize, settings: &Settings) -> (DuplexStream, Parts) {
    let (ours, mut theirs) = duplex(room);
    let (read, write) = split(ours);
    let peer = async {
        let hello = frames(&[(GREETING, &[])]);
        theirs.write_all(&hello).await.expect("we read it");
        while theirs.read_u8().await.expect("we greet, too") != 0 {}
    };
    let (parts, ()) = tokio::join!(establish(read, write, Role::Acceptor, settings), peer);
    (theirs, parts.expect("both greeted"))
}

/// Two ends over a stream that takes `room` bytes at a time.
async fn joined(room: usize, a: &Settings, b: &Settings) -> (Parts, Parts) {
    let ((a_read, a_write), (b_read, b_write)) = {
        let (ours, theirs) = duplex(room);
        (split(ours), split(theirs))
    };
    let (one, other) = tokio::join!(
        establish(a_read, a_write, Role::Initiator, a),
        establish(b_read, b_write, Role::Acceptor, b)
    );
    (one.expect("the other greeted"), other.expect("the other greeted"))
}

#[tokio::test]
async fn both_sides_greet_at_once_even_where_only_one_byte_fits() {
    let small = Settings::default().max_payload_size(1000).initial_channel_credit(70_000);
    let wide = Settings::default().max_payload_size(2000).initial_channel_credit(60_000);
    for room in [1, 4096] {
        let (a, b) = joined(room, &small, &wide).await;
        let limits = Limits { max_payload_size: 1000, initial_channel_credit: 60_000 };
        assert_eq!((a.role, a.limits, b.role, b.limits), (Role::Initiator, limits, Role::Acceptor, limits));
    }
}

#[tokio::test]
async fn our_hello_is_on_the_wire_as_the_settings_say() {
    let (outcome, heard) = meet(&frames(&[(GREETING, &[])]), false, &Settings::default()).await;
    assert!(outcome.is_ok());
    assert_eq!(heard, frames(&[(GREETING, &[])]));
}

/// What our side says, and what the peer hears behind our Hello, when it opens with `bytes`.
async fn refused(bytes: &[u8]) -> (Violation, Vec<u8>) {
    let (outcome, heard) = meet(bytes, false, &Settings::default()).await;
    let Err(HandshakeError::Ended(LinkEnd::Violation(violation))) = outcome else {
        panic!("it was taken for a Hello");
    };
    let hello = frames(&[(GREETING, &[])]).len();
    (violation, heard[hello..].to_vec())
}

fn goodbye(violation: &Violation) -> Vec<u8> {
    frames(&[(Head::Goodbye { conn_id: 0, reason: violation.rule() }, &[])])
}

// Rule `message.hello.unknown-version`.
#[tokio::test]
async fn a_hello_of_another_version_is_answered_with_goodbye() {
    let mut later = message(&GREETING, &[]);
    later[1] += 1;
    let v1 = [later[0], 0, 1, 1];
    for hello in [&later[..], &v1] {
        let mut frame = Vec::new();
        push_frame(&mut frame, hello, &[]);
        let (violation, heard) = refused(&frame).await;
        assert_eq!(violation, Violation::UnknownVersion);
        assert_eq!(heard, goodbye(&violation));
    }
}

// Rule `message.hello.ordering`.
#[tokio::test]
async fn anything_before_hello_is_answered_with_goodbye() {
    let request = Head::Request { conn_id: 0, request_id: 1, method_id: 7, metadata: &[] };
    let mut unknown = Vec::new();
    push_frame(&mut unknown, &[0x70, 1, 2], &[]);
    for first in [frames(&[(request, &[1, 2])]), frames(&[(DATA, &[3])]), unknown] {
        let (violation, heard) = refused(&first).await;
        assert_eq!(violation, Violation::HelloOrdering);
        assert_eq!(heard, goodbye(&violation));
    }
}

// Rule `message.decode-error`.
#[tokio::test]
async fn bytes_that_are_no_message_are_answered_with_goodbye() {
    let (violation, heard) = refused(b"GET / HTTP/1.1\r\n\r\n\0").await;
    assert!(matches!(violation, Violation::Decode { .. }));
    assert_eq!(heard, goodbye(&violation));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_greet_is_given_up_in_time() {
    let settings = Settings::default();
    for silence in [&b""[..], b"\x01\x08"] {
        let (outcome, _) = meet(silence, false, &settings).await;
        let after = settings.handshake_timeout;
        assert!(matches!(outcome, Err(HandshakeError::TimedOut { after: told }) if told == after));
    }
}

#[tokio::test]
async fn a_peer_that_closes_or_says_goodbye_instead_of_hello_is_told_apart() {
    let settings = Settings::default();
    let (outcome, _) = meet(b"\x01\x08", true, &settings).await;
    assert!(matches!(outcome, Err(HandshakeError::Ended(LinkEnd::Gone))));

    let bye = frames(&[(Head::Goodbye { conn_id: 0, reason: "not today" }, &[])]);
    let (outcome, _) = meet(&bye, true, &settings).await;
    let Err(HandshakeError::Ended(LinkEnd::Goodbye { reason })) = outcome else { panic!("no goodbye") };
    assert_eq!(&*reason, "not today");
}

#[tokio::test]
async fn a_limit_of_zero_is_refused_by_its_name() {
    let hello = |max_payload_size, initial_channel_credit| {
        frames(&[(Head::Hello { max_payload_size, initial_channel_credit }, &[])])
    };
    for (bytes, name) in [(hello(0, 1), "max_payload_size"), (hello(1, 0), "initial_channel_credit")] {
        let (outcome, _) = meet(&bytes, false, &Settings::default()).await;
        assert!(matches!(outcome, Err(HandshakeError::PeerLimit { limit }) if limit == name));
    }
    let (outcome, heard) = meet(&hello(1, 1), false, &Settings::default().max_payload_size(0)).await;
    assert!(matches!(outcome, Err(HandshakeError::OwnLimit { setting: "max_payload_size" })));
    assert!(heard.is_empty());
}

#[tokio::test]
async fn what_comes_right_behind_hello_is_received() {
    let bytes = frames(&[(GREETING, &[]), (DATA, &[1]), (DATA, &[2])]);
    let (outcome, _) = meet(&bytes, true, &Settings::default()).await;
    let mut parts = outcome.expect("it greeted");
    let mut sink = Collector::all();
    assert_eq!(parts.receive(&mut sink).await.expect("two are there"), 2);
    assert_eq!(sink.messages, [message(&DATA, &[1]), message(&DATA, &[2])]);
    assert!(matches!(parts.receive(&mut sink).await, Err(LinkEnd::Gone)));
}

// Rule `message.hello.ordering`.
#[tokio::test]
async fn a_second_hello_that_the_codec_refuses_is_out_of_order() {
    let mut bytes = frames(&[(GREETING, &[])]);
    push_frame(&mut bytes, &[0, 0], &[]);
    let (outcome, _) = meet(&bytes, false, &Settings::default()).await;
    let received = outcome.expect("it greeted").receive(&mut Collector::all()).await;
    assert!(matches!(received, Err(LinkEnd::Violation(Violation::HelloOrdering))));
}

#[tokio::test]
async fn a_violation_ends_the_link_behind_what_came_before_it() {
    let (mut peer, mut parts) = greeted(4096, &Settings::default()).await;
    let mut bytes = frames(&[(DATA, &[1]), (DATA, &[2])]);
    bytes.extend([0; 2]);
    peer.write_all(&bytes).await.expect("it fits");
    let mut sink = Collector::all();
    assert_eq!(parts.receive(&mut sink).await.expect("two are there"), 2);
    for _ in 0..2 {
        let received = parts.receive(&mut sink).await;
        assert!(matches!(received, Err(LinkEnd::Violation(Violation::Decode { len: 0 }))));
    }
}

// Rule `channeling.data.size-limit`.
#[tokio::test]
async fn a_frame_beyond_the_limit_is_refused_while_it_arrives() {
    let (mut peer, mut parts) = greeted(64 << 10, &Settings::default().max_payload_size(1000)).await;
    let flood = async {
        let endless = frames(&[(DATA, &vec![7; 10 << 20])]);
        peer.write_all(&endless).await.expect_err("it was taken to its end");
    };
    let refusal = async {
        let end = parts.receive(&mut Collector::all()).await.expect_err("it is too long");
        drop(parts);
        end
    };
    let ((), end) = tokio::join!(flood, refusal);
    let LinkEnd::Violation(Violation::DataSizeLimit { len, limit }) = end else { panic!("{end}") };
    assert_eq!((len, limit), (10 << 20, 1000));
}

#[tokio::test]
async fn a_sink_that_says_stop_and_a_full_batch_keep_the_rest() {
    let (mut peer, mut parts) = greeted(1 << 20, &Settings::default()).await;
    let count = BATCH + 10;
    peer.write_all(&frames(&vec![(DATA, &[5][..]); count])).await.expect("it fits");
    let mut sink = Collector { messages: Vec::new(), wants: 3 };
    assert_eq!(parts.receive(&mut sink).await.expect("more than three are there"), 3);
    let mut sink = Collector::all();
    assert_eq!(parts.receive(&mut sink).await.expect("a batch is there"), BATCH);
    assert_eq!(parts.receiver.drain(&mut sink).expect("the rest is buffered"), count - 3 - BATCH);
}

#[tokio::test]
async fn whoever_borrows_the_receive_role_reads_what_has_arrived() {
    let (mut peer, mut parts) = greeted(4096, &Settings::default()).await;
    let mut sink = Collector::all();
    assert_eq!(parts.receiver.drain(&mut sink).expect("the link lives"), 0);
    peer.write_all(&frames(&[(DATA, &[1])])).await.expect("it fits");
    drop(peer);
    assert_eq!(parts.receiver.drain(&mut sink).expect("one is there"), 1);
    assert!(matches!(parts.receiver.drain(&mut sink), Err(LinkEnd::Gone)));
    assert!(parts.receiver.hand_back());
    assert!(!parts.receiver.hand_back());
}

#[tokio::test]
async fn a_sender_that_nobody_reads_is_told_full_and_then_that_there_is_room() {
    let settings = Settings::default().send_buffer(10_000);
    let (mut a, mut b) = joined(100, &settings, &settings).await;
    let mut sent = 0;
    let refusal = loop {
        match a.say(&DATA, &[7; 1000]) {
            Ok(publish) => assert_eq!(publish, Publish::Flush),
            Err(fault) => break fault,
        }
        sent += 1;
    };
    assert!(matches!(refusal, SendFault::Full));
    assert_eq!(sent, 9);
    assert!(!a.sender.has_room().expect("the link lives"));

    let mut sink = Collector::all();
    let receives = async {
        while sink.messages.len() < sent {
            b.receive(&mut sink).await.expect("the link lives");
        }
    };
    tokio::join!(async { a.flush().await.expect("the link lives") }, receives);
    assert!(a.sender.has_room().expect("the link lives"));
    assert!(a.say(&DATA, &[7; 1000]).is_ok());
}

#[tokio::test]
async fn a_message_longer_than_the_buffer_passes_and_one_beyond_the_limit_does_not() {
    let settings = Settings::default().send_buffer(100).max_payload_size(300_000);
    let (mut a, mut b) = joined(1 << 20, &settings, &settings).await;
    let longest = vec![7; 300_000];
    a.say(&DATA, &longest).map(drop).expect("nothing waits");
    assert!(matches!(a.say(&DATA, &[1]), Err(SendFault::Full)));
    a.flush().await.expect("the stream takes it");
    let mut sink = Collector::all();
    b.receive(&mut sink).await.expect("it is there");
    assert_eq!(sink.messages, [message(&DATA, &longest)]);

    let beyond = vec![7; message_limit(300_000)];
    let refused = a.sender.send(&DATA, &mut Raw(&beyond));
    assert!(matches!(refused, Err(SendFault::TooLarge { limit, .. }) if limit == beyond.len()));
    assert!(a.sender.has_room().expect("the link lives"));
}

/// Takes a Hello, and is a broken pipe from then on.
struct Failing {
    greeted: bool,
}

impl AsyncWrite for Failing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.greeted { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) })
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.greeted = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Our end, which can write no more, and what is left of the peer.
async fn hung_up() -> (DuplexStream, Parts) {
    let (ours, mut theirs) = duplex(4096);
    theirs.write_all(&frames(&[(GREETING, &[])])).await.expect("it fits");
    let parts = establish(ours, Failing { greeted: false }, Role::Acceptor, &Settings::default()).await;
    let mut parts = parts.expect("both greeted");
    assert_eq!(parts.say(&DATA, &[1]).expect("there is room"), Publish::Flush);
    (theirs, parts)
}

/// What a driver does, until either half has something to say.
async fn driven(parts: &mut Parts, sink: &mut Collector) -> Result<usize, LinkEnd> {
    poll_fn(|cx| {
        let received = parts.receiver.poll_receive(cx, sink);
        if received.is_ready() {
            return received;
        }
        parts.sender.poll_flush(cx).map(|flushed| flushed.map(|()| 0))
    })
    .await
}

/// The runtime learns of it later than the writer of its failure.
#[tokio::test(start_paused = true)]
async fn what_a_peer_said_before_it_hung_up_is_heard_though_nothing_can_be_written() {
    let (mut peer, mut parts) = hung_up().await;
    let mut sink = Collector::all();
    let farewell = async {
        tokio::task::yield_now().await;
        peer.write_all(&frames(&[(DATA, &[2])])).await.expect("it fits");
        drop(peer);
    };
    let (received, ()) = tokio::join!(driven(&mut parts, &mut sink), farewell);
    assert_eq!((received.expect("one is there"), sink.messages), (1, vec![message(&DATA, &[2])]));
    assert!(matches!(driven(&mut parts, &mut Collector::all()).await, Err(LinkEnd::Gone)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_and_says_nothing_is_gone_all_the_same() {
    let (_peer, mut parts) = hung_up().await;
    assert!(matches!(driven(&mut parts, &mut Collector::all()).await, Err(LinkEnd::Gone)));
    assert!(matches!(parts.say(&DATA, &[1]), Err(SendFault::Ended(LinkEnd::Gone))));
}

#[tokio::test]
async fn messages_cross_a_unix_socket_both_ways_at_once() {
    let (ours, theirs) = UnixStream::pair().expect("the system has sockets");
    let ((a_read, a_write), (b_read, b_write)) = (ours.into_split(), theirs.into_split());
    let settings = Settings::default();
    let (a, b) = tokio::join!(
        establish(a_read, a_write, Role::Initiator, &settings),
        establish(b_read, b_write, Role::Acceptor, &settings)
    );
    let len = |index: usize| index * 7919 % 3000;
    let side = |mut parts: Parts| async move {
        let (mut sink, mut sent, count) = (Collector::all(), 0, 5000);
        poll_fn(|cx| {
            loop {
                while sent < count && parts.say(&DATA, &vec![7; len(sent)]).is_ok() {
                    sent += 1;
                }
                let flushed = parts.sender.poll_flush(cx).map(|flushed| flushed.expect("the link lives"));
                let received = parts.receiver.poll_receive(cx, &mut sink).map(|n| n.expect("the link lives"));
                if flushed.is_ready() && sink.messages.len() == count && sent == count {
                    return Poll::Ready(());
                }
                if received.is_pending() && (flushed.is_pending() || sent == count) {
                    return Poll::Pending;
                }
            }
        })
        .await;
        for (index, received) in sink.messages.iter().enumerate() {
            assert_eq!(*received, message(&DATA, &vec![7; len(index)]));
        }
        parts
    };
    let (a, b) = (a.expect("both greeted"), b.expect("both greeted"));
    let (mut a, b) = tokio::join!(side(a), side(b));
    drop(b);
    assert!(matches!(a.receive(&mut Collector::all()).await, Err(LinkEnd::Gone)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn messages_survive_a_stream_that_takes_few_bytes_at_a_time(
        room in 1..40usize,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let received = runtime.expect("the system has timers").block_on(async {
            let settings = Settings::default().send_buffer(300);
            let (mut a, mut b) = joined(room, &settings, &settings).await;
            let sends = async {
                for payload in &payloads {
                    a.push(payload).await.expect("the link lives");
                }
                a.flush().await.expect("the link lives");
            };
            let receives = async {
                let mut sink = Collector::all();
                while sink.messages.len() < payloads.len() {
                    b.receive(&mut sink).await.expect("the link lives");
                }
                sink.messages
            };
            tokio::join!(sends, receives).1
        });
        let expected: Vec<_> = payloads.iter().map(|payload| message(&DATA, payload)).collect();
        prop_assert_eq!(received, expected);
    }
}

#[tokio::test]
async fn a_link_that_spins_keeps_its_task_running() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed); // Relaxed: counted and read by this thread
        }
    }
    for (waiting, wakes) in [(Waiting::Spin, 1), (Waiting::Sleep, 0)] {
        let (_peer, mut parts) = greeted(64, &Settings::default().waiting(waiting)).await;
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let polled = parts.receiver.poll_receive(&mut Context::from_waker(&waker), &mut Collector::all());
        assert!(polled.is_pending());
        assert_eq!(count.0.load(Ordering::Relaxed), wakes); // Relaxed: as above
        assert_eq!(parts.receiver.asleep(), wakes == 0);
    }
}

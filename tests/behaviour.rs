//! The suite of behaviours: what a user can count on, the same on every link.
//!
//! Each behaviour is written once, against the generated client, and runs over the in-process link, Unix
//! sockets, TCP, and shared memory with the service in a process of its own.
#![allow(missing_docs)]

mod common;

use std::{collections::BTreeMap, future::Future, pin::pin, time::Duration};

use adjoin::{CallError, LinkEnd, Metadata, RecvError, Refusal, SendError};
use common::{
    links::{Kind, MAX_PAYLOAD, Peer, connect},
    suite::{
        BackClient, Either, MathError, Nested, OldSuiteClient, StrangerClient, SuiteClient, resident_kib,
        until_passed,
    },
    watchdog::Watchdog,
};

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell();
}

fn run<F: Future<Output = ()>>(kind: Kind, behaviour: impl FnOnce(Peer) -> F) {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { behaviour(connect(kind).await).await });
}

macro_rules! behaviours {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::run(super::Kind::Local, super::$name); })* }
        mod uds { $(#[test] fn $name() { super::run(super::Kind::Uds, super::$name); })* }
        mod tcp { $(#[test] fn $name() { super::run(super::Kind::Tcp, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::run(super::Kind::Shm, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm_path { $(#[test] fn $name() { super::run(super::Kind::ShmPath, super::$name); })* }
        /// Through a proxy, which knows nothing of the service.
        #[cfg(target_os = "linux")]
        mod uds_proxy_shm {
            $(#[test] fn $name() {
                super::run(super::Kind::Proxied(&[super::Kind::Uds, super::Kind::Shm]), super::$name);
            })*
        }
        /// Through three of them.
        mod tcp_proxies_uds {
            $(#[test] fn $name() {
                use super::Kind::{Local, Proxied, Tcp, Uds};
                super::run(Proxied(&[Tcp, Local, Uds, Uds]), super::$name);
            })*
        }
    };
}

behaviours! {
    a_call_returns_what_the_handler_returns
    calls_go_both_ways
    a_users_error_arrives_as_such
    a_method_that_nobody_has_is_unknown
    arguments_that_do_not_decode_are_invalid
    the_caller_streams_to_the_callee
    the_callee_streams_to_the_caller
    streams_go_both_ways_at_once
    a_returned_stream_can_be_deep_inside_a_result
    a_returned_sender_lets_the_caller_send
    handles_may_stand_anywhere_in_arguments
    what_was_sent_before_the_call_arrives_first
    a_dropped_call_stops_its_handler
    a_call_that_takes_too_long_times_out_and_stops_its_handler
    a_thousand_calls_in_flight_are_all_answered
    a_hundred_mebibytes_flow_through_a_small_window
    a_reader_that_never_reads_stalls_nobody_else
    payloads_up_to_the_limit_pass_and_larger_ones_are_refused
    what_is_encoded_as_a_byte_vector_is_arrives_as_what_it_is
    an_element_larger_than_the_window_is_refused
    a_handler_that_panics_costs_its_own_call
    metadata_reaches_the_handler
    metadata_beyond_the_limits_is_refused
    a_plain_thread_can_block_on_a_call
    a_dropped_receiver_tells_the_sender
    closing_fails_what_is_open
    a_handle_in_use_is_refused
    slow_calls_do_not_hold_up_fast_ones
    a_peer_says_what_it_offers
    a_peer_explains_why_a_method_is_unknown
}

async fn a_call_returns_what_the_handler_returns(peer: Peer) {
    assert_eq!(peer.suite.add(2, 3).await.unwrap(), 5);
    peer.suite.nothing().await.unwrap();
    let data: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    assert_eq!(peer.suite.echo(data.clone()).await.unwrap(), data);
}

async fn calls_go_both_ways(peer: Peer) {
    for number in 0..100 {
        assert_eq!(peer.suite.call_back(number, 1).await.unwrap(), number + 1);
    }
}

async fn a_users_error_arrives_as_such(peer: Peer) {
    assert_eq!(peer.suite.divide(7, 2).await.unwrap(), 3);
    match peer.suite.divide(7, 0).await {
        Err(CallError::User(MathError::DividedByZero { dividend: 7 })) => {}
        other => panic!("{other:?}"),
    }
}

async fn a_method_that_nobody_has_is_unknown(peer: Peer) {
    let stranger = StrangerClient::new(&peer.connection);
    assert!(matches!(stranger.unheard_of().await, Err(CallError::UnknownMethod)));
    // `Back` is ours, not the peer's.
    let back = BackClient::new(&peer.connection);
    assert!(matches!(back.add(1, 2).await, Err(CallError::UnknownMethod)));
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3, "the connection stays open");
}

async fn arguments_that_do_not_decode_are_invalid(peer: Peer) {
    let add = common::suite::SuiteClient::ADD;
    let short = peer.connection.call::<(i32,), i32, adjoin::Never>(add, (1,)).await;
    assert!(matches!(short, Err(CallError::InvalidPayload)), "{short:?}");
    let long = peer.connection.call::<(i32, i32, i32), i32, adjoin::Never>(add, (1, 2, 3)).await;
    assert!(matches!(long, Err(CallError::InvalidPayload)), "{long:?}");
    let wrong = peer.connection.call::<(i32, i32), String, adjoin::Never>(add, (1, 2)).await;
    assert!(matches!(wrong, Err(CallError::InvalidResponse(_))), "{wrong:?}");
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3, "the connection stays open");
}

async fn the_caller_streams_to_the_callee(peer: Peer) {
    let (tx, rx) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.sum(rx).await }
    });
    for number in 0..10_000 {
        tx.send(number).await.unwrap();
    }
    drop(tx);
    assert_eq!(call.await.unwrap().unwrap(), (0..10_000).sum::<u64>());
}

async fn the_callee_streams_to_the_caller(peer: Peer) {
    let mut numbers = peer.suite.count(10_000).await.unwrap();
    for expected in 0..10_000 {
        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
    }
    assert_eq!(numbers.recv().await.unwrap(), None);
    assert_eq!(numbers.recv().await.unwrap(), None, "the end stays the end");
}

async fn streams_go_both_ways_at_once(peer: Peer) {
    let (to_callee, input) = adjoin::channel();
    let (output, mut from_callee) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.pipe(input, output).await }
    });
    let feed = tokio::spawn(async move {
        for number in 0..50_000 {
            to_callee.send(number).await.unwrap();
        }
    });
    for number in 0..50_000 {
        assert_eq!(from_callee.recv().await.unwrap(), Some(number * 2));
    }
    assert_eq!(from_callee.recv().await.unwrap(), None);
    feed.await.unwrap();
    call.await.unwrap().unwrap();
}

async fn a_returned_stream_can_be_deep_inside_a_result(peer: Peer) {
    let reply = peer.suite.counts(vec![3, 0, 1000]).await.unwrap();
    assert_eq!(reply.count, 3);
    for (mut stream, upto) in reply.streams.into_iter().zip([3, 0, 1000]) {
        for expected in 0..upto {
            assert_eq!(stream.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(stream.recv().await.unwrap(), None);
    }
}

async fn a_returned_sender_lets_the_caller_send(peer: Peer) {
    let tx = peer.suite.feed_me().await.unwrap();
    for number in 0..1000 {
        tx.send(number).await.unwrap();
    }
    drop(tx);
    assert_eq!(peer.suite.fed().await.unwrap(), (0..1000).sum::<u64>());
}

/// A stream that has its numbers, and its end, already.
fn filled(numbers: impl IntoIterator<Item = u64>) -> adjoin::Rx<u64> {
    let (tx, rx) = adjoin::channel();
    for number in numbers {
        tx.blocking_send(number).unwrap();
    }
    rx
}

async fn handles_may_stand_anywhere_in_arguments(peer: Peer) {
    let (out, mut result) = adjoin::channel();
    let (either, mut half_way) = adjoin::channel();
    let sum = peer
        .suite
        .nested(Nested {
            name: "four".into(),
            one: filled([1]),
            maybe: Some(filled([10])),
            none: None,
            many: vec![filled([100]), filled([]), filled([200, 300])],
            by_name: BTreeMap::from([("b".into(), filled([1000])), ("a".into(), filled([2000]))]),
            either: Either::Out { to: either },
            pair: (filled([10_000]), out),
        })
        .await
        .unwrap();
    let before_pair = 4 + 1 + 10 + 600 + 3000;
    assert_eq!(half_way.recv().await.unwrap(), Some(before_pair));
    assert_eq!(sum, before_pair + 10_000);
    assert_eq!(result.recv().await.unwrap(), Some(sum));
    assert_eq!(result.recv().await.unwrap(), None);
}

async fn what_was_sent_before_the_call_arrives_first(peer: Peer) {
    let (to_callee, input) = adjoin::channel();
    let (output, mut from_callee) = adjoin::channel();
    output.send(77).await.unwrap();
    for number in 0..100 {
        to_callee.send(number).await.unwrap();
    }
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.pipe(input, output).await }
    });
    for number in 100..5_000 {
        to_callee.send(number).await.unwrap();
    }
    drop(to_callee);
    assert_eq!(from_callee.recv().await.unwrap(), Some(77));
    for number in 0..5_000 {
        assert_eq!(from_callee.recv().await.unwrap(), Some(number * 2));
    }
    call.await.unwrap().unwrap();
}

/// Waits until the far end has stopped as many hanging handlers.
async fn stopped(peer: &Peer, handlers: u32) {
    while peer.suite.hangs_stopped().await.unwrap() < handlers {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_dropped_call_stops_its_handler(peer: Peer) {
    {
        let mut call = pin!(peer.suite.hang());
        let polled = tokio::time::timeout(Duration::from_millis(20), &mut call).await;
        assert!(polled.is_err(), "it hangs");
    }
    stopped(&peer, 1).await;
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3);
}

async fn a_call_that_takes_too_long_times_out_and_stops_its_handler(peer: Peer) {
    let after = Duration::from_millis(30);
    match peer.suite.hang().with_timeout(after).await {
        Err(CallError::TimedOut { after: said }) => assert_eq!(said, after),
        // The far end's deadline may be faster than ours.
        Err(CallError::Cancelled) => {}
        other => panic!("{other:?}"),
    }
    stopped(&peer, 1).await;
    let quick = peer.suite.add(1, 2).with_timeout(Duration::from_secs(30)).await;
    assert_eq!(quick.unwrap(), 3);
}

async fn a_thousand_calls_in_flight_are_all_answered(peer: Peer) {
    let calls: Vec<_> = (0..1000)
        .map(|number| {
            let suite = peer.suite.clone();
            tokio::spawn(async move {
                // All are in flight before the first is answered.
                assert_eq!(suite.wait(50).await.unwrap(), 50);
                suite.add(number, 1).await.unwrap()
            })
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), number as i32 + 1);
    }
}

async fn a_hundred_mebibytes_flow_through_a_small_window(peer: Peer) {
    const ELEMENT: usize = 16 << 10;
    const TIMES: usize = (100 << 20) / ELEMENT;
    assert_eq!(peer.connection.limits().1, 64 << 10, "the window");
    let (tx, rx) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.swallow(rx).await }
    });
    let mut before = (0, 0);
    for number in 0..TIMES {
        tx.send(vec![number as u8; ELEMENT]).await.unwrap();
        if number == TIMES / 10 {
            before = (resident_kib(), peer.suite.resident_kib().await.unwrap());
        }
    }
    let after = (resident_kib(), peer.suite.resident_kib().await.unwrap());
    drop(tx);
    assert_eq!(call.await.unwrap().unwrap(), 100 << 20);
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        // Other tests run in this process at the same time; what a leak of 90 MiB would show is beyond them.
        assert!(after < before + (48 << 10), "memory grew from {before} KiB to {after} KiB");
    }
}

async fn a_reader_that_never_reads_stalls_nobody_else(peer: Peer) {
    let (tx, rx) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.ignore(rx).await }
    });
    until_passed(&tx).await; // before, a window of this process is in front of the link's
    let stalled = tokio::spawn(async move {
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(200), tx.send(vec![1; 1000])).await.is_ok() {
            sent += 1;
        }
        (tx, sent)
    });
    for number in 0..1000 {
        assert_eq!(peer.suite.add(number, 1).await.unwrap(), number + 1);
    }
    let mut numbers = peer.suite.count(20_000).await.unwrap();
    for expected in 0..20_000 {
        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
    }
    let (_tx, sent) = stalled.await.unwrap();
    // 1,000 bytes and their length, in a window of 64 KiB on each link.
    assert!(
        (1..=65 * peer.kind.links()).contains(&sent),
        "{sent} elements went out to a reader that reads nothing"
    );
    call.abort();
}

async fn payloads_up_to_the_limit_pass_and_larger_ones_are_refused(peer: Peer) {
    // A vector's length takes three bytes; a result has one more in front.
    let fits = MAX_PAYLOAD as usize - 4;
    for len in [0, 1, fits - 1, fits] {
        assert_eq!(peer.suite.echo(vec![9; len]).await.unwrap().len(), len);
    }
    let limit = MAX_PAYLOAD as usize;
    for len in [limit - 2, limit, 10 * limit] {
        match peer.suite.echo(vec![9; len]).await {
            Err(CallError::Refused(Refusal::PayloadTooLarge { len: said, limit: known })) => {
                assert_eq!((said, known), (len + if len > 2_000_000 { 4 } else { 3 }, limit));
            }
            other => panic!("{len} bytes: {other:?}"),
        }
    }
    // The result alone is too large: its call is answered, the others are not touched.
    let too_large = peer.suite.answer_of(MAX_PAYLOAD).await;
    assert!(matches!(too_large, Err(CallError::Cancelled)), "{too_large:?}");
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3);
}

/// Long payloads of this shape are taken apart on their way, whatever they are.
async fn what_is_encoded_as_a_byte_vector_is_arrives_as_what_it_is(peer: Peer) {
    let limit = MAX_PAYLOAD as usize;
    for len in [100, 2040, 5_000, 16_384, 60_000, 200_000, limit - 4] {
        let text: String = ('a'..='z').cycle().take(len).collect();
        assert_eq!(peer.suite.echo_text(text.clone()).await.unwrap(), text);
        let bytes = adjoin::Bytes::from(text.into_bytes());
        assert_eq!(peer.suite.echo_shared(bytes.clone()).await.unwrap(), bytes);
        let mut flags: Vec<bool> = bytes.iter().map(|byte| byte % 2 == 1).collect();
        assert_eq!(peer.suite.echo_flags(flags.clone()).await.unwrap(), flags);
        flags[0] = false;
        flags.pop(); // a failure has one more byte in front
        match peer.suite.echo_flags(flags.clone()).await {
            Err(CallError::User(told)) => assert_eq!(told, flags),
            other => panic!("{other:?}"),
        }
    }
    let ((texts, input), (output, mut back)) = (adjoin::channel(), adjoin::channel());
    let going = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.echo_texts(input, output).await }
    });
    for len in [0, 100, 2_045, 5_000, 0, 60_000, 1] {
        let text = "x".repeat(len);
        texts.send(text.clone()).await.unwrap();
        assert_eq!(back.recv().await.unwrap(), Some(text));
    }
    drop(texts);
    going.await.unwrap().unwrap();
}

async fn an_element_larger_than_the_window_is_refused(peer: Peer) {
    let (tx, rx) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.swallow(rx).await }
    });
    until_passed(&tx).await;
    match tx.send(vec![1; 64 << 10]).await {
        Err(SendError::Refused(Refusal::ElementTooLarge { len, window })) => {
            assert_eq!((len, window), ((64 << 10) + 3, 64 << 10));
        }
        other => panic!("{other:?}"),
    }
    tx.send(vec![1; (64 << 10) - 3]).await.unwrap();
    drop(tx);
    assert_eq!(call.await.unwrap().unwrap(), (64 << 10) - 3);
}

async fn a_handler_that_panics_costs_its_own_call(peer: Peer) {
    let slow = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.wait(50).await }
    });
    assert!(matches!(peer.suite.panics().await, Err(CallError::Cancelled)));
    assert!(matches!(peer.suite.panics_inline().await, Err(CallError::Cancelled)));
    assert_eq!(slow.await.unwrap().unwrap(), 50);
}

async fn metadata_reaches_the_handler(peer: Peer) {
    let mut metadata = Metadata::new();
    metadata.push("user", "ada");
    let call = peer.suite.metadata("user".into()).with_metadata(metadata);
    assert_eq!(call.await.unwrap().as_deref(), Some("ada"));
    assert_eq!(peer.suite.metadata("user".into()).await.unwrap(), None);
}

async fn metadata_beyond_the_limits_is_refused(peer: Peer) {
    let mut metadata = Metadata::new();
    metadata.push("k".repeat(Metadata::MAX_KEY + 1), 1u64);
    let refused = peer.suite.add(1, 2).with_metadata(metadata).await;
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Metadata(_)))), "{refused:?}");
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3);
}

async fn a_plain_thread_can_block_on_a_call(peer: Peer) {
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let suite = peer.suite.clone();
            std::thread::spawn(move || {
                for number in 0..500 {
                    assert_eq!(suite.add(number, thread).block().unwrap(), number + thread);
                }
                let late = suite.hang().with_timeout(Duration::from_millis(20)).block();
                assert!(matches!(late, Err(CallError::TimedOut { .. } | CallError::Cancelled)), "{late:?}");
            })
        })
        .collect();
    // Async calls go on meanwhile, and so do calls back.
    for number in 0..200 {
        assert_eq!(peer.suite.call_back(number, 1).await.unwrap(), number + 1);
    }
    for thread in threads {
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}

async fn a_dropped_receiver_tells_the_sender(peer: Peer) {
    let mut poured = peer.suite.pour(1000, 1_000_000).await.unwrap();
    assert_eq!(poured.recv().await.unwrap().unwrap().len(), 1000);
    drop(poured);

    let (tx, rx) = adjoin::channel();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.hang_with(rx).await }
    });
    tx.send(vec![1]).await.unwrap();
    call.abort(); // its handler stops, and drops the receiver
    tx.closed().await;
    assert!(matches!(tx.send(vec![2]).await, Err(SendError::Closed)));
    assert_eq!(peer.suite.add(1, 2).await.unwrap(), 3);
}

async fn closing_fails_what_is_open(peer: Peer) {
    let mut numbers = peer.suite.pour(100, 1_000_000).await.unwrap();
    numbers.recv().await.unwrap();
    let hanging = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.hang().await }
    });
    while peer.suite.add(1, 1).await.is_err() {}
    peer.connection.close().await;
    assert!(matches!(hanging.await.unwrap(), Err(CallError::Ended(LinkEnd::Closed))));
    let end = loop {
        match numbers.recv().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(RecvError::Ended(LinkEnd::Closed))), "{end:?}");
    assert!(matches!(peer.suite.add(1, 2).await, Err(CallError::Ended(LinkEnd::Closed))));
}

async fn a_handle_in_use_is_refused(peer: Peer) {
    let (tx, rx) = adjoin::channel::<u64>();
    let call = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.sum(rx).await }
    });
    tx.send(1).await.unwrap();
    until_passed(&tx).await;
    let (_tx, input) = adjoin::channel();
    let refused = peer.suite.pipe(input, tx).await;
    assert!(matches!(refused, Err(CallError::Refused(Refusal::HandleInUse))), "{refused:?}");
    assert_eq!(call.await.unwrap().unwrap(), 1, "the refused handle was dropped, which closed its stream");
}

async fn slow_calls_do_not_hold_up_fast_ones(peer: Peer) {
    let slow = tokio::spawn({
        let suite = peer.suite.clone();
        async move { suite.hang().await }
    });
    for number in 0..100 {
        assert_eq!(peer.suite.add(number, 1).await.unwrap(), number + 1);
    }
    assert!(!slow.is_finished());
    slow.abort();
    stopped(&peer, 1).await;
}

async fn a_peer_says_what_it_offers(peer: Peer) {
    let services = peer.connection.describe().await.unwrap();
    assert_eq!(services, [SuiteClient::SERVICE.into()]);
    let shown = services[0].to_string();
    for line in [
        "service Suite",
        "    echo(data: Bytes) -> Bytes",
        "    divide(a: i32, b: i32) -> Result<i32, MathError>",
        "    nested(handles: Nested) -> u64",
        "    pipe(input: Rx<u64>, output: Tx<u64>)",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "`{line}` in\n{shown}");
    }
    let connection = peer.connection.clone();
    let blocking = tokio::task::spawn_blocking(move || connection.blocking_describe());
    assert_eq!(blocking.await.unwrap().unwrap(), services);
}

async fn a_peer_explains_why_a_method_is_unknown(peer: Peer) {
    let old = OldSuiteClient::new(&peer.connection);
    assert!(matches!(old.add(1, 2).await, Err(CallError::UnknownMethod)));
    let nothing = SuiteClient::NOTHING.id;
    for (method, expected) in [
        (BackClient::ADD, "the peer has no service `Back`; it offers `Suite`".to_owned()),
        (
            OldSuiteClient::PANIC,
            "the peer's service `Suite` has no method `panic`; the closest is `panics`".to_owned(),
        ),
        (
            OldSuiteClient::ADD,
            "the peer's method `Suite.add` has another signature: argument 2 \"b\": u64 here, i32 there".to_owned(),
        ),
        (
            OldSuiteClient::DIVIDE,
            "the peer's method `Suite.divide` has another signature: error, variant \"Overflow\" is missing there"
                .to_owned(),
        ),
        (
            OldSuiteClient::NESTED,
            "the peer's method `Suite.nested` has another signature: argument 1 \"handles\", field \"either\" is \
             missing here; argument 1 \"handles\", field \"many\", element, element of the stream: u32 here, u64 \
             there"
                .to_owned(),
        ),
        (
            OldSuiteClient::SUM,
            "the peer's method `Suite.sum` has another signature: argument 1 \"numbers\": Tx<u64> here, Rx<u64> \
             there"
                .to_owned(),
        ),
        (
            OldSuiteClient::NOTHING,
            format!(
                "the method `Suite.nothing` has the id 0x0000000000005eee here and {nothing} there: pin the same \
                 id on both sides, or on neither"
            ),
        ),
        (SuiteClient::ADD, "the peer offers this very method, as `Suite.add`".to_owned()),
    ] {
        assert_eq!(peer.connection.explain(method).await.unwrap().to_string(), expected);
    }
    let connection = peer.connection.clone();
    let blocking = tokio::task::spawn_blocking(move || connection.blocking_explain(SuiteClient::ADD));
    let expected = peer.connection.explain(SuiteClient::ADD).await.unwrap();
    assert_eq!(blocking.await.unwrap().unwrap(), expected);
}

//! What goes through a proxy, and what comes of it when either end is gone, over every pair of links.

use std::time::Duration;

use adjoin::{
    CallError, Connection, Options, RecvError, SendError, channel,
    proxy::{Forward, LateBound},
};

use crate::{
    common::{
        links::{Far, Kind, link},
        watchdog::Watchdog,
    },
    rig::{CHANNELS, MisreadClient, ProbeClient, on_all_pairs, runtime, serving, settings, until},
};

/// Bytes of an element of one KiB, encoded: two of them are its length.
const KIB: usize = 1022;

/// Elements of one KiB that a window holds.
const WINDOW: u64 = 64;

/// Elements of one KiB that a sender behind a proxy can send, and nobody reads them. It is told of the last quarter of
/// its window when all of that was passed on.
const LEAST: u64 = 2 * WINDOW - WINDOW / 4;

fn assert_upstream_ended<T: std::fmt::Debug>(outcome: Result<T, CallError>) {
    assert!(matches!(outcome, Err(CallError::UpstreamEnded { .. })), "{outcome:?}");
}

#[test]
fn when_the_server_is_gone_calls_in_flight_and_later_ones_say_so_and_their_streams_end() {
    let _hang = Watchdog::seconds(60);
    on_all_pairs(async |rig| {
        let Some(upstream) = rig.upstream else { return };
        let (tx, input) = channel();
        let (output, mut rx) = channel();
        let hang = tokio::spawn({
            let probe = rig.probe.clone();
            async move { probe.hang(input, output).await }
        });
        let mut given = rig.probe.give(u32::MAX, 10).await.unwrap();
        given.recv().await.unwrap().unwrap();
        until(async || rig.server.hung().await.unwrap().0 == 1).await;
        upstream.close().await;
        assert_upstream_ended(hang.await.unwrap());
        tx.closed().await;
        assert!(matches!(tx.send(vec![1]).await, Err(SendError::Closed)));
        assert!(matches!(rx.recv().await, Err(RecvError::Reset)));
        let end = loop {
            match given.recv().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Err(RecvError::Reset)), "{end:?}");
        for _ in 0..2 * CHANNELS {
            let (_tx, input) = channel();
            assert_upstream_ended(rig.probe.take(input).await);
        }
        assert!(rig.client.end().is_none(), "the client's own link goes on");
    });
}

#[test]
fn when_the_client_is_gone_what_it_had_started_at_the_server_stops() {
    let _hang = Watchdog::seconds(60);
    on_all_pairs(async |rig| {
        let mut calls = Vec::new();
        for _ in 0..2 {
            let (tx, input) = channel();
            let (output, rx) = channel();
            let probe = rig.probe.clone();
            calls.push(tokio::spawn(async move { (probe.hang(input, output).await, tx, rx) }));
        }
        let given = rig.probe.give(u32::MAX, 10).await.unwrap();
        let (kept, input) = channel();
        rig.probe.keep(input).await.unwrap();
        kept.send(vec![1]).await.unwrap();
        until(async || rig.server.hung().await.unwrap().0 == 2).await;
        rig.client.close().await;
        until(async || rig.server.hung().await.unwrap().1 == 2).await;
        let (bytes, end) = rig.server.read().await.unwrap();
        assert!(bytes <= 1 && end != "closed", "{bytes} bytes, {end}");
        let mut before = rig.server.given().await.unwrap();
        // The producer has found out when it does not go on any more, whether it had credit or not.
        until(async || before == std::mem::replace(&mut before, rig.server.given().await.unwrap())).await;
        drop((given, calls, kept));
    });
}

#[test]
fn a_call_that_is_dropped_stops_its_handler_and_ends_its_streams_on_both_links() {
    let _hang = Watchdog::seconds(60);
    on_all_pairs(async |rig| {
        for round in 0..2 * CHANNELS {
            let (tx, input) = channel();
            let (output, mut rx) = channel::<Vec<u8>>();
            let probe = rig.probe.clone();
            let call = tokio::spawn(async move { probe.hang(input, output).await });
            until(async || rig.server.hung().await.unwrap() == (round + 1, round)).await;
            call.abort();
            until(async || rig.server.hung().await.unwrap() == (round + 1, round + 1)).await;
            tx.closed().await;
            assert!(matches!(rx.recv().await, Err(RecvError::Reset)));
        }
    });
}

#[test]
fn a_call_that_is_not_served_leaves_no_channel_of_its_arguments_on_either_link() {
    let _hang = Watchdog::seconds(120);
    on_all_pairs(async |rig| {
        let misread = MisreadClient::new(&rig.client);
        for _ in 0..3 * CHANNELS {
            let (tx, input) = channel();
            let (output, mut rx) = channel();
            tx.send(vec![1; 10]).await.unwrap();
            let unknown = misread.unheard_of(input, output).await;
            assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{unknown:?}");
            tx.closed().await;
            assert!(matches!(rx.recv().await, Err(RecvError::Reset)));

            let (tx, input) = channel();
            let unread = misread.take(input, "more".into()).await;
            assert!(matches!(unread, Err(CallError::InvalidPayload)), "{unread:?}");
            tx.closed().await;

            let (tx, input) = channel();
            let panicked = rig.probe.panics(input).await;
            assert!(matches!(panicked, Err(CallError::Cancelled)), "{panicked:?}");
            tx.closed().await;
        }
        use_all_channels(&rig.probe).await;
    });
}

/// Waits until all channels that a link may have are free, on both links, whoever opens them.
async fn use_all_channels(probe: &ProbeClient) {
    until(async || try_all_channels(probe).await.is_ok()).await;
}

async fn try_all_channels(probe: &ProbeClient) -> Result<(), CallError> {
    let mut streams = Vec::new();
    for _ in 0..CHANNELS {
        streams.push(probe.give(1, 1).await?);
    }
    for mut stream in streams {
        assert_eq!(stream.recv().await.unwrap(), Some(vec![7]));
        assert_eq!(stream.recv().await.unwrap(), None);
    }
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CHANNELS {
        let (tx, input) = channel();
        let probe = probe.clone();
        tx.send(vec![1; 3]).await.unwrap();
        drop(tx);
        calls.spawn(async move { probe.take(input).await });
    }
    for taken in calls.join_all().await {
        assert_eq!(taken?, 3);
    }
    Ok(())
}

#[test]
fn a_stream_that_either_side_breaks_off_ends_on_both_links() {
    let _hang = Watchdog::seconds(60);
    on_all_pairs(async |rig| {
        for _ in 0..2 * CHANNELS {
            // The sender in front of the proxy.
            let (tx, input) = channel();
            rig.probe.keep(input).await.unwrap();
            tx.send(vec![1; 5]).await.unwrap();
            tx.reset();
            let (bytes, end) = rig.probe.read().await.unwrap();
            assert!(bytes <= 5 && end == "Reset", "{bytes} bytes, {end}");

            // The receiver behind it.
            let (tx, input) = channel();
            rig.probe.keep(input).await.unwrap();
            rig.probe.forget().await.unwrap();
            tx.closed().await;
            assert!(matches!(tx.send(vec![1]).await, Err(SendError::Closed)));

            // The receiver in front of it, of a result that outlives its call.
            let mut rx = rig.probe.give(u32::MAX, 10).await.unwrap();
            rx.recv().await.unwrap().unwrap();
            drop(rx);

            // And the end of one.
            let (tx, input) = channel();
            rig.probe.keep(input).await.unwrap();
            tx.send(vec![1; 5]).await.unwrap();
            drop(tx);
            assert_eq!(rig.probe.read().await.unwrap(), (5, "closed".into()));
        }
        use_all_channels(&rig.probe).await;
    });
}

#[test]
fn a_reader_that_does_not_read_holds_the_sender_after_a_window_for_each_link() {
    let _hang = Watchdog::seconds(60);
    on_all_pairs(async |rig| {
        // The reader is behind the proxy.
        let (tx, input) = channel();
        rig.probe.keep(input).await.unwrap();
        for _ in 0..LEAST {
            tx.send(vec![1; KIB]).await.unwrap();
        }
        let mut sent = LEAST;
        for _ in 0..20 {
            while tx.try_send(vec![1; KIB]).is_ok() {
                sent += 1;
            }
            rig.probe.add(1, 2).await.unwrap();
        }
        assert!(sent <= 2 * WINDOW, "{sent} KiB were sent, and none was read");
        // The reader is in front of it.
        let mut rx = rig.probe.give(4 * WINDOW as u32, KIB as u32).await.unwrap();
        until(async || rig.server.given().await.unwrap() >= LEAST).await;
        for _ in 0..20 {
            rig.probe.add(1, 2).await.unwrap();
        }
        let given = rig.server.given().await.unwrap();
        assert!(given <= 2 * WINDOW, "{given} KiB were sent, and none was read");
        for _ in 0..4 * WINDOW {
            assert_eq!(rx.recv().await.unwrap().unwrap().len(), KIB);
        }
        assert_eq!(rx.recv().await.unwrap(), None);
        // And goes on.
        let (read, ()) = tokio::join!(rig.probe.read(), async {
            for _ in 0..10 * WINDOW {
                tx.send(vec![1; KIB]).await.unwrap();
            }
            drop(tx);
        });
        assert_eq!(read.unwrap(), ((sent + 10 * WINDOW) * KIB as u64, "closed".into()));
    });
}

/// The link in front of the proxy has room for a few elements only.
#[test]
fn what_a_handler_has_sent_before_it_returned_arrives_before_its_answer() {
    let _hang = Watchdog::seconds(60);
    for far in Kind::all() {
        runtime().block_on(async {
            let (upstream, _server) = link(far, Options::new().settings(settings()), serving()).await;
            let narrow = settings().send_buffer(1 << 10);
            let passes = Options::new().settings(narrow).serve(Forward::to(&upstream));
            let (client, _proxy) = link(Kind::Uds, Options::new().settings(settings()), passes).await;
            let probe = ProbeClient::new(&client);
            for len in [0, 1, 10, 100].into_iter().cycle().take(40) {
                let elements = 500;
                let (output, mut rx) = channel();
                probe.tell(elements, len, output).await.unwrap();
                for element in 0..elements {
                    let received: Result<Vec<u8>, _> = rx.try_recv();
                    assert!(received.is_ok(), "{far:?}: element {element} of {len} bytes: {received:?}");
                }
            }
        });
    }
}

#[test]
fn an_element_longer_than_the_second_links_window_breaks_off_its_stream_and_nothing_else() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let narrow = settings().initial_channel_credit(1 << 10);
        let far = serving().settings(narrow.clone());
        let (upstream, _server) = link(Kind::Uds, Options::new().settings(narrow), far).await;
        let passes = Options::new().settings(settings()).serve(Forward::to(&upstream));
        let (client, _proxy) = link(Kind::Tcp, Options::new().settings(settings()), passes).await;
        let probe = ProbeClient::new(&client);
        for _ in 0..2 * CHANNELS {
            let (tx, input) = channel();
            probe.keep(input).await.unwrap();
            tx.send(vec![1; KIB]).await.unwrap();
            tx.send(vec![1; KIB + 1]).await.unwrap();
            tx.closed().await;
            assert_eq!(probe.read().await.unwrap(), (KIB as u64, "Reset".into()));
        }
        assert_eq!(probe.add(1, 2).await.unwrap(), 3);
        use_all_channels(&probe).await;
    });
}

#[test]
fn deadlines_shrink_from_proxy_to_proxy() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let (last, _server) = link(Kind::Uds, Options::new(), serving()).await;
        let (middle, _second) = link(Kind::Local, Options::new(), passing_to(&last)).await;
        let (client, _first) = link(Kind::Tcp, Options::new(), passing_to(&middle)).await;
        let probe = ProbeClient::new(&client);
        assert_eq!(probe.left().await.unwrap(), None);
        let given = Duration::from_secs(60);
        let left = probe.left().with_timeout(given).await.unwrap().map(Duration::from_nanos).unwrap();
        assert!(left < given && left > Duration::ZERO, "{left:?} of {given:?}");
        let hang = |timeout| {
            let ((_tx, input), (output, _rx)) = (channel(), channel());
            let probe = probe.clone();
            async move { probe.hang(input, output).with_timeout(timeout).await }
        };
        let late = hang(Duration::from_millis(30)).await;
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        until(async || probe.hung().await.unwrap() == (1, 1)).await;
    });
}

fn passing_to(upstream: &Connection) -> Options {
    Options::new().serve(Forward::to(upstream))
}

#[test]
fn proxies_that_pass_to_each_other_stop_at_their_limits() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        for kind in [Kind::Local, Kind::Uds] {
            let (to_one, to_other) = (LateBound::new(), LateBound::new());
            let few = adjoin::Settings::default().max_concurrent_requests(50);
            let (one, other) = link(
                kind,
                Options::new().settings(few.clone()).serve(to_one.clone()),
                Options::new().settings(few).serve(to_other.clone()),
            )
            .await;
            let Far::Here { connection } = &other else { panic!("it is here") };
            to_one.bind(Forward::to(&one)).unwrap();
            to_other.bind(Forward::to(connection)).unwrap();
            let (_tx, input) = channel();
            let outcome = ProbeClient::new(&one).take(input).await;
            assert!(matches!(outcome, Err(CallError::Cancelled)), "{outcome:?}");
            let outcome = ProbeClient::new(&one).add(1, 2).await;
            assert!(matches!(outcome, Err(CallError::Cancelled)), "{outcome:?}");
            assert!(one.end().is_none());
            one.close().await;
        }
    });
}

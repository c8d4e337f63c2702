//! Edges of limits and of lifetimes, each of which was a hang, a leak or a busy loop once.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use adjoin::{CallError, LinkEnd, Options, Refusal, SendError, Settings, local};
use common::{
    links::{Kind, connect, connect_with},
    suite::{SuiteClient, SuiteDispatcher, SuiteService},
    watchdog::Watchdog,
};

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell();
}

fn run<F: Future<Output = ()>>(test: F) {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Grants come in steps; what is not worth a step yet must not be missing to the next element.
#[test]
fn an_element_of_almost_the_window_follows_a_small_one() {
    run(async {
        for kind in Kind::all() {
            let peer = connect(kind).await;
            for small in [1, 3_000, 10_000, 16_300, 60_000] {
                let (tx, rx) = adjoin::channel();
                let call = tokio::spawn({
                    let suite = peer.suite.clone();
                    async move { suite.swallow(rx).await }
                });
                for _ in 0..3 {
                    tx.send(vec![1; small]).await.unwrap();
                    tx.send(vec![1; 65_000]).await.unwrap();
                }
                drop(tx);
                assert_eq!(call.await.unwrap().unwrap(), 3 * (small as u64 + 65_000));
            }
        }
    });
}

/// Answers larger than what the link can hold, many at once.
#[test]
fn answers_that_find_the_link_full_all_leave() {
    run(async {
        for kind in Kind::all() {
            let peer = connect(kind).await;
            for _ in 0..10 {
                let calls: Vec<_> = (0..40)
                    .map(|_| {
                        let suite = peer.suite.clone();
                        tokio::spawn(async move { suite.answer_of(100_000).await.unwrap().len() })
                    })
                    .collect();
                for call in calls {
                    assert_eq!(call.await.unwrap(), 100_000);
                }
            }
        }
    });
}

/// What a stream took while it was in its process may exceed what its link allows.
#[test]
fn an_element_that_the_link_refuses_breaks_its_stream_for_both_sides() {
    run(async {
        let narrow = || Settings::default().initial_channel_credit(8 << 10);
        let peer = connect_with(Kind::Local, Options::new().settings(narrow()), narrow()).await;
        let (tx, rx) = adjoin::channel();
        tx.send(vec![1; 20_000]).await.unwrap();
        // The callee sees the end of the stream, and answers.
        assert_eq!(peer.suite.swallow(rx).await.unwrap(), 0);
        tx.closed().await;
        match tx.send(vec![1]).await {
            Err(SendError::Refused(Refusal::ElementTooLarge { len: 20_003, window: 8192 })) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// The runtime has not heard of what arrived when this side finds that it cannot write. Fails when a writer's
/// failure is the end of the link at once.
#[cfg(unix)]
#[test]
fn a_goodbye_before_a_peer_hung_up_is_heard_by_a_side_that_was_about_to_write() {
    use std::io::{Read, Write};

    const HELLO: [u8; 10] = [0x01, 0x08, 0x01, 0x80, 0x80, 0x40, 0x80, 0x80, 0x04, 0x00];
    const GOODBYE: &[u8] = b"\x02\x04\x06\x04rule\x00";

    let _hang = Watchdog::seconds(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        peer.write_all(&HELLO).unwrap();
        let connection = adjoin::stream::connect(ours, Options::new()).await.unwrap();
        peer.read_exact(&mut [0; HELLO.len()]).unwrap();
        tokio::task::yield_now().await; // the driver waits for messages

        peer.write_all(GOODBYE).unwrap();
        drop(peer);
        match SuiteClient::new(&connection).add(1, 2).await {
            Err(CallError::Ended(LinkEnd::Goodbye { reason })) => assert_eq!(&*reason, "rule"),
            other => panic!("{other:?}"),
        }
    });
}

/// A test that stops tokio's clock gets its timeouts.
#[test]
fn timeouts_follow_a_paused_clock() {
    let _hang = Watchdog::seconds(30);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let serving = Options::new().serve(SuiteDispatcher::new(SuiteService::default()));
        let (near, _far) = local::pair(Options::new(), serving);
        let late = SuiteClient::new(&near).hang().with_timeout(Duration::from_secs(10)).await;
        assert!(matches!(late, Err(CallError::TimedOut { .. } | CallError::Cancelled)), "{late:?}");
    });
}

#[cfg(target_os = "linux")]
mod shm {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use adjoin::{CallError, Options, Refusal, Settings, Waiting};

    use super::{
        common::{
            links::{Kind, connect_with, settings},
            suite::SuiteClient,
            watchdog::Watchdog,
        },
        run,
    };

    /// An answer that the link can never carry, while the link is full: the call is answered, not forgotten.
    #[test]
    fn an_answer_that_can_never_fit_is_answered_cancelled() {
        let _hang = Watchdog::seconds(180);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let near = Options::new().settings(Settings::default().max_payload_size(500_000).arena_blocks(2));
            let peer = connect_with(Kind::Shm, near, settings()).await;
            assert!(matches!(peer.suite.answer_of(600_000).await, Err(CallError::Cancelled)));
            let calls: Vec<_> = (0..4)
                .map(|_| {
                    let suite = peer.suite.clone();
                    tokio::spawn(async move { suite.answer_of(400_000).await.map(|answer| answer.len()) })
                })
                .collect();
            tokio::task::yield_now().await;
            let mut large = Box::pin(peer.suite.answer_of(600_000));
            poll_fn(|cx| Poll::Ready(large.as_mut().poll(cx).is_pending())).await;
            // This thread reads nothing for a while, so that the answers use up the blocks.
            std::thread::sleep(Duration::from_millis(100));
            for call in calls {
                assert_eq!(call.await.unwrap().unwrap(), 400_000);
            }
            assert!(matches!(large.await, Err(CallError::Cancelled)));
        });
    }

    #[test]
    fn a_side_that_spins_misses_nothing() {
        run(async {
            let near = Options::new().settings(settings().waiting(Waiting::Spin));
            let peer = connect_with(Kind::Shm, near, settings()).await;
            let suite = peer.suite.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    assert_eq!(suite.wait(1).await.unwrap(), 1);
                }
            })
            .await
            .unwrap();
        });
    }

    /// Such a call would wait for good.
    #[test]
    fn more_streams_than_a_link_can_ever_have_are_refused() {
        run(async {
            let few = Settings::default().channel_slots(4);
            let peer = connect_with(Kind::Shm, Options::new().settings(few.clone()), few).await;
            let streams: Vec<_> = (0..3).map(|_| adjoin::channel::<u64>().1).collect();
            let sum = SuiteClient::SUM;
            match peer.connection.call::<_, u64, adjoin::Never>(sum, (streams,)).await {
                Err(CallError::Refused(Refusal::TooManyStreams { count: 3, limit: 2 })) => {}
                other => panic!("{other:?}"),
            }
        });
    }
}

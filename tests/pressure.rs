//! Links with little room: rings and buffers that are full most of the time.
#![allow(missing_docs)]

mod common;

use adjoin::{Options, Settings};
use common::{
    links::{Kind, connect_with},
    watchdog::Watchdog,
};

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell();
}

/// Room for a dozen elements, and a window of the same size: a sender waits for one as often as for the other.
fn cramped() -> Settings {
    Settings::default()
        .max_payload_size(16 << 10)
        .initial_channel_credit(64 << 10)
        .ring_bytes(64 << 10)
        .send_buffer(64 << 10)
}

const ELEMENT: usize = 4000;
const TIMES: u32 = 20_000;

/// Streams both ways, at once, with calls in between whose payloads do not fit what is left of the room.
fn two_peers_that_flood_each_other_make_progress(kind: Kind) {
    let _hang = Watchdog::seconds(300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let peer = connect_with(kind, Options::new().settings(cramped()), cramped()).await;
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let suite = peer.suite.clone();
            tasks.push(tokio::spawn(async move {
                let (tx, rx) = adjoin::channel();
                let swallow = tokio::spawn(async move { suite.swallow(rx).await.unwrap() });
                for number in 0..TIMES {
                    tx.send(vec![number as u8; ELEMENT]).await.unwrap();
                }
                drop(tx);
                assert_eq!(swallow.await.unwrap(), ELEMENT as u64 * u64::from(TIMES));
            }));
            let suite = peer.suite.clone();
            tasks.push(tokio::spawn(async move {
                let mut poured = suite.pour(ELEMENT as u32, TIMES).await.unwrap();
                let mut expected = 0;
                while let Some(element) = poured.recv().await.unwrap() {
                    assert_eq!(element, vec![expected as u8; ELEMENT]);
                    expected += 1;
                }
                assert_eq!(expected, TIMES);
            }));
            let suite = peer.suite.clone();
            tasks.push(tokio::spawn(async move {
                for number in 0..2_000u32 {
                    let data = vec![number as u8; 15_000];
                    assert_eq!(suite.echo(data.clone()).await.unwrap(), data);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

macro_rules! on_every_link {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::$name(super::Kind::Local); })* }
        mod uds { $(#[test] fn $name() { super::$name(super::Kind::Uds); })* }
        mod tcp { $(#[test] fn $name() { super::$name(super::Kind::Tcp); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::$name(super::Kind::Shm); })* }
    };
}

on_every_link! { two_peers_that_flood_each_other_make_progress }

/// More streams than the link has channels: a call that would open one more waits until one is over.
#[cfg(target_os = "linux")]
#[test]
fn a_call_that_finds_all_channels_in_use_waits() {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let few = Settings::default().max_payload_size(16 << 10).channel_slots(8);
        let peer = connect_with(Kind::Shm, Options::new().settings(few.clone()), few).await;
        // Four of the eight are ours to open. Each call opens one, and its result none.
        let calls: Vec<_> = (0..100u64)
            .map(|number| {
                let suite = peer.suite.clone();
                tokio::spawn(async move {
                    let (tx, rx) = adjoin::channel();
                    let sum = tokio::spawn(async move { suite.sum(rx).await.unwrap() });
                    tx.send(number).await.unwrap();
                    drop(tx);
                    assert_eq!(sum.await.unwrap(), number);
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        // Results that open channels wait as well: six streams in one result would not fit, one at a time do.
        let results: Vec<_> = (0..50)
            .map(|_| {
                let suite = peer.suite.clone();
                tokio::spawn(async move {
                    let mut numbers = suite.count(10).await.unwrap();
                    for expected in 0..10 {
                        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
                    }
                    assert_eq!(numbers.recv().await.unwrap(), None);
                })
            })
            .collect();
        for result in results {
            result.await.unwrap();
        }
    });
}

/// Opening and closing channels one after the other leaves nothing behind.
fn channels_one_after_the_other_leave_memory_flat(kind: Kind) {
    let _hang = Watchdog::seconds(300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let peer = connect_with(kind, Options::new().settings(cramped()), cramped()).await;
        let mut before = (0, 0);
        for round in 0..11 {
            for _ in 0..500u64 {
                let (tx, rx) = adjoin::channel();
                tx.send(1).await.unwrap();
                drop(tx);
                assert_eq!(peer.suite.sum(rx).await.unwrap(), 1);
                drop(peer.suite.count(1).await.unwrap());
            }
            let now = (common::suite::resident_kib(), peer.suite.resident_kib().await.unwrap());
            if round == 0 {
                before = now;
            }
            assert!(
                now.0 < before.0 + (16 << 10) && now.1 < before.1 + (16 << 10),
                "{before:?} to {now:?} KiB"
            );
        }
    });
}

mod flat {
    use super::{Kind, channels_one_after_the_other_leave_memory_flat};

    #[test]
    fn uds() {
        channels_one_after_the_other_leave_memory_flat(Kind::Uds);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn shm() {
        channels_one_after_the_other_leave_memory_flat(Kind::Shm);
    }
}

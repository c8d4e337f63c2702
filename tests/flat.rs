//! A million channels, one after the other, leave the memory of both sides flat. Alone in its process, which counts.
#![allow(missing_docs)]

mod common;

use adjoin::{Options, Rx, channel};
use common::{
    links::{Kind, link},
    suite::resident_kib,
    watchdog::Watchdog,
};

#[adjoin::service]
trait Channels {
    /// The sum of all numbers.
    async fn take(&self, streams: Vec<Rx<u64>>) -> u64;
    /// As many streams, each of its own number.
    async fn give(&self, streams: u64) -> Vec<Rx<u64>>;
    async fn resident_kib(&self) -> u64;
}

struct Plain;

fn stream_of(number: u64) -> Rx<u64> {
    let (tx, rx) = channel();
    tx.blocking_send(number).unwrap(); // within the process, where there is room
    rx
}

impl Channels for Plain {
    async fn take(&self, streams: Vec<Rx<u64>>) -> u64 {
        let mut sum = 0;
        for mut stream in streams {
            while let Ok(Some(number)) = stream.recv().await {
                sum += number;
            }
        }
        sum
    }

    async fn give(&self, streams: u64) -> Vec<Rx<u64>> {
        (0..streams).map(stream_of).collect()
    }

    async fn resident_kib(&self) -> u64 {
        resident_kib()
    }
}

fn serving() -> Options {
    Options::new().serve(ChannelsDispatcher::new(Plain))
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// Channels that are opened in all, half by calls and half by answers.
const CHANNELS: u64 = 1_000_000;

/// Channels of one call, or of one answer.
const AT_ONCE: u64 = 50;

/// What the memory may grow by: 16 bytes a channel, and no leak is so small.
const ROOM_KIB: u64 = 16 << 10;

fn a_million_channels_one_after_the_other_leave_memory_flat(kind: Kind) {
    let _hang = Watchdog::seconds(300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, _far) = link(kind, Options::new(), serving()).await;
        let far = ChannelsClient::new(&connection);
        let rounds = CHANNELS / (2 * AT_ONCE);
        let mut before = (0, 0);
        for round in 0..rounds {
            if round == rounds / 20 {
                before = (resident_kib(), far.resident_kib().await.unwrap());
            }
            let sum = far.take((0..AT_ONCE).map(stream_of).collect()).await.unwrap();
            assert_eq!(sum, AT_ONCE * (AT_ONCE - 1) / 2);
            let given = far.give(AT_ONCE).await.unwrap();
            for (number, mut stream) in given.into_iter().enumerate() {
                assert_eq!(stream.recv().await.unwrap(), Some(number as u64));
                // Every other one is dropped before its end.
                if number % 2 == 0 {
                    assert_eq!(stream.recv().await.unwrap(), None);
                }
            }
        }
        let after = (resident_kib(), far.resident_kib().await.unwrap());
        for (before, after) in [(before.0, after.0), (before.1, after.1)] {
            assert!(after < before + ROOM_KIB, "memory grew from {before} KiB to {after} KiB");
        }
    });
}

macro_rules! on_links {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::$name(super::Kind::Local); })* }
        mod uds { $(#[test] fn $name() { super::$name(super::Kind::Uds); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::$name(super::Kind::Shm); })* }
    };
}

on_links! { a_million_channels_one_after_the_other_leave_memory_flat }

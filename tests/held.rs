//! What the peer's requests hold on this side is bounded together, in bytes.
#![allow(missing_docs)]

mod common;

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use adjoin::{CallError, Options, Settings};
use common::{
    links::{Kind, link},
    watchdog::Watchdog,
};

#[adjoin::service]
trait Store {
    async fn hold(&self, bytes: Vec<u8>);
    async fn holds(&self) -> u32;
    async fn take(&self, bytes: Vec<u8>) -> u64;
    async fn panics(&self, bytes: Vec<u8>);
}

/// How many requests it holds, or has held.
#[derive(Default)]
struct Holds(AtomicU32);

impl Store for Holds {
    async fn hold(&self, _bytes: Vec<u8>) {
        self.0.fetch_add(1, Relaxed);
        std::future::pending().await
    }

    async fn holds(&self) -> u32 {
        self.0.load(Relaxed)
    }

    async fn take(&self, bytes: Vec<u8>) -> u64 {
        bytes.len() as u64
    }

    async fn panics(&self, _bytes: Vec<u8>) {
        panic!("on purpose: a handler that panics");
    }
}

fn serving() -> Options {
    Options::new()
        .settings(Settings::default().max_request_bytes(1 << 20))
        .serve(StoreDispatcher::new(Holds::default()))
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// Fails where a request's bytes are let go of too late, or not at all: then nothing finds room any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_are_rejected_by_it_and_leave_nothing_behind() {
    let _hang = Watchdog::seconds(60);
    for kind in Kind::all() {
        let (near, _far) = link(kind, Options::new(), serving()).await;
        let store = StoreClient::new(&near);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(tokio::spawn(store.hold(vec![7; 500_000]).into_future()));
        }
        while store.holds().await.unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await; // they are under way
        }
        let rejected = store.take(vec![7; 100_000]).await.unwrap_err();
        let CallError::Rejected { reason } = rejected else { panic!("{kind:?}: {rejected}") };
        assert!(reason.contains("1048576") && reason.contains("Settings::max_request_bytes"), "{reason}");
        assert_eq!(store.take(vec![7; 4000]).await.unwrap(), 4000, "{kind:?}: the short ones do not count");

        held.pop().unwrap().abort();
        while store.take(vec![7; 500_000]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await; // the Cancel is under way
        }
        for _ in 0..10 {
            assert_eq!(store.take(vec![7; 500_000]).await.unwrap(), 500_000, "{kind:?}");
            assert!(matches!(store.panics(vec![7; 500_000]).await, Err(CallError::Cancelled)), "{kind:?}");
        }
        // One that finds no other may have any length.
        held.pop().unwrap().abort();
        while store.take(vec![7; 3 << 20]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

//! Requests that come twice, on one link and on two.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{NOP, RECEIVE, SEND, settle, until, within};
use crate::{
    open::local,
    rpc::{
        connection::Connection,
        dedup::{Deduplicate, Nonce},
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, Never},
        method::{Method, Service, method},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        tx::{Tx, channel},
    },
    session::metadata::{Metadata, MetadataValue},
};

const PANIC: Method = method("Counted", "panic", MethodId::new(11), false, false);
const WATCH: Method = method("Counted", "watch", MethodId::new(12), false, false);

/// Counts how often its methods run. Accesses are Relaxed: one thread counts and reads.
#[derive(Clone, Default)]
struct Counted {
    runs: Arc<AtomicU32>,
    done: Arc<AtomicU32>,
    go: Arc<Notify>,
}

impl ServiceDispatcher for Counted {
    fn service(&self) -> &'static Service {
        super::Raw::default().service()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let Counted { runs, done, go } = self.clone();
        match request.method_id() {
            // Says how often it has run, once it is told to go on.
            id if id == NOP.id => request.serve(&NOP, |()| async move {
                let run = runs.fetch_add(1, Relaxed) + 1;
                go.notified().await;
                done.fetch_add(1, Relaxed);
                run
            }),
            id if id == RECEIVE.id => {
                request.serve(&RECEIVE, |(_rx,): (Rx<u8>,)| async move { runs.fetch_add(1, Relaxed) + 1 })
            }
            id if id == PANIC.id => request.serve(&PANIC, |()| async move {
                if runs.fetch_add(1, Relaxed) < u32::MAX {
                    std::panic::resume_unwind(Box::new("without a word of the hook"));
                }
            }),
            id if id == WATCH.id => request.serve(&WATCH, |()| async move {
                runs.fetch_add(1, Relaxed);
                let (tx, rx): (Tx<u8>, Rx<u8>) = channel();
                let _ = tx.send(7).await;
                rx
            }),
            _ => request.unknown_method(),
        }
    }
}

const NONCE: Nonce = Nonce::from_bytes([7; Nonce::BYTES]);

fn link(service: &Deduplicate<Counted>) -> (Connection, Connection) {
    local::pair(Options::new(), Options::new().serve(service.clone()))
}

async fn count(connection: &Connection) -> Result<u32, CallError> {
    within(connection.call::<(), u32, Never>(&NOP, ()).with_nonce(NONCE)).await
}

#[tokio::test]
async fn a_nonce_runs_once_on_whichever_link_it_comes() {
    let counted = Counted::default();
    let service = Deduplicate::new(counted.clone());
    counted.go.notify_one();
    for _ in 0..3 {
        let (client, _server) = link(&service);
        assert_eq!(count(&client).await.unwrap(), 1);
        assert_eq!(count(&client).await.unwrap(), 1);
    }
    counted.go.notify_one();
    let (client, _server) = link(&service);
    let other = client.call::<(), u32, Never>(&NOP, ()).with_nonce(Nonce::random().unwrap());
    assert_eq!(within(other).await.unwrap(), 2);
    counted.go.notify_one();
    assert_eq!(within(client.call::<(), u32, Never>(&NOP, ())).await.unwrap(), 3, "without one");
}

#[tokio::test]
async fn a_nonce_that_still_runs_joins() {
    let counted = Counted::default();
    let service = Deduplicate::new(counted.clone());
    let ((one, _one), (two, _two)) = (link(&service), link(&service));
    let calls: Vec<_> = [&one, &two, &one]
        .map(|link| tokio::spawn(link.call::<(), u32, Never>(&NOP, ()).with_nonce(NONCE)))
        .into();
    settle().await;
    counted.go.notify_one();
    for call in calls {
        assert_eq!(within(call).await.unwrap().unwrap(), 1);
    }
}

/// That is what a retry after a lost link is for. Fails when `Handler::link_ended` stops all.
#[tokio::test]
async fn a_handler_outlives_its_link_and_the_next_one_gets_its_answer() {
    let counted = Counted::default();
    let service = Deduplicate::new(counted.clone());
    let (client, server) = link(&service);
    let lost = tokio::spawn(client.call::<(), u32, Never>(&NOP, ()).with_nonce(NONCE));
    settle().await;
    server.close().await;
    assert!(matches!(within(lost).await.unwrap(), Err(CallError::Ended(_))));
    settle().await;
    counted.go.notify_one();
    until(|| counted.done.load(Relaxed) == 1).await;
    let (client, _server) = link(&service);
    assert_eq!(count(&client).await.unwrap(), 1);
}

#[tokio::test]
async fn what_was_cancelled_or_panicked_is_cancelled_again_and_never_runs_twice() {
    let counted = Counted::default();
    let service = Deduplicate::new(counted.clone());
    let (client, _server) = link(&service);
    let dropped = tokio::spawn(client.call::<(), u32, Never>(&NOP, ()).with_nonce(NONCE));
    settle().await;
    dropped.abort();
    settle().await;
    assert!(matches!(count(&client).await, Err(CallError::Cancelled)));
    assert_eq!((counted.runs.load(Relaxed), counted.done.load(Relaxed)), (1, 0));
    for _ in 0..2 {
        let called = within(client.call::<(), (), Never>(&PANIC, ()).with_nonce(NONCE)).await;
        assert!(matches!(called, Err(CallError::Cancelled)), "{called:?}");
    }
    assert_eq!(counted.runs.load(Relaxed), 2);
}

/// The session's own deadline went with the link.
#[tokio::test(start_paused = true)]
async fn a_handler_that_outlives_its_link_is_stopped_at_its_deadline() {
    let counted = Counted::default();
    let service = Deduplicate::new(counted.clone()).max_running(1);
    let (client, server) = link(&service);
    let call = client.call::<(), u32, Never>(&NOP, ()).with_nonce(NONCE);
    let lost = tokio::spawn(call.with_timeout(Duration::from_secs(60)));
    settle().await;
    server.close().await;
    assert!(lost.await.unwrap().is_err());
    tokio::time::sleep(Duration::from_secs(61)).await;
    counted.go.notify_one();
    settle().await;
    assert_eq!(counted.done.load(Relaxed), 0);
    let (client, _server) = link(&service);
    assert!(matches!(count(&client).await, Err(CallError::Cancelled)));
}

#[tokio::test]
async fn what_is_no_nonce_is_refused_unserved() {
    let counted = Counted::default();
    let (client, _server) = link(&Deduplicate::new(counted.clone()));
    for wrong in [MetadataValue::Bytes(vec![7; 15]), MetadataValue::Bytes(vec![7; 17]), "text".into()] {
        let mut metadata = Metadata::new();
        metadata.push(Nonce::KEY, wrong);
        let called = within(client.call::<(), u32, Never>(&NOP, ()).with_metadata(metadata)).await;
        assert!(matches!(called, Err(CallError::InvalidPayload)), "{called:?}");
    }
    assert_eq!(counted.runs.load(Relaxed), 0);
}

#[tokio::test]
async fn arguments_that_do_not_decode_and_unknown_methods_are_not_remembered() {
    let counted = Counted::default();
    counted.go.notify_one();
    let (client, _server) = link(&Deduplicate::new(counted.clone()));
    let called = within(client.call::<(u8,), u32, Never>(&NOP, (1,)).with_nonce(NONCE)).await;
    assert!(matches!(called, Err(CallError::InvalidPayload)), "{called:?}");
    let called = within(client.call::<(), u32, Never>(&SEND, ()).with_nonce(NONCE)).await;
    assert!(matches!(called, Err(CallError::UnknownMethod)), "{called:?}");
    assert_eq!(count(&client).await.unwrap(), 1);
}

#[tokio::test]
async fn calls_with_streams_are_served_each_time_and_results_with_streams_once() {
    let counted = Counted::default();
    let (client, _server) = link(&Deduplicate::new(counted.clone()));
    for run in 1..=2 {
        let (_tx, rx) = channel::<u8>();
        let called = client.call::<(Rx<u8>,), u32, Never>(&RECEIVE, (rx,)).with_nonce(NONCE);
        assert_eq!(within(called).await.unwrap(), run);
    }
    let watch = || within(client.call::<(), Rx<u8>, Never>(&WATCH, ()).with_nonce(NONCE));
    let mut rx = watch().await.unwrap();
    assert_eq!(within(rx.recv()).await.unwrap(), Some(7));
    let again = watch().await;
    assert!(matches!(again, Err(CallError::Cancelled)), "{again:?}");
    assert_eq!(counted.runs.load(Relaxed), 3);
}

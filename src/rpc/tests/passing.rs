//! Values that cross a link within one process as they are, and what the link guarantees nevertheless.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{end_of, nop, poll, settle, until, within};
use crate::{
    channel, local,
    rpc::{
        bytes::Bytes,
        connection::Connection,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, Never, Refusal, SendError},
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        tx::Tx,
    },
    settings::Settings,
};

const ECHO: Method = method("Passing", "echo", MethodId::new(20), true, false);
const OTHER: Method = method("Passing", "other", MethodId::new(21), true, false);
const FAIL: Method = method("Passing", "fail", MethodId::new(22), true, false);
const SINK: Method = method("Passing", "sink", MethodId::new(23), false, false);
const SOURCE: Method = method("Passing", "source", MethodId::new(24), false, false);
const KEEP: Method = method("Passing", "keep", MethodId::new(25), false, false);
const WITH_STREAM: Method = method("Passing", "with_stream", MethodId::new(26), false, false);

/// How often values were written, read and dropped.
#[derive(Default)]
struct Seen {
    written: AtomicUsize,
    dropped: AtomicUsize,
}

/// A value that counts what is done to it, and cannot be read.
struct Watched {
    data: Vec<u8>,
    seen: Arc<Seen>,
    /// Does something with the link when the value is dropped.
    link: Option<Connection>,
}

impl Watched {
    fn new(len: usize, seen: &Arc<Seen>) -> Self {
        Watched { data: vec![7; len], seen: Arc::clone(seen), link: None }
    }
}

impl Serialize for Watched {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.seen.written.fetch_add(1, Relaxed);
        serde_bytes::serialize(&self.data, serializer)
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("it was read");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.seen.dropped.fetch_add(1, Relaxed);
        if let Some(link) = &self.link {
            // Takes the locks of session and sender, and then the session's again.
            assert!(poll(pin!(nop(link))).is_pending());
        }
    }
}

/// What has the same bytes, and another type.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Same(#[serde(with = "serde_bytes")] Vec<u8>);

/// Keeps a stream, and does not read it.
#[derive(Clone, Default)]
struct Passing(Arc<std::sync::Mutex<Vec<Rx<Watched>>>>);

impl ServiceDispatcher for Passing {
    fn service(&self) -> &'static Service {
        static PASSING: Service = service("Passing", &[ECHO, OTHER, FAIL, SINK, SOURCE, KEEP, WITH_STREAM]);
        &PASSING
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let kept = Arc::clone(&self.0);
        match request.method_id() {
            id if id == ECHO.id => request.serve(&ECHO, |(value,): (Watched,)| async move { value }),
            id if id == OTHER.id => request.serve(&OTHER, |(value,): (Same,)| async move { value }),
            id if id == FAIL.id => {
                request.serve_result(&FAIL, |(data,): (Vec<u8>,)| async move { Err::<(), _>(data) })
            }
            id if id == SINK.id => request.serve(&SINK, |(mut rx,): (Rx<Watched>,)| async move {
                let mut addresses = Vec::new();
                while let Ok(Some(value)) = rx.recv().await {
                    addresses.push(value.data.as_ptr().addr() as u64);
                }
                addresses
            }),
            id if id == SOURCE.id => request.serve(&SOURCE, |(tx, len): (Tx<Same>, u32)| async move {
                let _ = tx.send(Same(vec![9; len as usize])).await;
            }),
            id if id == KEEP.id => request.serve(&KEEP, move |(rx,): (Rx<Watched>,)| {
                kept.lock().unwrap().push(rx);
                std::future::pending::<()>()
            }),
            id if id == WITH_STREAM.id => request
                .serve(&WITH_STREAM, |(data, tx): (Vec<u8>, Tx<Vec<u8>>)| async move {
                    tx.send(data).await.is_ok()
                }),
            _ => request.unknown_method(),
        }
    }
}

fn settings() -> Settings {
    Settings::default().max_payload_size(40_000).window_growth(0)
}

/// Two ends of a link, and the service at the second.
fn linked() -> (Connection, Connection, Passing) {
    let passing = Passing::default();
    let options = || Options::new().settings(settings());
    let (client, server) = local::pair(options(), options().serve(passing.clone()));
    (client, server, passing)
}

#[tokio::test]
async fn a_long_value_arrives_as_it_is_and_is_measured_once_each_way() {
    let (client, _server, _) = linked();
    let seen = Arc::new(Seen::default());
    let value = Watched::new(10_000, &seen);
    let address = value.data.as_ptr();
    let back: Watched = within(client.call::<_, _, Never>(&ECHO, (value,))).await.unwrap();
    assert_eq!((back.data.as_ptr(), back.data.len()), (address, 10_000));
    assert_eq!(seen.written.load(Relaxed), 2);
    drop(back);
    assert_eq!(seen.dropped.load(Relaxed), 1);
}

/// More than a window of them: fails when they count for less with their reader than with their sender.
#[tokio::test]
async fn elements_arrive_as_they_are_and_in_order() {
    let (client, _server, _) = linked();
    let seen = Arc::new(Seen::default());
    let (tx, rx) = channel();
    let mut call = pin!(client.call::<_, Vec<u64>, Never>(&SINK, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    let mut sent = Vec::new();
    for len in [1000, 20_000, 257, 3000, 30_000, 30_000, 30_000, 30_000] {
        let value = Watched::new(len, &seen);
        sent.push(value.data.as_ptr().addr() as u64);
        within(tx.send(value)).await.unwrap();
    }
    drop(tx);
    assert_eq!(within(call).await.unwrap(), sent);
    assert_eq!(seen.dropped.load(Relaxed), sent.len());
}

#[tokio::test]
async fn where_the_types_differ_it_is_encoded_after_all() {
    let (client, _server, _) = linked();
    let seen = Arc::new(Seen::default());
    for len in [10, 10_000] {
        let value = Watched::new(len, &seen);
        let back: Bytes = within(client.call::<_, _, Never>(&OTHER, (value,))).await.unwrap();
        assert_eq!(back[..], vec![7; len]);
        let (tx, mut rx) = channel::<Vec<u8>>();
        within(client.call::<_, (), Never>(&SOURCE, (tx, len as u32))).await.unwrap();
        assert_eq!(within(rx.recv()).await.unwrap(), Some(vec![9; len]));
        assert_eq!(within(rx.recv()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn errors_and_values_with_handles_are_encoded() {
    let (client, _server, _) = linked();
    let failed = within(client.call::<_, (), Vec<u8>>(&FAIL, (vec![3_u8; 5000],))).await;
    assert!(matches!(failed, Err(CallError::User(data)) if data == [3; 5000]));
    let (tx, mut rx) = channel::<Vec<u8>>();
    assert!(within(client.call::<_, bool, Never>(&WITH_STREAM, (vec![4_u8; 5000], tx))).await.unwrap());
    assert_eq!(within(rx.recv()).await.unwrap(), Some(vec![4; 5000]));
    assert_eq!(within(rx.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn the_limits_are_those_of_the_bytes_that_it_would_take() {
    let (client, _server, _) = linked();
    let seen = Arc::new(Seen::default());
    let most = 40_000 - 3 - 1; // a length, and in the answer a verdict
    let back: Watched =
        within(client.call::<_, _, Never>(&ECHO, (Watched::new(most, &seen),))).await.unwrap();
    assert_eq!(back.data.len(), most);
    let value = Watched::new(most + 1, &seen);
    assert!(matches!(
        within(client.call::<_, Watched, Never>(&ECHO, (value,))).await,
        Err(CallError::Cancelled)
    ));
    let value = Watched::new(most + 2, &seen);
    let refused = within(client.call::<_, Watched, Never>(&ECHO, (value,))).await;
    let limit = 40_000;
    assert!(matches!(
        refused,
        Err(CallError::Refused(Refusal::PayloadTooLarge { len: 40_001, limit: found })) if found == limit
    ));
    drop(back);
    assert_eq!(seen.dropped.load(Relaxed), 3, "what is refused is dropped as well");
}

/// Fails when an element counts for less than its bytes: then more than a window of them waits for the reader.
#[tokio::test]
async fn a_stream_that_nobody_reads_stops_at_its_window_and_drops_what_it_held() {
    let (client, _server, passing) = linked();
    let seen = Arc::new(Seen::default());
    let (tx, rx) = channel();
    let mut call = pin!(client.call::<_, (), Never>(&KEEP, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    settle().await;
    let mut sent = 0;
    loop {
        let mut send = pin!(tx.send(Watched::new(10_000, &seen)));
        let Poll::Ready(result) = poll(send.as_mut()) else { break };
        result.unwrap();
        sent += 1;
        settle().await;
    }
    assert_eq!(sent, (64 << 10) / 10_003, "the rest of the window is too short for one more");
    assert_eq!(seen.dropped.load(Relaxed), 1, "the one that found no credit");
    passing.0.lock().unwrap().clear();
    settle().await;
    assert_eq!(seen.dropped.load(Relaxed), sent + 1);
    assert!(matches!(within(tx.send(Watched::new(10_000, &seen))).await, Err(SendError::Closed)));
    assert_eq!(seen.dropped.load(Relaxed), sent + 2);
}

/// Fails when a value is dropped under a lock of its link: nobody goes on then.
#[tokio::test]
async fn what_a_value_does_when_it_is_dropped_may_be_anything() {
    let (client, server, passing) = linked();
    let seen = Arc::new(Seen::default());
    let value = || Watched { data: vec![7; 1000], seen: Arc::clone(&seen), link: Some(server.clone()) };
    // An answer that nobody waits for any more.
    let mut call = Box::pin(client.call::<_, Watched, Never>(&ECHO, (value(),)));
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    until(|| seen.dropped.load(Relaxed) == 1).await;
    // Elements that arrive when their reader has just gone, some before and some behind.
    let (tx, rx) = channel();
    let mut call = pin!(client.call::<_, (), Never>(&KEEP, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    settle().await;
    within(tx.send(value())).await.unwrap();
    settle().await;
    within(tx.send(value())).await.unwrap();
    passing.0.lock().unwrap().clear();
    until(|| seen.dropped.load(Relaxed) == 3).await;
    within(nop_of(&client)).await;
}

/// A call, which shows that the link goes on.
async fn nop_of(client: &Connection) {
    assert!(matches!(nop(client).await, Err(CallError::UnknownMethod)));
}

/// Fails when a queue, a slot or a call forgets what it holds.
#[tokio::test]
async fn whatever_is_under_way_when_a_link_ends_is_dropped() {
    let (client, server, passing) = linked();
    let seen = Arc::new(Seen::default());
    let (tx, rx) = channel();
    let mut keep = Box::pin(client.call::<_, (), Never>(&KEEP, (rx,)));
    assert!(poll(keep.as_mut()).is_pending());
    settle().await;
    within(tx.send(Watched::new(1000, &seen))).await.unwrap();
    settle().await;
    // Not received any more: an element, and a call.
    within(tx.send(Watched::new(1000, &seen))).await.unwrap();
    let mut echo = Box::pin(client.call::<_, Watched, Never>(&ECHO, (Watched::new(1000, &seen),)));
    assert!(poll(echo.as_mut()).is_pending());
    assert_eq!(seen.dropped.load(Relaxed), 0);
    drop((keep, echo));
    drop((client, tx));
    end_of(&server).await;
    passing.0.lock().unwrap().clear();
    drop(server);
    until(|| seen.dropped.load(Relaxed) == 3).await;
}

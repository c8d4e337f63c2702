//! Virtual connections, the same on every link: opened by either side, with a service at both ends, and ended in each
//! of the ways there are.
//!
//! Over shared memory the far end is a process of its own. It is asked, over the link's root, for what it has and sees.
#![allow(missing_docs)]

mod common;

use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use adjoin::{
    CallError, ConnectError, ConnectOptions, Connection, ConnectionEnd, Context, Drained, LinkEnd, Metadata,
    Options, RecvError, Refusal, Rx, SendError, Settings, channel,
};
use common::{
    links::{Far, Kind, link},
    watchdog::Watchdog,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

/// Offered by both ends, on the root and on each virtual connection.
#[adjoin::service]
trait Room {
    async fn add(&self, a: u64, b: u64) -> u64;
    async fn sum(&self, numbers: Rx<u64>) -> u64;
    async fn count(&self, upto: u64) -> Rx<u64>;
    /// What came along when the connection was opened, for the side that is called.
    async fn told(&self) -> Option<String>;
    /// Calls and streams back on the connection on which it is called.
    async fn use_back(&self);
    /// Calls back on the connection on which it is called, and says whether that was answered.
    async fn reaches_back(&self) -> bool;
    /// Returns when it is let go.
    async fn hold(&self) -> u64;
    /// How many calls of `hold` run.
    async fn holding(&self) -> u64;
    async fn let_go(&self);
    /// Opens a connection from this side. Its id, and what came along with the other side's answer; or why there is
    /// none.
    async fn open(&self, saying: String) -> Result<(u64, Option<String>), String>;
    async fn close(&self, id: u64);
    async fn forget(&self, id: u64);
    /// Waits for a connection's end, and tells how it was.
    async fn end_of(&self, id: u64) -> String;
    /// Writes to a file how the link ended, and this connection of it, when they have.
    async fn report(&self, id: u64, file: String);
}

/// What one side has.
#[derive(Clone, Default)]
struct Side {
    connections: Arc<Mutex<HashMap<u64, Connection>>>,
    go: Arc<Notify>,
    /// Has a receiver for each `hold` that runs.
    holding: Holding,
    reports: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Clone)]
struct Holding(watch::Sender<()>);

impl Default for Holding {
    fn default() -> Self {
        Holding(watch::Sender::new(()))
    }
}

/// The metadata key under which both sides say something.
const SAYS: &str = "says";

fn saying(text: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.push(SAYS, text);
    metadata
}

fn said(metadata: &Metadata) -> Option<String> {
    metadata.get(SAYS)?.as_str().map(str::to_owned)
}

impl Side {
    fn serving(&self, text: &str) -> ConnectOptions {
        ConnectOptions::new().metadata(saying(text)).serve(RoomDispatcher::new(self.clone()))
    }

    /// Offers the room, and takes connections but for those that ask to be rejected.
    fn options(&self, settings: Settings) -> Options {
        let side = self.clone();
        self.deaf(settings).on_connect(move |incoming| match said(incoming.metadata()) {
            Some(text) if text != "reject me" => {
                let accepted = incoming.accept(side.serving(&format!("welcome, {text}"))).unwrap();
                side.keep(accepted);
            }
            _ => incoming.reject_with("no room today", &saying("tomorrow")).unwrap(),
        })
    }

    /// Offers the room, and takes no connections.
    fn deaf(&self, settings: Settings) -> Options {
        Options::new().settings(settings).serve(RoomDispatcher::new(self.clone()))
    }

    fn keep(&self, connection: Connection) -> u64 {
        let id = connection.id();
        self.connections.lock().unwrap().insert(id, connection);
        id
    }

    fn connection(&self, id: u64) -> Connection {
        self.connections.lock().unwrap()[&id].clone()
    }
}

fn caller() -> Connection {
    Context::current().expect("a handler has a context").connection().clone()
}

impl Room for Side {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn sum(&self, mut numbers: Rx<u64>) -> u64 {
        let mut sum = 0;
        while let Ok(Some(number)) = numbers.recv().await {
            sum += number;
        }
        sum
    }

    async fn count(&self, upto: u64) -> Rx<u64> {
        let (tx, rx) = channel();
        tokio::spawn(async move {
            for number in 0..upto {
                if tx.send(number).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn told(&self) -> Option<String> {
        said(caller().metadata())
    }

    async fn use_back(&self) {
        works(&caller()).await;
    }

    async fn reaches_back(&self) -> bool {
        RoomClient::new(caller()).add(2, 3).await.is_ok()
    }

    async fn hold(&self) -> u64 {
        let go = self.go.notified(); // from here on nothing is missed
        let _held = self.holding.0.subscribe();
        go.await;
        7
    }

    async fn holding(&self) -> u64 {
        self.holding.0.receiver_count() as u64
    }

    async fn let_go(&self) {
        self.go.notify_waiters();
    }

    async fn open(&self, text: String) -> Result<(u64, Option<String>), String> {
        let opened = caller().link().connect(self.serving(&text)).await;
        let connection = opened.map_err(|error| error.to_string())?;
        let answered = said(connection.metadata());
        Ok((self.keep(connection), answered))
    }

    async fn close(&self, id: u64) {
        self.connection(id).close().await;
    }

    async fn forget(&self, id: u64) {
        let connection = self.connections.lock().unwrap().remove(&id);
        drop(connection);
    }

    async fn end_of(&self, id: u64) -> String {
        self.connection(id).closed().await.to_string()
    }

    async fn report(&self, id: u64, file: String) {
        let (connection, link) = (self.connection(id), caller().link().clone());
        let task = tokio::spawn(async move {
            let (of_it, of_link) = (connection.closed().await, link.closed().await);
            let part = format!("{file}.part");
            std::fs::write(&part, format!("{of_it}\n{of_link}")).unwrap();
            std::fs::rename(part, file).unwrap();
        });
        self.reports.lock().unwrap().push(task);
    }
}

/// Calls and streams both ways on a connection at whose far end there is a room.
async fn works(connection: &Connection) {
    let room = RoomClient::new(connection);
    assert_eq!(room.add(2, 3).await.unwrap(), 5);
    let (tx, rx) = channel();
    let feed = async move {
        for number in 0..1000 {
            tx.send(number).await.unwrap();
        }
    };
    let (sum, ()) = tokio::join!(room.sum(rx), feed);
    assert_eq!(sum.unwrap(), 499_500);
    let mut counted = room.count(1000).await.unwrap();
    for number in 0..1000 {
        assert_eq!(counted.recv().await.unwrap(), Some(number));
    }
    assert_eq!(counted.recv().await.unwrap(), None);
}

/// Connections that the far end takes.
const FAR_MOST: u32 = 4;

fn far_options(side: &Side) -> Options {
    side.options(Settings::default().max_connections(FAR_MOST))
}

/// The far end in a process of its own.
#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    if std::env::var_os("ADJOIN_LINK").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let side = Side::default();
        let host = adjoin::cell(far_options(&side)).await.unwrap();
        host.closed().await;
        let reports = std::mem::take(&mut *side.reports.lock().unwrap());
        for report in reports {
            report.await.unwrap();
        }
    });
    std::process::exit(0);
}

/// A link, seen from its near end.
struct Ends {
    near: Side,
    link: Connection,
    /// The far end's room, on the root.
    far: RoomClient,
    _far: Far,
}

impl Ends {
    async fn new(kind: Kind) -> Self {
        let near = Side::default();
        let options = near.options(Settings::default());
        Self::with(kind, near, options).await
    }

    async fn with(kind: Kind, near: Side, options: Options) -> Self {
        let (link, far) = link(kind, options, far_options(&Side::default())).await;
        Ends { near, far: RoomClient::new(&link), link, _far: far }
    }

    async fn open(&self, text: &str) -> Connection {
        self.link.connect(self.near.serving(text)).await.unwrap()
    }
}

fn run<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Kind) -> F) {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(kind));
}

macro_rules! on_links {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::run(super::Kind::Local, super::$name); })* }
        mod uds { $(#[test] fn $name() { super::run(super::Kind::Uds, super::$name); })* }
        mod tcp { $(#[test] fn $name() { super::run(super::Kind::Tcp, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::run(super::Kind::Shm, super::$name); })* }
    };
}

on_links! {
    a_connection_of_the_near_end_carries_calls_and_streams_both_ways
    a_connection_of_the_far_end_carries_calls_and_streams_both_ways
    a_rejected_connection_tells_the_reason
    where_nobody_takes_connections_they_are_refused
    a_closed_connection_ends_alone
    a_connection_ends_with_its_last_handle
    a_drained_link_lets_calls_finish_and_ends_with_its_connections
    more_connections_than_this_side_allows_are_refused_here
    more_connections_than_the_peer_allows_are_rejected_there
}

/// Ends as they show themselves, which is how the far end tells them.
fn closed_here() -> String {
    LinkEnd::from(ConnectionEnd::Closed).to_string()
}

fn closed_there() -> String {
    LinkEnd::from(ConnectionEnd::Goodbye { reason: "".into() }).to_string()
}

/// Waits for what another task, or process, will bring about.
async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_connection_of_the_near_end_carries_calls_and_streams_both_ways(kind: Kind) {
    let ends = Ends::new(kind).await;
    let connection = ends.open("near").await;
    assert_eq!(said(connection.metadata()).unwrap(), "welcome, near");
    let room = RoomClient::new(&connection);
    assert_eq!(room.told().await.unwrap().unwrap(), "near");
    works(&connection).await;
    room.use_back().await.unwrap();
    works(&ends.link).await;
}

async fn a_connection_of_the_far_end_carries_calls_and_streams_both_ways(kind: Kind) {
    let ends = Ends::new(kind).await;
    let (id, answered) = ends.far.open("far".into()).await.unwrap();
    assert_eq!(answered.unwrap(), "welcome, far");
    let connection = ends.near.connection(id);
    assert_eq!(said(connection.metadata()).unwrap(), "far");
    let room = RoomClient::new(&connection);
    assert_eq!(room.told().await.unwrap().unwrap(), "welcome, far");
    works(&connection).await;
    room.use_back().await.unwrap();
    works(&ends.link).await;
}

async fn a_rejected_connection_tells_the_reason(kind: Kind) {
    let ends = Ends::new(kind).await;
    match ends.link.connect(ends.near.serving("reject me")).await {
        Err(ConnectError::Rejected { reason, metadata }) => {
            assert_eq!((reason.as_str(), said(&metadata).as_deref()), ("no room today", Some("tomorrow")));
        }
        other => panic!("{other:?}"),
    }
    let refused = ends.far.open("reject me".into()).await;
    assert!(matches!(&refused, Err(CallError::User(why)) if why.ends_with("no room today")), "{refused:?}");
    works(&ends.link).await;
}

async fn where_nobody_takes_connections_they_are_refused(kind: Kind) {
    let near = Side::default();
    let options = near.deaf(Settings::default());
    let ends = Ends::with(kind, near, options).await;
    let refused = ends.far.open("far".into()).await;
    assert!(matches!(&refused, Err(CallError::User(why)) if why.ends_with("not listening")), "{refused:?}");
    works(&ends.open("near").await).await; // the other way they are taken
    works(&ends.link).await;
}

async fn a_closed_connection_ends_alone(kind: Kind) {
    let ends = Ends::new(kind).await;
    for by_near in [true, false] {
        let (one, other) = (ends.open("one").await, ends.open("other").await);
        let room = RoomClient::new(&one);
        let (tx, rx) = channel();
        let (hold, sum) = tokio::join!(room.hold(), async {
            until(async || ends.far.holding().await.unwrap() == 1).await;
            let mut counted = room.count(u64::MAX).await.unwrap();
            let summing = tokio::spawn({
                let room = room.clone();
                async move { room.sum(rx).await }
            });
            common::suite::until_passed(&tx).await;
            if by_near {
                one.close().await;
            } else {
                ends.far.close(one.id()).await.unwrap();
            }
            let end = one.closed().await.to_string();
            assert_eq!(end, if by_near { closed_here() } else { closed_there() });
            let sent = tx.send(1).await;
            assert!(matches!(&sent, Err(SendError::Ended(why)) if why.to_string() == end), "{sent:?}");
            let ended = loop {
                match counted.recv().await {
                    Ok(Some(_)) => {} // it had arrived before
                    ended => break ended,
                }
            };
            assert!(matches!(&ended, Err(RecvError::Ended(why)) if why.to_string() == end), "{ended:?}");
            summing.await.unwrap()
        });
        let end = one.end().unwrap().to_string();
        assert!(matches!(&hold, Err(CallError::Ended(why)) if why.to_string() == end), "{hold:?}");
        assert!(matches!(&sum, Err(CallError::Ended(why)) if why.to_string() == end), "{sum:?}");
        let late = room.add(1, 2).await;
        assert!(matches!(&late, Err(CallError::Ended(why)) if why.to_string() == end), "{late:?}");
        let seen = ends.far.end_of(one.id()).await.unwrap();
        assert_eq!(seen, if by_near { closed_there() } else { closed_here() });
        until(async || ends.far.holding().await.unwrap() == 0).await; // its handler is stopped
        works(&other).await;
        works(&ends.link).await;
        other.close().await;
    }
}

async fn a_connection_ends_with_its_last_handle(kind: Kind) {
    let ends = Ends::new(kind).await;
    let (ours, theirs) = (ends.open("ours").await, ends.open("theirs").await);
    let (id, second) = (ours.id(), ours.clone());
    drop(ours);
    works(&second).await;
    drop(second);
    assert_eq!(ends.far.end_of(id).await.unwrap(), closed_there());
    ends.far.forget(theirs.id()).await.unwrap();
    assert_eq!(theirs.closed().await.to_string(), closed_there());
    works(&ends.link).await;
}

/// What the other process wrote.
async fn written(file: &Path) -> String {
    until(async || file.exists()).await;
    std::fs::read_to_string(file).unwrap()
}

async fn a_drained_link_lets_calls_finish_and_ends_with_its_connections(kind: Kind) {
    let ends = Ends::new(kind).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report");
    let connection = ends.open("near").await;
    ends.far.report(connection.id(), file.to_str().unwrap().to_owned()).await.unwrap();
    let room = RoomClient::new(&connection);
    let held = tokio::spawn(async move { room.hold().await });
    until(async || ends.far.holding().await.unwrap() == 1).await;
    let drained = tokio::spawn({
        let link = ends.link.clone();
        async move { link.drain(Duration::from_secs(50)).await }
    });
    // Until this side refuses what is new, also on the virtual connection.
    let back = RoomClient::new(&connection);
    until(async || !back.reaches_back().await.unwrap()).await;
    assert!(!drained.is_finished(), "a call is open");
    assert!(connection.end().is_none());
    ends.far.let_go().await.unwrap();
    assert_eq!(held.await.unwrap().unwrap(), 7);
    assert_eq!(drained.await.unwrap(), Drained::Complete);
    for end in [connection.end(), ends.link.end()] {
        assert!(matches!(end, Some(LinkEnd::Closed)), "{end:?}");
    }
    let goodbye = LinkEnd::Goodbye { reason: "".into() };
    assert_eq!(written(&file).await, format!("{goodbye}\n{goodbye}"));
}

async fn more_connections_than_this_side_allows_are_refused_here(kind: Kind) {
    let near = Side::default();
    let options = near.options(Settings::default().max_connections(2));
    let ends = Ends::with(kind, near, options).await;
    let (one, other) = (ends.open("one").await, ends.open("other").await);
    let refused = ends.link.connect(ConnectOptions::new()).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Refused(Refusal::TooManyConnections { limit: 2 })),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("Settings::max_connections"), "{refused}");
    let rejected = ends.far.open("far".into()).await;
    let why = "too many connections: at most 2 on this link";
    assert!(matches!(&rejected, Err(CallError::User(said)) if said.ends_with(why)), "{rejected:?}");
    works(&other).await;
    one.close().await;
    works(&ends.open("again").await).await;
}

async fn more_connections_than_the_peer_allows_are_rejected_there(kind: Kind) {
    let ends = Ends::new(kind).await;
    let mut open = Vec::new();
    for _ in 0..FAR_MOST {
        open.push(ends.open("near").await);
    }
    match ends.link.connect(ConnectOptions::new()).await {
        Err(ConnectError::Rejected { reason, .. }) => {
            assert_eq!(reason, format!("too many connections: at most {FAR_MOST} on this link"));
        }
        other => panic!("{other:?}"),
    }
    let refused = ends.far.open("far".into()).await;
    assert!(
        matches!(&refused, Err(CallError::User(why)) if why.contains("Settings::max_connections")),
        "{refused:?}"
    );
    for connection in &open {
        works(connection).await;
    }
    drop(open.pop());
    until(async || ends.link.connect(ends.near.serving("again")).await.is_ok()).await;
}

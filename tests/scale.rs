//! Large numbers: channels at once, bytes through one channel, connections on a link; and long ways: deadlines and cancellation over several hops, and the graceful end of a link that is busy.
//!
//! Each test runs over the in-process link, over a Unix socket, and over shared memory with the far end in a process of
//! its own. Both ends offer the same service, and take connections.
#![allow(missing_docs)]

mod common;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use adjoin::{
    CallError, ConnectError, ConnectOptions, Connection, ConnectionEnd, Context, Drained, LinkEnd, Options,
    RecvError, Refusal, Rx, SendError, Settings, Tx, channel,
};
use common::{
    links::{Far, Kind, link},
    watchdog::Watchdog,
};
use tokio::task::JoinSet;

#[adjoin::service]
trait Node {
    #[adjoin(inline)]
    async fn add(&self, a: u64, b: u64) -> u64;
    async fn wait(&self, millis: u64) -> u64;
    /// The sum of all numbers.
    async fn take(&self, streams: Vec<Rx<u64>>) -> u64;
    /// As many streams, each of its own number.
    async fn give(&self, streams: u64) -> Vec<Rx<u64>>;
    /// Sends back the double of what comes, on each of them, until the end of all.
    async fn mirror(&self, streams: Vec<(Rx<u64>, Tx<u64>)>);
    async fn swallow(&self, data: Rx<Vec<u8>>) -> u64;
    /// The time that is left to each of the handlers, in nanoseconds: to this one, and to those that it calls.
    async fn hop(&self, hops: u32) -> Vec<Option<u64>>;
    /// Hangs in the last of as many more handlers, each of which calls the next.
    async fn hang(&self, hops: u32);
    /// How many of those were started at this side, and stopped.
    async fn hung(&self) -> (u32, u32);
    /// Calls back on the connection on which it is called.
    async fn add_back(&self, a: u64, b: u64) -> u64;
    /// Calls back until that is cancelled.
    async fn add_back_until_cancelled(&self) -> u64;
    /// Opens a connection from this side. Its id, or why there is none.
    async fn open(&self) -> Result<u64, String>;
    /// Closes a connection from this side.
    async fn close(&self, id: u64);
}

/// One end of a link, as its service has it.
#[derive(Clone, Default)]
struct End {
    /// The virtual connections, by their ids.
    connections: Arc<Mutex<HashMap<u64, Connection>>>,
    started: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
}

struct Stopped(Arc<AtomicU32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl End {
    fn options(&self, settings: Settings) -> Options {
        let end = self.clone();
        Options::new().settings(settings).serve(NodeDispatcher::new(self.clone())).on_connect(
            move |incoming| {
                let accepted = incoming.accept(ConnectOptions::new().serve(NodeDispatcher::new(end.clone())));
                end.keep(accepted.unwrap());
            },
        )
    }

    fn keep(&self, connection: Connection) -> u64 {
        let id = connection.id();
        self.connections.lock().unwrap().insert(id, connection);
        id
    }

    fn connection(&self, id: u64) -> Connection {
        self.connections.lock().unwrap()[&id].clone()
    }

    async fn open_on(&self, link: &Connection) -> Result<u64, ConnectError> {
        let serve = ConnectOptions::new().serve(NodeDispatcher::new(self.clone()));
        link.connect(serve).await.map(|connection| self.keep(connection))
    }
}

/// The connection on which the running handler was called.
fn caller() -> NodeClient {
    NodeClient::new(Context::current().expect("a handler has one").connection())
}

fn stream_of(number: u64) -> Rx<u64> {
    let (tx, rx) = channel();
    tx.blocking_send(number).unwrap(); // within the process, where there is room
    rx
}

impl Node for End {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn wait(&self, millis: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        millis
    }

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

    async fn mirror(&self, streams: Vec<(Rx<u64>, Tx<u64>)>) {
        let mut mirrors: JoinSet<()> = streams.into_iter().map(mirror_one).collect();
        while let Some(mirrored) = mirrors.join_next().await {
            mirrored.unwrap();
        }
    }

    async fn swallow(&self, mut data: Rx<Vec<u8>>) -> u64 {
        let mut bytes = 0;
        while let Ok(Some(element)) = data.recv().await {
            bytes += element.len() as u64;
        }
        bytes
    }

    async fn hop(&self, hops: u32) -> Vec<Option<u64>> {
        let context = Context::current().unwrap();
        let left =
            context.deadline().map(|at| at.saturating_duration_since(Instant::now()).as_nanos() as u64);
        let mut all = vec![left];
        tokio::time::sleep(PAUSE).await;
        if hops > 0 {
            // What the handler asks for is more than it has.
            all.extend(caller().hop(hops - 1).with_timeout(Duration::from_secs(3600)).await.unwrap());
        }
        all
    }

    async fn hang(&self, hops: u32) {
        let _stopped = Stopped(self.stopped.clone());
        self.started.fetch_add(1, SeqCst);
        if hops > 0 {
            let _ = caller().hang(hops - 1).await;
        }
        std::future::pending().await
    }

    async fn hung(&self) -> (u32, u32) {
        (self.started.load(SeqCst), self.stopped.load(SeqCst))
    }

    async fn add_back(&self, a: u64, b: u64) -> u64 {
        caller().add(a, b).await.unwrap()
    }

    async fn add_back_until_cancelled(&self) -> u64 {
        let mut calls = 0;
        loop {
            match caller().add(calls, 1).await {
                Ok(sum) => calls = sum,
                Err(CallError::Cancelled) => return calls,
                Err(other) => panic!("{other}"),
            }
        }
    }

    async fn open(&self) -> Result<u64, String> {
        let context = Context::current().unwrap();
        self.open_on(context.connection().link()).await.map_err(|error| error.to_string())
    }

    async fn close(&self, id: u64) {
        let closed = self.connections.lock().unwrap().remove(&id);
        closed.unwrap().close().await;
    }
}

async fn mirror_one((mut input, output): (Rx<u64>, Tx<u64>)) {
    while let Ok(Some(number)) = input.recv().await {
        if output.send(2 * number).await.is_err() {
            return;
        }
    }
}

/// How long each hop takes at least.
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(|| End::default().options(Settings::default()));
}

/// A link whose both ends offer the service, seen from the first.
struct Ends {
    near: End,
    link: Connection,
    far: NodeClient,
    _far: Far,
}

impl Ends {
    /// `settings` are those of both ends; in a process of its own, the far end has its own, beside the limits of the
    /// segment.
    async fn new(kind: Kind, settings: Settings) -> Self {
        let near = End::default();
        let far = End::default().options(settings.clone());
        let (connection, keeps) = link(kind, near.options(settings), far).await;
        Ends { near, far: NodeClient::new(&connection), link: connection, _far: keeps }
    }
}

fn run<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Kind) -> F) {
    let _hang = Watchdog::seconds(300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(kind));
}

macro_rules! on_links {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::run(super::Kind::Local, super::$name); })* }
        mod uds { $(#[test] fn $name() { super::run(super::Kind::Uds, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::run(super::Kind::Shm, super::$name); })* }
    };
}

on_links! {
    ten_thousand_channels_are_open_at_once_and_data_flows_on_each
    more_streams_than_a_link_has_channels_wait_and_go_on
    hundreds_of_connections_from_both_sides_live_and_end_on_their_own
    a_link_has_no_more_connections_than_either_side_allows
    a_drain_lets_calls_and_streams_of_both_sides_finish
    a_drain_ends_what_does_not_finish_in_time
    deadlines_shrink_over_three_hops
    a_dropped_call_stops_the_handler_three_hops_away
    a_call_that_is_dropped_at_any_time_leaves_no_handler
    a_deadline_stops_the_handlers_of_all_hops
}

async fn ten_thousand_channels_are_open_at_once_and_data_flows_on_each(kind: Kind) {
    const PAIRS: u64 = 5_000;
    const CALLS: u64 = 100;
    const ROUNDS: u64 = 10;
    let ends = Ends::new(kind, Settings::default().channel_slots(32_768)).await;
    let all_open = Arc::new(tokio::sync::Barrier::new(CALLS as usize));
    let mut calls = JoinSet::new();
    for call in 0..CALLS {
        let (far, all_open) = (ends.far.clone(), Arc::clone(&all_open));
        calls.spawn(async move {
            let (mut near, mut remote) = (Vec::new(), Vec::new());
            for _ in 0..PAIRS / CALLS {
                let ((to_far, input), (output, from_far)) = (channel(), channel());
                near.push((to_far, from_far));
                remote.push((input, output));
            }
            let mirror = tokio::spawn(async move { far.mirror(remote).await });
            for round in 0..ROUNDS {
                for (index, (to_far, _)) in near.iter().enumerate() {
                    to_far.send(call * 1_000_000 + index as u64 * 1_000 + round).await.unwrap();
                }
                for (index, (_, from_far)) in near.iter_mut().enumerate() {
                    let expected = 2 * (call * 1_000_000 + index as u64 * 1_000 + round);
                    assert_eq!(from_far.recv().await.unwrap(), Some(expected));
                }
                all_open.wait().await; // none is closed before the last was opened
            }
            for (to_far, mut from_far) in near {
                drop(to_far);
                assert_eq!(from_far.recv().await.unwrap(), None);
            }
            mirror.await.unwrap().unwrap();
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

async fn more_streams_than_a_link_has_channels_wait_and_go_on(kind: Kind) {
    // Four for each side.
    let few = Settings::default().channel_slots(8);
    let ends = Ends::new(kind, few).await;
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let far = ends.far.clone();
        calls.spawn(async move {
            if number % 2 == 0 {
                assert_eq!(far.take(vec![stream_of(number), stream_of(1)]).await.unwrap(), number + 1);
            } else {
                let mut sum = 0;
                for mut stream in far.give(2).await.unwrap() {
                    sum += stream.recv().await.unwrap().unwrap();
                    assert_eq!(stream.recv().await.unwrap(), None);
                }
                assert_eq!(sum, 1);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let too_many = ends.far.take((0..5).map(stream_of).collect()).await;
    assert!(
        matches!(too_many, Err(CallError::Refused(Refusal::TooManyStreams { count: 5, limit: 4 }))),
        "{too_many:?}"
    );
}

/// A small generator of numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        // The constants of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Opens as many connections from each side, at once. Their near ends.
async fn open_both_ways(ends: &Ends, each: usize) -> Vec<Connection> {
    let mut opening = JoinSet::new();
    for _ in 0..each {
        let (near, link, far) = (ends.near.clone(), ends.link.clone(), ends.far.clone());
        opening.spawn(async move { near.open_on(&link).await.unwrap() });
        opening.spawn(async move { far.open().await.unwrap() });
    }
    let ids: Vec<u64> = opening.join_all().await;
    ids.into_iter().map(|id| ends.near.connection(id)).collect()
}

/// Streams both ways that stay open, and have been used.
async fn open_mirror(far: &NodeClient) -> (Tx<u64>, Rx<u64>) {
    let ((to_far, input), (output, mut from_far)) = (channel(), channel());
    let far = far.clone();
    tokio::spawn(async move { drop(far.mirror(vec![(input, output)]).await) });
    to_far.send(1).await.unwrap();
    assert_eq!(from_far.recv().await.unwrap(), Some(2));
    (to_far, from_far)
}

/// Calls both ways and a stream both ways, on one connection.
async fn use_all_ways(connection: &Connection) {
    let far = NodeClient::new(connection);
    let number = connection.id();
    assert_eq!(far.add(number, 1).await.unwrap(), number + 1);
    assert_eq!(far.add_back(number, 2).await.unwrap(), number + 2);
    let ((to_far, input), (output, mut from_far)) = (channel(), channel());
    let (mirrored, ()) = tokio::join!(far.mirror(vec![(input, output)]), async {
        for round in 0..10 {
            to_far.send(number + round).await.unwrap();
            assert_eq!(from_far.recv().await.unwrap(), Some(2 * (number + round)));
        }
        drop(to_far);
    });
    mirrored.unwrap();
}

async fn hundreds_of_connections_from_both_sides_live_and_end_on_their_own(kind: Kind) {
    const EACH: usize = 150;
    const LEFT: usize = 50;
    let ends = Ends::new(kind, Settings::default()).await;
    let mut open = open_both_ways(&ends, EACH).await;
    let mut users = JoinSet::new();
    for connection in open.clone() {
        users.spawn(async move { use_all_ways(&connection).await });
    }
    while let Some(used) = users.join_next().await {
        used.unwrap();
    }
    let mut numbers = Numbers(1);
    while open.len() > LEFT {
        let connection = open.swap_remove(numbers.below(open.len()));
        let (far, id) = (NodeClient::new(&connection), connection.id());
        let (to_far, mut from_far) = open_mirror(&far).await;
        let hangs = tokio::spawn(async move { far.hang(0).await });
        let from_here = numbers.below(2) == 0;
        if from_here {
            ends.near.connections.lock().unwrap().remove(&id);
            connection.close().await;
        } else {
            ends.far.close(id).await.unwrap();
            connection.closed().await;
        }
        let is_over = |end: &LinkEnd| match end {
            LinkEnd::Connection(ConnectionEnd::Closed) => from_here,
            LinkEnd::Connection(ConnectionEnd::Goodbye { reason }) => !from_here && reason.is_empty(),
            _ => false,
        };
        let hung = hangs.await.unwrap();
        assert!(matches!(&hung, Err(CallError::Ended(end)) if is_over(end)), "{hung:?}");
        let received = from_far.recv().await;
        assert!(matches!(&received, Err(RecvError::Ended(end)) if is_over(end)), "{received:?}");
        let sent = to_far.send(1).await;
        assert!(matches!(&sent, Err(SendError::Ended(end)) if is_over(end)), "{sent:?}");
        // A neighbour does not notice.
        use_all_ways(&open[numbers.below(open.len())]).await;
    }
    for connection in &open {
        use_all_ways(connection).await;
    }
    // Each of the handlers that hung was stopped. Some calls may have failed before they were out.
    until_hung(&ends, |_, far| far.0 == far.1).await;
    assert!(ends.link.end().is_none());
}

/// What the far end allows in any case.
const FAR_CONNECTIONS: usize = 1024;

async fn a_link_has_no_more_connections_than_either_side_allows(kind: Kind) {
    let ends = Ends::new(kind, Settings::default().max_connections(8)).await;
    let open = open_both_ways(&ends, 4).await;
    let refused = ends.near.open_on(&ends.link).await;
    assert!(
        matches!(refused, Err(ConnectError::Refused(Refusal::TooManyConnections { limit: 8 }))),
        "{refused:?}"
    );
    if kind != Kind::Local && kind != Kind::Uds {
        // It has a limit of its own, so it is this side that rejects.
        match ends.far.open().await {
            Err(CallError::User(rejected)) => {
                assert!(rejected.contains("too many connections"), "{rejected}")
            }
            other => panic!("{other:?}"),
        }
    }
    // One that is closed makes room for one more.
    ends.near.connections.lock().unwrap().clear();
    open[0].close().await;
    ends.near.open_on(&ends.link).await.unwrap();
    use_all_ways(&open[1]).await;

    let near = End::default();
    let far = End::default().options(Settings::default());
    let many = Settings::default().max_connections(2 * FAR_CONNECTIONS as u32);
    let (connection, _far) = link(kind, near.options(many), far).await;
    for _ in 0..FAR_CONNECTIONS {
        near.open_on(&connection).await.unwrap();
    }
    match near.open_on(&connection).await {
        Err(ConnectError::Rejected { reason, .. }) => {
            assert!(reason.contains("too many connections"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
}

async fn a_drain_lets_calls_and_streams_of_both_sides_finish(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    let connection = ends.near.connection(ends.near.open_on(&ends.link).await.unwrap());
    let mut calls = JoinSet::new();
    for on in [&ends.link, &connection] {
        for number in 0..20 {
            let far = NodeClient::new(on);
            calls.spawn(async move { assert_eq!(far.wait(50 + number).await.unwrap(), 50 + number) });
        }
        let far = NodeClient::new(on);
        calls.spawn(async move { _ = far.add_back_until_cancelled().await.unwrap() });
    }
    let ((to_far, input), (output, mut from_far)) = (channel(), channel());
    let far = ends.far.clone();
    calls.spawn(async move { far.mirror(vec![(input, output)]).await.unwrap() });
    to_far.send(0).await.unwrap();
    assert_eq!(from_far.recv().await.unwrap(), Some(0));
    let given = ends.far.give(10).await.unwrap();
    // The far end's handlers have called back, so what they call now is refused from here on.
    assert_eq!(ends.far.add_back(1, 2).await.unwrap(), 3);
    let drain = tokio::spawn({
        let link = ends.link.clone();
        async move { link.drain(Duration::from_secs(120)).await }
    });
    for number in 1..1000 {
        to_far.send(number).await.unwrap();
        assert_eq!(from_far.recv().await.unwrap(), Some(2 * number));
    }
    drop(to_far);
    assert_eq!(from_far.recv().await.unwrap(), None);
    drop(from_far);
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    // What is open now are streams that this side has been given, and has not read. It may still call.
    for number in 0..100 {
        assert_eq!(ends.far.add(number, 1).await.unwrap(), number + 1);
    }
    assert!(!drain.is_finished());
    for (number, mut stream) in given.into_iter().enumerate() {
        assert_eq!(stream.recv().await.unwrap(), Some(number as u64));
        assert_eq!(stream.recv().await.unwrap(), None);
    }
    assert_eq!(drain.await.unwrap(), Drained::Complete);
    assert!(matches!(ends.link.end(), Some(LinkEnd::Closed)), "{:?}", ends.link.end());
}

async fn a_drain_ends_what_does_not_finish_in_time(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    let far = ends.far.clone();
    let hangs = tokio::spawn(async move { far.hang(0).await });
    let (to_far, mut from_far) = open_mirror(&ends.far).await;
    assert_eq!(ends.link.drain(Duration::from_millis(50)).await, Drained::TimedOut);
    let hung = hangs.await.unwrap();
    assert!(matches!(hung, Err(CallError::Ended(LinkEnd::Closed))), "{hung:?}");
    let received = from_far.recv().await;
    assert!(matches!(received, Err(RecvError::Ended(LinkEnd::Closed))), "{received:?}");
    let sent = to_far.send(1).await;
    assert!(matches!(sent, Err(SendError::Ended(LinkEnd::Closed))), "{sent:?}");
    assert_eq!(ends.link.drain(Duration::ZERO).await, Drained::Ended);
}

async fn deadlines_shrink_over_three_hops(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    assert_eq!(ends.far.hop(0).await.unwrap(), [None]);
    let timeout = Duration::from_secs(100);
    let left = ends.far.hop(2).with_timeout(timeout).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|left| Duration::from_nanos(left.unwrap())).collect();
    assert_eq!(left.len(), 3);
    assert!(left[0] <= timeout, "{left:?}");
    assert!(left.windows(2).all(|hops| hops[1] + PAUSE <= hops[0]), "{left:?}");
}

/// Waits until the handlers that hang are as expected: started and stopped, at this side and at the far one.
async fn until_hung(ends: &Ends, expected: impl Fn((u32, u32), (u32, u32)) -> bool) {
    while !expected(ends.near.hung().await, ends.far.hung().await.unwrap()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_dropped_call_stops_the_handler_three_hops_away(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    let far = ends.far.clone();
    let call = tokio::spawn(async move { far.hang(2).await });
    until_hung(&ends, |near, far| (near, far) == ((1, 0), (2, 0))).await;
    call.abort();
    until_hung(&ends, |near, far| (near, far) == ((1, 1), (2, 2))).await;
}

/// Wherever its request, and those behind it, are.
async fn a_call_that_is_dropped_at_any_time_leaves_no_handler(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    for round in 0..100 {
        let far = ends.far.clone();
        let call = tokio::spawn(async move { far.hang(2).await });
        for _ in 0..round % 10 {
            ends.far.add(1, 2).await.unwrap();
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    until_hung(&ends, |near, far| near.0 == near.1 && far.0 == far.1).await;
    // None comes later: what was called is answered.
    assert_eq!(ends.link.drain(Duration::from_secs(120)).await, Drained::Complete);
}

async fn a_deadline_stops_the_handlers_of_all_hops(kind: Kind) {
    let ends = Ends::new(kind, Settings::default()).await;
    let late = ends.far.hang(2).with_timeout(Duration::from_millis(500)).await;
    assert!(matches!(late, Err(CallError::TimedOut { .. } | CallError::Cancelled)), "{late:?}");
    until_hung(&ends, |near, far| near.0 == near.1 && far.0 == far.1).await;
    assert_eq!(ends.link.drain(Duration::from_secs(120)).await, Drained::Complete);
}

/// More than 2^32 bytes through one channel: totals of credit are 64 bits wide, in the table, too.
#[cfg(target_os = "linux")]
#[test]
fn more_than_four_gibibytes_pass_one_channel_of_a_segment() {
    run(Kind::Shm, |kind| async move {
        const ELEMENT: usize = (1 << 20) - 16;
        const TIMES: u64 = 4200;
        let wide = Settings::default().initial_channel_credit(8 << 20).ring_bytes(8 << 20);
        let ends = Ends::new(kind, wide).await;
        let (tx, rx) = channel();
        let (swallowed, ()) = tokio::join!(ends.far.swallow(rx), async move {
            for number in 0..TIMES {
                tx.send(vec![number as u8; ELEMENT]).await.unwrap();
            }
        });
        assert_eq!(swallowed.unwrap(), TIMES * ELEMENT as u64);
        assert!(TIMES * ELEMENT as u64 > u64::from(u32::MAX));
    });
}

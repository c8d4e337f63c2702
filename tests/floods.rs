//! Peers that write as fast as they can, and read or do not: the memory of the process that they flood stays
//! where it was, and the links beside theirs go on.
//!
//! The flooded process is a cell of the test's, which also listens on a Unix socket. There the floods come from raw
//! peers in the test's own process, while calls go on over the cell's link and over another socket.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env, fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use adjoin::{CallError, Cell, ConnectOptions, IncomingConnection, Options, Rx, Settings, stream};
use common::{
    links::cell_command,
    raw::{Listener, Raw},
    watchdog::Watchdog,
    wire::{Hello, Message, MetadataValue, Request},
};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
};

#[adjoin::service]
trait Flooded {
    #[adjoin(inline)]
    async fn add(&self, a: i32, b: i32) -> i32;
    async fn nothing(&self);
    async fn hang(&self);
    /// Does not notice at once that it was cancelled.
    async fn stubborn(&self);
    /// Reads nothing.
    async fn ignore_all(&self, units: Vec<Rx<()>>);
    /// Hands out a stream of one element and no end.
    async fn endless(&self) -> Rx<u64>;
    /// The most handlers that there were at once.
    async fn most_at_once(&self) -> u32;
    /// Those that there are.
    async fn at_once(&self) -> u32;
    /// How the links over the socket ended.
    async fn ends(&self) -> Vec<String>;
}

/// What the flooded process has, on all links.
#[derive(Clone, Default)]
struct Service {
    handlers: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    ends: Arc<Mutex<Vec<String>>>,
    undecided: Arc<Mutex<Vec<IncomingConnection>>>,
}

/// One handler that runs.
struct Running(Service);

impl Service {
    fn running(&self) -> Running {
        let handlers = self.handlers.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(handlers, SeqCst);
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.handlers.fetch_sub(1, SeqCst);
    }
}

impl Flooded for Service {
    async fn add(&self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    async fn nothing(&self) {
        let _running = self.running();
    }

    async fn hang(&self) {
        let _running = self.running();
        std::future::pending().await
    }

    async fn stubborn(&self) {
        let _running = self.running();
        // Stopped between two polls: this one goes on to its end.
        tokio::task::block_in_place(|| thread::sleep(Duration::from_millis(2)));
        std::future::pending().await
    }

    async fn ignore_all(&self, units: Vec<Rx<()>>) {
        let _running = self.running();
        std::future::pending::<()>().await;
        drop(units);
    }

    async fn endless(&self) -> Rx<u64> {
        let (tx, rx) = adjoin::channel();
        tokio::spawn(async move {
            let _ = tx.send(1).await;
            tx.closed().await
        });
        rx
    }

    async fn most_at_once(&self) -> u32 {
        self.most.load(SeqCst)
    }

    async fn at_once(&self) -> u32 {
        self.handlers.load(SeqCst)
    }

    async fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }
}

// What a Connect's metadata asks for.
const ACCEPT: &str = "accept";
const WAIT: &str = "wait";

impl Service {
    fn options(&self) -> Options {
        let requests = env::var(REQUESTS).ok().and_then(|requests| requests.parse().ok());
        let settings = Settings::default();
        let settings = match requests {
            Some(requests) => settings.max_concurrent_requests(requests),
            None => settings,
        };
        let service = self.clone();
        Options::new()
            .settings(settings)
            .serve(FloodedDispatcher::new(self.clone()))
            .on_connect(move |incoming| service.decide(incoming))
    }

    fn decide(&self, incoming: IncomingConnection) {
        let serve = ConnectOptions::new().serve(FloodedDispatcher::new(self.clone()));
        if incoming.metadata().get(ACCEPT).is_some() {
            let connection = incoming.accept(serve).unwrap();
            tokio::spawn(async move { connection.closed().await });
        } else if incoming.metadata().get(WAIT).is_some() {
            self.undecided.lock().unwrap().push(incoming);
        }
    }

    /// Takes links over a socket.
    async fn listen(self, listener: UnixListener) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let service = self.clone();
            tokio::spawn(async move {
                let link = stream::accept(socket, service.options()).await.unwrap();
                let end = link.closed().await.to_string();
                service.ends.lock().unwrap().push(end);
            });
        }
    }
}

/// The flooded process: where it listens, and a limit of its own.
const SOCKET: &str = "ADJOIN_FLOODED_SOCKET";
const REQUESTS: &str = "ADJOIN_FLOODED_REQUESTS";
/// It has one thread for everything.
const ALONE: &str = "ADJOIN_FLOODED_ALONE";

#[test]
fn cell_entry() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    let mut runtime = match env::var_os(ALONE) {
        Some(_) => Builder::new_current_thread(),
        None => Builder::new_multi_thread(),
    };
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let service = Service::default();
        tokio::spawn(service.clone().listen(UnixListener::bind(socket).unwrap()));
        let host = adjoin::cell(service.options()).await.unwrap();
        host.closed().await;
    });
    std::process::exit(0);
}

/// The flooded process, seen from the test.
struct Victim {
    runtime: Runtime,
    cell: Cell,
    client: FloodedClient,
    folder: TempDir,
    beside: Arc<Beside>,
    /// Its memory before the flood.
    before_kib: u64,
    /// The system tells the most that it had in the flood.
    knows_peak: bool,
    _hang: Watchdog,
}

/// The links beside the flooded one.
#[derive(Default)]
struct Beside {
    /// Calls that were answered over the cell's link, and over another socket.
    answered: [AtomicU64; 2],
    /// The most memory that was seen of the process.
    most_kib: AtomicU64,
}

/// What the memory may grow by.
const ROOM_KIB: u64 = 32 << 10;

/// Calls that are answered on each link beside while a flood lasts, at least.
const CALLS: u64 = 5;

impl Victim {
    fn start() -> Self {
        Self::with(&[])
    }

    /// Starts the process with these variables set, and the calls on the links beside.
    fn with(variables: &[(&str, &str)]) -> Self {
        let hang = Watchdog::seconds(180);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = cell_command();
        command.env(SOCKET, folder.path().join(SOCKET)).envs(variables.iter().copied());
        let (cell, socket) = runtime.block_on(async {
            let cell = adjoin::spawn(command, Options::new()).await.unwrap();
            let socket = UnixStream::connect(folder.path().join(SOCKET)).await.unwrap();
            (cell, stream::connect(socket, Options::new()).await.unwrap())
        });
        let (client, beside) = (FloodedClient::new(cell.connection()), Arc::default());
        let mut victim =
            Victim { runtime, cell, client, folder, beside, before_kib: 0, knows_peak: false, _hang: hang };
        victim.call_beside(0, victim.client.clone());
        victim.call_beside(1, FloodedClient::new(socket));
        victim.wait_for_calls(20 * CALLS);
        victim.begin();
        victim
    }

    /// Calls all the time on one of the links beside. The calls stop when the link is over.
    fn call_beside(&self, link: usize, client: FloodedClient) {
        let (beside, process) = (Arc::clone(&self.beside), self.cell.id());
        self.runtime.spawn(async move {
            for number in 0.. {
                match client.add(number, 1).await {
                    Ok(sum) => assert_eq!(sum, number + 1),
                    Err(error) => panic!("a call beside failed: {error}"),
                }
                beside.answered[link].fetch_add(1, SeqCst);
                beside.most_kib.fetch_max(memory_kib(process, "VmRSS:"), SeqCst);
                tokio::time::sleep(Duration::from_micros(500)).await; // they are not to take the whole machine
            }
        });
    }

    /// Waits until so many more calls were answered on each of the links beside. The watchdog bounds it.
    fn wait_for_calls(&self, calls: u64) {
        for answered in &self.beside.answered {
            let until = answered.load(SeqCst) + calls;
            while answered.load(SeqCst) < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// From here on counts.
    fn begin(&mut self) {
        self.before_kib = memory_kib(self.cell.id(), "VmRSS:");
        // Not allowed everywhere; then what the calls beside have seen has to do.
        self.knows_peak = fs::write(format!("/proc/{}/clear_refs", self.cell.id()), "5").is_ok();
        self.beside.most_kib.store(0, SeqCst);
        self.beside.answered.iter().for_each(|answered| answered.store(0, SeqCst));
    }

    /// A raw peer's link to the process.
    fn raw(&self) -> Raw {
        Raw::connect(&self.folder.path().join(SOCKET))
    }

    fn ask<T>(&self, question: impl IntoFuture<Output = Result<T, CallError>>) -> T {
        self.runtime.block_on(question.into_future()).unwrap()
    }

    /// The flood is over: what it has cost, and whether the links beside have noticed.
    fn check(&self) {
        let answered = self.beside.answered.each_ref().map(|answered| answered.load(SeqCst));
        self.wait_for_calls(CALLS);
        let mut most = self.beside.most_kib.load(SeqCst);
        if self.knows_peak {
            most = most.max(memory_kib(self.cell.id(), "VmHWM:"));
        }
        let before = self.before_kib;
        println!("{before} KiB before, {most} at most; {answered:?} calls beside");
        assert!(most <= before + ROOM_KIB, "{before} KiB before the flood, {most} in it");
        assert!(answered.iter().all(|answered| *answered >= CALLS), "calls beside: {answered:?}");
    }
}

/// A line of a process's status.
fn memory_kib(process: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let value = status.lines().find_map(|known| known.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The frames of rounds 1 to `count`, in blocks that are worth a system call each, and the round that each ends with.
fn blocks(count: u64, mut round: impl FnMut(u64, &mut Vec<u8>)) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let mut last = 0;
    std::iter::from_fn(move || {
        let mut block = Vec::with_capacity(BLOCK + 1024);
        while block.len() < BLOCK && last < count {
            last += 1;
            round(last, &mut block);
        }
        (!block.is_empty()).then_some((last, block))
    })
}

const BLOCK: usize = 64 << 10;

/// Floods from a peer that reads, and is this many answers behind at most. It stops at the end.
fn flood(raw: &mut Raw, listener: &Listener, count: u64, answers: u64, round: impl FnMut(u64, &mut Vec<u8>)) {
    for (last, block) in blocks(count, round) {
        assert!(raw.write(&block), "{:?}", listener.heard());
        listener.wait(|heard| heard.answers + heard.accepted + heard.rejected + BEHIND >= answers * last);
    }
    assert!(raw.say(&Message::Request(request(FloodedClient::NOTHING, u64::MAX))));
    listener.wait(|heard| heard.last_answered);
}

/// Answers that a peer which reads has not read yet, at most: no more than this side parks.
const BEHIND: u64 = 20_000;

/// Floods from a peer that never reads. Whether its link lasted.
fn flood_unread(raw: &mut Raw, count: u64, round: impl FnMut(u64, &mut Vec<u8>)) -> bool {
    blocks(count, round).all(|(_, block)| raw.write(&block))
}

/// The link of a peer that never reads, and would have had to, is over, and no other.
fn is_let_go(victim: &Victim) {
    loop {
        let ends = victim.ask(victim.client.ends());
        if let [end] = &ends[..] {
            return assert!(end.starts_with("the peer reads nothing"), "{end}");
        }
        assert_eq!(ends, Vec::<String>::new());
    }
}

fn request(method: &adjoin::Method, request_id: u64) -> Request {
    Request { request_id, method_id: method.id.get(), ..Request::default() }
}

/// A request that opens channels, for a method that takes them in a `Vec`.
fn opening(request_id: u64, channels: Vec<u64>) -> Message {
    let payload = postcard::to_extend(&channels, Vec::new()).unwrap(); // as many handles, of any number
    Message::Request(Request { channels, payload, ..request(FloodedClient::IGNORE_ALL, request_id) })
}

fn connect(request_id: u64, wish: &str) -> Message {
    Message::Connect { request_id, metadata: vec![(wish.to_owned(), MetadataValue::U64(1))] }
}

/// A request and its Cancel.
fn pair(id: u64, frames: &mut Vec<u8>) {
    Message::Request(request(FloodedClient::HANG, id)).push(frames);
    Message::Cancel { conn_id: 0, request_id: id }.push(frames);
}

/// Issue 3's captured frames.
#[test]
fn what_a_raw_peer_writes_are_the_frames_that_were_captured() {
    let request = Request {
        request_id: 1,
        method_id: 0x1122_3344_5566_7788,
        payload: vec![1, 2, 3],
        ..Request::default()
    };
    let response = Message::Response {
        conn_id: 0,
        request_id: 1,
        metadata: vec![],
        channels: vec![],
        payload: vec![1, 1],
    };
    let captured: [(Message, &[u8]); 5] = [
        (
            Message::Hello(Hello::V2 { max_payload_size: 1 << 20, initial_channel_credit: 65_536 }),
            &[0x01, 0x08, 0x01, 0x80, 0x80, 0x40, 0x80, 0x80, 0x04, 0x00],
        ),
        (
            Message::Request(request),
            &[
                0x02, 0x05, 0x0b, 0x01, 0x88, 0xef, 0x99, 0xab, 0xc5, 0xe8, 0x8c, 0x91, 0x11, 0x01, 0x05,
                0x03, 0x01, 0x02, 0x03, 0x00,
            ],
        ),
        (response, &[0x02, 0x06, 0x02, 0x01, 0x01, 0x04, 0x02, 0x01, 0x01, 0x00]),
        (
            Message::Data { conn_id: 0, channel_id: 1, payload: vec![2, 1, 2] },
            &[0x02, 0x08, 0x06, 0x01, 0x03, 0x02, 0x01, 0x02, 0x00],
        ),
        (Message::Close { conn_id: 0, channel_id: 1 }, &[0x02, 0x09, 0x02, 0x01, 0x00]),
    ];
    for (message, bytes) in captured {
        let mut frame = message.frame();
        assert_eq!(frame, bytes, "{message:?}");
        let len = frame.len() - 1;
        assert_eq!(Message::of_frame(&mut frame[..len]), message);
    }
}

#[test]
fn a_million_requests_and_cancels_of_a_peer_that_reads_are_all_answered() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let listener = raw.listen();
    flood(&mut raw, &listener, 1_000_000, 1, pair);
    listener.wait(|heard| heard.answers == 1_000_001);
    victim.check();
}

#[test]
fn requests_and_cancels_of_a_peer_that_never_reads_end_its_link() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    assert!(!flood_unread(&mut raw, 1_000_000, pair));
    is_let_go(&victim);
    victim.check();
}

/// Answers that wait for room when their requests are cancelled. It was 45 MiB, in the wakers of tasks that were over.
#[test]
fn late_cancels_of_a_peer_that_never_reads_end_its_link() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let lasted = flood_unread(&mut raw, 2_000, |round, frames| {
        for id in 1000 * round..1000 * (round + 1) {
            Message::Request(request(FloodedClient::NOTHING, id)).push(frames);
        }
        // Of the round before the last three: they have run.
        for request_id in 1000 * round.saturating_sub(3)..1000 * round.saturating_sub(2) {
            Message::Cancel { conn_id: 0, request_id }.push(frames);
        }
    });
    assert!(!lasted);
    is_let_go(&victim);
    victim.check();
}

/// From a peer that reads, and from one that never does: nothing comes back.
#[test]
fn ten_million_empty_elements_at_a_reader_that_does_not_read_take_no_room() {
    let victim = Victim::start();
    let (mut reads, mut never_reads) = (victim.raw(), victim.raw());
    let listener = reads.listen();
    let mut block = Vec::new();
    for _ in 0..10_000 {
        Message::Data { conn_id: 0, channel_id: 1, payload: Vec::new() }.push(&mut block);
    }
    for raw in [&mut reads, &mut never_reads] {
        assert!(raw.say(&opening(1, vec![1])));
        for _ in 0..1_000 {
            assert!(raw.write(&block));
        }
    }
    flood(&mut reads, &listener, 0, 0, |_, _| ());
    assert_eq!(victim.ask(victim.client.at_once()), 2, "both are still there");
    victim.check();
}

/// Floods with Connects, in a process that has one thread for everything. Returns how many were accepted and rejected.
fn connects(wish: &str) -> (u64, u64) {
    let victim = Victim::with(&[(ALONE, "1")]);
    let mut raw = victim.raw();
    let listener = raw.listen();
    flood(&mut raw, &listener, 100_000, 0, |id, frames| connect(id, wish).push(frames));
    victim.check();
    let heard = listener.heard();
    (heard.accepted, heard.rejected)
}

/// The connections that a link may have.
const CONNECTIONS: u64 = 1024;

#[test]
fn a_hundred_thousand_connects_that_are_accepted_open_no_more_than_the_limit() {
    assert_eq!(connects(ACCEPT), (CONNECTIONS, 100_000 - CONNECTIONS));
}

#[test]
fn a_hundred_thousand_connects_that_are_rejected_leave_nothing() {
    assert_eq!(connects("nothing"), (0, 100_000));
}

#[test]
fn a_hundred_thousand_connects_that_wait_for_a_decision_are_no_more_than_the_limit() {
    assert_eq!(connects(WAIT), (0, 100_000 - CONNECTIONS));
}

#[test]
fn connects_of_a_peer_that_never_reads_end_its_link() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    assert!(!flood_unread(&mut raw, 1_000_000, |id, frames| connect(id, ACCEPT).push(frames)));
    is_let_go(&victim);
    victim.check();
}

/// Closed by the peer as soon as they are there, and opened again.
#[test]
fn connections_that_come_and_go_unread_end_their_link() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let lasted = flood_unread(&mut raw, 1_000_000, |round, frames| {
        connect(round, ACCEPT).push(frames);
        Message::Goodbye { conn_id: 2 * round, reason: String::new() }.push(frames);
    });
    assert!(!lasted);
    is_let_go(&victim);
    victim.check();
}

#[test]
fn requests_whose_handlers_never_end_run_up_to_the_limit_and_the_rest_is_cancelled() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let listener = raw.listen();
    let hang = |id, frames: &mut Vec<u8>| Message::Request(request(FloodedClient::HANG, id)).push(frames);
    for (last, block) in blocks(200_000, hang) {
        assert!(raw.write(&block));
        listener.wait(|heard| heard.answers + 4096 + BEHIND >= last);
    }
    listener.wait(|heard| heard.answers == 200_000 - 4096);
    assert_eq!(listener.heard().cancelled, 200_000 - 4096);
    assert_eq!(victim.ask(victim.client.most_at_once()), 4096);
    victim.check();
    drop(raw);
    while victim.ask(victim.client.at_once()) > 0 {}
}

/// Their handlers do not notice at once that they are to stop: they keep their places until they have.
#[test]
fn connections_that_come_and_go_start_no_more_handlers_than_the_limit() {
    let victim = Victim::with(&[(REQUESTS, "16")]);
    let mut raw = victim.raw();
    let listener = raw.listen();
    // The ids that are handed out are known before: even ones, one after the other.
    flood(&mut raw, &listener, 20_000, 1, |round, frames| {
        let conn_id = 2 * round;
        connect(round, ACCEPT).push(frames);
        for id in 1..=20 {
            Message::Request(Request { conn_id, ..request(FloodedClient::STUBBORN, id) }).push(frames);
        }
        Message::Goodbye { conn_id, reason: String::new() }.push(frames);
    });
    let heard = listener.heard();
    assert_eq!((heard.accepted, heard.rejected), (20_000, 0));
    victim.check();
    assert_eq!(victim.ask(victim.client.most_at_once()), 16);
}

/// Floods with what nobody answers, from a peer that reads and from one that never does.
fn unanswered(open: bool, count: u64, round: impl Fn(u64, &mut Vec<u8>)) {
    let victim = Victim::start();
    let (mut reads, mut never_reads) = (victim.raw(), victim.raw());
    let listener = reads.listen();
    if open {
        assert!(reads.say(&opening(1, vec![1])) && never_reads.say(&opening(1, vec![1])));
    }
    flood(&mut reads, &listener, count, 0, &round);
    assert!(flood_unread(&mut never_reads, count, &round));
    victim.check();
    assert_eq!(listener.heard().answers, 1, "to the last request alone");
    assert_eq!(victim.ask(victim.client.ends()), Vec::<String>::new());
}

#[test]
fn answers_to_nothing_and_ends_of_nothing_are_ignored() {
    unanswered(false, 100_000, |id, frames| {
        let (conn_id, reason) = (id, "no".to_owned());
        Message::Accept { request_id: id, conn_id, metadata: vec![] }.push(frames);
        Message::Reject { request_id: id, reason: reason.clone(), metadata: vec![] }.push(frames);
        let channels = vec![2 * id + 1];
        Message::Response { conn_id: 0, request_id: id, metadata: vec![], channels, payload: vec![0] }
            .push(frames);
        Message::Goodbye { conn_id, reason }.push(frames);
        Message::Cancel { conn_id: 0, request_id: id }.push(frames);
    });
}

#[test]
fn a_million_grants_of_credit_are_taken() {
    unanswered(true, 500_000, |_, frames| {
        Message::Credit { conn_id: 0, channel_id: 1, bytes: u32::MAX }.push(frames);
    });
}

#[test]
fn elements_of_a_channel_that_is_over_are_dropped() {
    unanswered(true, 100_000, |id, frames| {
        if id == 1 {
            Message::Reset { conn_id: 0, channel_id: 1 }.push(frames);
        }
        Message::Data { conn_id: 0, channel_id: 1, payload: vec![1; 100] }.push(frames);
    });
}

/// The first one ends the link. So, link after link.
#[test]
fn empty_frames_end_their_link() {
    let victim = Victim::start();
    for _ in 0..200 {
        let mut raw = victim.raw();
        let listener = raw.listen();
        while raw.write(&[0; BLOCK]) {}
        listener.over();
        assert_eq!(listener.heard().goodbyes, ["message.decode-error"]);
    }
    victim.check();
}

/// A million channels, thousands in one request, that nobody takes: each is reset.
fn channels_that_nobody_takes(id_of: impl Fn(u64) -> u64) {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let listener = raw.listen();
    for (last, block) in blocks(200, |round, frames| {
        let channels = (5_000 * round..5_000 * (round + 1)).map(&id_of).collect();
        Message::Request(Request { channels, ..request(FloodedClient::NOTHING, round) }).push(frames);
    }) {
        assert!(raw.write(&block), "{:?}", listener.heard());
        listener.wait(|heard| heard.resets + BEHIND >= 5_000 * last);
    }
    listener.wait(|heard| heard.resets == 1_000_000 && heard.answers == 200);
    victim.check();
}

#[test]
fn a_million_channels_that_nobody_takes_are_reset() {
    channels_that_nobody_takes(|number| 1 + 2 * (number ^ 1));
}

#[test]
fn a_million_channels_whose_ids_jump_about_are_reset() {
    channels_that_nobody_takes(|number| 1 + 2_000 * number);
}

/// The channels of a peer's that are held, and those that a peer can make this side open.
const THEIRS: u64 = 32_768;
const OURS: u64 = 8_192;

/// In requests that run, and hold them. A million were 410 MiB.
#[test]
fn a_peer_that_opens_channels_and_closes_none_opens_no_more_than_the_limit() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let listener = raw.listen();
    flood(&mut raw, &listener, 200, 0, |id, frames| {
        opening(id, (5_000 * id..5_000 * (id + 1)).map(|number| 1 + 2 * number).collect()).push(frames);
    });
    let held = THEIRS / 5_000;
    listener.wait(|heard| heard.cancelled == 200 - held);
    assert_eq!(victim.ask(victim.client.at_once()), held as u32);
    victim.check();
}

/// By methods that return streams. A hundred thousand were 77 MiB.
#[test]
fn a_peer_that_asks_for_streams_and_closes_none_gets_no_more_than_the_limit() {
    let victim = Victim::start();
    let mut raw = victim.raw();
    let listener = raw.listen();
    let ask = |id, frames: &mut Vec<u8>| Message::Request(request(FloodedClient::ENDLESS, id)).push(frames);
    for (last, block) in blocks(100_000, ask) {
        assert!(raw.write(&block));
        listener.wait(|heard| heard.answers + 4096 + BEHIND >= last);
    }
    // As many requests as may run wait for one of the streams to be over; those behind them were cancelled.
    listener.wait(|heard| heard.answers == 100_000 - 4096);
    let heard = listener.heard();
    assert_eq!((heard.opened, heard.cancelled), (OURS, 100_000 - 4096 - OURS));
    victim.check();
}

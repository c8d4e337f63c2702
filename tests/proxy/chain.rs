//! Client, proxy, proxy, server: four processes, and three links between them.
//!
//! ```text
//! client ──uds──> first proxy ──shm──> second proxy ──uds──> server
//!        └───────────────────────uds───────────────────────────┘
//! ```
//!
//! The second proxy is a cell of the first. Over the link at the bottom the server is asked how things went for it.
//!
//! Times and memory are printed: run with `--nocapture` to see them. `ADJOIN_MIB` is how many MiB go each way, 1024
//! if it is not set and the tests are optimised.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use adjoin::{
    CallError, Connection, Context, Options, RecvError, Rx, SendError, Tx, channel,
    proxy::{Forward, LateBound},
    stream,
};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
};

use crate::common::{links::cell_command, noise::Noise, watchdog::Watchdog};

#[adjoin::service]
trait Far {
    /// Takes a `Noise`, and sends another one of so many bytes meanwhile.
    async fn exchange(&self, len: u64, input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> Result<u64, String>;
    /// Sends for as long as anybody listens.
    async fn pour(&self) -> Rx<Vec<u8>>;
    /// Receives so many elements, and goes away.
    async fn sip(&self, elements: u64, input: Rx<Vec<u8>>);
    /// Receives for as long as anybody sends.
    async fn swallow(&self, input: Rx<Vec<u8>>);
    /// Calls back for as long as anybody answers.
    async fn chat(&self) -> u64;
    /// The next of the last three that is over, or of those who pour, and when.
    async fn broken_off(&self) -> (String, i64);
}

#[adjoin::service]
trait Near {
    async fn add(&self, a: u64, b: u64) -> u64;
}

struct Client;

impl Near for Client {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }
}

/// A clock that all processes of the machine share, in nanoseconds.
fn clock() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

// ---- The four processes.

const ROLE: &str = "ADJOIN_CHAIN_ROLE";
const FOLDER: &str = "ADJOIN_CHAIN_FOLDER";

/// Does what a process of the chain does, until its link is gone. `false`: this is none of them.
pub fn play_role() -> bool {
    let Some(role) = env::var_os(ROLE) else { return false };
    let folder = PathBuf::from(env::var_os(FOLDER).unwrap());
    runtime().block_on(async {
        match role.to_str().unwrap() {
            "first" => first(&folder).await,
            "second" => second(&folder).await,
            "server" => server(&folder).await,
            other => panic!("{other} is no role"),
        }
    });
    std::process::exit(0);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn command(role: &str, folder: &Path) -> Command {
    let mut command = cell_command();
    command.env(ROLE, role).env(FOLDER, folder);
    command
}

/// A process of the chain that has said that it is ready.
struct Process(Child);

impl Process {
    fn start(role: &str, folder: &Path) -> Self {
        let mut child = command(role, folder).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line == READY), "the {role} process does not start");
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const READY: &str = "ready";

fn ready() {
    println!("\n{READY}");
}

async fn first(folder: &Path) {
    let to_client = LateBound::new().waiting(64);
    let passes = Options::new().introspection(false);
    let cell = adjoin::spawn(command("second", folder), passes.serve(to_client.clone())).await.unwrap();
    let listener = UnixListener::bind(folder.join("first.sock")).unwrap();
    ready();
    let socket = listener.accept().await.unwrap().0;
    let passes = Options::new().introspection(false).serve(Forward::to(cell.connection()));
    let client = stream::accept(socket, passes).await.unwrap();
    to_client.bind(Forward::to(&client)).unwrap();
    client.closed().await;
}

async fn second(folder: &Path) {
    std::fs::write(folder.join("second.pid"), std::process::id().to_string()).unwrap();
    let to_host = LateBound::new().waiting(64);
    let socket = UnixStream::connect(folder.join("server.sock")).await.unwrap();
    let server = stream::connect(socket, Options::new().serve(to_host.clone())).await.unwrap();
    let host = adjoin::cell(Options::new().introspection(false).serve(Forward::to(&server))).await.unwrap();
    to_host.bind(Forward::to(&host)).unwrap();
    host.closed().await;
}

async fn server(folder: &Path) {
    let listener = UnixListener::bind(folder.join("server.sock")).unwrap();
    let (broken, breaks) = unbounded_channel();
    let server = Server { broken, breaks: Arc::new(Mutex::new(breaks)) };
    ready();
    loop {
        let socket = listener.accept().await.unwrap().0;
        let options = Options::new().serve(FarDispatcher::new(server.clone()));
        let connection = stream::accept(socket, options).await.unwrap();
        tokio::spawn(async move { connection.closed().await });
    }
}

#[derive(Clone)]
struct Server {
    broken: UnboundedSender<(String, i64)>,
    breaks: Arc<Mutex<UnboundedReceiver<(String, i64)>>>,
}

/// Tells when a handler is gone.
struct Note(UnboundedSender<(String, i64)>, &'static str);

impl Drop for Note {
    fn drop(&mut self) {
        let _ = self.0.send((self.1.into(), clock()));
    }
}

impl Far for Server {
    async fn exchange(&self, len: u64, input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> Result<u64, String> {
        let (received, sent) = tokio::join!(take_all(input), send_all(len, output));
        sent.map_err(|error| error.to_string())?;
        received
    }

    async fn pour(&self) -> Rx<Vec<u8>> {
        let (tx, rx) = channel();
        let broken = self.broken.clone();
        tokio::spawn(async move {
            let error = send_all(u64::MAX, tx).await.unwrap_err();
            let _ = broken.send((format!("pour: {error:?}"), clock()));
        });
        rx
    }

    async fn sip(&self, elements: u64, mut input: Rx<Vec<u8>>) {
        for _ in 0..elements {
            input.recv().await.unwrap().unwrap();
        }
    }

    async fn swallow(&self, mut input: Rx<Vec<u8>>) {
        let _note = Note(self.broken.clone(), "swallow: over");
        while let Ok(Some(_)) = input.recv().await {}
    }

    async fn chat(&self) -> u64 {
        let client = NearClient::new(Context::current().unwrap().connection());
        let _note = Note(self.broken.clone(), "chat: over");
        let mut sum = 0;
        while let Ok(more) = client.add(sum, 1).await {
            sum = more;
        }
        sum
    }

    async fn broken_off(&self) -> (String, i64) {
        self.breaks.lock().await.recv().await.unwrap()
    }
}

/// Bytes of an element: four of them are a window.
const ELEMENT: usize = 16 << 10;

async fn send_all(len: u64, output: Tx<Vec<u8>>) -> Result<(), SendError> {
    let mut noise = Noise::of(len);
    while noise.left > 0 {
        output.send(noise.next(ELEMENT).to_vec()).await?;
    }
    Ok(())
}

/// How many bytes came, which are those of a `Noise`.
async fn take_all(mut input: Rx<Vec<u8>>) -> Result<u64, String> {
    let (mut noise, mut received) = (Noise::endless(), 0);
    while let Some(element) = input.recv().await.map_err(|error| error.to_string())? {
        received += element.len() as u64;
        let mut rest = &element[..];
        while !rest.is_empty() {
            let expected = noise.next(rest.len());
            if !rest.starts_with(expected) {
                return Err(format!("other bytes than were sent, before byte {received}"));
            }
            rest = &rest[expected.len()..];
        }
    }
    Ok(received)
}

// ---- The chain, seen from the client.

struct Chain {
    client: FarClient,
    /// Straight to the server.
    server: FarClient,
    first: Process,
    second: Pid,
    _server: Process,
    _folder: TempDir,
}

impl Chain {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let server = Process::start("server", path);
        let first = Process::start("first", path);
        let second = std::fs::read_to_string(path.join("second.pid")).unwrap().parse().unwrap();
        let options = Options::new().serve(NearDispatcher::new(Client));
        let client = Self::connect(&path.join("first.sock"), options).await;
        let direct = Self::connect(&path.join("server.sock"), Options::new()).await;
        assert_eq!(client.limits().1, 64 << 10, "the window of this test");
        Chain {
            client: FarClient::new(client),
            server: FarClient::new(direct),
            first,
            second: Pid::from_raw(second).unwrap(),
            _server: server,
            _folder: folder,
        }
    }

    async fn connect(path: &Path, options: Options) -> Connection {
        stream::connect(UnixStream::connect(path).await.unwrap(), options).await.unwrap()
    }

    fn proxies(&self) -> [Pid; 2] {
        [Pid::from_child(&self.first.0), self.second]
    }

    /// Streams so many bytes each way at once.
    async fn exchange(&self, len: u64) {
        let (tx, input) = channel();
        let (output, rx) = channel();
        let (answer, sent, received) =
            tokio::join!(self.client.exchange(len, input, output), send_all(len, tx), take_all(rx));
        sent.unwrap();
        assert_eq!((answer.unwrap(), received.unwrap()), (len, len));
    }
}

/// Memory of a process in RAM that is not a file's: its own, and what it has of segments.
fn resident_kib(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let of = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    of("RssAnon:") + of("RssShmem:")
}

fn mib() -> u64 {
    let default = if cfg!(debug_assertions) { 256 } else { 1024 };
    env::var("ADJOIN_MIB").map_or(default, |mib| mib.parse().unwrap())
}

/// What the memory of a proxy may grow by.
const ROOM_KIB: u64 = 16 << 10;

/// One chain at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[test]
fn a_long_stream_each_way_through_two_proxies_arrives_in_order_and_leaves_their_memory_flat() {
    let _alone = ALONE.blocking_lock();
    let _hang = Watchdog::seconds(300);
    runtime().block_on(async {
        let chain = Chain::start().await;
        chain.exchange(4 << 20).await;
        let before = chain.proxies().map(resident_kib);
        let (start, len) = (clock(), mib() << 20);
        chain.exchange(len).await;
        let seconds = millis(clock() - start) / 1e3;
        let after = chain.proxies().map(resident_kib);
        println!(
            "{} MiB each way at once in {seconds:.2} s ({:.0} MB/s each way); the proxies had {before:?} KiB, and have \
             {after:?} KiB",
            mib(),
            len as f64 / 1e6 / seconds
        );
        for (before, after) in before.into_iter().zip(after) {
            assert!(after < before + ROOM_KIB, "a proxy's memory grew from {before} KiB to {after} KiB");
        }
    });
}

#[test]
fn a_consumer_that_is_dropped_stops_the_producer_behind_two_proxies() {
    let _alone = ALONE.blocking_lock();
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let chain = Chain::start().await;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // The server produces.
            let mut poured = chain.client.pour().await.unwrap();
            for _ in 0..100 {
                poured.recv().await.unwrap().unwrap();
            }
            let start = clock();
            drop(poured);
            let (how, at) = chain.server.broken_off().await.unwrap();
            assert_eq!(how, "pour: Closed");
            theirs.push(at - start);

            // The client does.
            let (tx, rx) = channel();
            let sent = tokio::spawn(async move { (send_all(u64::MAX, tx).await, clock()) });
            chain.client.sip(100, rx).await.unwrap();
            let start = clock();
            let (error, at) = sent.await.unwrap();
            assert!(matches!(error, Err(SendError::Closed)), "{error:?}");
            ours.push((at - start).max(0));
        }
        print_times("the producer behind the proxies stopped", theirs);
        print_times("the producer in front of the proxies stopped", ours);
    });
}

const ROUNDS: usize = 10;

fn print_times(what: &str, mut nanos: Vec<i64>) {
    nanos.sort_unstable();
    let (median, last) = (millis(nanos[nanos.len() / 2]), millis(nanos[nanos.len() - 1]));
    println!("{what} after {median:.2} ms (median), {last:.2} ms (slowest of {})", nanos.len());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    First,
    Second,
}

#[test]
fn a_proxy_that_is_killed_gives_both_ends_an_error() {
    let _alone = ALONE.blocking_lock();
    let _hang = Watchdog::seconds(120);
    for (victim, name) in [(Victim::First, "first"), (Victim::Second, "second")] {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (client, server) = runtime().block_on(kill_one(victim));
            near.push(client);
            far.push(server);
        }
        print_times(&format!("{name} proxy killed: everything failed at the client"), near);
        print_times(&format!("{name} proxy killed: everything failed at the server"), far);
    }
}

/// How long after the kill the last thing failed, at the client and at the server.
async fn kill_one(victim: Victim) -> (i64, i64) {
    let chain = Chain::start().await;
    let mut poured = chain.client.pour().await.unwrap();
    poured.recv().await.unwrap().unwrap();
    let (tx, rx) = channel();
    let mut waits = tokio::task::JoinSet::new();
    let client = chain.client.clone();
    waits.spawn(async move { call_failed(victim, client.swallow(rx).await) });
    let client = chain.client.clone();
    waits.spawn(async move { call_failed(victim, client.chat().await.map(drop)) });
    for _ in 0..64 {
        tx.send(vec![7; ELEMENT]).await.unwrap();
    }
    waits.spawn(async move {
        match send_all(u64::MAX, tx).await {
            Err(SendError::Ended(_)) if victim == Victim::First => clock(),
            Err(SendError::Closed) if victim == Victim::Second => clock(),
            other => panic!("the stream ended otherwise: {other:?}"),
        }
    });
    waits.spawn(async move {
        loop {
            match poured.recv().await {
                Ok(Some(_)) => {}
                Err(RecvError::Ended(_)) if victim == Victim::First => return clock(),
                Err(RecvError::Reset) if victim == Victim::Second => return clock(),
                other => panic!("the stream ended otherwise: {other:?}"),
            }
        }
    });
    let pid = chain.proxies()[usize::from(victim == Victim::Second)];
    let killed = clock();
    kill_process(pid, Signal::KILL).unwrap();
    let mut server = 0;
    let mut ends = Vec::new();
    for _ in 0..3 {
        let (how, at) = chain.server.broken_off().await.unwrap();
        ends.push(how);
        server = server.max(at);
    }
    ends.sort_unstable();
    assert!(ends[0] == "chat: over" && ends[2] == "swallow: over", "{ends:?}");
    // Which of the two depends on whether the second proxy still had the time to say so.
    assert!(ends[1] == "pour: Closed" || ends[1].starts_with("pour: Ended("), "{ends:?}");
    let client = waits.join_all().await.into_iter().max().unwrap();
    (client - killed, server - killed)
}

fn call_failed(victim: Victim, outcome: Result<(), CallError>) -> i64 {
    match outcome {
        Err(CallError::Ended(_)) if victim == Victim::First => clock(),
        Err(CallError::UpstreamEnded { reason }) if victim == Victim::Second => {
            assert!(reason.contains("killed by signal 9"), "{reason}");
            clock()
        }
        other => panic!("the call ended otherwise: {other:?}"),
    }
}

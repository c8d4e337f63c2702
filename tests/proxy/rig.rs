//! A service to pass calls on to, and proxies in front of it, between links of every kind.

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use adjoin::{
    ConnectOptions, Connection, Context, IncomingConnection, Metadata, Options, Rx, Settings, Tx, channel,
    proxy::Forward, stream,
};
use tokio::net::{UnixListener, UnixStream};

use crate::common::links::{Far, Kind, cell_command, link};

#[adjoin::service]
pub trait Probe {
    async fn add(&self, a: u64, b: u64) -> u64;
    /// How many bytes came.
    #[adjoin(id = 0x7a4e)]
    async fn take(&self, input: Rx<Vec<u8>>) -> u64;
    /// Sends so many elements of so many bytes each.
    async fn give(&self, elements: u32, len: u32) -> Rx<Vec<u8>>;
    /// Sends so many elements of so many bytes each, and answers then.
    async fn tell(&self, elements: u32, len: u32, output: Tx<Vec<u8>>);
    /// How many elements were sent by all who give.
    async fn given(&self) -> u64;
    /// Keeps a stream, and does not read it.
    async fn keep(&self, input: Rx<Vec<u8>>);
    /// Reads what is kept: how many bytes came, and how it ended.
    async fn read(&self) -> (u64, String);
    /// Forgets what is kept.
    async fn forget(&self);
    /// Hangs until it is stopped.
    async fn hang(&self, input: Rx<Vec<u8>>, output: Tx<Vec<u8>>);
    /// How many of those have been started, and stopped.
    async fn hung(&self) -> (u32, u32);
    /// The time that this call has left, in nanoseconds.
    async fn left(&self) -> Option<u64>;
    async fn panics(&self, input: Rx<Vec<u8>>);
    /// How many virtual connections are open.
    async fn rooms(&self) -> u32;
}

/// What it would be to somebody who has other arguments in mind.
#[adjoin::service(name = "Probe")]
pub trait Misread {
    #[adjoin(id = 0x7a4e)]
    async fn take(&self, input: Rx<Vec<u8>>, more: String) -> u64;
    async fn unheard_of(&self, input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> u64;
}

#[derive(Clone, Default)]
pub struct Server {
    given: Arc<AtomicU64>,
    kept: Arc<Mutex<Option<Rx<Vec<u8>>>>>,
    started: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
    rooms: Arc<AtomicU32>,
}

struct Stopped(Arc<AtomicU32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

async fn count(mut input: Rx<Vec<u8>>) -> (u64, String) {
    let mut bytes = 0;
    loop {
        match input.recv().await {
            Ok(Some(element)) => bytes += element.len() as u64,
            Ok(None) => return (bytes, "closed".into()),
            Err(error) => return (bytes, format!("{error:?}")),
        }
    }
}

impl Probe for Server {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn take(&self, input: Rx<Vec<u8>>) -> u64 {
        count(input).await.0
    }

    async fn give(&self, elements: u32, len: u32) -> Rx<Vec<u8>> {
        let (tx, rx) = channel();
        let given = Arc::clone(&self.given);
        tokio::spawn(async move {
            for _ in 0..elements {
                if tx.send(vec![7; len as usize]).await.is_err() {
                    return;
                }
                given.fetch_add(1, SeqCst);
            }
        });
        rx
    }

    async fn tell(&self, elements: u32, len: u32, output: Tx<Vec<u8>>) {
        for _ in 0..elements {
            output.send(vec![7; len as usize]).await.unwrap();
        }
    }

    async fn given(&self) -> u64 {
        self.given.load(SeqCst)
    }

    async fn keep(&self, input: Rx<Vec<u8>>) {
        *self.kept.lock().unwrap() = Some(input);
    }

    async fn read(&self) -> (u64, String) {
        let kept = self.kept.lock().unwrap().take();
        count(kept.unwrap()).await
    }

    async fn forget(&self) {
        self.kept.lock().unwrap().take();
    }

    async fn hang(&self, _input: Rx<Vec<u8>>, _output: Tx<Vec<u8>>) {
        let _stopped = Stopped(Arc::clone(&self.stopped));
        self.started.fetch_add(1, SeqCst);
        std::future::pending().await
    }

    async fn hung(&self) -> (u32, u32) {
        (self.started.load(SeqCst), self.stopped.load(SeqCst))
    }

    async fn left(&self) -> Option<u64> {
        let deadline = Context::current().unwrap().deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()).as_nanos() as u64)
    }

    async fn panics(&self, _input: Rx<Vec<u8>>) {
        panic!("on purpose: a handler that panics");
    }

    async fn rooms(&self) -> u32 {
        self.rooms.load(SeqCst)
    }
}

/// Few channels: what leaks one is found out soon.
pub fn settings() -> Settings {
    Settings::default().max_channels(CHANNELS).channel_slots(2 * CHANNELS)
}

pub const CHANNELS: u32 = 8;

pub fn serving() -> Options {
    let rooms = Rooms::default();
    let server = Server { rooms: rooms.open.clone(), ..Server::default() };
    let dispatcher = ProbeDispatcher::new(server);
    Options::new().settings(settings()).serve(dispatcher).on_connect(move |incoming| rooms.decide(incoming))
}

/// What the server offers on virtual connections.
#[adjoin::service]
pub trait Room {
    /// As whom the other side has introduced itself.
    async fn who(&self) -> String;
    /// Asks the one who calls for its name.
    async fn ask_back(&self) -> String;
    #[adjoin(id = 0x4001)]
    async fn take(&self, input: Rx<Vec<u8>>) -> u64;
    /// Answers, sends so many elements, and closes the connection.
    async fn last_words(&self, elements: u32) -> (String, Rx<Vec<u8>>);
    async fn leave(&self);
    async fn hang(&self);
}

/// What a client offers to the server.
#[adjoin::service]
pub trait Guest {
    async fn name(&self) -> String;
}

pub struct Named(pub String);

impl Guest for Named {
    async fn name(&self) -> String {
        self.0.clone()
    }
}

/// The metadata key under which a client says who it is, and a server who it is.
pub const NAME: &str = "name";

pub fn named(name: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.push(NAME, name);
    metadata
}

pub fn name_in(metadata: &Metadata) -> String {
    metadata.get(NAME).and_then(|name| name.as_str()).unwrap_or("nobody").into()
}

#[derive(Clone, Default)]
struct Rooms {
    open: Arc<AtomicU32>,
}

impl Rooms {
    fn decide(&self, incoming: IncomingConnection) {
        let name = name_in(incoming.metadata());
        if name == "nobody" {
            incoming.reject_with("who are you?", &named("the server")).unwrap();
            return;
        }
        if name == "undecided" {
            std::mem::forget(incoming); // neither accepted nor rejected
            return;
        }
        let serve = RoomDispatcher::new(OneRoom);
        let accepted =
            incoming.accept(ConnectOptions::new().metadata(named("the server")).serve(serve)).unwrap();
        self.open.fetch_add(1, SeqCst);
        let open = Arc::clone(&self.open);
        tokio::spawn(async move {
            accepted.closed().await;
            open.fetch_sub(1, SeqCst);
        });
    }
}

struct OneRoom;

fn caller() -> Connection {
    Context::current().unwrap().connection().clone()
}

impl Room for OneRoom {
    async fn who(&self) -> String {
        name_in(caller().metadata())
    }

    async fn ask_back(&self) -> String {
        GuestClient::new(caller()).name().await.unwrap_or_else(|error| error.to_string())
    }

    async fn take(&self, input: Rx<Vec<u8>>) -> u64 {
        count(input).await.0
    }

    async fn last_words(&self, elements: u32) -> (String, Rx<Vec<u8>>) {
        let (tx, rx) = channel();
        let connection = caller();
        tokio::spawn(async move {
            for _ in 0..elements {
                tx.send(vec![7; 100]).await.unwrap();
            }
            drop(tx);
            let _ = connection.drain(Duration::from_secs(60)).await;
        });
        ("farewell".into(), rx)
    }

    async fn leave(&self) {
        let connection = caller();
        tokio::spawn(async move { connection.close().await });
    }

    async fn hang(&self) {
        std::future::pending().await
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A client, and a server behind a proxy.
pub struct Rig {
    pub client: Connection,
    pub probe: ProbeClient,
    /// The proxy's connection with the server, if the proxy is in this process.
    pub upstream: Option<Connection>,
    /// The server, without the proxy.
    pub server: ProbeClient,
    _far: Vec<Far>,
}

/// The links of the client and of the server, from each other's point of view.
pub const PAIRS: &[(Kind, Kind)] = &[
    (Kind::Local, Kind::Local),
    (Kind::Uds, Kind::Tcp),
    (Kind::Tcp, Kind::Uds),
    (Kind::Uds, Kind::Shm),
    (Kind::Shm, Kind::Uds),
];

impl Rig {
    pub async fn between(near: Kind, far: Kind) -> Rig {
        if near == Kind::Shm {
            return Self::with_a_cell().await;
        }
        let (upstream, server_end) = link(far, Options::new().settings(settings()), serving()).await;
        let passes = Options::new().settings(settings()).serve(Forward::to(&upstream));
        let (client, proxy) = link(near, Options::new().settings(settings()), passes).await;
        let server = ProbeClient::new(&upstream);
        let probe = ProbeClient::new(&client);
        Rig { client, probe, upstream: Some(upstream), server, _far: vec![server_end, proxy] }
    }

    /// The proxy is a cell, and the server is this process.
    async fn with_a_cell() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstream.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = cell_command();
        command.env(UPSTREAM, &path);
        let server = Server::default();
        let serving = Options::new().settings(settings()).serve(ProbeDispatcher::new(server.clone()));
        let (client, accepted) =
            tokio::join!(adjoin::spawn(command, Options::new().settings(settings())), async {
                stream::accept(listener.accept().await.unwrap().0, serving).await
            });
        let cell = client.unwrap();
        let serving = Options::new().serve(ProbeDispatcher::new(server));
        let (direct, far) = link(Kind::Local, Options::new(), serving).await;
        Rig {
            client: cell.connection().clone(),
            probe: ProbeClient::new(cell.connection()),
            upstream: None,
            server: ProbeClient::new(direct),
            _far: vec![far, Far::Here { connection: accepted.unwrap() }, Far::Process { _cell: cell }],
        }
    }
}

const UPSTREAM: &str = "ADJOIN_UPSTREAM";

/// Does what the cells of these tests do, until their host is gone.
pub fn serve_if_cell() {
    let Some(path) = env::var_os(UPSTREAM) else { return crate::common::links::serve_if_cell_with(serving) };
    runtime().block_on(async {
        let socket = UnixStream::connect(path).await.unwrap();
        let upstream = stream::connect(socket, Options::new().settings(settings())).await.unwrap();
        let passes = Options::new().settings(settings()).serve(Forward::to(&upstream));
        adjoin::cell(passes).await.unwrap().closed().await;
    });
    std::process::exit(0);
}

/// Runs a test for every pair of links.
pub fn on_all_pairs<F: Future<Output = ()>>(test: impl Fn(Rig) -> F) {
    for (near, far) in PAIRS {
        println!("{near:?} in front of the proxy, {far:?} behind it");
        runtime().block_on(async { test(Rig::between(*near, *far).await).await });
    }
}

/// Waits until something holds; the test's watchdog bounds the wait.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

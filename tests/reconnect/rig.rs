//! A server that can be cut off and restarted, over every link, and keeps its state.

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use adjoin::{
    Connection, Context, Options, Rx, ServiceDispatcher, channel,
    reconnect::{self, Backoff, Builder, ConnectFailure, Reconnecting},
    stream,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinHandle,
};

use crate::common::links::Kind;

#[adjoin::service]
pub trait Till {
    /// Adds one, and says how many that makes.
    async fn once(&self) -> u64;
    /// The same; that it may run twice is what its caller says.
    #[adjoin(idempotent)]
    async fn again(&self) -> u64;
    /// Adds one, and adds up.
    #[adjoin(idempotent)]
    async fn taking(&self, numbers: Rx<u64>) -> u64;
    /// Adds one, and counts.
    #[adjoin(idempotent)]
    async fn giving(&self, upto: u64) -> Rx<u64>;
    /// The time that the call has left.
    #[adjoin(idempotent)]
    async fn left(&self) -> Option<Duration>;
    #[adjoin(idempotent)]
    async fn pid(&self) -> u32;
}

/// What survives a restart.
pub struct State {
    count: AtomicU64,
    /// Where it is counted by bytes, for processes that are killed.
    file: Option<File>,
    /// Handlers do not come to their end.
    pub hang: AtomicBool,
    /// A permit for each call that has been counted.
    pub entered: Semaphore,
    /// Each handler dawdles for a random time, before and after it counts.
    pub dawdle: bool,
    pub running: AtomicU64,
}

impl State {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::plain())
    }

    pub fn dawdling() -> Arc<Self> {
        Arc::new(State { dawdle: true, ..Self::plain() })
    }

    fn plain() -> Self {
        State {
            count: AtomicU64::new(0),
            file: None,
            hang: AtomicBool::new(false),
            entered: Semaphore::new(0),
            dawdle: false,
            running: AtomicU64::new(0),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until one more call has been counted.
    pub async fn entered(&self) {
        self.entered.acquire().await.unwrap().forget();
    }

    pub fn dispatcher(self: &Arc<Self>) -> TillDispatcher<Served> {
        TillDispatcher::new(Served(Arc::clone(self)))
    }

    async fn run(&self) -> u64 {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        self.dawdle().await;
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(b"1").unwrap(); // to its end: the file is open for appending
        }
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.entered.add_permits(1);
        self.dawdle().await;
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        count
    }

    async fn dawdle(&self) {
        if self.dawdle {
            for _ in 0..fastrand::u32(0..4) {
                tokio::task::yield_now().await;
            }
            if fastrand::u32(0..4) == 0 {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..1500))).await;
            }
        }
    }
}

struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct Served(Arc<State>);

impl Till for Served {
    async fn once(&self) -> u64 {
        self.0.run().await
    }

    async fn again(&self) -> u64 {
        self.0.run().await
    }

    async fn taking(&self, mut numbers: Rx<u64>) -> u64 {
        self.0.run().await;
        let mut sum = 0;
        while let Ok(Some(number)) = numbers.recv().await {
            sum += number;
        }
        sum
    }

    async fn giving(&self, upto: u64) -> Rx<u64> {
        self.0.run().await;
        let (tx, rx) = channel();
        tokio::spawn(async move {
            for number in 1..=upto {
                if tx.send(number).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn left(&self) -> Option<Duration> {
        let now = tokio::time::Instant::now().into_std();
        let left = Context::current()?.deadline()?.saturating_duration_since(now);
        self.0.run().await;
        Some(left)
    }

    async fn pid(&self) -> u32 {
        std::process::id()
    }
}

/// A server, in this process or another, that can be reached over one kind of link.
pub struct Server {
    kind: Kind,
    pub state: Arc<State>,
    options: Options,
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
    links: Links,
    /// Links over sockets that are open.
    pub open: Arc<AtomicU64>,
    accepting: Option<JoinHandle<()>>,
}

/// What cuts the links that are open.
pub type Links = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

impl Server {
    /// A server that runs, with the plain dispatcher.
    pub async fn start(kind: Kind, state: Arc<State>) -> Self {
        let dispatcher = state.dispatcher();
        Self::start_with(kind, state, dispatcher).await
    }

    pub async fn start_with(kind: Kind, state: Arc<State>, dispatcher: impl ServiceDispatcher) -> Self {
        // A port that stays the same, and that nobody else gets while the server is down for a moment.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let options = Options::new().serve(dispatcher);
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server {
            kind,
            state,
            options,
            folder,
            address,
            links: Links::default(),
            open: Arc::default(),
            accepting: None,
        };
        server.restart().await;
        server
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("till.sock")
    }

    /// A client of it, impatient.
    pub fn builder(&self) -> Builder {
        let builder = match self.kind {
            Kind::Local => {
                let (links, options) = (Arc::clone(&self.links), self.options.clone());
                Reconnecting::builder(move || {
                    let (links, options) = (Arc::clone(&links), options.clone());
                    async move { Ok::<_, ConnectFailure>(in_process(&links, options)) }
                })
            }
            Kind::Uds => Reconnecting::builder(reconnect::uds(self.path(), Options::new())),
            Kind::Tcp => Reconnecting::builder(reconnect::tcp(self.address, Options::new())),
            #[cfg(target_os = "linux")]
            Kind::Shm => {
                Reconnecting::builder(reconnect::cell(|| server_command(None, None), Options::new()))
            }
            // `tests/shm.rs` has that.
            #[cfg(target_os = "linux")]
            Kind::ShmPath => unreachable!("no server of these tests is reached by shared memory and a path"),
            Kind::Proxied(_) => unreachable!("no server of these tests is reached through a proxy"),
        };
        builder.backoff(quick())
    }

    /// Ends all links, without a word where that is possible.
    pub fn cut(&self) {
        let links: Vec<_> = self.links.lock().unwrap().drain(..).collect();
        for cut in links {
            cut();
        }
    }

    /// Ends the server: nobody listens any longer, all links are cut. What runs is stopped by that.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        self.cut();
        let _ = std::fs::remove_file(self.path());
    }

    pub async fn restart(&mut self) {
        let (links, options, open) = (Arc::clone(&self.links), self.options.clone(), Arc::clone(&self.open));
        self.accepting = match self.kind {
            Kind::Uds => {
                let listener = UnixListener::bind(self.path()).unwrap();
                Some(tokio::spawn(async move {
                    while let Ok((socket, _)) = listener.accept().await {
                        let socket = socket.into_std().unwrap();
                        let twin = socket.try_clone().unwrap();
                        links
                            .lock()
                            .unwrap()
                            .push(Box::new(move || _ = twin.shutdown(std::net::Shutdown::Both)));
                        serve(
                            tokio::net::UnixStream::from_std(socket).unwrap(),
                            options.clone(),
                            Arc::clone(&open),
                        );
                    }
                }))
            }
            Kind::Tcp => {
                let listener = TcpListener::bind(self.address).await.unwrap();
                Some(tokio::spawn(async move {
                    while let Ok((socket, _)) = listener.accept().await {
                        let socket = socket.into_std().unwrap();
                        let twin = socket.try_clone().unwrap();
                        links
                            .lock()
                            .unwrap()
                            .push(Box::new(move || _ = twin.shutdown(std::net::Shutdown::Both)));
                        serve(
                            tokio::net::TcpStream::from_std(socket).unwrap(),
                            options.clone(),
                            Arc::clone(&open),
                        );
                    }
                }))
            }
            _ => None,
        };
    }

    /// Waits until no handler runs.
    pub async fn quiet(&self) {
        while self.state.running.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Attempts that follow each other quickly.
pub fn quick() -> Backoff {
    Backoff::default().initial(Duration::from_millis(1)).max(Duration::from_millis(5))
}

/// The near end of a link within this process; its far end is cut with the others.
pub fn in_process(links: &Links, options: Options) -> Connection {
    let (near, far) = adjoin::local::pair(Options::new(), options);
    links.lock().unwrap().push(Box::new(move || drop(tokio::spawn(async move { far.close().await }))));
    near
}

pub fn serve<S>(socket: S, options: Options, open: Arc<AtomicU64>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    tokio::spawn(async move {
        if let Ok(connection) = stream::accept(socket, options).await {
            open.fetch_add(1, Ordering::SeqCst);
            connection.closed().await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    });
}

const SOCKET: &str = "ADJOIN_TEST_TILL_SOCKET";
const FILE: &str = "ADJOIN_TEST_TILL_FILE";
/// A server that shares memory with those who find it at its socket.
#[cfg(target_os = "linux")]
pub const SHARES: &str = "ADJOIN_TEST_TILL_SHARES";
/// Where a cell writes its last word, some time after its link has ended.
#[cfg(target_os = "linux")]
pub const FAREWELL: &str = "ADJOIN_TEST_TILL_FAREWELL";
/// A cell that stays when its link has ended.
#[cfg(target_os = "linux")]
pub const STAYS: &str = "ADJOIN_TEST_TILL_STAYS";

/// This binary as a server: at a socket, or as a cell if there is none. It counts in a file, if there is one.
pub fn server_command(socket: Option<&Path>, file: Option<&Path>) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "server_entry", "--nocapture", "--test-threads=1", "--quiet"]);
    command.stdout(std::process::Stdio::null());
    for (name, value) in [(SOCKET, socket), (FILE, file)] {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Serves if this process was started to.
pub fn serve_if_server() {
    let (socket, cell) = (env::var_os(SOCKET), env::var_os("ADJOIN_LINK"));
    if socket.is_none() && cell.is_none() {
        return;
    }
    let file = env::var_os(FILE).map(|path| OpenOptions::new().append(true).create(true).open(path).unwrap());
    let state = Arc::new(State { dawdle: file.is_some(), file, ..State::plain() });
    let options = Options::new().serve(state.dispatcher());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Some(path) = socket {
            #[cfg(target_os = "linux")]
            if env::var_os(SHARES).is_some() {
                let listener = adjoin::shm::listen(&path).unwrap();
                while let Ok(incoming) = listener.accept().await {
                    let options = options.clone();
                    tokio::spawn(async move { incoming.establish(options).await.unwrap().closed().await });
                }
            }
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                serve(socket, options.clone(), Arc::default());
            }
        }
        #[cfg(target_os = "linux")]
        {
            let host = adjoin::cell(options).await.unwrap();
            host.closed().await;
            if let Some(farewell) = env::var_os(FAREWELL) {
                tokio::time::sleep(Duration::from_millis(50)).await; // it has things to put in order
                std::fs::write(farewell, "bye").unwrap();
            }
            if env::var_os(STAYS).is_some() {
                std::future::pending::<()>().await;
            }
        }
    });
    std::process::exit(0);
}

/// How long something took on the runtime's clock.
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch(tokio::time::Instant::now().into_std())
    }

    pub fn elapsed(&self) -> Duration {
        tokio::time::Instant::now().into_std() - self.0
    }
}

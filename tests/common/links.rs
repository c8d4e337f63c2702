//! Every link, with the suite's service at its far end.

use adjoin::{
    Connection, Options, Settings, local,
    proxy::{Forward, LateBound},
    stream,
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::suite::{BackDispatcher, BackService, SuiteClient, SuiteDispatcher, SuiteService};

/// The kinds of links that the suite runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Local,
    Uds,
    Tcp,
    #[cfg(target_os = "linux")]
    Shm,
    /// Shared memory by the path of a socket, with the far end in this process.
    #[cfg(target_os = "linux")]
    ShmPath,
    /// Through proxies in this process, which stand between links of these kinds, from the caller on.
    Proxied(&'static [Kind]),
}

impl Kind {
    /// How many links are between the caller and the service.
    pub fn links(self) -> usize {
        if let Kind::Proxied(links) = self { links.len() } else { 1 }
    }

    /// Every link that there is.
    pub fn all() -> Vec<Kind> {
        vec![
            Kind::Local,
            Kind::Uds,
            Kind::Tcp,
            #[cfg(target_os = "linux")]
            Kind::Shm,
        ]
    }
}

/// A client of the suite's service, and what keeps the far end alive.
pub struct Peer {
    pub kind: Kind,
    pub connection: Connection,
    pub suite: SuiteClient,
    _far: Far,
}

impl Peer {
    /// The process of the far end, if it is a cell.
    #[cfg(target_os = "linux")]
    pub fn process(&self) -> Option<u32> {
        match &self._far {
            Far::Process { _cell } => Some(_cell.id()),
            _ => None,
        }
    }
}

/// What keeps the far end of a link alive.
pub enum Far {
    Here {
        connection: Connection,
    },
    #[cfg(target_os = "linux")]
    Process {
        _cell: adjoin::Cell,
    },
    Behind {
        _proxy: Box<Far>,
        _last: Box<Far>,
    },
}

/// The limits that the suite runs with.
pub fn settings() -> Settings {
    Settings::default().max_payload_size(MAX_PAYLOAD)
}

/// The longest payload in the suite, in bytes: too long for a ring of shared memory.
pub const MAX_PAYLOAD: u32 = 256 << 10;

fn serving(settings: Settings) -> Options {
    Options::new().settings(settings).serve(SuiteDispatcher::new(SuiteService::default()))
}

/// What the calling side brings: settings, and a service to be called back.
pub fn calling() -> Options {
    Options::new().settings(settings()).serve(BackDispatcher::new(BackService))
}

/// Connects to the suite's service over a link of this kind.
pub async fn connect(kind: Kind) -> Peer {
    connect_with(kind, calling(), settings()).await
}

/// As [`connect`], with options of one's own; `far` are the settings of the far end. On shared memory, where
/// the host's limits hold, the far end has its own.
pub async fn connect_with(kind: Kind, near: Options, far: Settings) -> Peer {
    let (connection, far) = link(kind, near, serving(far)).await;
    let suite = SuiteClient::new(&connection);
    Peer { kind, connection, suite, _far: far }
}

/// A link of this kind, and what keeps its far end alive. On shared memory the far end is a cell, which brings options
/// of its own.
pub async fn link(kind: Kind, near: Options, far: Options) -> (Connection, Far) {
    match kind {
        Kind::Proxied([only]) => Box::pin(link(*only, near, far)).await,
        Kind::Proxied([first, more @ ..]) => {
            // Each link of the proxy serves what comes over it by calling over the other one.
            let (to_far, to_near) = (LateBound::new().waiting(64), LateBound::new().waiting(64));
            let passes = |late: &LateBound| {
                Options::new().settings(settings()).introspection(false).serve(late.clone())
            };
            let (upstream, last) = Box::pin(link(Kind::Proxied(more), passes(&to_near), far)).await;
            let (near, proxy) = Box::pin(link(*first, near, passes(&to_far))).await;
            to_far.bind(Forward::to(&upstream)).unwrap();
            let Far::Here { connection } = &proxy else { panic!("a proxy is in this process") };
            to_near.bind(Forward::to(connection)).unwrap();
            (near, Far::Behind { _proxy: Box::new(proxy), _last: Box::new(last) })
        }
        Kind::Proxied([]) => panic!("between no links there is no proxy"),
        Kind::Local => {
            let (near, far) = local::pair(near, far);
            (near, Far::Here { connection: far })
        }
        Kind::Uds => {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("suite.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let socket = UnixStream::connect(&path).await.unwrap();
            over_stream(socket, listener.accept().await.unwrap().0, near, far).await
        }
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let accepted = listener.accept().await.unwrap().0;
            socket.set_nodelay(true).unwrap();
            accepted.set_nodelay(true).unwrap();
            over_stream(socket, accepted, near, far).await
        }
        #[cfg(target_os = "linux")]
        Kind::Shm => {
            let cell = adjoin::spawn(cell_command(), near).await.unwrap();
            (cell.connection().clone(), Far::Process { _cell: cell })
        }
        #[cfg(target_os = "linux")]
        Kind::ShmPath => {
            let folder = tempfile::tempdir().unwrap();
            let listener = adjoin::shm::listen(folder.path().join("suite.sock")).unwrap();
            let accept = async { listener.accept().await?.establish(far).await };
            let (near, far) = tokio::try_join!(adjoin::shm::connect(listener.path(), near), accept).unwrap();
            (near, Far::Here { connection: far })
        }
    }
}

async fn over_stream<S>(socket: S, accepted: S, near: Options, far: Options) -> (Connection, Far)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let (near, far) = tokio::try_join!(stream::connect(socket, near), stream::accept(accepted, far)).unwrap();
    (near, Far::Here { connection: far })
}

/// The test binary itself, as a cell: it runs the one test that serves.
pub fn cell_command() -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", CELL_ENTRY, "--nocapture", "--test-threads=1", "--quiet"]);
    command.stdout(std::process::Stdio::null());
    command
}

/// The name of the test that serves when it runs in a cell; each test binary has one that calls
/// [`serve_if_cell`].
pub const CELL_ENTRY: &str = "cell_entry";

/// Serves the suite if this process was started as a cell, until its host is gone.
#[cfg(target_os = "linux")]
pub fn serve_if_cell() {
    serve_if_cell_with(|| serving(settings()));
}

/// As [`serve_if_cell`], with options of one's own.
#[cfg(target_os = "linux")]
pub fn serve_if_cell_with(options: impl FnOnce() -> Options) {
    if std::env::var_os("ADJOIN_LINK").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = adjoin::cell(options()).await.unwrap();
        host.closed().await;
    });
    std::process::exit(0);
}

//! The two ends of a link, and the process at the far one.
//!
//! All links get the same [`settings`]. What `--mode` is for each of them:
//!
//! | mode | `shm` | `uds`, `tcp` | `local` |
//! |---|---|---|---|
//! | `park` | spins for some microseconds if that pays, then sleeps | sleeps in the runtime's poller | one thread: nobody waits |
//! | `spin` | never sleeps | the library sleeps in the poller; so that both sides busy-poll here too, a task that is always ready keeps the runtime looking | the same |

use std::{
    env,
    future::Future,
    path::Path,
    pin::pin,
    process::{Child, Command},
    time::{Duration, Instant},
};

use adjoin::{Connection, Options, Settings, Waiting, local, stream};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{
    Failure,
    args::{Args, Case, Link, Mode},
    machine,
    service::{WorkClient, WorkDispatcher, Worker},
};

/// A link that is ready for work.
pub(crate) struct Pair {
    pub(crate) client: WorkClient,
    far: Far,
}

/// Who serves.
enum Far {
    #[cfg(target_os = "linux")]
    Cell(adjoin::Cell),
    Child(Server),
    /// This process; the other end is kept open.
    Here(#[expect(dead_code, reason = "held, not used")] Connection),
}

impl Pair {
    /// Starts a server and connects to it.
    pub(crate) async fn open(link: Link, cpu: Option<usize>, case: &Case) -> Result<Self, Failure> {
        let options = Options::new().settings(settings(case));
        let start = |address: &str| -> Result<Command, Failure> {
            let mut command = Command::new(env::current_exe()?);
            command.args(Args::server(link, cpu, case, address));
            Ok(command)
        };
        Ok(match link {
            #[cfg(target_os = "linux")]
            Link::Shm => {
                let cell = adjoin::spawn(start("inherited")?, options).await?;
                Pair { client: WorkClient::new(cell.connection()), far: Far::Cell(cell) }
            }
            Link::Uds => {
                let directory = TempDir::new()?;
                let path = directory.path().join("link");
                let listener = UnixListener::bind(&path)?;
                let mut server = Server::start(start(&path.to_string_lossy())?, Some(directory))?;
                let (socket, _) = server.or_its_end(listener.accept()).await??;
                let connection = server.or_its_end(stream::accept(socket, options)).await??;
                Pair { client: WorkClient::new(connection), far: Far::Child(server) }
            }
            Link::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let mut server = Server::start(start(&listener.local_addr()?.to_string())?, None)?;
                let (socket, _) = server.or_its_end(listener.accept()).await??;
                socket.set_nodelay(true)?;
                let connection = server.or_its_end(stream::accept(socket, options)).await??;
                Pair { client: WorkClient::new(connection), far: Far::Child(server) }
            }
            #[cfg(target_os = "linux")]
            Link::Limits | Link::Line | Link::Ring | Link::Futex | Link::Socket | Link::Tasks => {
                return Err("it is no link".into());
            }
            Link::Local => {
                let served = options.clone().serve(WorkDispatcher::new(Worker));
                let (near, far) = local::pair(options, served);
                Pair { client: WorkClient::new(near), far: Far::Here(far) }
            }
        })
    }

    /// The CPU time of both processes so far, in nanoseconds.
    pub(crate) async fn cpu_ns(&self) -> Result<u64, Failure> {
        let far = if let Far::Here(_) = self.far { 0 } else { self.client.cpu_ns().await? };
        Ok(machine::cpu_ns() + far)
    }

    /// Ends the link and the server.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        match self.far {
            #[cfg(target_os = "linux")]
            Far::Cell(cell) => drop(cell.stop(GRACE).await?),
            Far::Child(server) => {
                close(&self.client).await;
                server.reap().await?;
            }
            Far::Here(_) => close(&self.client).await,
        }
        Ok(())
    }
}

/// The server's process: serves until its client is gone.
pub(crate) async fn serve(args: &Args, address: &str) -> Result<(), Failure> {
    if let Some(cpu) = args.cpu {
        machine::pin(cpu)?;
    }
    let (Some(link), Some(case)) = (args.links().first().copied(), args.cases().first().copied()) else {
        return Err("a server needs a link and a case".into());
    };
    #[cfg(target_os = "linux")]
    if link.is_limit() {
        return crate::limits::serve(link, &case, address);
    }
    let options = Options::new().settings(settings(&case)).serve(WorkDispatcher::new(Worker));
    let connection = match link {
        #[cfg(target_os = "linux")]
        Link::Shm => adjoin::cell(options).await?,
        Link::Uds => stream::connect(UnixStream::connect(Path::new(address)).await?, options).await?,
        Link::Tcp => {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            stream::connect(socket, options).await?
        }
        _ => return Err("it has no server".into()),
    };
    busy_while(spins(link, case.mode), connection.closed()).await;
    Ok(())
}

/// Whether the benchmark itself has to keep the runtimes from sleeping.
pub(crate) fn spins(link: Link, mode: Mode) -> bool {
    mode == Mode::Spin && matches!(link, Link::Uds | Link::Tcp)
}

/// Runs a future, and the runtime without sleep meanwhile if that is asked for: a task that is always ready
/// makes it look at its sockets in every round.
pub(crate) async fn busy_while<F: Future>(busy: bool, future: F) -> F::Output {
    let mut polling = JoinSet::new(); // ends its task when it is dropped
    if busy {
        polling.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    future.await
}

/// The settings of both sides, the same on every link: the library's own, and where an element with its length
/// does not fit the default window, a window for sixteen of them, and as much room for what waits on a socket.
pub(crate) fn settings(case: &Case) -> Settings {
    let waiting = match case.mode {
        Mode::Park => Waiting::Adaptive,
        Mode::Sleep => Waiting::Sleep,
        Mode::Spin => Waiting::Spin,
    };
    let mut settings = Settings::default().waiting(waiting);
    if case.workload.is_loaned() {
        // SAFETY: both processes are this program, which writes to no block that it has sent.
        settings = unsafe { settings.trust_peer() };
    }
    let (longest, window) = settings.limits();
    let payload = case.size + FRONT;
    if payload <= window {
        return settings;
    }
    let sixteen = case.size.saturating_mul(16).max(1 << 20);
    settings.max_payload_size(longest.max(payload)).initial_channel_credit(sixteen).send_buffer(sixteen)
}

/// Bytes at most of what stands in front of a vector: a verdict and a length.
const FRONT: u32 = 6;

/// A child process that serves on a socket. Killed and reaped when it is dropped.
struct Server {
    process: Child,
    /// Where its socket is.
    _directory: Option<TempDir>,
}

impl Server {
    fn start(mut command: Command, directory: Option<TempDir>) -> Result<Self, Failure> {
        Ok(Server { process: command.spawn()?, _directory: directory })
    }

    /// Waits for something that the server has to do, but no longer than it lives.
    async fn or_its_end<F: Future>(&mut self, future: F) -> Result<F::Output, Failure> {
        let mut future = pin!(future);
        let start = Instant::now();
        loop {
            if let Ok(output) = tokio::time::timeout(LOOK, &mut future).await {
                return Ok(output);
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("the server ended before it served ({status})").into());
            }
            if start.elapsed() > GRACE {
                return Err("the server does not come to serve".into());
            }
        }
    }

    /// Waits for the server's end, now that its link is closed.
    async fn reap(mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if let Some(status) = self.process.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("the server ended: {status}").into())
                };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("the server does not end; it is killed".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long a server may take to come, and to go.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Closes the link of a client, which calls straight over it.
async fn close(client: &WorkClient) {
    if let Some(connection) = client.caller().connection() {
        connection.close().await;
    }
}

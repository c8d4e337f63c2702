//! A proxy between a socket and a cell: clients outside reach a service that only shared memory leads to.
//!
//! ```text
//! cargo run --release --example proxy
//!
//!   client ──Unix socket──> proxy ══shared memory══> server
//!   client ──Unix socket─────────────────────────────> server
//! ```
//!
//! It starts itself three times: as the proxy, as the server, which is the proxy's cell, and as a second server, which
//! listens on a socket itself, to compare with. Read [`proxy`] first: that is all of it, and it does not know the
//! service. The client makes calls, streams both ways, is called back, and says what the detour costs. At last the
//! server leaves, and the client is told.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))] // there is no shared memory then

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use adjoin::{
    CallError, ConnectOptions, Connection, Context, IncomingConnection, Metadata, Options, Rx, Tx, channel,
    proxy::{LateBound, pair},
    stream,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the server does.
#[adjoin::service]
trait Archive {
    #[adjoin(inline)]
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;

    /// Sends back what comes.
    async fn mirror(&self, input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> Result<u64, String>;

    /// Greets the client by the name that it has: asks for it, while that waits for the answer.
    async fn greet(&self) -> Result<String, String>;

    /// Ends the server.
    async fn leave(&self);
}

/// What a client is asked.
#[adjoin::service]
trait Visitor {
    async fn name(&self) -> String;
}

// ---- The proxy.

/// Takes clients on a socket, and gives each a connection of its own to the server.
#[cfg(target_os = "linux")]
async fn proxy(socket: &Path) -> Result<(), Failure> {
    let mut program = Command::new(env::current_exe()?);
    program.arg("server");
    let server = adjoin::spawn(program, Options::new()).await?;
    let listener = UnixListener::bind(socket)?;
    loop {
        let (client, _) = listener.accept().await?;
        // The client may call before it has its connection.
        let late = LateBound::new().waiting(64);
        let client = stream::accept(client, Options::new().serve(late.clone())).await?;
        // Each goes on until either side has left.
        drop(pair(client, &late, server.connection(), Metadata::new()).await?);
    }
}

// ---- The server.

fn serving() -> Options {
    // A connection for each client of the proxy.
    let on_connect = |incoming: IncomingConnection| {
        let options = ConnectOptions::new().serve(ArchiveDispatcher::new(TheArchive));
        if let Ok(client) = incoming.accept(options) {
            tokio::spawn(async move { client.closed().await });
        }
    };
    Options::new().serve(ArchiveDispatcher::new(TheArchive)).on_connect(on_connect)
}

#[cfg(target_os = "linux")]
async fn server() -> Result<(), Failure> {
    let host = adjoin::cell(serving()).await?;
    host.closed().await;
    Ok(())
}

/// The one to compare with.
async fn server_on_a_socket(socket: &Path) -> Result<(), Failure> {
    let listener = UnixListener::bind(socket)?;
    loop {
        let client = stream::accept(listener.accept().await?.0, serving()).await?;
        tokio::spawn(async move { client.closed().await });
    }
}

struct TheArchive;

impl Archive for TheArchive {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }

    async fn mirror(&self, mut input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> Result<u64, String> {
        let mut elements = 0;
        while let Some(element) = input.recv().await.map_err(|error| error.to_string())? {
            output.send(element).await.map_err(|error| error.to_string())?;
            elements += 1;
        }
        Ok(elements)
    }

    async fn greet(&self) -> Result<String, String> {
        let context = Context::current().ok_or("nobody has called")?;
        let visitor = VisitorClient::new(context.connection());
        let name = visitor.name().await.map_err(|error| error.to_string())?;
        Ok(format!("Hello, {name}! This is process {}.", std::process::id()))
    }

    async fn leave(&self) {
        std::process::exit(0);
    }
}

// ---- The client.

struct Ada;

impl Visitor for Ada {
    async fn name(&self) -> String {
        "Ada".into()
    }
}

#[cfg(target_os = "linux")]
async fn client(folder: &Path) -> Result<(), Failure> {
    let (behind, direct) = (folder.join("proxy.sock"), folder.join("server.sock"));
    let _processes = [Process::start("proxy", &behind)?, Process::start("socket", &direct)?];
    let (behind, direct) = (connect(&behind).await?, connect(&direct).await?);

    let archive = ArchiveClient::new(&behind);
    println!("{}", archive.greet().await?);
    println!("through the proxy:");
    measure(&archive).await?;
    println!("without it:");
    measure(&ArchiveClient::new(&direct)).await?;

    match archive.leave().await {
        Err(error @ (CallError::UpstreamEnded { .. } | CallError::Ended(_))) => println!("{error}"),
        other => return Err(format!("the server has gone, and yet: {other:?}").into()),
    }
    behind.closed().await;
    Ok(())
}

/// Connects as soon as somebody listens.
async fn connect(socket: &Path) -> Result<Connection, Failure> {
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) if start.elapsed() > GRACE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    Ok(stream::connect(stream, Options::new().serve(VisitorDispatcher::new(Ada))).await?)
}

async fn measure(archive: &ArchiveClient) -> Result<(), Failure> {
    let (alone, many) = (calls(archive, 1).await?, calls(archive, 64).await?);
    println!("  {alone:.0} calls/s one by one, {many:.0} calls/s with 64 in flight");
    println!("  {:.0} MB/s each way at once, in one stream there and one back", mirrored(archive).await?);
    Ok(())
}

/// Calls per second, with so many in flight.
async fn calls(archive: &ArchiveClient, in_flight: usize) -> Result<f64, Failure> {
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..in_flight {
        let archive = archive.clone();
        tasks.spawn(async move {
            let (mut data, mut done) = (vec![7; 32], 0_u64);
            while start.elapsed() < TIME {
                data = archive.echo(data).await?;
                done += 1;
            }
            Ok::<_, Failure>(done)
        });
    }
    let mut done = 0;
    while let Some(task) = tasks.join_next().await {
        done += task??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Megabytes per second that go there, and come back.
async fn mirrored(archive: &ArchiveClient) -> Result<f64, Failure> {
    let (tx, input) = channel();
    let (output, mut rx) = channel::<Vec<u8>>();
    let start = Instant::now();
    let send = async {
        let element = vec![7; ELEMENT];
        for _ in 0..ELEMENTS {
            tx.send(element.clone()).await?;
        }
        drop(tx);
        Ok::<_, Failure>(())
    };
    let receive = async {
        let mut bytes = 0;
        while let Some(element) = rx.recv().await? {
            bytes += element.len();
        }
        Ok::<_, Failure>(bytes)
    };
    let (mirrored, sent, received) = tokio::join!(archive.mirror(input, output), send, receive);
    sent?;
    if (mirrored?, received?) != (ELEMENTS as u64, ELEMENTS * ELEMENT) {
        return Err("other elements came back than were sent".into());
    }
    Ok((ELEMENTS * ELEMENT) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Killed and reaped when it is dropped; a cell of its own goes with it.
struct Process(Child);

impl Process {
    fn start(role: &str, socket: &Path) -> Result<Self, Failure> {
        Ok(Process(Command::new(env::current_exe()?).arg(role).arg(socket).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails if it has gone already
        let _ = self.0.wait();
    }
}

/// For how long calls are made.
const TIME: Duration = Duration::from_millis(800);
/// How long a process may take to come.
const GRACE: Duration = Duration::from_secs(5);
const ELEMENT: usize = 16 << 10;
const ELEMENTS: usize = 16 << 10;

#[cfg(target_os = "linux")]
#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = env::args_os().skip(1);
    let (role, socket) = (arguments.next(), arguments.next().map(PathBuf::from).unwrap_or_default());
    match role.as_ref().and_then(|role| role.to_str()) {
        None => client(tempfile::tempdir()?.path()).await,
        Some("proxy") => proxy(&socket).await,
        Some("socket") => server_on_a_socket(&socket).await,
        _ => server().await,
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this example needs shared memory, and so Linux");
}

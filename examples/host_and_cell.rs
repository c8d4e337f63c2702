//! A host starts a cell, and they call each other and stream to each other.
//!
//! ```text
//! cargo run --release --example host_and_cell
//! ```
//!
//! It starts itself a second time, as the cell. Read [`Cell`], [`host`] and [`cell`] first: that is all that a
//! first call takes. Then come a call back, and streams both ways. The rest does the same work over shared memory, a
//! Unix socket and TCP, and prints a table.

use std::{
    env,
    process::{Child, Command},
    time::{Duration, Instant},
};

use adjoin::{Connection, Context, Options, Rx, Tx, channel, stream};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

// ---- Two services.

/// What a cell does for its host.
#[adjoin::service]
trait Cell {
    /// Greets somebody.
    async fn greet(&self, name: String) -> String;

    /// Says what it has heard of its host: calls back, while the host waits for the answer.
    async fn gossip(&self) -> Result<String, String>;

    /// Adds up what the host sends.
    async fn sum(&self, numbers: Rx<u64>) -> Result<u64, String>;

    /// Counts down to zero, as fast as the host receives.
    async fn count_down(&self, from: u32) -> Rx<u32>;

    /// Answers with what it was sent. Done at once, so it runs where the request was read.
    #[adjoin(inline)]
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;

    /// Receives everything, and says how many bytes that was.
    async fn swallow(&self, data: Rx<Vec<u8>>) -> Result<u64, String>;
}

/// What a host does for its cells.
#[adjoin::service]
trait Host {
    /// The language that is spoken here.
    async fn language(&self) -> String;
}

// ---- The host.

#[cfg(target_os = "linux")]
async fn host() -> Result<(), Failure> {
    let mut program = Command::new(env::current_exe()?);
    program.arg("cell");
    let process = adjoin::spawn(program, Options::new().serve(HostDispatcher::new(TheHost))).await?;

    let cell = CellClient::new(process.connection());
    println!("{}", cell.greet("world".into()).await?);

    both_ways(&cell).await?;
    process.stop(Duration::from_secs(1)).await?;
    Ok(())
}

struct TheHost;

impl Host for TheHost {
    async fn language(&self) -> String {
        "English".into()
    }
}

// ---- The cell.

#[cfg(target_os = "linux")]
async fn cell() -> Result<(), Failure> {
    let host = adjoin::cell(Options::new().serve(CellDispatcher::new(TheCell))).await?;
    host.closed().await; // a cell lives as long as its link
    Ok(())
}

struct TheCell;

impl Cell for TheCell {
    async fn greet(&self, name: String) -> String {
        format!("Hello, {name}! This is process {}.", std::process::id())
    }

    async fn gossip(&self) -> Result<String, String> {
        let context = Context::current().ok_or("nobody has called")?;
        let language = HostClient::new(context.connection()).language().await.map_err(text)?;
        Ok(format!("My host speaks {language}."))
    }

    async fn sum(&self, mut numbers: Rx<u64>) -> Result<u64, String> {
        let mut sum = 0;
        while let Some(number) = numbers.recv().await.map_err(text)? {
            sum += number;
        }
        Ok(sum)
    }

    async fn count_down(&self, from: u32) -> Rx<u32> {
        let (tx, rx) = channel();
        tokio::spawn(async move {
            for number in (0..=from).rev() {
                if tx.send(number).await.is_err() {
                    break; // nobody listens any more
                }
            }
        });
        rx
    }

    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }

    async fn swallow(&self, mut data: Rx<Vec<u8>>) -> Result<u64, String> {
        let mut bytes = 0;
        while let Some(element) = data.recv().await.map_err(text)? {
            bytes += element.len() as u64;
        }
        Ok(bytes)
    }
}

/// An error that crosses the link as what it says.
fn text(error: impl ToString) -> String {
    error.to_string()
}

// ---- What comes after the first call.

async fn both_ways(cell: &CellClient) -> Result<(), Failure> {
    println!("{}", cell.gossip().await?);

    let (tx, rx) = channel();
    let send = async {
        for number in 1..=100 {
            tx.send(number).await?;
        }
        drop(tx); // that was all
        Ok::<_, Failure>(())
    };
    let (sum, sent) = tokio::join!(cell.sum(rx), send);
    sent?;
    println!("The numbers from 1 to 100 add up to {}.", sum?);

    let mut numbers = cell.count_down(3).await?;
    while let Some(number) = numbers.recv().await? {
        print!("{number}{}", if number > 0 { " ... " } else { "\n\n" });
    }
    Ok(())
}

// ---- The same over three links.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<_> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        #[cfg(target_os = "linux")]
        ["cell"] => cell().await,
        ["cell", link, address] => remote_cell(link, address).await,
        _ => {
            #[cfg(target_os = "linux")]
            host().await?;
            compare().await
        }
    }
}

/// A cell at the other end of a socket.
async fn remote_cell(link: &str, address: &str) -> Result<(), Failure> {
    let options = Options::new().serve(CellDispatcher::new(TheCell));
    let host = if link == "uds" {
        stream::connect(UnixStream::connect(address).await?, options).await?
    } else {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        stream::connect(socket, options).await?
    };
    host.closed().await;
    Ok(())
}

/// Does the same work over each link, and prints what it took.
async fn compare() -> Result<(), Failure> {
    println!("        1 in flight                    64 in flight  64 B elements            16 KiB elements");
    println!(
        "link       calls/s       p50       p99      calls/s   elements/s      MB/s   elements/s      MB/s"
    );
    #[cfg(target_os = "linux")]
    {
        let mut program = Command::new(env::current_exe()?);
        program.arg("cell");
        let process = adjoin::spawn(program, Options::new()).await?;
        line("shm", process.connection()).await?;
        process.stop(GRACE).await?;
    }
    {
        let directory = TempDir::new()?;
        let path = directory.path().join("link");
        let listener = UnixListener::bind(&path)?;
        let process = Process::start("uds", &path.to_string_lossy())?;
        let (socket, _) = timeout(GRACE, listener.accept()).await??;
        let connection = stream::accept(socket, Options::new()).await?;
        line("uds", &connection).await?;
        process.stop(connection).await?;
    }
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let process = Process::start("tcp", &listener.local_addr()?.to_string())?;
        let (socket, _) = timeout(GRACE, listener.accept()).await??;
        socket.set_nodelay(true)?;
        let connection = stream::accept(socket, Options::new()).await?;
        line("tcp", &connection).await?;
        process.stop(connection).await?;
    }
    println!(
        "\nOn each side one thread and the library's default settings. Calls carry 32 B there and back."
    );
    Ok(())
}

/// Measures one link.
async fn line(link: &str, connection: &Connection) -> Result<(), Failure> {
    let cell = CellClient::new(connection);
    calls(&cell, 1, TIME / 10).await?;
    let start = Instant::now();
    let mut alone = calls(&cell, 1, TIME).await?;
    let per_second = alone.len() as f64 / start.elapsed().as_secs_f64();
    alone.sort_unstable();
    let at = |part: usize| alone[(alone.len() - 1) * part / 100].as_nanos() as f64 / 1e3;
    print!("{link:<7} {per_second:>10.0} {:>6.1} us {:>6.1} us", at(50), at(99));

    calls(&cell, 64, TIME / 10).await?;
    let start = Instant::now();
    let many = calls(&cell, 64, TIME).await?.len();
    print!(" {:>12.0}", many as f64 / start.elapsed().as_secs_f64());

    for size in [64, 16 << 10] {
        elements(&cell, size, TIME / 10).await?;
        let start = Instant::now();
        let arrived = elements(&cell, size, TIME).await?;
        let per_second = arrived as f64 / start.elapsed().as_secs_f64();
        print!(" {per_second:>12.0} {:>9.1}", per_second * size as f64 / 1e6);
    }
    println!();
    Ok(())
}

/// Calls with so many in flight for some time, and says how long each of them took.
async fn calls(cell: &CellClient, in_flight: usize, time: Duration) -> Result<Vec<Duration>, Failure> {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let cell = cell.clone();
        tasks.spawn(async move {
            let (mut data, mut times, mut then) = (vec![7; 32], Vec::new(), Instant::now());
            while then < end {
                data = cell.echo(data).await?;
                let now = Instant::now();
                times.push(now - then);
                then = now;
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    Ok(times)
}

/// Streams to the cell for some time, and says how many elements arrived.
async fn elements(cell: &CellClient, size: usize, time: Duration) -> Result<usize, Failure> {
    let (tx, rx) = channel();
    let (received, sent) = tokio::join!(cell.swallow(rx), feed(tx, size, time));
    let (received, sent) = (received?, sent?);
    if received != (sent * size) as u64 {
        return Err(format!("{sent} elements of {size} B were sent, {received} B arrived").into());
    }
    Ok(sent)
}

async fn feed(tx: Tx<Vec<u8>>, size: usize, time: Duration) -> Result<usize, Failure> {
    let (element, end, mut count) = (vec![7; size], Instant::now() + time, 0);
    while count % 16 != 0 || Instant::now() < end {
        tx.send(element.clone()).await?;
        count += 1;
    }
    Ok(count)
}

/// A cell that this program starts itself, without shared memory. Killed and reaped when it is dropped.
struct Process(Child);

impl Process {
    fn start(link: &str, address: &str) -> Result<Self, Failure> {
        Ok(Process(Command::new(env::current_exe()?).args(["cell", link, address]).spawn()?))
    }

    /// Closes the link, and waits for the cell to go.
    async fn stop(mut self, connection: Connection) -> Result<(), Failure> {
        connection.close().await;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() && start.elapsed() < GRACE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails if it has gone already
        let _ = self.0.wait();
    }
}

/// For how long each figure is measured.
const TIME: Duration = Duration::from_millis(800);
/// How long a cell may take to come, and to go.
const GRACE: Duration = Duration::from_secs(5);

//! A TCP service is made reachable through a cell.
//!
//! ```text
//! cargo run --release --example tunnel
//!
//!   clients ──TCP──> host ══shared memory══> cell ──TCP──> service
//! ```
//!
//! It starts itself a second time, as the cell. The host listens on a port, and carries each connection through a
//! tunnel to the cell, which connects to the service. Read [`Gateway`], [`host`] and [`TheCell`] first. The service is
//! an echo server within the host's process, and its clients are there, too: they check what comes back, and the
//! program says how fast that was, beside the same without a cell in between.

use std::time::Instant;

use adjoin::{
    Connection, Options,
    tunnel::{self, Tunnel, pump},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the cell does for its host.
#[adjoin::service]
trait Gateway {
    /// Carries the tunnel to the service at this address, until both have come to their end: how many bytes went there,
    /// and how many came back.
    async fn connect(&self, address: String, tunnel: Tunnel) -> Result<(u64, u64), String>;
}

// ---- The cell.

struct TheCell;

impl Gateway for TheCell {
    async fn connect(&self, address: String, tunnel: Tunnel) -> Result<(u64, u64), String> {
        let service = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let pumped = pump(service, tunnel).await.map_err(|error| error.to_string())?;
        Ok((pumped.received, pumped.sent))
    }
}

fn serving() -> Options {
    Options::new().serve(GatewayDispatcher::new(TheCell))
}

// ---- The host.

/// Makes the service at `address` reachable at a port of its own.
async fn host(gateway: GatewayClient, listener: TcpListener, address: String) -> Result<(), Failure> {
    loop {
        let (client, _) = listener.accept().await?;
        let (near, far) = tunnel::pair();
        let connected = gateway.connect(address.clone(), far);
        tokio::spawn(async move {
            match tokio::join!(pump(client, near), connected) {
                (Ok(_), Ok((there, back))) => println!("  a client left: {there} bytes there, {back} back"),
                (pumped, connected) => eprintln!("  a client was cut off: {pumped:?}, {connected:?}"),
            }
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    if std::env::args().nth(1).as_deref() == Some("cell") {
        let host = adjoin::cell(serving()).await?;
        host.closed().await;
        return Ok(());
    }
    let (connection, _cell) = start_cell().await?;

    let service = TcpListener::bind("127.0.0.1:0").await?;
    let address = service.local_addr()?.to_string();
    tokio::spawn(echo(service));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.to_string();
    tokio::spawn(host(GatewayClient::new(&connection), listener, address.clone()));

    println!("{CLIENTS} clients, {} MiB each there and back, through the cell:", BYTES >> 20);
    let tunnelled = clients(&port).await?;
    println!("The same without it:");
    let direct = clients(&address).await?;
    println!("{tunnelled:.0} MB/s each way through the cell, {direct:.0} MB/s without it");
    Ok(())
}

#[cfg(target_os = "linux")]
async fn start_cell() -> Result<(Connection, adjoin::Cell), Failure> {
    let mut program = std::process::Command::new(std::env::current_exe()?);
    program.arg("cell");
    let cell = adjoin::spawn(program, Options::new()).await?;
    Ok((cell.connection().clone(), cell))
}

/// Where there is no shared memory, the cell is within this process.
#[cfg(not(target_os = "linux"))]
async fn start_cell() -> Result<(Connection, Connection), Failure> {
    Ok(adjoin::local::pair(Options::new(), serving()))
}

// ---- The service, and its clients.

/// Sends back what it is sent.
async fn echo(listener: TcpListener) -> Result<(), Failure> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        });
    }
}

/// Some clients at once: how many megabytes per second they sent and got back together.
async fn clients(address: &str) -> Result<f64, Failure> {
    let (start, mut clients) = (Instant::now(), JoinSet::new());
    for number in 0..CLIENTS {
        clients.spawn(client(address.to_owned(), number));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok((CLIENTS * BYTES) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Sends its bytes, ends its direction, and checks what comes back.
async fn client(address: String, seed: usize) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK];
    fastrand::Rng::with_seed(seed as u64).fill(&mut block);
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    let sending = {
        let block = block.clone();
        tokio::spawn(async move {
            for _ in 0..BYTES / BLOCK {
                write.write_all(&block).await?;
            }
            write.shutdown().await
        })
    };
    let mut back = vec![0; BLOCK];
    for _ in 0..BYTES / BLOCK {
        read.read_exact(&mut back).await?;
        if back != block {
            return Err("other bytes came back than were sent".into());
        }
    }
    if read.read(&mut back).await? != 0 {
        return Err("more came back than was sent".into());
    }
    sending.await??;
    Ok(())
}

const CLIENTS: usize = 4;
/// Bytes that each client sends.
const BYTES: usize = 128 << 20;
const BLOCK: usize = 1 << 20;

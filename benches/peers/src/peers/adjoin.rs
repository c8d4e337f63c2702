//! adjoin, over shared memory and over a Unix socket, with the same settings as in the library's own benchmark of links: its
//! defaults, and a window for sixteen elements where one does not fit the default window.

use std::{hint::black_box, path::Path};

use adjoin::{
    Address, Bytes, Connection, Context, Options, RecvError, Rx, SendError, Settings, Tx, Waiting, address,
};
use tokio::runtime::Runtime;

use crate::{
    Failure,
    calls::{self, Caller},
    case::{Case, Who, Work as Kind},
    far,
    measure::{Begun, Run},
    payload::{self, FILL, Reading, Totals},
    peer::Peer,
};

/// What the server does for the client.
#[adjoin::service]
trait Work {
    /// Reads what it was sent, and answers with it: the decoded vector itself.
    #[adjoin(inline)]
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;

    /// Reads what it was sent, and answers with as many bytes, which it writes once.
    #[adjoin(inline)]
    async fn echo_lent(&self, data: Bytes) -> Result<Bytes, String>;

    /// Receives a stream to its end. It says when it is there.
    async fn ingest(&self, elements: Rx<Vec<u8>>, ready: Tx<bool>) -> Result<[u64; 3], String>;

    /// As `ingest`, with elements that are not copied.
    async fn ingest_lent(&self, elements: Rx<Bytes>, ready: Tx<bool>) -> Result<[u64; 3], String>;
}

/// The server.
struct Worker(Reading);

impl Work for Worker {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        black_box(payload::sum(&data, self.0));
        data
    }

    async fn echo_lent(&self, data: Bytes) -> Result<Bytes, String> {
        black_box(payload::sum(&data, self.0));
        let context = Context::current().ok_or("a handler has a context")?;
        let mut answer = context.connection().loan(data.len()).await.map_err(|error| error.to_string())?;
        answer.fill(FILL);
        answer[..8].copy_from_slice(&data[..8]);
        Ok(answer.freeze())
    }

    async fn ingest(&self, mut elements: Rx<Vec<u8>>, ready: Tx<bool>) -> Result<[u64; 3], String> {
        ready.send(true).await.map_err(|error: SendError| error.to_string())?;
        drop(ready);
        let mut totals = Totals::default();
        while let Some(element) = elements.recv().await.map_err(|error: RecvError| error.to_string())? {
            totals.read(&element, self.0);
        }
        Ok(totals.to_words())
    }

    async fn ingest_lent(&self, mut elements: Rx<Bytes>, ready: Tx<bool>) -> Result<[u64; 3], String> {
        ready.send(true).await.map_err(|error: SendError| error.to_string())?;
        drop(ready);
        let mut totals = Totals::default();
        while let Some(element) = elements.recv().await.map_err(|error: RecvError| error.to_string())? {
            totals.read(&element, self.0);
        }
        Ok(totals.to_words())
    }
}

/// A connection of adjoin, whatever it is over.
pub(crate) struct Link {
    runtime: Runtime,
    connection: Connection,
    client: WorkClient,
}

impl Peer for Link {
    fn can(case: &Case) -> bool {
        match case.who {
            Who::Uds => !case.work.is_lent(),
            Who::UdsWide => case.work == Kind::Stream,
            _ => true,
        }
    }

    fn serve(case: &Case, directory: &Path) -> Result<(), Failure> {
        let path = directory.join("link");
        let address =
            if matches!(case.who, Who::Uds | Who::UdsWide) { Address::Uds(path) } else { Address::Shm(path) };
        let options =
            Options::new().settings(settings(case)).serve(WorkDispatcher::new(Worker(case.reading())));
        calls::runtime()?.block_on(async {
            let listener = address::listen(&address).await?;
            far::announce(&address.to_string())?;
            let connection = listener.accept().await?.establish(options).await?;
            connection.closed().await;
            Ok(())
        })
    }

    fn open(case: &Case, address: &str) -> Result<Self, Failure> {
        let runtime = calls::runtime()?;
        let address: Address = address.parse()?;
        let options = Options::new().settings(settings(case));
        let connection = runtime.block_on(address::connect(&address, options))?;
        Ok(Link { client: WorkClient::new(connection.clone()), runtime, connection })
    }

    fn work(&mut self, run: &Run) -> Result<u64, Failure> {
        let Link { runtime, connection, client } = self;
        // In a task of its own, as an application's work is.
        let (client, connection, run) = (client.clone(), connection.clone(), run.clone());
        let work = async move {
            match run.case.work {
                Kind::Call => calls::calls(&run, client).await,
                Kind::CallLent => calls_lent(&client, &connection, &run).await,
                Kind::Stream => stream(&client, &run).await,
                Kind::StreamLent | Kind::StreamUntouched => stream_lent(&client, &connection, &run).await,
            }
        };
        runtime.block_on(async { tokio::spawn(work).await? })
    }

    fn close(self) -> Result<(), Failure> {
        self.runtime.block_on(self.connection.close());
        Ok(())
    }
}

impl Caller for WorkClient {
    async fn call(&mut self, data: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(self.echo(data).await?)
    }
}

async fn calls_lent(client: &WorkClient, connection: &Connection, run: &Run) -> Result<u64, Failure> {
    let mut n = 0;
    loop {
        let begun = run.begin(n);
        if begun == Begun::Over {
            return Ok(n);
        }
        let mut data = connection.loan(run.case.size).await?;
        data.fill(FILL);
        payload::stamp(&mut data, n);
        let answer = client.echo_lent(data.freeze()).await?;
        run.end(begun, n, &answer)?;
        n += 1;
    }
}

async fn stream(client: &WorkClient, run: &Run) -> Result<u64, Failure> {
    let (tx, rx) = adjoin::channel();
    let (ready, is_ready) = adjoin::channel();
    let sending = async {
        wait_for(is_ready).await?;
        let mut n = 0;
        while !run.is_over(n) {
            tx.send(run.element(n)).await?;
            n += 1;
        }
        drop(tx);
        Ok::<_, Failure>(n)
    };
    let (received, n) = tokio::join!(client.ingest(rx, ready), sending);
    run.compare(n?, Totals::from_words(received?))
}

async fn stream_lent(client: &WorkClient, connection: &Connection, run: &Run) -> Result<u64, Failure> {
    let (tx, rx) = adjoin::channel();
    let (ready, is_ready) = adjoin::channel();
    let sending = async {
        wait_for(is_ready).await?;
        let mut n = 0;
        while !run.is_over(n) {
            let mut element = connection.loan(run.case.size).await?;
            if run.case.work == Kind::StreamLent {
                element.fill(FILL);
            }
            payload::stamp(&mut element, n);
            tx.send(element.freeze()).await?;
            n += 1;
        }
        drop(tx);
        Ok::<_, Failure>(n)
    };
    let (received, n) = tokio::join!(client.ingest_lent(rx, ready), sending);
    run.compare(n?, Totals::from_words(received?))
}

/// Waits until the receiver is there: before, elements would wait in a window of this process, which is smaller than the link's.
async fn wait_for(mut is_ready: Rx<bool>) -> Result<(), Failure> {
    is_ready.recv().await?;
    Ok(())
}

/// The settings of both sides.
fn settings(case: &Case) -> Settings {
    let waiting = if case.who == Who::ShmSpin { Waiting::Spin } else { Waiting::Adaptive };
    let mut settings = Settings::default().waiting(waiting);
    if case.work.is_lent() {
        settings = trusting(settings);
    }
    if case.who == Who::UdsWide {
        return settings.initial_channel_credit(WIDE).send_buffer(WIDE);
    }
    let (longest, window) = settings.limits();
    let payload = u32::try_from(case.size).unwrap_or(u32::MAX).saturating_add(FRONT);
    if payload <= window {
        return settings;
    }
    let sixteen = payload.saturating_mul(16).max(1 << 20);
    settings.max_payload_size(longest.max(payload)).initial_channel_credit(sixteen).send_buffer(sixteen)
}

#[allow(unsafe_code, reason = "it is how a peer is trusted")]
fn trusting(settings: Settings) -> Settings {
    // SAFETY: both processes are this program, which writes to no block that it has sent.
    unsafe { settings.trust_peer() }
}

/// The window of a stream, and what may wait to be sent, where it is wide.
const WIDE: u32 = 16 << 20;
/// Bytes at most of what stands in front of a vector: a verdict and a length.
const FRONT: u32 = 6;

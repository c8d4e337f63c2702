//! tarpc over a Unix socket: frames with a length, bincode, byte vectors encoded as a whole (`serde_bytes`), and buffers that
//! have room for what is in flight.

use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tarpc::{
    client::Config,
    context,
    serde_transport::{self, Transport},
    server::{BaseChannel, Channel},
    tokio_serde::formats::Bincode,
    tokio_util::codec::{Framed, LengthDelimitedCodec},
};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Runtime,
    task::JoinSet,
};

use crate::{
    Failure,
    calls::{self, Caller},
    case::{Case, Work as Kind},
    far,
    measure::Run,
    payload::{self, Reading, Totals},
    peer::Peer,
};

/// What the server does for the client.
#[tarpc::service]
trait Work {
    /// Reads what it was sent, and answers with it.
    async fn echo(data: ByteBuf) -> ByteBuf;
    /// Reads an element of a stream.
    async fn ingest(element: ByteBuf);
    /// What has been read since it was asked last.
    async fn totals() -> [u64; 3];
}

/// The server.
#[derive(Clone)]
struct Worker {
    reading: Reading,
    totals: Arc<Mutex<Totals>>,
}

impl Work for Worker {
    async fn echo(self, _: context::Context, data: ByteBuf) -> ByteBuf {
        black_box(payload::sum(&data, self.reading));
        data
    }

    async fn ingest(self, _: context::Context, element: ByteBuf) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).read(&element, self.reading);
    }

    async fn totals(self, _: context::Context) -> [u64; 3] {
        std::mem::take(&mut *self.totals.lock().unwrap_or_else(PoisonError::into_inner)).to_words()
    }
}

/// A client of tarpc.
pub(crate) struct Tarpc {
    runtime: Runtime,
    client: WorkClient,
}

impl Peer for Tarpc {
    fn can(case: &Case) -> bool {
        !case.work.is_lent()
    }

    fn serve(case: &Case, directory: &Path) -> Result<(), Failure> {
        calls::runtime()?.block_on(async {
            let path = directory.join("link");
            let listener = UnixListener::bind(&path)?;
            far::announce(&path.to_string_lossy())?;
            let (socket, _) = listener.accept().await?;
            let worker = Worker { reading: case.reading(), totals: Arc::default() };
            // One after the other where they are read: no handler waits for anything.
            let channel = BaseChannel::with_defaults(transport(socket, case));
            channel.execute(worker.serve()).for_each(|handler| handler).await;
            Ok(())
        })
    }

    fn open(case: &Case, address: &str) -> Result<Self, Failure> {
        let runtime = calls::runtime()?;
        let client = runtime.block_on(async {
            let socket = UnixStream::connect(address).await?;
            Ok::<_, Failure>(WorkClient::new(Config::default(), transport(socket, case)).spawn())
        })?;
        Ok(Tarpc { runtime, client })
    }

    fn work(&mut self, run: &Run) -> Result<u64, Failure> {
        let (client, run) = (self.client.clone(), run.clone());
        let work = async move {
            match run.case.work {
                Kind::Call => calls::calls(&run, client).await,
                _ => stream(client, &run).await,
            }
        };
        self.runtime.block_on(async { tokio::spawn(work).await? })
    }

    fn close(self) -> Result<(), Failure> {
        let Tarpc { runtime, client } = self;
        drop(client);
        drop(runtime); // and the task that has the socket
        Ok(())
    }
}

impl Caller for WorkClient {
    async fn call(&mut self, data: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(self.echo(context::current(), ByteBuf::from(data)).await?.into_vec())
    }
}

/// There are no streams: calls whose answer is empty, and as many of them at once as a window has elements, up to a bound.
async fn stream(client: WorkClient, run: &Run) -> Result<u64, Failure> {
    let mut senders = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..run.case.window().min(MOST_CALLS) {
        let (client, run, next) = (client.clone(), run.clone(), next.clone());
        senders.spawn(async move {
            let mut n = 0;
            loop {
                let number = next.load(Ordering::Relaxed);
                if run.is_over(number) {
                    return Ok::<u64, Failure>(n); // and so do the others, at the same number
                }
                next.store(number + 1, Ordering::Relaxed); // all of them run on one thread
                client.ingest(context::current(), ByteBuf::from(run.element(number))).await?;
                n += 1;
            }
        });
    }
    let mut n = 0;
    while let Some(done) = senders.join_next().await {
        n += done??;
    }
    run.compare(n, Totals::from_words(client.totals(context::current()).await?))
}

/// A bound that was chosen, and not searched for: there are this many tasks.
const MOST_CALLS: usize = 256;

/// Frames on a socket, whose buffers have room for many small messages, or for a whole long one.
fn transport<Item, SinkItem>(
    socket: UnixStream,
    case: &Case,
) -> Transport<UnixStream, Item, SinkItem, Bincode<Item, SinkItem>>
where
    Item: for<'a> Deserialize<'a>,
    SinkItem: Serialize,
{
    let room = (case.size * 2).max(64 << 10);
    let mut frames = Framed::with_capacity(socket, LengthDelimitedCodec::new(), room);
    frames.set_backpressure_boundary(room);
    serde_transport::new(frames, Bincode::default())
}

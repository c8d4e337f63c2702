//! tonic over a Unix socket: HTTP/2 with large windows and frames, prost messages, no compression, and buffers that have room for
//! a message. The service's code is made from a description in `build.rs`, as it would be from a `.proto` file.

use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::{StreamExt, future, stream};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Runtime,
    sync::Notify,
};
use tonic::{
    Request, Response, Status, Streaming,
    codec::BufferSettings,
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use self::made::{
    work_client::WorkClient,
    work_server::{Work, WorkServer},
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

#[allow(unreachable_pub, clippy::too_many_lines, reason = "it is made")]
mod made {
    tonic::include_proto!("peers.Work");
}

/// A payload or an element.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// What a stream was.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sums {
    #[prost(fixed64, tag = "1")]
    count: u64,
    #[prost(fixed64, tag = "2")]
    bytes: u64,
    #[prost(fixed64, tag = "3")]
    sum: u64,
}

/// The server.
struct Worker {
    reading: Reading,
    end: Arc<Notify>,
}

#[tonic::async_trait]
impl Work for Worker {
    async fn echo(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let payload = request.into_inner();
        black_box(payload::sum(&payload.data, self.reading));
        Ok(Response::new(payload))
    }

    async fn ingest(&self, request: Request<Streaming<Payload>>) -> Result<Response<Sums>, Status> {
        let mut elements = request.into_inner();
        let mut totals = Totals::default();
        while let Some(element) = elements.message().await? {
            totals.read(&element.data, self.reading);
        }
        let Totals { count, bytes, sum } = totals;
        Ok(Response::new(Sums { count, bytes, sum }))
    }

    async fn end(&self, _: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.end.notify_one();
        Ok(Response::new(Payload::default()))
    }
}

/// A client of tonic.
pub(crate) struct Tonic {
    runtime: Runtime,
    client: WorkClient<Channel>,
}

impl Peer for Tonic {
    fn can(case: &Case) -> bool {
        !case.work.is_lent()
    }

    fn serve(case: &Case, directory: &Path) -> Result<(), Failure> {
        BUFFER.store(buffer(case), Ordering::Relaxed);
        calls::runtime()?.block_on(async {
            let path = directory.join("link");
            let listener = UnixListener::bind(&path)?;
            far::announce(&path.to_string_lossy())?;
            let (socket, _) = listener.accept().await?;
            let end = Arc::new(Notify::new());
            let worker = Worker { reading: case.reading(), end: end.clone() };
            let served = Server::builder()
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_frame_size(FRAME)
                // Without a router: there is one service.
                .serve_with_incoming(WorkServer::new(worker).max_decoding_message_size(MOST), only(socket));
            // It has no end of its own: the client asks for it.
            match future::select(Box::pin(served), Box::pin(end.notified())).await {
                future::Either::Left((served, _)) => Ok(served?),
                future::Either::Right(_) => Ok(()),
            }
        })
    }

    fn open(case: &Case, address: &str) -> Result<Self, Failure> {
        BUFFER.store(buffer(case), Ordering::Relaxed);
        let runtime = calls::runtime()?;
        let endpoint = Endpoint::from_shared(format!("unix://{address}"))?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME);
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Tonic { runtime, client: WorkClient::new(channel).max_decoding_message_size(MOST) })
    }

    fn work(&mut self, run: &Run) -> Result<u64, Failure> {
        let (client, run) = (self.client.clone(), run.clone());
        let work = async move {
            match run.case.work {
                Kind::Call => calls::calls(&run, client).await,
                _ => ingest(client, run).await,
            }
        };
        self.runtime.block_on(async { tokio::spawn(work).await? })
    }

    fn close(self) -> Result<(), Failure> {
        let Tonic { runtime, mut client } = self;
        // The server may be gone before it has answered.
        let _ = runtime.block_on(client.end(Payload::default()));
        Ok(())
    }
}

impl Caller for WorkClient<Channel> {
    async fn call(&mut self, data: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(self.echo(Payload { data }).await?.into_inner().data)
    }
}

/// A stream that always has its next element ready: the library takes as many as it has room for.
async fn ingest(mut client: WorkClient<Channel>, run: Run) -> Result<u64, Failure> {
    let sent = Arc::new(AtomicU64::new(0));
    let (elements, number) = (run.clone(), sent.clone());
    let elements = std::iter::from_fn(move || {
        let n = number.load(Ordering::Relaxed);
        let data = (!elements.is_over(n)).then(|| elements.element(n))?;
        number.store(n + 1, Ordering::Relaxed);
        Some(Payload { data })
    });
    let Sums { count, bytes, sum } = client.ingest(stream::iter(elements)).await?.into_inner();
    run.compare(sent.load(Ordering::Relaxed), Totals { count, bytes, sum })
}

/// The only client.
fn only(socket: UnixStream) -> impl stream::Stream<Item = Result<UnixStream, std::io::Error>> {
    stream::iter([Ok(socket)]).chain(stream::pending())
}

/// Of a stream and of the connection.
const WINDOW: u32 = 16 << 20;
/// The longest frame.
const FRAME: u32 = 1 << 20;
/// The longest message.
const MOST: usize = 64 << 20;

/// The codec of prost, with a [buffer](buffer()) of another size.
#[derive(Clone, Debug)]
pub(crate) struct Codec<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(std::marker::PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: prost::Message + 'static,
    U: prost::Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    let size = BUFFER.load(Ordering::Relaxed);
    BufferSettings::new(size, size)
}

/// The size of a codec's buffer: a codec is made without arguments, in each call.
static BUFFER: AtomicUsize = AtomicUsize::new(0);

/// Room for a message with what stands in front of it, for many elements of a stream, and no less than is usual.
fn buffer(case: &Case) -> usize {
    let least = if case.work == Kind::Stream { 64 << 10 } else { 8 << 10 };
    (case.size + 64).max(least)
}

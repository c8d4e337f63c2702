//! Two connections that belong together: what is called on one arrives at the other's peer.

use std::{pin::pin, time::Duration};

use futures_util::future::{Either, select};

use super::{AlreadyBound, LateBound};
use crate::{
    rpc::{
        caller::Caller,
        connect::ConnectOptions,
        connection::{Connection, WeakConnection},
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::ConnectError,
        incoming::IncomingConnection,
        method::Service,
    },
    session::metadata::Metadata,
};

/// A client's connection, and the one behind the proxy that stands for it. Made by [`pair`].
///
/// The two end together: when either side closes its connection, or loses it, the other is closed, as soon as what the
/// one had sent before has reached the other's peer, or a second later. Dropping this changes nothing.
#[derive(Debug)]
pub struct Pair {
    /// To the client.
    pub client: Connection,
    /// The virtual connection behind the proxy.
    pub upstream: Connection,
}

/// Why a client was not [paired](pair).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// There is no virtual connection for it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What serves the client is bound already.
    #[error(transparent)]
    AlreadyBound(#[from] AlreadyBound),
}

/// Gives a client a virtual connection of its own on the link `upstream`, and passes on what either side calls.
///
/// `late` is what the client's link serves: it has to be named before the client's connection exists. Let some calls
/// [wait](LateBound::waiting) in it, since the client may call as soon as it is connected. `metadata` goes along with
/// the Connect, and may say who the client is.
///
/// ```no_run
/// # async fn serve(socket: tokio::net::UnixStream, upstream: &adjoin::Connection)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use adjoin::{Metadata, Options, proxy::{LateBound, pair}, stream};
///
/// let late = LateBound::new().waiting(64);
/// let client = stream::accept(socket, Options::new().serve(late.clone())).await?;
/// let pair = pair(client, &late, upstream, Metadata::new()).await?;
/// pair.client.closed().await;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// There is no such virtual connection, or `late` is bound already. The client is closed then.
pub async fn pair(
    client: Connection,
    late: &LateBound,
    upstream: &Connection,
    metadata: Metadata,
) -> Result<Pair, PairError> {
    let options = ConnectOptions::new().metadata(metadata).serve(Back::to(&client));
    let paired = match connect_for(&client, upstream, options).await {
        Ok(upstream) => match late.bind(Back::to(&upstream)) {
            Ok(()) => Ok(upstream),
            Err(error) => Err(PairError::AlreadyBound(error)),
        },
        Err(error) => Err(PairError::Connect(error)),
    };
    match paired {
        Ok(upstream) => Ok(tie(client, upstream)),
        Err(error) => {
            client.close().await;
            Err(error)
        }
    }
}

/// For [`Options::on_connect`](crate::Options::on_connect): each virtual connection that a client opens gets one on the
/// link `upstream`, with the same metadata, and what either side calls is passed on.
///
/// What the peer there answers is the client's answer: its metadata, or its rejection and the reason.
///
/// ```
/// use adjoin::{Connection, Options, proxy::pass_connections};
///
/// fn options(upstream: &Connection) -> Options {
///     Options::new().on_connect(pass_connections(upstream))
/// }
/// ```
///
/// It keeps `upstream` open. To be called where a tokio runtime is, whose tasks ask upstream.
pub fn pass_connections(upstream: &Connection) -> impl Fn(IncomingConnection) + Send + Sync + 'static {
    let (upstream, runtime) = (upstream.clone(), tokio::runtime::Handle::current());
    move |incoming| {
        let upstream = upstream.clone();
        drop(runtime.spawn(pass_connection(incoming, upstream)));
    }
}

async fn pass_connection(incoming: IncomingConnection, upstream: Connection) {
    // Served by the client's connection, which exists once it is accepted; what comes before that waits.
    let late = LateBound::new().waiting(WAITING);
    let options = ConnectOptions::new().metadata(incoming.metadata().clone()).serve(late.clone());
    let upstream = match connect_for(incoming.link(), &upstream, options).await {
        Ok(upstream) => upstream,
        Err(ConnectError::Rejected { reason, metadata }) => {
            let _ = incoming.reject_with(&reason, &metadata); // which tells the client in any case
            return;
        }
        Err(error) => return incoming.reject(&error.to_string()),
    };
    let options = ConnectOptions::new().metadata(upstream.metadata().clone()).serve(Back::to(&upstream));
    match incoming.accept(options) {
        Ok(client) => {
            let _ = late.bind(Back::to(&client)); // nobody else has it
            tie(client, upstream);
        }
        Err(error) => tracing::debug!(%error, "a client's connection could not be accepted"),
    }
}

/// Calls that may wait on a connection whose counterpart is about to be accepted.
const WAITING: usize = 64;

/// Opens a virtual connection for a client, unless that is gone first.
async fn connect_for(
    client: &Connection,
    upstream: &Connection,
    options: ConnectOptions,
) -> Result<Connection, ConnectError> {
    match select(pin!(upstream.connect(options)), pin!(client.closed())).await {
        Either::Left((connected, _)) => connected,
        Either::Right((end, _)) => Err(end.into()),
    }
}

/// The end of one is the end of the other.
fn tie(client: Connection, upstream: Connection) -> Pair {
    let (one, other) = (client.clone(), upstream.clone());
    drop(client.spawn(async move {
        let left = match select(pin!(one.closed()), pin!(other.closed())).await {
            Either::Left(_) => &other,
            Either::Right(_) => &one,
        };
        // What one side had said before its end, an answer or the rest of a stream, is still on its way to the other.
        let _ = left.drain(PATIENCE).await;
    }));
    Pair { client, upstream }
}

/// How long a side may take to receive the last things that came from the other one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes calls on to the other one of two connections. Not [`Forward`](super::Forward): each would keep the other
/// open for good.
struct Back {
    to: WeakConnection,
}

impl Back {
    fn to(connection: &Connection) -> Self {
        Back { to: connection.downgrade() }
    }
}

impl ServiceDispatcher for Back {
    fn service(&self) -> &'static Service {
        &super::PASSED_ON
    }

    fn services(&self) -> Vec<&'static Service> {
        Vec::new()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        match self.to.upgrade() {
            Some(connection) => request.forward(&Caller::from(connection)),
            None => request.reject("the connection behind the proxy is closed"),
        }
    }
}

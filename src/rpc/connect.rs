//! Opening a virtual connection from this side.

use std::{fmt, future::poll_fn, sync::Arc};

use super::{
    connection::Connection,
    dispatch::ServiceDispatcher,
    errors::{ConnectError, EncodeError, Refusal},
    hub::Place,
    slot::{ConnectOutcome, ConnectSlot},
};
use crate::session::metadata::Metadata;

/// What one side brings to a virtual connection: metadata for the peer, and the service that it offers.
///
/// For [`Connection::connect`], and for [`IncomingConnection::accept`](crate::IncomingConnection::accept).
#[derive(Clone, Default)]
#[must_use]
pub struct ConnectOptions {
    pub(crate) metadata: Metadata,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
}

impl ConnectOptions {
    /// No metadata, and no service: what the peer calls is answered "unknown method".
    pub fn new() -> Self {
        ConnectOptions::default()
    }

    /// Sends metadata along. What is beyond the limits of [`Metadata`] is refused.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// The service that the peer can call on the connection.
    pub fn serve(mut self, dispatcher: impl ServiceDispatcher) -> Self {
        self.dispatcher = Some(Arc::new(dispatcher));
        self
    }

    /// The metadata as it goes out.
    pub(crate) fn encoded_metadata(&self) -> Result<Vec<u8>, Refusal> {
        encoded(&self.metadata)
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("metadata", &self.metadata)
            .field("service", &self.dispatcher.as_ref().map(|dispatcher| dispatcher.service().name))
            .finish()
    }
}

/// Metadata as it goes out, within its limits.
pub(crate) fn encoded(metadata: &Metadata) -> Result<Vec<u8>, Refusal> {
    if metadata.is_empty() {
        return Ok(Vec::new()); // as nearly always
    }
    metadata.check()?;
    let encoded = if metadata.get(Metadata::DESCRIPTORS).is_some() {
        let mut allowed = metadata.clone();
        allowed.drop_reserved();
        allowed.encode()
    } else {
        metadata.encode()
    };
    encoded.map_err(|error| Refusal::Serialize(EncodeError::new(error)))
}

/// A Connect of ours: who waits for its answer, and what is to serve the connection.
#[derive(Clone)]
pub(crate) struct Connecting {
    pub(crate) slot: Arc<ConnectSlot>,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
}

/// Asks the peer for a connection, and waits for its answer.
pub(crate) async fn connect(link: &Connection, options: ConnectOptions) -> Result<Connection, ConnectError> {
    let metadata = options.encoded_metadata()?;
    let slot = ConnectSlot::new();
    let connecting = Connecting { slot: Arc::clone(&slot), dispatcher: options.dispatcher };
    let waiting = Waiting { slot };
    let hub = link.hub();
    let mut place = Place::default();
    poll_fn(|cx| hub.poll_attempt(cx, &mut place, |_| hub.send_connect(&connecting, &metadata))).await?;
    match poll_fn(|cx| waiting.slot.poll(cx)).await {
        ConnectOutcome::Accepted(connection) => Ok(connection),
        ConnectOutcome::Rejected { reason, metadata } => Err(ConnectError::Rejected { reason, metadata }),
        ConnectOutcome::IdInUse { conn_id } => Err(ConnectError::IdInUse { conn_id }),
        ConnectOutcome::Ended(end) => Err(ConnectError::Ended(end)),
    }
}

/// The caller of [`connect`]. Dropped while it waits: a connection that comes is closed, since nobody holds it.
struct Waiting {
    slot: Arc<ConnectSlot>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.slot.close();
    }
}

//! Virtual connections that the peer asks for.

use std::fmt;

use super::{
    connect::{ConnectOptions, encoded},
    connection::Connection,
    errors::{ConnectError, Refusal},
};
use crate::session::metadata::Metadata;

/// What decides on them.
pub(crate) type OnConnect = dyn Fn(IncomingConnection) + Send + Sync;

/// A virtual connection that the peer asks for: to be [accepted](IncomingConnection::accept) or
/// [rejected](IncomingConnection::reject). Dropped undecided, it is rejected.
///
/// While it waits it counts as one of the link's connections, of which there may be
/// [`Settings::max_connections`](crate::Settings::max_connections), and keeps the link open.
#[must_use = "dropped undecided it is rejected"]
pub struct IncomingConnection {
    link: Connection,
    request_id: u64,
    metadata: Metadata,
    decided: bool,
}

impl IncomingConnection {
    /// Bytes of a [rejection](IncomingConnection::reject)'s reason at most.
    pub const MAX_REASON: usize = 1024;

    pub(crate) fn new(link: Connection, request_id: u64, metadata: Metadata) -> Self {
        IncomingConnection { link, request_id, metadata, decided: false }
    }

    /// What the peer sent along.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The root of the link on which it came.
    #[must_use]
    pub fn link(&self) -> &Connection {
        &self.link
    }

    /// Accepts: the connection is open, and what the peer calls on it is served. It stays open while the handle
    /// that is returned does.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Refused`] when the metadata is beyond its limits or longer than the link carries (the peer gets
    /// a rejection then), and [`ConnectError::Ended`] when the link is over.
    pub fn accept(mut self, options: ConnectOptions) -> Result<Connection, ConnectError> {
        let metadata = options.encoded_metadata()?;
        self.decided = true;
        let asked_with = std::mem::take(&mut self.metadata);
        let hub = self.link.hub();
        hub.accept_connect(&self.link, self.request_id, options.dispatcher, asked_with, &metadata)
    }

    /// Rejects, with a reason that the peer is shown. One that is longer than
    /// [`MAX_REASON`](IncomingConnection::MAX_REASON) is cut there.
    pub fn reject(mut self, reason: &str) {
        let mut end = reason.len().min(Self::MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        // Without metadata it fits every link.
        let _ = self.reject_now(&reason[..end], &[]);
    }

    /// Rejects, with a reason and metadata.
    ///
    /// # Errors
    ///
    /// When either is beyond its limits, or both are longer than the link carries; the peer gets a rejection without
    /// them then.
    pub fn reject_with(mut self, reason: &str, metadata: &Metadata) -> Result<(), Refusal> {
        if reason.len() > Self::MAX_REASON {
            return Err(Refusal::ReasonTooLong { len: reason.len(), limit: Self::MAX_REASON });
        }
        let metadata = encoded(metadata)?;
        self.reject_now(reason, &metadata)
    }

    fn reject_now(&mut self, reason: &str, metadata: &[u8]) -> Result<(), Refusal> {
        self.decided = true;
        self.link.hub().reject_connect(self.request_id, reason, metadata)
    }
}

impl Drop for IncomingConnection {
    fn drop(&mut self) {
        if !self.decided {
            let _ = self.reject_now(UNDECIDED, &[]);
        }
    }
}

impl fmt::Debug for IncomingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingConnection").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

/// The reason where nobody takes connections.
pub(crate) const NOT_LISTENING: &str = "not listening";
/// The reason where it was dropped.
pub(crate) const UNDECIDED: &str = "not accepted";

//! The handle of a connection.

use std::{fmt, sync::Arc};

use super::{
    call::Call,
    driver::Driver,
    hub::{Hub, HubParts},
    method::Method,
    options::Options,
    outgoing::Outgoing,
    wire::Arguments,
};
use crate::{error::LinkEnd, link::Parts, session::Session};

/// A connection to a peer. Calls go out on it, and what the peer calls is served on it.
///
/// Cheap to clone; all clones are the same connection. The link stays open while there is a clone, or a
/// client, a call or a stream made from one; when the last is gone, the peer is told goodbye.
///
/// ```
/// use adjoin::{LinkEnd, Options, local};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (here, there) = local::pair(Options::new(), Options::new());
/// assert!(there.end().is_none());
/// here.close().await;
/// assert!(matches!(there.closed().await, LinkEnd::Goodbye { reason } if reason.is_empty()));
/// # });
/// ```
#[derive(Clone)]
pub struct Connection {
    guard: Arc<Guard>,
}

/// Closes the link when the last handle is gone.
pub(crate) struct Guard {
    hub: Arc<Hub>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hub.request_end(LinkEnd::Closed);
    }
}

impl Connection {
    /// Takes a link into service: starts its driver on the current runtime.
    pub(crate) fn start(parts: Parts, options: &Options) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let session = Session::new(parts.role, parts.limits, options.settings.max_concurrent_requests);
        let hub = Hub::new(HubParts {
            limits: parts.limits,
            session,
            out: Outgoing::new(parts.sender, options.settings.max_parked_messages),
            receiver: parts.receiver,
            credit: parts.credit,
            interrupt: parts.interrupt,
            runtime: runtime.clone(),
            dispatcher: options.dispatcher.clone(),
        });
        let guard = Arc::new(Guard { hub: Arc::clone(&hub) });
        hub.set_guard(Arc::downgrade(&guard));
        drop(runtime.spawn(Driver::new(hub, parts.watcher)));
        Connection { guard }
    }

    pub(crate) fn from_guard(guard: Arc<Guard>) -> Self {
        Connection { guard }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.guard.hub
    }

    /// Prepares a call of a method; generated clients do this.
    pub fn call<A: Arguments, T, E>(&self, method: &'static Method, arguments: A) -> Call<A, T, E> {
        Call::new(self.clone(), method, arguments)
    }

    /// Waits for the end of the link and says how it ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> LinkEnd {
        self.hub().wait_for_end().await
    }

    /// How the link ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<LinkEnd> {
        self.hub().ended().cloned()
    }

    /// Closes the link now: the peer is told goodbye, and everything that is open fails with
    /// [`LinkEnd::Closed`]. Returns when that is done.
    ///
    /// # Cancel safety
    ///
    /// The link closes also if the future is dropped.
    pub async fn close(&self) {
        self.hub().request_end(LinkEnd::Closed);
        self.closed().await;
    }

    /// The limits that both peers agreed on: maximum payload and initial channel credit, in bytes.
    #[must_use]
    pub fn limits(&self) -> (u32, u32) {
        let limits = self.hub().limits;
        (limits.max_payload_size, limits.initial_channel_credit)
    }
}

impl From<&Connection> for Connection {
    fn from(connection: &Connection) -> Self {
        connection.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("end", &self.hub().ended()).finish_non_exhaustive()
    }
}

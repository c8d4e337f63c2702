//! What this side knows of one connection: who serves it, who holds it, and how it ended.
//!
//! ```text
//!   Connection ──> Guard ──> ConnectionState <── session
//!   (handles)       │  └───> Hub                 (while it is open)
//!                   └──────> the link's own Guard, if it is a virtual connection
//! ```
//!
//! The session finds the handle of a message that arrives through a weak reference, so that it keeps nothing
//! open. The last handle closes the connection: not at once, since it may go anywhere, under any lock; the link's
//! driver is told.

use std::{
    pin::pin,
    sync::{Arc, OnceLock, Weak},
};

use tokio::sync::Notify;

use super::{connection::Connection, dispatch::ServiceDispatcher, hub::Hub};
use crate::{
    error::LinkEnd,
    session::{connections::ConnKey, metadata::Metadata},
};

/// One connection of a link. See the module's documentation.
pub(crate) struct ConnectionState {
    pub(crate) key: ConnKey,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
    /// What came with its Connect or its Accept.
    pub(crate) metadata: Metadata,
    guard: OnceLock<Weak<Guard>>,
    ended: OnceLock<LinkEnd>,
    /// Tells those who wait for the end.
    closed: Notify,
}

impl ConnectionState {
    pub(crate) fn new(
        key: ConnKey,
        dispatcher: Option<Arc<dyn ServiceDispatcher>>,
        metadata: Metadata,
    ) -> Arc<Self> {
        Arc::new(ConnectionState {
            key,
            dispatcher,
            metadata,
            guard: OnceLock::new(),
            ended: OnceLock::new(),
            closed: Notify::new(),
        })
    }

    /// A handle for what arrives; `None` while the connection is closing.
    pub(crate) fn handle(&self) -> Option<Connection> {
        self.guard.get()?.upgrade().map(Connection::from_guard)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<&LinkEnd> {
        self.ended.get()
    }

    /// How it ended, for those who find it closed.
    pub(crate) fn end(&self) -> LinkEnd {
        self.ended.get().cloned().unwrap_or(LinkEnd::Closed)
    }

    /// It is over: `false` if it was already.
    pub(crate) fn set_ended(&self, end: LinkEnd) -> bool {
        self.ended.set(end).is_ok()
    }

    /// Wakes those who wait for the end, after everything that was open has failed.
    pub(crate) fn tell(&self) {
        self.closed.notify_waiters();
    }

    /// Waits for the end.
    pub(crate) async fn wait_for_end(&self) -> LinkEnd {
        loop {
            let mut told = pin!(self.closed.notified());
            told.as_mut().enable(); // from here on nothing is missed
            if let Some(end) = self.ended.get() {
                return end.clone();
            }
            told.await;
        }
    }
}

/// What all handles of a connection share. Closes it when the last is gone.
pub(crate) struct Guard {
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: Arc<ConnectionState>,
    /// A virtual connection keeps its link open.
    pub(crate) link: Option<Connection>,
}

impl Guard {
    /// The first handle of a connection.
    pub(crate) fn first(hub: Arc<Hub>, state: Arc<ConnectionState>, link: Option<Connection>) -> Connection {
        let guard = Arc::new(Guard { hub, state, link });
        let _ = guard.state.guard.set(Arc::downgrade(&guard));
        Connection::from_guard(guard)
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("id", &self.state.key.id).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hub.leave(self.state.key);
    }
}

//! Virtual connections of a link: asked for, accepted, rejected, closed (protocol section 7).

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Hub, Local, end::fail};
use crate::{
    error::{ConnectionEnd, LinkEnd, Violation},
    link::{Head, SendFault, message::NoBody},
    rpc::{
        channel::{Channel, End},
        connect::Connecting,
        connection::Connection,
        dispatch::ServiceDispatcher,
        errors::{ConnectError, Obstacle, Refusal, sort},
        incoming::UNDECIDED,
        state::{ConnectionState, Guard},
        waiters::{lock, wake_all},
    },
    session::{
        LeftOpen,
        connections::{ConnKey, TooMany},
        metadata::Metadata,
    },
};

/// Connections whose last handle is gone, until the driver closes them.
#[derive(Default)]
pub(super) struct Leaving {
    keys: Mutex<Vec<ConnKey>>,
    any: AtomicBool,
}

impl Hub {
    /// Asks the peer for a connection.
    pub(crate) fn send_connect(
        &self,
        connecting: &Connecting,
        metadata: &[u8],
    ) -> Result<(), Obstacle<ConnectError>> {
        let mut session = lock(&self.session);
        if let Some(end) = self.ended() {
            return Err(Obstacle::Final(end.clone().into()));
        }
        if let Err(TooMany { limit }) = session.connections.check_limit() {
            return Err(Obstacle::Final(Refusal::TooManyConnections { limit }.into()));
        }
        let request_id = session.connections.next_request();
        let mut out = lock(&self.out);
        self.noted(out.send(&Head::Connect { request_id, metadata }, &mut NoBody)).map_err(sort)?;
        session.connections.start(connecting.clone());
        self.publish_soon(&mut out);
        Ok(())
    }

    /// Accepts a Connect of the peer's: opens the connection, and tells the peer.
    pub(crate) fn accept_connect(
        self: &Arc<Self>,
        link: &Connection,
        request_id: u64,
        dispatcher: Option<Arc<dyn ServiceDispatcher>>,
        asked_with: Metadata,
        metadata: &[u8],
    ) -> Result<Connection, ConnectError> {
        let mut session = lock(&self.session);
        if let Some(end) = self.ended() {
            return Err(end.clone().into());
        }
        let mut state = None;
        let opened = session.accept(request_id, |key| {
            let made = ConnectionState::new(key, dispatcher, asked_with);
            Arc::clone(state.insert(made))
        });
        let (Some(key), Some(state)) = (opened, state) else { return Err(LinkEnd::Closed.into()) };
        // Before anything can arrive for it.
        let connection = Guard::first(Arc::clone(self), state, Some(link.clone()));
        let sent = self.send_parkable(&Head::Accept { request_id, conn_id: key.id, metadata });
        // It never was, then.
        let open = if sent.is_err() { session.close(key) } else { None };
        if sent.is_err() {
            let _ = self.send_parkable(&Head::Reject { request_id, reason: UNDECIDED, metadata: &[] });
        }
        drop(session);
        drop(open); // outside of the lock
        sent.map(|()| connection).map_err(ConnectError::Refused)
    }

    /// Rejects a Connect of the peer's.
    pub(crate) fn reject_connect(
        &self,
        request_id: u64,
        reason: &str,
        metadata: &[u8],
    ) -> Result<(), Refusal> {
        let mut session = lock(&self.session);
        if self.ended().is_some() || !session.reject(request_id) {
            return Ok(());
        }
        let sent = self.send_parkable(&Head::Reject { request_id, reason, metadata });
        if sent.is_err() {
            let _ = self.send_parkable(&Head::Reject { request_id, reason: UNDECIDED, metadata: &[] });
        }
        sent
    }

    /// Rejects a Connect of the peer's that the session took no note of.
    pub(crate) fn reject_unasked(&self, request_id: u64, limit: usize) {
        let reason = format!("too many connections: at most {limit} on this link");
        self.send_or_park(&Head::Reject { request_id, reason: &reason, metadata: &[] });
    }

    /// The last handle of a connection is gone. Called from anywhere, under any lock.
    pub(crate) fn leave(&self, key: ConnKey) {
        if key.is_root() {
            self.request_end(LinkEnd::Closed);
            return;
        }
        lock(&self.leaving.keys).push(key);
        // Release: pairs with the Acquire in `close_left`.
        self.leaving.any.store(true, Ordering::Release);
        self.wake_driver();
    }

    /// Closes the connections whose last handle is gone.
    pub(crate) fn close_left(&self) {
        // Acquire: pairs with the Release in `leave`. Looked at first: an exchange is a locked instruction.
        if !self.leaving.any.load(Ordering::Acquire) || !self.leaving.any.swap(false, Ordering::Acquire) {
            return;
        }
        let keys = mem::take(&mut *lock(&self.leaving.keys));
        for key in keys {
            self.close_connection(key, ConnectionEnd::Closed);
        }
    }

    /// Ends a virtual connection from this side, and tells the peer. Nothing, if it is over. Under no lock.
    pub(crate) fn close_connection(&self, key: ConnKey, end: ConnectionEnd) {
        let mut session = lock(&self.session);
        let Some(open) = session.close(key) else { return };
        let reason = match &end {
            ConnectionEnd::Violation(violation) => violation.rule(),
            ConnectionEnd::Closed | ConnectionEnd::Goodbye { .. } => "",
        };
        open.local.set_ended(end.clone().into());
        // First, since elements are sent without the session: none follows the Goodbye.
        let over = |channel: &Arc<Channel>| channel.set_end(End::Link(end.clone().into()));
        let wakers = open.channels.iter().flat_map(over).collect();
        let _ = self.send_parkable(&Head::Goodbye { conn_id: key.id, reason });
        drop(session);
        wake_all(wakers);
        self.connection_over(open, end);
    }

    /// Fails all that was open on a virtual connection, which the session has closed. Under no lock.
    pub(crate) fn connection_over(&self, open: LeftOpen<Local>, end: ConnectionEnd) {
        tracing::debug!(conn_id = open.local.key.id, %end, "a virtual connection ended");
        let end = LinkEnd::from(end);
        open.local.set_ended(end.clone());
        // The link goes on: what the channels had of it is free for others.
        for remote in open.channels.iter().filter_map(|channel| channel.remote()).filter(|remote| remote.own)
        {
            self.give_back(remote.reference.slot);
        }
        fail(open, &end);
        self.quieter();
    }

    /// The peer broke a rule: it is told, and the connection or the link ends. Returns how that looks to those
    /// who were using it. Under no lock.
    pub(crate) fn violated(&self, key: ConnKey, violation: Violation) -> LinkEnd {
        if key.is_root() {
            let end = LinkEnd::Violation(violation);
            self.request_end(end.clone());
            return end;
        }
        let end = ConnectionEnd::Violation(violation);
        self.close_connection(key, end.clone());
        end.into()
    }

    /// Sends what nobody waits for on a connection, unless that is over: nothing follows its Goodbye. Under no lock.
    pub(crate) fn send_on(&self, key: ConnKey, head: &Head<'_>) {
        if key.is_root() {
            return self.send_or_park(head);
        }
        let mut session = lock(&self.session);
        if session.connection(key).is_some() {
            let _ = self.send_parkable(head);
        }
    }

    /// Sends a message that nobody waits for under the session's lock; it is parked when the link is full. `Err`: it
    /// is longer than the link carries, which only one with metadata of the application's can be.
    pub(super) fn send_parkable(&self, head: &Head<'_>) -> Result<(), Refusal> {
        let mut out = lock(&self.out);
        let sent = out.send_or_park(head, &mut NoBody);
        self.publish_soon(&mut out);
        match sent {
            Err(SendFault::NoMemory { len, kind }) => Err(Refusal::NoMemory { len, kind }),
            Err(SendFault::TooLarge { len, limit, setting }) => {
                Err(Refusal::MessageTooLarge { len, limit, setting })
            }
            Err(SendFault::Ended(end)) => {
                self.request_end(end);
                Ok(()) // nobody is left to hear it
            }
            Ok(()) | Err(SendFault::Full | SendFault::Encode(_)) => Ok(()),
        }
    }

    /// From now on the peer's requests on a connection are refused.
    pub(crate) fn start_draining(&self, key: ConnKey) {
        lock(&self.session).drain(key);
        // Relaxed: what is looked at behind it is behind the session's lock.
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing is open on a connection, or, for the root, on the link; or until its end.
    pub(crate) async fn wait_until_quiet(&self, state: &ConnectionState) {
        loop {
            let mut told = std::pin::pin!(self.quieter.notified());
            told.as_mut().enable(); // from here on nothing is missed
            if state.ended().is_some() || lock(&self.session).is_quiet(state.key) {
                return;
            }
            told.await;
        }
    }

    /// What has moved on if anything was opened on the link meanwhile. `None` while something is open on it.
    #[cfg(target_os = "linux")]
    pub(crate) fn activity(&self) -> Option<u64> {
        let mut session = lock(&self.session);
        session.is_quiet(ConnKey::ROOT).then(|| session.activity())
    }

    /// Something is over: those who wait until nothing is open look again.
    #[inline]
    pub(crate) fn quieter(&self) {
        if self.draining.load(Ordering::Relaxed) {
            self.quieter.notify_waiters();
        }
    }
}

//! The protocol's state machine: messages in, deliveries out.
//!
//! A [`Session`] is a value. It knows which calls, requests and channels are open on a link and what the
//! protocol says about each message; it has no socket, no clock, no task and no lock. The driver of a link
//! feeds it each [`Message`] that arrives and carries out the [`Delivery`] that comes back; the paths that
//! send register here what they opened, before the peer can see it.
//!
//! What it keeps for the local side (who waits for an answer, where an element goes) are opaque ends of
//! the types that [`Ends`] names, so that tests can run it with plain numbers.
//!
//! | file | keeps | protocol |
//! |---|---|---|
//! | `receive` | nothing: what each message means | 2 to 7 |
//! | `calls` | our requests in flight | 4 |
//! | `serving` | the peer's requests that run here | 4 |
//! | `channels`, `ids` | open channels, and which ids are spent | 5 |
//! | `credit` | what one channel may send, or was granted | 6 |
//! | `deadlines` | when calls and requests run out | 4 |
//! | `metadata` | entries and their limits | 4 |
//! | `connections` | virtual connections, open and asked for | 7 |
//! | `answer` | the first bytes of a Response's payload | 4 |
//!
//! Order of calls: [`Session::receive`] for each message in the order of arrival. On a [`Breach`] the
//! driver sends Goodbye with its rule, and ends the connection or the link; [`Session::close`] and
//! [`Session::end`] give back everything that was open.

pub(crate) mod answer;
pub(crate) mod calls;
pub(crate) mod channels;
pub(crate) mod connections;
pub(crate) mod credit;
pub(crate) mod deadlines;
mod ids;
pub(crate) mod metadata;
mod receive;
pub(crate) mod serving;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use answer::Verdict;
use calls::Calls;
use channels::Channels;
use connections::{ConnKey, Connections};
use deadlines::Deadlines;
use metadata::Metadata;
use serving::Serving;

use crate::{
    error::Violation,
    link::{Brought, ChannelRef, Limits, Role},
};

/// The id of the connection that exists as soon as the link does.
pub(crate) const ROOT: u64 = 0;

/// Maps from ids. The hash is seeded, since the peer chooses some of them.
pub(crate) type IdMap<V> = std::collections::HashMap<u64, V, Seeded>;

#[cfg(not(test))]
pub(crate) type Seeded = foldhash::fast::RandomState;
/// Always the same: a simulation that is run again must find the same order.
#[cfg(test)]
pub(crate) type Seeded = foldhash::fast::FixedState;

/// The local ends of what a session keeps.
pub(crate) trait Ends {
    /// Who waits for the answer to a call of ours.
    type Call;
    /// Where a channel's elements go, or who sends them.
    type Channel: Clone;
    /// What stops a handler.
    type Handler;
    /// What this side knows of a connection.
    type Connection: Clone;
    /// Who waits for the answer to a Connect of ours.
    type Connect;
}

/// The state of one link's protocol. See the module's documentation.
pub(crate) struct Session<E: Ends> {
    role: Role,
    limits: Limits,
    root: Connection<E>,
    pub(crate) connections: Connections<E>,
    pub(crate) deadlines: Deadlines,
    /// The peer's requests whose handlers are not gone yet, on all connections. A request keeps its place until
    /// then, and not only until its Cancel or its connection's end: what a flood can start is bounded by this.
    running: usize,
    max_running: usize,
    /// Requests of the peer's that were started so far, on all connections.
    started: u64,
}

/// The ids and what is open on one connection.
pub(crate) struct Connection<E: Ends> {
    pub(crate) key: ConnKey,
    pub(crate) local: E::Connection,
    pub(crate) calls: Calls<E>,
    pub(crate) serving: Serving<E>,
    pub(crate) channels: Channels<E>,
    /// The peer's further requests are refused.
    pub(crate) draining: bool,
}

/// What was open on a connection when it ended.
pub(crate) struct LeftOpen<E: Ends> {
    pub(crate) local: E::Connection,
    /// Calls whose callers still wait.
    pub(crate) calls: Vec<E::Call>,
    pub(crate) channels: Vec<E::Channel>,
    /// Handlers that were not told to stop yet.
    pub(crate) handlers: Vec<E::Handler>,
}

/// What was open when a session ended.
pub(crate) struct Ended<E: Ends> {
    /// The root, and then the virtual ones.
    pub(crate) connections: Vec<LeftOpen<E>>,
    pub(crate) connects: Vec<E::Connect>,
}

/// A rule that the peer broke, and what that costs: "a violation inside a virtual connection costs that
/// connection; one on the root, or one that cannot be laid to a connection, costs the link."
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// The root: the link.
    pub(crate) costs: ConnKey,
    pub(crate) violation: Violation,
}

/// What a message means for the local side.
pub(crate) enum Delivery<'s, 'm, E: Ends> {
    /// Nothing: it crossed something that ended meanwhile.
    Nothing,
    /// A request.
    Request(Requested<'m>),
    /// The answer to a call.
    Response(Response<'m, E>),
    /// The peer cancels a request that runs here.
    Cancel { handler: E::Handler },
    /// An element of a channel.
    Element { conn: ConnKey, channel: &'s E::Channel, payload: Brought<'m> },
    /// The sender of a channel closed it.
    Closed { conn: ConnKey, channel: E::Channel },
    /// The other side of a channel ended it.
    Reset { channel: E::Channel },
    /// The receiver of a channel grants credit.
    Credit { channel: &'s E::Channel, bytes: u32 },
    /// The peer asks for a virtual connection; it waits for [`Session::accept`] or [`Session::reject`].
    Connect { request_id: u64, metadata: Metadata },
    /// The peer asks for more connections than may be open: the answer is a Reject.
    TooManyConnections { request_id: u64, limit: usize },
    /// A Connect of ours was accepted. The driver registers the connection with [`Session::open_accepted`].
    Accepted { connect: E::Connect, conn_id: u64, metadata: Metadata },
    /// A Connect of ours was accepted with the id of a connection that is open: it is of no use.
    AcceptedTwice { connect: E::Connect, conn_id: u64 },
    /// A Connect of ours was rejected.
    Rejected { connect: E::Connect, reason: &'m str, metadata: Metadata },
    /// The peer ended a virtual connection, which is closed now.
    ConnectionGoodbye { open: LeftOpen<E>, reason: &'m str },
    /// The peer ends the link.
    Goodbye { reason: &'m str },
}

/// What becomes of a Request that keeps all rules.
pub(crate) enum Requested<'a> {
    /// It is to be served. The driver registers its channels and its handler.
    Serve(Incoming<'a>),
    /// It is beyond the limit of concurrent ones, or came while draining: it is answered Cancelled.
    Refuse { conn: ConnKey, request_id: u64 },
}

/// A Request that is served.
pub(crate) struct Incoming<'a> {
    pub(crate) conn: ConnKey,
    pub(crate) request_id: u64,
    pub(crate) method_id: u64,
    pub(crate) metadata: Metadata,
    /// From the metadata key `timeout-ns`.
    pub(crate) timeout: Option<Duration>,
    pub(crate) channels: &'a [ChannelRef],
    pub(crate) payload: Brought<'a>,
}

/// A Response that keeps all rules, and what it answers.
pub(crate) struct Response<'a, E: Ends> {
    /// `None` when the caller went away; the channels are to be reset then.
    pub(crate) call: Option<E::Call>,
    /// The channels that the call's arguments opened.
    pub(crate) opened: Vec<E::Channel>,
    pub(crate) answer: Answered<'a>,
}

/// What a Response says.
pub(crate) struct Answered<'a> {
    pub(crate) conn: ConnKey,
    pub(crate) metadata: Metadata,
    pub(crate) channels: &'a [ChannelRef],
    pub(crate) payload: Brought<'a>,
}

impl Answered<'_> {
    /// What the answer says before its value. `None`: it is no answer to a call.
    #[inline]
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let bytes: &[u8] = match self.payload {
            Brought::Here(bytes) => bytes,
            Brought::Shared(bytes) => bytes,
            Brought::Vector(_) => return Some(Verdict::Ok),
            Brought::TooLong(_) => return None,
        };
        Verdict::split(bytes).map(|(verdict, _)| verdict)
    }
}

/// What one side accepts of the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    /// Requests that may run at once, on all connections.
    pub(crate) requests: u32,
    /// Virtual connections that may be open or asked for, by either side.
    pub(crate) connections: u32,
}

impl<E: Ends> Session<E> {
    /// The session of a link whose peers have agreed on `limits`.
    pub(crate) fn new(role: Role, limits: Limits, quota: Quota, local: E::Connection) -> Self {
        Session {
            role,
            limits,
            root: Connection::new(ConnKey::ROOT, role, local),
            connections: Connections::new(role, quota.connections),
            deadlines: Deadlines::new(),
            running: 0,
            started: 0,
            max_running: quota.requests as usize,
        }
    }

    /// A connection, if it is open.
    #[inline]
    pub(crate) fn connection(&mut self, key: ConnKey) -> Option<&mut Connection<E>> {
        if key.is_root() { Some(&mut self.root) } else { self.connections.get(key) }
    }

    /// A request that was accepted is handed to its handler, and takes its place among those that run.
    /// [`finish`](Session::finish) has to follow, once.
    pub(crate) fn start(&mut self, key: ConnKey, request_id: u64, deadline: Option<Instant>) {
        self.running += 1;
        self.started += 1;
        if let Some(open) = self.connection(key) {
            open.serving.start(request_id, deadline);
        }
    }

    /// A request that was started is answered, or will never be, and its handler is gone.
    pub(crate) fn finish(&mut self, key: ConnKey, request_id: u64) {
        debug_assert!(self.running > 0, "a request is finished twice");
        self.running = self.running.saturating_sub(1);
        let finished = self.connection(key).and_then(|open| open.serving.finish(request_id));
        if let Some(Some(at)) = finished {
            self.deadlines.remove_request(at, key, request_id);
        }
    }

    /// Accepts a Connect of the peer's: opens a connection with an id of ours. `None`: it waits no more.
    pub(crate) fn accept(
        &mut self,
        request_id: u64,
        local: impl FnOnce(ConnKey) -> E::Connection,
    ) -> Option<ConnKey> {
        if !self.connections.decide(request_id) {
            return None;
        }
        let (id, role) = (self.connections.hand_out(), self.role);
        Some(self.connections.insert(id, |key| Connection::new(key, role, local(key))))
    }

    /// Rejects a Connect of the peer's. `false`: it waits no more.
    pub(crate) fn reject(&mut self, request_id: u64) -> bool {
        self.connections.decide(request_id)
    }

    /// Opens the connection that the peer accepted, with the id that it gave.
    pub(crate) fn open_accepted(
        &mut self,
        conn_id: u64,
        local: impl FnOnce(ConnKey) -> E::Connection,
    ) -> ConnKey {
        let role = self.role;
        self.connections.insert(conn_id, |key| Connection::new(key, role, local(key)))
    }

    /// Closes a virtual connection and gives back all that was open on it. `None`: it is closed already.
    pub(crate) fn close(&mut self, key: ConnKey) -> Option<LeftOpen<E>> {
        let connection = self.connections.remove(key)?;
        for (request_id, at) in connection.calls.deadlines() {
            self.deadlines.remove_call(at, key, request_id);
        }
        for (request_id, at) in connection.serving.deadlines() {
            self.deadlines.remove_request(at, key, request_id);
        }
        Some(connection.into_open())
    }

    /// Forgets a channel of a connection and says whether it was still open.
    pub(crate) fn forget_channel(&mut self, key: ConnKey, channel_id: u64) -> bool {
        self.connection(key).is_some_and(|connection| connection.channels.remove(channel_id).is_some())
    }

    /// Ends the session and gives back all that was open.
    pub(crate) fn end(&mut self) -> Ended<E> {
        self.deadlines.clear();
        let (virtuals, connects) = self.connections.take_all();
        let root = self.root.take_open();
        let connections =
            std::iter::once(root).chain(virtuals.into_iter().map(Connection::into_open)).collect();
        Ended { connections, connects }
    }

    /// From now on the peer's further requests are refused: on one connection, or, for the root, on all.
    pub(crate) fn drain(&mut self, key: ConnKey) {
        if let Some(connection) = self.connection(key) {
            connection.draining = true;
        }
    }

    /// What has moved on if anything was opened meanwhile, by either side, on any connection. A channel is opened by a
    /// call, or by its answer, and the call is open until then.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn activity(&self) -> u64 {
        self.started + self.root.calls.next_id() + self.connections.activity()
    }

    /// Whether nothing is open on a connection, or, for the root, on any: no call of either side and no channel.
    pub(crate) fn is_quiet(&mut self, key: ConnKey) -> bool {
        let quiet = self.connection(key).is_none_or(|connection| connection.is_quiet());
        quiet && (!key.is_root() || self.connections.iter().all(Connection::is_quiet))
    }
}

impl<E: Ends> Connection<E> {
    fn new(key: ConnKey, role: Role, local: E::Connection) -> Self {
        Connection {
            key,
            local,
            calls: Calls::new(),
            serving: Serving::new(),
            channels: Channels::new(role),
            draining: false,
        }
    }

    fn is_quiet(&self) -> bool {
        self.calls.in_flight() == 0 && self.serving.running() == 0 && self.channels.open() == 0
    }

    /// Takes all that is open.
    fn take_open(&mut self) -> LeftOpen<E> {
        LeftOpen {
            local: self.local.clone(),
            calls: self.calls.take_all(),
            channels: self.channels.take_all(),
            handlers: self.serving.take_all(),
        }
    }

    fn into_open(mut self) -> LeftOpen<E> {
        self.take_open()
    }
}

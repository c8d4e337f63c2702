//! Virtual connections (protocol section 7): which are open, who waits for one, and which were open lately.
//!
//! ```text
//!   ours:    start ──> waiting ──accepted──> open ──close──> gone
//!                         └──────rejected──> nothing
//!   theirs:  ask ────> undecided ──accept──> open ──close──> gone
//!                         └────────reject──> nothing
//! ```
//!
//! "When it accepts, the link's initiator hands out odd `conn_id`s and its acceptor even ones." Ids that this side
//! handed out are never used again, so one number tells which of them were open once. The peer's may be any, and
//! come again: of those the last [`REMEMBERED`] that closed are kept, for the messages that were on their way.

use std::collections::{HashSet, VecDeque};

use super::{
    Connection, Ends, IdMap,
    channels::{STEP, first_id},
};
use crate::{error::Violation, link::Role};

/// Names a connection of a link for as long as the link lives: its id on the wire, which a peer may use again once
/// the connection is closed, and which of those this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnKey {
    /// The id in messages.
    pub(crate) id: u64,
    incarnation: u64,
}

impl ConnKey {
    /// The connection that exists as soon as the link does.
    pub(crate) const ROOT: ConnKey = ConnKey { id: super::ROOT, incarnation: 0 };

    /// Whether this is the link's own connection.
    #[inline]
    pub(crate) const fn is_root(self) -> bool {
        self.id == super::ROOT
    }
}

/// The virtual connections of a link. Invariant: those that are open or asked for, by either side, are at most
/// `limit`.
pub(crate) struct Connections<E: Ends> {
    open: IdMap<Virtual<E>>,
    /// Our Connects that have no answer yet.
    ours: IdMap<E::Connect>,
    /// The peer's Connects that are not decided yet.
    theirs: HashSet<u64, super::Seeded>,
    next_request: u64,
    next_id: u64,
    incarnations: u64,
    /// What was called on those that are closed.
    called: u64,
    closed: VecDeque<u64>,
    limit: usize,
}

struct Virtual<E: Ends> {
    incarnation: u64,
    connection: Connection<E>,
}

/// What the `conn_id` of a message that arrived stands for.
pub(crate) enum Named<'a, E: Ends> {
    Open(ConnKey, &'a mut Connection<E>),
    /// It was open once: "what still arrives for it is dropped in silence".
    Gone,
    Unknown,
}

/// Why no further connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) limit: usize,
}

/// Ids of connections that the peer named and that are closed, which are remembered.
const REMEMBERED: usize = 1024;

impl<E: Ends> Connections<E> {
    pub(crate) fn new(role: Role, limit: u32) -> Self {
        Connections {
            open: IdMap::default(),
            ours: IdMap::default(),
            theirs: HashSet::default(),
            next_request: 1,
            next_id: first_id(role),
            incarnations: 0,
            called: 0,
            closed: VecDeque::new(),
            limit: limit as usize,
        }
    }

    /// Whether one more may be opened or asked for.
    pub(crate) fn check_limit(&self) -> Result<(), TooMany> {
        let taken = self.open.len() + self.ours.len() + self.theirs.len();
        if taken >= self.limit { Err(TooMany { limit: self.limit }) } else { Ok(()) }
    }

    /// The id that our next Connect gets.
    pub(crate) fn next_request(&self) -> u64 {
        self.next_request
    }

    /// Registers the Connect that was sent with [`next_request`](Connections::next_request).
    pub(crate) fn start(&mut self, connect: E::Connect) {
        self.ours.insert(self.next_request, connect);
        self.next_request += 1;
    }

    /// The peer answered a Connect of ours. `None`: there is no such one.
    pub(crate) fn answered(&mut self, request_id: u64) -> Option<E::Connect> {
        self.ours.remove(&request_id)
    }

    /// The peer asks for a connection: "`request_id` unique among the link's open Connects".
    pub(crate) fn ask(&mut self, request_id: u64) -> Result<Result<(), TooMany>, Violation> {
        if self.theirs.contains(&request_id) {
            return Err(Violation::DuplicateRequest { request_id });
        }
        let room = self.check_limit();
        if room.is_ok() {
            self.theirs.insert(request_id);
        }
        Ok(room)
    }

    /// A Connect of the peer's is decided. `false`: it waits no more, since the link has ended.
    pub(crate) fn decide(&mut self, request_id: u64) -> bool {
        self.theirs.remove(&request_id)
    }

    /// An id of ours for the next connection: never used before, not by the peer either as far as is remembered.
    pub(crate) fn hand_out(&mut self) -> u64 {
        loop {
            let id = self.next_id;
            self.next_id += STEP;
            if !self.is_open(id) && !self.closed.contains(&id) {
                return id;
            }
        }
    }

    /// Whether a connection has this id.
    pub(crate) fn is_open(&self, id: u64) -> bool {
        id == super::ROOT || self.open.contains_key(&id)
    }

    /// Opens a connection with an id that none has.
    pub(crate) fn insert(&mut self, id: u64, connection: impl FnOnce(ConnKey) -> Connection<E>) -> ConnKey {
        debug_assert!(!self.is_open(id), "a connection's id is given twice");
        self.closed.retain(|closed| *closed != id);
        self.incarnations += 1;
        let key = ConnKey { id, incarnation: self.incarnations };
        self.open.insert(id, Virtual { incarnation: key.incarnation, connection: connection(key) });
        key
    }

    /// A connection, while it is open.
    pub(crate) fn get(&mut self, key: ConnKey) -> Option<&mut Connection<E>> {
        let open = self.open.get_mut(&key.id)?;
        (open.incarnation == key.incarnation).then_some(&mut open.connection)
    }

    /// What the id of a message stands for.
    pub(crate) fn named(&mut self, id: u64) -> Named<'_, E> {
        let handed_out = self.was_handed_out(id);
        match self.open.get_mut(&id) {
            Some(open) => Named::Open(ConnKey { id, incarnation: open.incarnation }, &mut open.connection),
            None if handed_out || self.closed.contains(&id) => Named::Gone,
            None => Named::Unknown,
        }
    }

    /// Whether this side gave the id to a connection, or passed it over.
    fn was_handed_out(&self, id: u64) -> bool {
        id % STEP == self.next_id % STEP && id < self.next_id
    }

    /// Closes a connection, and gives back all of it.
    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<Connection<E>> {
        self.get(key)?;
        if !self.was_handed_out(key.id) {
            self.closed.push_back(key.id);
            if self.closed.len() > REMEMBERED {
                self.closed.pop_front();
            }
        }
        let connection = self.open.remove(&key.id)?.connection;
        self.called += connection.calls.next_id();
        Some(connection)
    }

    /// What has moved on if a connection was opened meanwhile, or this side has called on one.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn activity(&self) -> u64 {
        let called: u64 = self.iter().map(|open| open.calls.next_id()).sum();
        self.incarnations + self.called + called
    }

    /// The connections that are open.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection<E>> {
        self.open.values().map(|open| &open.connection)
    }

    /// Takes all: the connections, and our Connects.
    pub(crate) fn take_all(&mut self) -> (Vec<Connection<E>>, Vec<E::Connect>) {
        self.theirs.clear();
        let open = self.open.drain().map(|(_, open)| open.connection).collect();
        (open, self.ours.drain().map(|(_, connect)| connect).collect())
    }
}

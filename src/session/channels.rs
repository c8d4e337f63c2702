//! Which channels of a connection are open, and which ids are spent (protocol section 5).
//!
//! "The link's initiator allocates odd ids (1, 3, …), its acceptor even ids (2, 4, …)." Both count
//! upwards, so one number for our ids, and little more for the peer's, tell an id that was open once from one
//! that never was: memory stays flat however many channels come and go.

use super::{Ends, IdMap, ids::UsedIds};
use crate::{
    error::Violation,
    link::{ChannelRef, Role},
};

/// The channels of one connection. Invariant: every id in `open` is below `next` or one of `peers`, by its
/// parity.
pub(crate) struct Channels<E: Ends> {
    open: IdMap<Entry<E>>,
    next: u64,
    peers: UsedIds,
}

/// An open channel.
pub(crate) struct Entry<E: Ends> {
    pub(crate) channel: E::Channel,
    /// Its sender, the peer, closed it; the reader has not taken everything yet.
    pub(crate) closed: bool,
}

/// What the id of a message that arrived stands for.
pub(crate) enum Arrived<'a, E: Ends> {
    Open(&'a mut Entry<E>),
    /// It was open once; what still arrives is ignored.
    Spent,
}

impl<E: Ends> Channels<E> {
    pub(crate) fn new(role: Role) -> Self {
        let peers = UsedIds::new(first_id(role.peer()));
        Channels { open: IdMap::default(), next: first_id(role), peers }
    }

    /// The id that the next channel opened by this side gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    /// Registers a channel that this side opened. Ids are taken in order: each is at least
    /// [`next_id`](Channels::next_id).
    pub(crate) fn insert_own(&mut self, id: u64, channel: E::Channel) {
        debug_assert!(id >= self.next && id % STEP == self.next % STEP);
        self.next = id + STEP;
        self.open.insert(id, Entry { channel, closed: false });
    }

    /// Registers a channel that the peer opened, after [`take_ids`](Channels::take_ids).
    pub(crate) fn insert_peers(&mut self, id: u64, channel: E::Channel) {
        debug_assert!(self.peers.contains(id));
        self.open.insert(id, Entry { channel, closed: false });
    }

    /// Takes the ids of channels that the peer opens: not 0, of the peer's parity, never used before, in
    /// any order. They are spent until [`insert_peers`](Channels::insert_peers) opens them.
    #[inline]
    pub(crate) fn take_ids(&mut self, channels: &[ChannelRef]) -> Result<(), Violation> {
        for channel in channels {
            if channel.id == 0 {
                return Err(Violation::ZeroChannel);
            }
            if !self.peers.take(channel.id) {
                return Err(Violation::UnknownChannel { channel_id: channel.id });
            }
        }
        Ok(())
    }

    /// `channeling.unknown`: the id of a message that arrived must be open, or have been.
    pub(crate) fn arrived(&mut self, id: u64) -> Result<Arrived<'_, E>, Violation> {
        if id == 0 {
            return Err(Violation::ZeroChannel);
        }
        let was_opened = if self.peers.may_hold(id) { self.peers.contains(id) } else { id < self.next };
        match self.open.get_mut(&id) {
            Some(entry) => Ok(Arrived::Open(entry)),
            None if was_opened => Ok(Arrived::Spent),
            None => Err(Violation::UnknownChannel { channel_id: id }),
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Forgets a channel: its id is spent.
    pub(crate) fn remove(&mut self, id: u64) -> Option<E::Channel> {
        self.open.remove(&id).map(|entry| entry.channel)
    }

    /// Takes all that are open.
    pub(crate) fn take_all(&mut self) -> Vec<E::Channel> {
        self.open.drain().map(|(_, entry)| entry.channel).collect()
    }
}

/// The first channel id of a side.
pub(crate) const fn first_id(role: Role) -> u64 {
    match role {
        Role::Initiator => 1,
        Role::Acceptor => 2,
    }
}

/// From one id of a side to its next.
pub(crate) const STEP: u64 = 2;

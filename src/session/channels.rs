//! Which channels of a connection are open, and which ids are spent (protocol section 5).
//!
//! "The link's initiator allocates odd ids (1, 3, …), its acceptor even ids (2, 4, …)." Both count
//! upwards, so one number for each side tells an id that was open once from one that never was: memory
//! stays flat however many channels come and go.

use super::{Ends, IdMap};
use crate::{
    error::Violation,
    link::{ChannelRef, Role},
};

/// The channels of one connection. Invariant: every id in `open` is below `next` or at most
/// `highest_of_peer`, by its parity.
pub(crate) struct Channels<E: Ends> {
    open: IdMap<Entry<E>>,
    next: u64,
    highest_of_peer: u64,
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
        Channels { open: IdMap::default(), next: first_id(role), highest_of_peer: 0 }
    }

    /// The id that the next channel opened by this side gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    /// Registers a channel that this side opened. Ids are taken in order: each is at least
    /// [`next_id`](Channels::next_id).
    pub(crate) fn insert_own(&mut self, id: u64, channel: E::Channel) {
        debug_assert!(id >= self.next && id % 2 == self.next % 2);
        self.next = id + STEP;
        self.open.insert(id, Entry { channel, closed: false });
    }

    /// Registers a channel that the peer opened, after [`check_new`](Channels::check_new).
    pub(crate) fn insert_peers(&mut self, id: u64, channel: E::Channel) {
        self.highest_of_peer = self.highest_of_peer.max(id);
        self.open.insert(id, Entry { channel, closed: false });
    }

    /// Checks the ids of channels that the peer opens: not 0, of the peer's parity, never used before.
    pub(crate) fn check_new(&self, channels: &[ChannelRef]) -> Result<(), Violation> {
        let mut highest = self.highest_of_peer;
        for channel in channels {
            if channel.id == 0 {
                return Err(Violation::ZeroChannel);
            }
            if channel.id % 2 == self.next % 2 || channel.id <= highest {
                return Err(Violation::UnknownChannel { channel_id: channel.id });
            }
            highest = channel.id;
        }
        Ok(())
    }

    /// Marks ids that the peer opened as spent without opening them.
    pub(crate) fn spend(&mut self, channels: &[ChannelRef]) {
        if let Some(last) = channels.last() {
            self.highest_of_peer = self.highest_of_peer.max(last.id);
        }
    }

    /// `channeling.unknown`: the id of a message that arrived must be open, or have been.
    pub(crate) fn arrived(&mut self, id: u64) -> Result<Arrived<'_, E>, Violation> {
        if id == 0 {
            return Err(Violation::ZeroChannel);
        }
        let was_opened = if id % 2 == self.next % 2 { id < self.next } else { id <= self.highest_of_peer };
        match self.open.get_mut(&id) {
            Some(entry) => Ok(Arrived::Open(entry)),
            None if was_opened => Ok(Arrived::Spent),
            None => Err(Violation::UnknownChannel { channel_id: id }),
        }
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

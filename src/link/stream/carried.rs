//! Descriptors over a byte stream that is a Unix socket: which frame they belong to, on both sides.
//!
//! They go with the first byte of their message's frame, in one packet of the system's, and the message says how many
//! they are, in its metadata: a foreign peer finds one entry more that it does not know. The receiver keeps what arrived
//! until the frame is complete. A read ends behind the first bytes that came with descriptors, and is made when no
//! complete frame is left, so that never more than two packets wait: those of the frame at hand, and of the next one.

#[cfg_attr(target_os = "linux", path = "carried/socket.rs")]
#[cfg_attr(not(target_os = "linux"), path = "carried/none.rs")]
mod socket;

use std::collections::VecDeque;

pub(super) use self::socket::{carries, is_crowded, poll_read, poll_write, probe};
use crate::{
    error::LinkEnd,
    link::{
        Head, Message, codec,
        descriptors::{ANNOUNCED, Descriptors, MOST_DESCRIPTORS},
    },
};

/// Descriptors that wait to be sent, by where in the buffer their frame begins.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(usize, Descriptors)>,
    /// How many they are.
    count: usize,
    /// The metadata that says so: memory that is used again.
    metadata: Vec<u8>,
}

/// Descriptors that wait in a sender at most, for a peer that does not read: what one message may have. Messages with more
/// wait until they are gone.
const MOST_WAITING: usize = MOST_DESCRIPTORS;

impl Outbox {
    /// Whether so many more may wait. Any number may where none do.
    pub(super) fn takes(&self, count: usize) -> bool {
        self.count == 0 || self.count + count <= MOST_WAITING
    }

    /// Makes `head` say how many descriptors go with it.
    pub(super) fn announce<'h>(&'h mut self, head: &Head<'h>, count: usize) -> Head<'h> {
        let mut head = *head;
        if let Head::Request { metadata, .. } | Head::Response { metadata, .. } = &mut head {
            self.metadata.clear();
            codec::put_metadata_with(metadata, ANNOUNCED, count as u64, &mut self.metadata);
            *metadata = &self.metadata;
        }
        head
    }

    /// Descriptors that go with the frame that begins at `at`.
    pub(super) fn push(&mut self, at: usize, descriptors: Descriptors) {
        self.count += descriptors.len();
        self.waiting.push_back((at, descriptors));
    }

    /// What may be written at `at` in one piece, of a buffer of `len` bytes: as far as which end, and with which
    /// descriptors.
    pub(super) fn piece(&self, at: usize, len: usize) -> (usize, Option<&Descriptors>) {
        let mut waiting = self.waiting.iter();
        match waiting.next() {
            None => (len, None),
            Some((begin, _)) if *begin > at => (*begin, None),
            Some((_, descriptors)) => (waiting.next().map_or(len, |(begin, _)| *begin), Some(descriptors)),
        }
    }

    /// The first that waited are sent.
    pub(super) fn sent(&mut self) {
        if let Some((_, descriptors)) = self.waiting.pop_front() {
            self.count -= descriptors.len();
        }
    }

    /// The first `len` bytes of the buffer are gone.
    pub(super) fn moved(&mut self, len: usize) {
        self.waiting.iter_mut().for_each(|(at, _)| *at -= len);
    }
}

/// Descriptors that arrived, a packet each, before the message that they belong to was complete. `None`: the system has
/// closed some.
#[derive(Default)]
pub(super) struct Inbox {
    packets: VecDeque<Option<Descriptors>>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.packets.drain(..).flatten().for_each(Descriptors::close_apart);
    }
}

/// Packets that wait at most: see the module's documentation.
const MOST_PACKETS: usize = 2;

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn push(&mut self, packet: Option<Descriptors>) -> Result<(), LinkEnd> {
        if self.packets.len() == MOST_PACKETS {
            let arrived = packet.map_or(0, |descriptors| descriptors.len());
            return Err(LinkEnd::Descriptors { announced: 0, arrived });
        }
        self.packets.push_back(packet);
        Ok(())
    }

    /// The descriptors of a message that says that it has some. The outer `None`: it does not.
    pub(super) fn take(&mut self, message: &Message<'_>) -> Result<Option<Option<Descriptors>>, LinkEnd> {
        let (Head::Request { metadata, .. } | Head::Response { metadata, .. }) = message.head else {
            return Ok(None);
        };
        let Some(announced) = codec::number_in_metadata(metadata, ANNOUNCED) else { return Ok(None) };
        let packet = self.packets.pop_front();
        match &packet {
            Some(Some(descriptors)) if descriptors.len() as u64 != announced => {
                Err(LinkEnd::Descriptors { announced, arrived: descriptors.len() })
            }
            _ => Ok(packet),
        }
    }
}

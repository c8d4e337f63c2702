//! Descriptors over a byte stream that is a Unix socket: which frame they belong to, on both sides.
//!
//! They go with the first byte of their message's frame, in one packet of the system's, and the message says how many
//! they are, in its metadata: a foreign peer finds one entry more that it does not know. The frame is written at once,
//! behind all that waited, so that what the system refuses is refused to this message, and nothing stands behind it.
//!
//! The receiver keeps what arrived until the frame is complete. A read ends behind the first bytes that came with
//! descriptors, and is made when no complete frame is left, so that never more than two packets wait: those of the frame at
//! hand, and of the next one. Each belongs to a frame that begins in what its read brought.

#[cfg_attr(target_os = "linux", path = "carried/socket.rs")]
#[cfg_attr(not(target_os = "linux"), path = "carried/none.rs")]
mod socket;

use std::collections::VecDeque;

pub(super) use self::socket::{
    Passage, Waits, adopt, carries, duplicate, hang_up, poll_read, poll_room, refused, try_write,
};
use crate::{
    error::LinkEnd,
    link::{
        EncodeFault, Head, Message, codec,
        descriptors::{ANNOUNCED, Descriptors},
    },
};

/// Makes `head` say how many descriptors go with it. `scratch` is memory that is used again.
///
/// # Errors
///
/// The metadata has no room for it.
pub(super) fn announce<'h>(
    head: &Head<'h>,
    count: usize,
    scratch: &'h mut Vec<u8>,
) -> Result<Head<'h>, EncodeFault> {
    let mut head = *head;
    if let Head::Request { metadata, .. } | Head::Response { metadata, .. } = &mut head {
        scratch.clear();
        codec::put_metadata_with(metadata, ANNOUNCED, count as u64, scratch)?;
        *metadata = scratch;
    }
    Ok(head)
}

/// Descriptors that arrived, a packet each, before the message that they belong to was complete.
#[derive(Default)]
pub(super) struct Inbox {
    packets: VecDeque<Packet>,
}

struct Packet {
    /// `None`: this process may not have so many.
    descriptors: Option<Descriptors>,
    /// Where in the stream the read ended that brought it.
    end: u64,
}

impl Packet {
    /// Nobody has announced it.
    fn unannounced(&self) -> LinkEnd {
        let arrived = self.descriptors.as_ref().map_or(1, Descriptors::len); // or more
        LinkEnd::Descriptors { announced: 0, arrived }
    }
}

/// Packets that wait at most: see the module's documentation.
const MOST_PACKETS: usize = 2;

impl Inbox {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// A packet came with a read that ended at `end`.
    fn push(&mut self, descriptors: Option<Descriptors>, end: u64) -> Result<(), LinkEnd> {
        let packet = Packet { descriptors, end };
        if self.packets.len() == MOST_PACKETS {
            return Err(packet.unannounced());
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
        let packet = self.packets.pop_front().map(|packet| packet.descriptors);
        match &packet {
            Some(Some(descriptors)) if descriptors.len() as u64 != announced => {
                Err(LinkEnd::Descriptors { announced, arrived: descriptors.len() })
            }
            _ => Ok(packet),
        }
    }

    /// All frames that begin before `begin` are complete and were handed out.
    pub(super) fn check(&self, begin: u64) -> Result<(), LinkEnd> {
        match self.packets.front() {
            Some(packet) if packet.end <= begin => Err(packet.unannounced()),
            _ => Ok(()),
        }
    }
}

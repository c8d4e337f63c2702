//! The sending end: messages encoded straight into the ring.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use adjoin_shm_layout::{self as layout, FrameHead, Reserve, RingWriter, Room, Starved, Tag};

use super::{
    frame::{self, Framed},
    link::{Mapped, Shared},
};
use crate::{
    error::LinkEnd,
    link::{Body, ChannelRef, EncodeFault, Encoder, Head, Publish, SendFault, Sender},
};

/// The producer of the ring out.
#[derive(Debug)]
pub(super) struct ShmSender {
    writer: RingWriter<Mapped>,
    shared: Arc<Shared>,
    /// The channels of the message that is encoded: memory that is used again.
    channels: Vec<ChannelRef>,
    /// Whether something was sent since the last [`publish`](Sender::publish).
    unpublished: bool,
    /// Bytes of the message that was refused last for want of room.
    wanted: usize,
    /// Set while the peer is asked to wake this side when it frees room.
    starved: Option<Starved>,
}

/// What came of encoding a message into some room.
enum Tried {
    /// It is committed; the length of its payload.
    Sent(usize),
    /// It needs this many bytes, more than there were.
    Needs(usize),
}

impl ShmSender {
    pub(super) fn new(writer: RingWriter<Mapped>, shared: Arc<Shared>) -> Self {
        ShmSender { writer, shared, channels: Vec::new(), unpublished: false, wanted: 0, starved: None }
    }

    /// Finds room for a body of at least `len` bytes.
    fn reserve(&mut self, len: usize) -> Result<(Room<'_, Mapped>, &mut Vec<ChannelRef>), SendFault> {
        match self.writer.reserve(len) {
            Ok(room) => Ok((room, &mut self.channels)),
            Err(Reserve::Full) => {
                self.wanted = len;
                Err(SendFault::Full)
            }
            Err(Reserve::TooLarge { len, limit }) => Err(too_large(len, limit)),
            Err(Reserve::Corrupt(corrupt)) => Err(SendFault::Ended(frame::corrupt(corrupt))),
        }
    }
}

impl Sender for ShmSender {
    /// No system call, no lock, no allocation once the list of channels has grown; one copy, which is the
    /// encoding. A second encoding when the longest free piece in front of the ring's end is too short.
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        let framed = Framed::new(head);
        let mut least = FrameHead::BYTES + framed.metadata.len() + framed.reason.len();
        loop {
            let (room, channels) = self.reserve(least)?;
            match try_in(room, &framed, body, channels)? {
                Tried::Sent(payload) => {
                    self.unpublished = true;
                    return Ok(payload);
                }
                Tried::Needs(len) => least = len,
            }
        }
    }

    /// One store, one fence, and one look at the peer's sleepers; a system call for each kind of them, on the
    /// bell once for each sleep.
    /// Nothing when nothing was sent.
    fn publish(&mut self) -> Publish {
        if std::mem::take(&mut self.unpublished) {
            self.shared.wake(self.writer.publish());
            self.shared.expect_answer();
        }
        Publish::Done
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        Poll::Ready(Ok(()))
    }

    fn check_element(&self, len: usize) -> Result<(), SendFault> {
        let (len, limit) = (FrameHead::BYTES.saturating_add(len), self.writer.max_frame_len());
        if len > limit { Err(too_large(len, limit)) } else { Ok(()) }
    }

    /// After it has said `false`, the receiver tells the driver to ask again before it sleeps, and the peer
    /// wakes the driver whenever it frees room.
    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        if self.starved.is_none() {
            // First, so that whoever falls asleep behind the fence in `starve` sees it.
            self.shared.waiters.enter();
            self.starved = Some(self.shared.park.starve());
        }
        let room = self.writer.has_room(self.wanted).map_err(frame::corrupt)?;
        if let (true, Some(starved)) = (room, self.starved.take_if(|_| room)) {
            self.shared.park.sate(starved);
            self.shared.waiters.leave();
        }
        Ok(room)
    }
}

fn too_large(len: usize, limit: usize) -> SendFault {
    SendFault::TooLarge { len, limit, setting: "Settings::ring_bytes" }
}

/// Encodes a message into `room`, and commits it if it fits.
fn try_in(
    mut room: Room<'_, Mapped>,
    framed: &Framed<'_>,
    body: &mut dyn Body,
    channels: &mut Vec<ChannelRef>,
) -> Result<Tried, SendFault> {
    let front = FrameHead::BYTES + framed.metadata.len();
    // `reserve` was asked for more than that.
    let behind = room.bytes().get_mut(front..).unwrap_or_default();
    let mut encoder = Encoder::new(behind, channels);
    encoder.extend(framed.reason.as_bytes());
    body.encode(&mut encoder).map_err(SendFault::Encode)?;
    let (payload, fits) = (encoder.len(), encoder.fits());
    let count = channel_count(channels.len())?;
    let list = front.saturating_add(payload);
    let len = list.saturating_add(channels.len() * layout::ChannelRef::BYTES);
    if !fits || len > room.len() {
        return Ok(Tried::Needs(len));
    }
    room.write_at(0, &framed.head.to_bytes());
    room.write_at(FrameHead::BYTES, framed.metadata);
    for (place, channel) in channels.iter().enumerate() {
        room.write_at(list + place * layout::ChannelRef::BYTES, &frame::channel_bytes(channel));
    }
    room.commit(Tag { kind: framed.kind, flags: 0, channels: count }.to_u32(), len);
    Ok(Tried::Sent(payload - framed.reason.len())) // which the encoder counted first
}

/// A message counts its channels in 16 bits.
fn channel_count(channels: usize) -> Result<u16, SendFault> {
    u16::try_from(channels).map_err(|_| SendFault::Encode(EncodeFault::NoSlot))
}

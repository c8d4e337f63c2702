//! The sending end: messages encoded straight into the ring, or into a block of the arena where the payload is long.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use adjoin_shm_layout::{
    self as layout, Allot, BlockRef, Corrupt, FrameHead, Purpose, Reserve, RingWriter, Room, Starved, Tag,
};

use super::{
    arena::{NoBlock, OwnArena, Writing},
    frame::{self, Framed},
    link::{Mapped, Shared},
    passage::{Passage, Unpassed},
};
use crate::{
    error::LinkEnd,
    link::{
        Body, ChannelRef, EncodeFault, Encoder, Head, Publish, SendFault, Sender,
        descriptors::Descriptors,
        message::{Lendable, Lent},
    },
};

/// The producer of the ring out, and of the blocks.
#[derive(Debug)]
pub(super) struct ShmSender {
    writer: RingWriter<Mapped>,
    arena: Arc<OwnArena>,
    shared: Arc<Shared>,
    /// The channels of the message that is encoded: memory that is used again.
    channels: Vec<ChannelRef>,
    /// Whether something was sent since the last [`publish`](Sender::publish).
    unpublished: bool,
    /// Bytes of the ring for the message that was refused last for want of room. 0: none was since there was some.
    wanted: usize,
    /// Bytes of the block that a message was refused for, for want of one. Until there is one, shorter ones leave it
    /// the room.
    wanted_block: Option<usize>,
    /// Set while the peer is asked to wake this side when it frees room.
    starved: Option<Starved>,
    /// Bytes of the longest payload that travels in the ring.
    longest_inline: usize,
    passing: Passing,
}

/// Whether descriptors can be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Open,
    /// The socket is full.
    Crowded,
    /// The peer has closed the socket. Nothing has room any more: the end of the link follows.
    Closed,
}

/// Room in the ring, and what else a message needs.
struct Reserved<'a> {
    room: Room<'a, Mapped>,
    channels: &'a mut Vec<ChannelRef>,
    arena: &'a OwnArena,
    passage: &'a Passage,
}

/// What came of encoding a message into some room.
enum Tried {
    /// It is committed; the length of its payload.
    Sent(usize),
    /// It needs this many bytes, more than there were.
    Needs(usize),
    /// Its payload has this many bytes, too many for the ring.
    TooLong(usize),
    /// What was lent has to be copied after all.
    Copy,
    /// Its descriptors were not passed; the length of its frame.
    Unpassed(usize, Unpassed),
}

impl ShmSender {
    pub(super) fn new(writer: RingWriter<Mapped>, arena: Arc<OwnArena>, shared: Arc<Shared>) -> Self {
        let longest_inline = writer.capacity() / INLINE_SHARE;
        ShmSender {
            writer,
            arena,
            shared,
            channels: Vec::new(),
            unpublished: false,
            wanted: 0,
            wanted_block: None,
            starved: None,
            longest_inline,
            passing: Passing::Open,
        }
    }

    /// Finds room in the ring for a body of at least `len` bytes.
    fn reserve(&mut self, len: usize) -> Result<Reserved<'_>, SendFault> {
        match self.writer.reserve(len) {
            Ok(room) => Ok(Reserved {
                room,
                channels: &mut self.channels,
                arena: &self.arena,
                passage: &self.shared.passage,
            }),
            Err(Reserve::Full) => {
                self.wanted = len;
                Err(SendFault::Full)
            }
            Err(Reserve::TooLarge { len, limit }) => Err(too_large(len, limit)),
            Err(Reserve::Corrupt(corrupt)) => Err(SendFault::Ended(frame::corrupt(corrupt))),
        }
    }

    /// Takes a block for a payload of `len` bytes.
    fn allot(&mut self, len: usize) -> Result<Writing, SendFault> {
        match self.arena.allot_message(len, self.wanted_block) {
            Ok(block) => Ok(block),
            Err(NoBlock::Allot(Allot::Full)) => {
                self.wanted_block = self.wanted_block.max(Some(len));
                Err(SendFault::Full)
            }
            Err(NoBlock::Allot(Allot::TooLarge { len, limit })) => {
                Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" })
            }
            Err(NoBlock::Allot(Allot::Corrupt(corrupt))) => Err(SendFault::Ended(frame::corrupt(corrupt))),
            Err(NoBlock::Memory(error)) => Err(SendFault::NoMemory { len, kind: error.kind() }),
        }
    }

    /// Whether any of what was refused is worth another try. What has its room is not waited for any more: whoever
    /// finds it taken by another says anew what it needs.
    fn look_for_room(&mut self) -> Result<bool, Corrupt> {
        let ring = self.wanted > 0 && self.writer.has_room(self.wanted)?;
        let block = self.wanted_block.map_or(Ok(false), |len| self.arena.has_room(len, Purpose::Message))?;
        if ring {
            self.wanted = 0;
        }
        if block {
            self.wanted_block = None;
        }
        Ok(ring || block)
    }

    /// The descriptors of a message whose frame has `len` bytes were not passed.
    fn unpassed(&mut self, len: usize, why: Unpassed) -> SendFault {
        self.passing = match why {
            Unpassed::Full => Passing::Crowded,
            Unpassed::Closed => {
                // The watch on the peer hears it as the peer's own, and finds out how that ended.
                self.shared.bell.hang_up();
                Passing::Closed
            }
            Unpassed::Refused(fault) => return SendFault::Encode(fault),
        };
        self.wanted = len;
        SendFault::Full
    }

    /// Sends a message whose payload has about `len` bytes, in a block.
    ///
    /// One more encoding, into the block; a short lock of the arena's, twice; a system call where pages are new.
    fn send_in_block(
        &mut self,
        framed: &Framed<'_>,
        body: &mut dyn Body,
        mut len: usize,
    ) -> Result<usize, SendFault> {
        loop {
            let mut block = self.allot(len)?;
            let mut encoder = Encoder::new(block.bytes_mut(), &mut self.channels);
            let encoded = body.encode(&mut encoder);
            let (payload, fits, descriptors) = (encoder.len(), encoder.fits(), encoder.into_descriptors());
            if encoded.is_ok() && !fits {
                len = payload; // a body that is longer each time is refused by the payload's limit
                continue;
            }
            encoded.map_err(SendFault::Encode)?;
            let (Reserved { room, channels, passage, .. }, count) = self.reserve_for_block(framed)?;
            if let Err(why) = passage.send(&descriptors) {
                return Err(self.unpassed(block_frame_len(framed, count), why));
            }
            commit_block(room, framed, block.pass(payload), (channels, count), &descriptors);
            self.unpublished = true;
            return Ok(payload);
        }
    }

    /// Finds room in the ring for the frame of a message whose payload is in a block.
    fn reserve_for_block(&mut self, framed: &Framed<'_>) -> Result<(Reserved<'_>, u16), SendFault> {
        let count = channel_count(self.channels.len())?;
        Ok((self.reserve(block_frame_len(framed, count))?, count))
    }
}

impl Sender for ShmSender {
    /// No system call, no lock, no allocation once the list of channels has grown; one copy, which is the
    /// encoding. A second encoding when the longest free piece in front of the ring's end is too short, or when the
    /// payload turns out to be one for a block. What was lent is not copied at all.
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        let framed = Framed::new(head);
        let mut least = FrameHead::BYTES + framed.metadata.len() + framed.reason.len();
        let (longest, mut lendable) = (self.longest_inline, self.arena.lendable());
        loop {
            match try_in(self.reserve(least)?, &framed, body, longest, &lendable)? {
                Tried::Sent(payload) => {
                    self.unpublished = true;
                    return Ok(payload);
                }
                Tried::Needs(len) => least = len,
                Tried::Copy => lendable = Lendable::NOTHING,
                Tried::Unpassed(len, why) => return Err(self.unpassed(len, why)),
                Tried::TooLong(len) => return self.send_in_block(&framed, body, len),
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

    fn carries_descriptors(&self) -> bool {
        true
    }

    /// Nothing to push. While descriptors wait for room, the driver learns when there is.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        if self.passing == Passing::Crowded && self.shared.passage.poll_room(cx).is_ready() {
            self.passing = Passing::Open;
        }
        Poll::Ready(Ok(()))
    }

    fn check_element(&self, len: usize) -> Result<(), SendFault> {
        let limit = self.arena.max_message_len();
        if len > limit {
            return Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" });
        }
        Ok(())
    }

    /// After it has said `false`, the receiver tells the driver to ask again before it sleeps, and the peer
    /// wakes the driver whenever it frees room. So it does while one message waits for a block and others, which waited
    /// for the ring, have their room.
    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        if self.passing == Passing::Crowded && self.shared.passage.has_room() {
            self.passing = Passing::Open;
        }
        if self.passing != Passing::Open {
            return Ok(false); // the driver's waker is with the socket, see `poll_flush`, or the link is at its end
        }
        if !self.still_waits() {
            return Ok(true);
        }
        if self.starved.is_none() {
            // First, so that whoever falls asleep behind the fence in `starve` sees it.
            self.shared.waiters.enter();
            self.starved = Some(self.shared.park.starve());
        }
        let room = self.look_for_room().map_err(frame::corrupt)?;
        if !self.still_waits()
            && let Some(starved) = self.starved.take()
        {
            self.shared.park.sate(starved);
            self.shared.waiters.leave();
        }
        Ok(room)
    }

    fn still_waits(&self) -> bool {
        self.wanted > 0 || self.wanted_block.is_some()
    }
}

fn too_large(len: usize, limit: usize) -> SendFault {
    SendFault::TooLarge { len, limit, setting: "Settings::ring_bytes" }
}

/// Encodes a message into the room that was reserved for it, and commits it if it fits. Payloads of more than `longest`
/// bytes don't belong there; what is `lendable` may stay where it lies.
fn try_in(
    Reserved { mut room, channels, arena, passage }: Reserved<'_>,
    framed: &Framed<'_>,
    body: &mut dyn Body,
    longest: usize,
    lendable: &Lendable,
) -> Result<Tried, SendFault> {
    let front = FrameHead::BYTES + framed.metadata.len();
    // `reserve` was asked for more than that.
    let behind = room.bytes().get_mut(front..).unwrap_or_default();
    let mut encoder = Encoder::lending(behind, channels, lendable);
    if !framed.reason.is_empty() {
        encoder.extend(framed.reason.as_bytes());
    }
    body.encode(&mut encoder).map_err(SendFault::Encode)?;
    let (payload, fits, lent, written) = (encoder.len(), encoder.fits(), encoder.lent(), encoder.written());
    let descriptors = encoder.into_descriptors();
    let count = channel_count(channels.len())?;
    if let Some(lent) = lent {
        if !descriptors.is_empty() {
            return Ok(Tried::Copy); // a block that was lent cannot be taken back when they are not passed
        }
        let len = block_frame_len(framed, count);
        return match (fits, len > room.len()) {
            (false, _) => Ok(Tried::Copy),
            (true, true) => Ok(Tried::Needs(len)),
            (true, false) => send_lent(room, framed, arena, (lent, written), (channels, count)),
        };
    }
    if payload - framed.reason.len() > longest {
        return Ok(Tried::TooLong(payload));
    }
    let list = front.saturating_add(payload);
    let len = list.saturating_add(channels.len() * layout::ChannelRef::BYTES);
    if !fits || len > room.len() {
        return Ok(Tried::Needs(len));
    }
    // Before the frame, which can be taken back, while they cannot.
    if let Err(why) = passage.send(&descriptors) {
        return Ok(Tried::Unpassed(len, why));
    }
    write_front(&mut room, framed, &descriptors);
    write_channels(&mut room, list, channels);
    room.commit(Tag { kind: framed.kind, flags: 0, channels: count }.to_u32(), len);
    Ok(Tried::Sent(payload - framed.reason.len())) // which the encoder counted first
}

/// Sends a payload of which a part was lent, in the block where that lies. What was `written` around it stands in `room`.
fn send_lent(
    mut room: Room<'_, Mapped>,
    framed: &Framed<'_>,
    arena: &OwnArena,
    (lent, written): (Lent, usize),
    (channels, count): (&[ChannelRef], u16),
) -> Result<Tried, SendFault> {
    let front = FrameHead::BYTES + framed.metadata.len();
    let around = room.bytes().get(front..front + written).unwrap_or_default();
    let (before, behind) = around.split_at(lent.at.min(around.len()));
    let passed =
        arena.pass_lent(lent, before, behind).map_err(|corrupt| SendFault::Ended(frame::corrupt(corrupt)))?;
    let Some(block) = passed else { return Ok(Tried::Copy) };
    commit_block(room, framed, block, (channels, count), &Descriptors::default());
    Ok(Tried::Sent(written + lent.len))
}

/// Commits a message whose payload lies in a block. The room is long enough.
fn commit_block(
    mut room: Room<'_, Mapped>,
    framed: &Framed<'_>,
    block: BlockRef,
    (channels, count): (&[ChannelRef], u16),
    descriptors: &Descriptors,
) {
    let front = FrameHead::BYTES + framed.metadata.len();
    write_front(&mut room, framed, descriptors);
    room.write_at(front, &block.to_bytes());
    write_channels(&mut room, front + BlockRef::BYTES, channels);
    let tag = Tag { kind: framed.kind, flags: Tag::BLOCK, channels: count };
    room.commit(tag.to_u32(), block_frame_len(framed, count));
}

fn write_front(room: &mut Room<'_, Mapped>, framed: &Framed<'_>, descriptors: &Descriptors) {
    let mut head = framed.head;
    if !descriptors.is_empty() {
        head.extra = descriptors.len() as u32; // within `MOST_DESCRIPTORS`
    }
    room.write_at(0, &head.to_bytes());
    if !framed.metadata.is_empty() {
        room.write_at(FrameHead::BYTES, framed.metadata);
    }
}

fn write_channels(room: &mut Room<'_, Mapped>, at: usize, channels: &[ChannelRef]) {
    for (place, channel) in channels.iter().enumerate() {
        room.write_at(at + place * layout::ChannelRef::BYTES, &frame::channel_bytes(channel));
    }
}

/// Bytes of the frame of a message whose payload lies in a block.
fn block_frame_len(framed: &Framed<'_>, channels: u16) -> usize {
    let list = usize::from(channels) * layout::ChannelRef::BYTES;
    FrameHead::BYTES + framed.metadata.len() + BlockRef::BYTES + list
}

/// A message counts its channels in 16 bits.
fn channel_count(channels: usize) -> Result<u16, SendFault> {
    u16::try_from(channels).map_err(|_| SendFault::Encode(EncodeFault::NoSlot))
}

/// Payloads of up to this share of the ring travel in it. Some of them find room at once, and one keeps a short message
/// waiting for no longer than it takes to copy it.
const INLINE_SHARE: usize = 8;

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;

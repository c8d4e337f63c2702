//! The messages of protocol section 2, as links carry them.
//!
//! A message is a [`Head`], and for the kinds that have them, a payload and a list of channels. Received,
//! it is a [`Message`] that borrows from the receiver's private memory; to be sent, its payload comes from
//! a [`Body`], which encodes straight into the place where the link wants it.

use std::{cell::RefCell, ops::Range};

use bytes::{BufMut, Bytes};

use super::{descriptors::Descriptors, vector::Vector};

/// Everything of a message but its payload and its channels. `metadata` is the postcard encoding of the
/// list of entries; an empty slice means no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head<'a> {
    Hello { max_payload_size: u32, initial_channel_credit: u32 },
    Connect { request_id: u64, metadata: &'a [u8] },
    Accept { request_id: u64, conn_id: u64, metadata: &'a [u8] },
    Reject { request_id: u64, reason: &'a str, metadata: &'a [u8] },
    Goodbye { conn_id: u64, reason: &'a str },
    Request { conn_id: u64, request_id: u64, method_id: u64, metadata: &'a [u8] },
    Response { conn_id: u64, request_id: u64, metadata: &'a [u8] },
    Cancel { conn_id: u64, request_id: u64 },
    Data { conn_id: u64, channel_id: u64 },
    Close { conn_id: u64, channel_id: u64 },
    Reset { conn_id: u64, channel_id: u64 },
    Credit { conn_id: u64, channel_id: u64, bytes: u32 },
}

impl Head<'_> {
    /// The connection that the message is for. `None`: it is the link's.
    #[inline]
    pub(crate) const fn conn_id(&self) -> Option<u64> {
        match self {
            Head::Hello { .. } | Head::Connect { .. } | Head::Accept { .. } | Head::Reject { .. } => None,
            Head::Goodbye { conn_id, .. }
            | Head::Request { conn_id, .. }
            | Head::Response { conn_id, .. }
            | Head::Cancel { conn_id, .. }
            | Head::Data { conn_id, .. }
            | Head::Close { conn_id, .. }
            | Head::Reset { conn_id, .. }
            | Head::Credit { conn_id, .. } => Some(*conn_id),
        }
    }
}

/// A message that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) head: Head<'a>,
    /// The channels of a Request or Response, in the order in which they stand in the payload.
    pub(crate) channels: &'a [ChannelRef],
    pub(crate) payload: Brought<'a>,
}

/// The payload of a message that arrived: where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought<'a> {
    /// In the receiver's memory, which it uses again.
    Here(&'a [u8]),
    /// In memory that can be kept without a copy: it came in a block of its own.
    Shared(&'a Bytes),
    /// Taken apart, for the first who takes it.
    Vector(&'a RefCell<Vector>),
    /// Nowhere: it has so many bytes, more than any payload of the link, and the session refuses it for that.
    TooLong(usize),
}

impl Brought<'_> {
    /// Bytes of the payload.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Brought::Here(bytes) => bytes.len(),
            Brought::Shared(bytes) => bytes.len(),
            Brought::Vector(vector) => vector.borrow().len(),
            Brought::TooLong(len) => *len,
        }
    }
}

/// Entries of metadata at most (`call.metadata.limits`).
pub(crate) const MAX_ENTRIES: usize = 128;

/// Bytes of all keys and values of metadata together at most.
pub(crate) const MAX_TOTAL: usize = 64 << 10;

/// A channel as a Request or Response names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChannelRef {
    /// Its id on its connection.
    pub(crate) id: u64,
    /// Where its credit lies; [`CreditSlot::NONE`] on links that grant credit by messages.
    pub(crate) slot: CreditSlot,
}

/// A place in a link's table of credit, and the incarnation of that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CreditSlot {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl CreditSlot {
    /// No place: the link grants credit by messages.
    pub(crate) const NONE: CreditSlot = CreditSlot { index: u32::MAX, generation: 0 };
}

/// What encodes the payload of a message.
pub(crate) trait Body {
    /// Writes the payload, and names the channels in it. Starts over each time it is called.
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault>;
}

/// A message without a payload.
pub(crate) struct NoBody;

impl Body for NoBody {
    fn encode(&mut self, _: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        Ok(())
    }
}

/// Why a body could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EncodeFault {
    /// The value's own `Serialize` failed, or postcard cannot express it.
    Serialize(postcard::Error),
    /// The payload is longer than both peers agreed on.
    PayloadTooLarge { len: usize, limit: usize },
    /// The element exceeds what is left of its channel's credit.
    NoCredit { len: usize },
    /// The element exceeds its channel's whole window.
    ElementTooLarge { len: usize, window: usize },
    /// The link's table of channels is full.
    NoSlot,
    /// The message opens more channels than can ever be open.
    TooManyChannels { count: usize, limit: usize },
    /// A channel's handle cannot be passed here, or a descriptor.
    Handle(HandleFault),
    /// The link carries no descriptors.
    NoDescriptors { count: usize },
    /// The message carries more descriptors than it may.
    TooManyDescriptors { count: usize, limit: usize },
    /// The system does not pass a descriptor: the number of its error.
    Descriptor { code: i32 },
    /// The system passes none of this user's at the moment: too many that nobody has received are under way.
    Crowded,
    /// The metadata has no room for what the link adds to it.
    Metadata { what: &'static str, value: usize, limit: usize },
}

/// Why a channel's handle or a descriptor could not be passed in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandleFault {
    /// Its other half is remote already, or it was passed before.
    Passed,
    /// It stands where no handle may: outside of a call, or in an error.
    Misplaced,
    /// A descriptor stands where none may.
    MisplacedDescriptor,
}

/// A place of limited length that a payload is encoded into. Bytes beyond its end are counted and not
/// written, so that a second try knows how much it needs.
///
/// Bytes that lie in the link's own memory, in a block that was [lent](crate::Loan), need not be written again: one
/// run of them is left where it lies, and remembered as [`Lent`]. Nothing holds them there: a `Serialize` may have
/// dropped them when it returns, so whoever passes them looks whether they are still what they were.
pub(crate) struct Encoder<'a> {
    room: &'a mut [u8],
    /// Where the next byte goes in `room`.
    at: usize,
    channels: &'a mut Vec<ChannelRef>,
    lendable: &'a Lendable,
    lent: Option<Lent>,
    descriptors: Descriptors,
}

/// What may be left where it lies: what was frozen before the encoding began. For one that is frozen meanwhile, nobody
/// can tell later whether its bytes, at their place, are those that were to be encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lendable {
    /// The addresses of blocks that may be lent.
    pub(crate) addresses: Range<usize>,
    /// How many of them had ever been frozen.
    pub(crate) frozen_before: u64,
}

impl Lendable {
    /// Nothing may be.
    pub(crate) const NOTHING: Lendable = Lendable { addresses: 0..0, frozen_before: 0 };
}

/// Bytes of a payload that were left where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    /// Where in the payload they stand: so many bytes were written in front of them.
    pub(crate) at: usize,
    /// The address of the first.
    pub(crate) address: usize,
    /// How many there are.
    pub(crate) len: usize,
    /// Their block is among so many that were frozen first, or it is gone.
    pub(crate) frozen_before: u64,
}

/// Bytes of a run that is worth being left where it lies: a shorter one is copied faster.
const MIN_LENT: usize = 256;

impl<'a> Encoder<'a> {
    /// Starts at the beginning of `room`, with an empty list of channels and no descriptors.
    #[inline]
    pub(crate) fn new(room: &'a mut [u8], channels: &'a mut Vec<ChannelRef>) -> Self {
        channels.clear();
        Encoder {
            room,
            at: 0,
            channels,
            lendable: &Lendable::NOTHING,
            lent: None,
            descriptors: Descriptors::default(),
        }
    }

    /// As [`new`](Encoder::new), where such bytes may be left where they lie.
    #[inline]
    pub(crate) fn lending(
        room: &'a mut [u8],
        channels: &'a mut Vec<ChannelRef>,
        lendable: &'a Lendable,
    ) -> Self {
        Encoder { lendable, ..Encoder::new(room, channels) }
    }

    /// What was left where it lies.
    #[inline]
    pub(crate) fn lent(&self) -> Option<Lent> {
        self.lent
    }

    /// How many bytes were written, or would have been in a longer room.
    #[inline]
    pub(crate) fn written(&self) -> usize {
        self.at
    }

    /// Bytes of the payload so far, those that found no room and those that were left where they lie included.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.lent.map_or(self.at, |lent| self.at.saturating_add(lent.len))
    }

    /// Whether all bytes so far found room.
    #[inline]
    pub(crate) fn fits(&self) -> bool {
        self.at <= self.room.len()
    }

    /// Names the next channel.
    pub(crate) fn channel(&mut self, channel: ChannelRef) {
        self.channels.push(channel);
    }

    /// Names the descriptors, which the message carries.
    pub(crate) fn attach(&mut self, descriptors: Descriptors) {
        self.descriptors = descriptors;
    }

    /// The descriptors that go with what was encoded.
    #[inline]
    pub(crate) fn into_descriptors(self) -> Descriptors {
        self.descriptors
    }

    /// Appends bytes.
    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        if bytes.len() >= MIN_LENT && self.leave(bytes) {
            return;
        }
        let end = self.at.saturating_add(bytes.len());
        if let Some(mut room) = self.room.get_mut(self.at..end) {
            room.put_slice(bytes);
        }
        self.at = end;
    }

    /// Appends a byte vector as postcard does: its length, seven bits a byte, lowest first, and the bytes.
    #[inline]
    pub(crate) fn vector(&mut self, bytes: &[u8]) {
        let mut rest = bytes.len();
        while rest > 0x7f {
            self.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
        self.extend(bytes);
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.room.get_mut(self.at) {
            *place = byte;
        }
        self.at = self.at.saturating_add(1);
    }

    /// Leaves bytes where they lie, if they may be.
    fn leave(&mut self, bytes: &[u8]) -> bool {
        let Range { start, end } = bytes.as_ptr_range();
        let Lendable { addresses, frozen_before } = self.lendable;
        let leaves = self.lent.is_none() && addresses.start <= start.addr() && end.addr() <= addresses.end;
        if leaves {
            let (at, address, len) = (self.at, start.addr(), bytes.len());
            self.lent = Some(Lent { at, address, len, frozen_before: *frozen_before });
        }
        leaves
    }
}

/// Lets postcard write into an [`Encoder`].
impl postcard::ser_flavors::Flavor for &mut Encoder<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.extend(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A message that waits in private memory until its link has room.
#[derive(Debug)]
pub(crate) struct Parked {
    head: ParkedHead,
    channels: Vec<ChannelRef>,
    payload: Vec<u8>,
}

/// The heads that can be parked: those of messages that nobody waits to send.
#[derive(Debug)]
enum ParkedHead {
    Goodbye { conn_id: u64, reason: Box<str> },
    Response { conn_id: u64, request_id: u64, metadata: Box<[u8]> },
    Accept { request_id: u64, conn_id: u64, metadata: Box<[u8]> },
    Reject { request_id: u64, reason: Box<str>, metadata: Box<[u8]> },
    Plain(Head<'static>),
}

impl Parked {
    /// Encodes `body` into private memory.
    pub(crate) fn new(head: &Head<'_>, body: &mut dyn Body) -> Result<Self, EncodeFault> {
        let (mut payload, mut channels) = (Vec::new(), Vec::new());
        let len = encode_into(body, &mut payload, &mut channels)?;
        payload.truncate(len);
        let head = match *head {
            Head::Goodbye { conn_id, reason } => ParkedHead::Goodbye { conn_id, reason: reason.into() },
            Head::Response { conn_id, request_id, metadata } => {
                ParkedHead::Response { conn_id, request_id, metadata: metadata.into() }
            }
            Head::Accept { request_id, conn_id, metadata } => {
                ParkedHead::Accept { request_id, conn_id, metadata: metadata.into() }
            }
            Head::Reject { request_id, reason, metadata } => {
                ParkedHead::Reject { request_id, reason: reason.into(), metadata: metadata.into() }
            }
            Head::Cancel { conn_id, request_id } => ParkedHead::Plain(Head::Cancel { conn_id, request_id }),
            Head::Data { conn_id, channel_id } => ParkedHead::Plain(Head::Data { conn_id, channel_id }),
            Head::Close { conn_id, channel_id } => ParkedHead::Plain(Head::Close { conn_id, channel_id }),
            Head::Reset { conn_id, channel_id } => ParkedHead::Plain(Head::Reset { conn_id, channel_id }),
            Head::Credit { conn_id, channel_id, bytes } => {
                ParkedHead::Plain(Head::Credit { conn_id, channel_id, bytes })
            }
            Head::Hello { .. } | Head::Connect { .. } | Head::Request { .. } => {
                return Err(EncodeFault::Handle(HandleFault::Misplaced));
            }
        };
        Ok(Parked { head, channels, payload })
    }

    /// Bytes of its payload, its metadata and its reason.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
            + match &self.head {
                ParkedHead::Goodbye { reason, .. } => reason.len(),
                ParkedHead::Response { metadata, .. } | ParkedHead::Accept { metadata, .. } => metadata.len(),
                ParkedHead::Reject { reason, metadata, .. } => reason.len() + metadata.len(),
                ParkedHead::Plain(_) => 0,
            }
    }

    /// The head, to send it now.
    pub(crate) fn head(&self) -> Head<'_> {
        match &self.head {
            ParkedHead::Goodbye { conn_id, reason } => Head::Goodbye { conn_id: *conn_id, reason },
            ParkedHead::Response { conn_id, request_id, metadata } => {
                Head::Response { conn_id: *conn_id, request_id: *request_id, metadata }
            }
            ParkedHead::Accept { request_id, conn_id, metadata } => {
                Head::Accept { request_id: *request_id, conn_id: *conn_id, metadata }
            }
            ParkedHead::Reject { request_id, reason, metadata } => {
                Head::Reject { request_id: *request_id, reason, metadata }
            }
            ParkedHead::Plain(head) => *head,
        }
    }
}

impl Body for &Parked {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(&self.payload);
        self.channels.iter().for_each(|channel| out.channel(*channel));
        Ok(())
    }
}

/// Encodes a body at the start of `room`, which grows as needed and never shrinks, and returns the length of
/// the payload. For a body that carries no descriptors: those that it has are closed.
pub(crate) fn encode_into(
    body: &mut dyn Body,
    room: &mut Vec<u8>,
    channels: &mut Vec<ChannelRef>,
) -> Result<usize, EncodeFault> {
    encode_carrying(body, room, channels).map(|(len, _)| len)
}

/// As [`encode_into`], with the descriptors that go with the payload.
pub(crate) fn encode_carrying(
    body: &mut dyn Body,
    room: &mut Vec<u8>,
    channels: &mut Vec<ChannelRef>,
) -> Result<(usize, Descriptors), EncodeFault> {
    loop {
        let mut encoder = Encoder::new(room, channels);
        body.encode(&mut encoder)?;
        let len = encoder.len();
        if encoder.fits() {
            return Ok((len, encoder.into_descriptors()));
        }
        room.resize(len.next_power_of_two(), 0);
    }
}

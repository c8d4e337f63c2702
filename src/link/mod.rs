//! What a session needs of a transport, and the transports.
//!
//! A link carries [`Message`]s between two peers, in order. It is handed to the rest of the library as
//! [`Parts`]: the end that sends, the end that receives, and, where the transport has them, a table of
//! credit that both peers see and a watch on the peer's life. Nothing here knows what a call or a
//! channel means.
//!
//! | part | held by | does |
//! |---|---|---|
//! | [`Sender`] | whoever sends, under one short lock | encodes a message where it will lie |
//! | [`Receiver`] | whoever holds the receive role | hands out what arrived, sleeps when nothing did |
//! | [`Watcher`] | the link's driver | notices that the peer rang, or died |
//! | [`CreditTable`] | everybody | credit without messages, in shared memory |
//! | [`Lending`] | everybody | memory to be filled, and sent without a copy |
//!
//! The links: `stream` over anything `AsyncRead + AsyncWrite`, `memory` within one process, and the
//! segments of `crate::segments` on Linux.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "shared memory and descriptors are not there")
)]

pub(crate) mod codec;
pub(crate) mod descriptors;
pub(crate) mod frame;
pub(crate) mod lending;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod vector;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

pub(crate) use lending::Lending;
pub(crate) use message::{Body, Brought, ChannelRef, CreditSlot, EncodeFault, Encoder, Head, Message};

use self::descriptors::Descriptors;
use crate::error::LinkEnd;

/// Which of the two peers of a link this one is; it decides the parity of the ids that it allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It connected, or it is the guest of a segment: odd ids.
    Initiator,
    /// It listened, or it is the host of a segment: even ids.
    Acceptor,
}

impl Role {
    /// The role of the other side.
    pub(crate) fn peer(self) -> Role {
        match self {
            Role::Initiator => Role::Acceptor,
            Role::Acceptor => Role::Initiator,
        }
    }
}

/// What both peers agreed on before the first message (protocol section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The longest payload of a Request, Response or Data, in bytes.
    pub(crate) max_payload_size: u32,
    /// The bytes that a sender may send on a fresh channel.
    pub(crate) initial_channel_credit: u32,
}

/// A link that is ready: the peers agreed on its limits, and no message has crossed it yet.
pub(crate) struct Parts {
    pub(crate) role: Role,
    pub(crate) limits: Limits,
    pub(crate) sender: Box<dyn Sender>,
    pub(crate) receiver: Box<dyn Receiver>,
    /// `None`: credit is granted by messages.
    pub(crate) credit: Option<Arc<dyn CreditTable>>,
    /// `None`: the link has no memory of its own that it could lend.
    pub(crate) lending: Option<Arc<dyn Lending>>,
    /// `None`: the receiver itself learns of everything.
    pub(crate) watcher: Option<Box<dyn Watcher>>,
    /// Ends the sleep of a thread in [`Receiver::sleep`]. `None`: nobody can sleep on this link.
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
}

/// The sending end of a link.
///
/// What is sent becomes visible to the peer in the order of the calls, at [`publish`](Sender::publish)
/// or before.
pub(crate) trait Sender: Send {
    /// Encodes one message where it will lie and returns the length of its payload.
    ///
    /// `body` may be asked to encode more than once: when the first place turned out too short.
    ///
    /// # Errors
    ///
    /// On every error nothing of the message was sent, and the link can go on.
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault>;

    /// Makes everything sent so far visible to the peer, and wakes it if it sleeps.
    ///
    /// Byte streams write at [`poll_flush`](Sender::poll_flush) only; the caller wakes the driver when this
    /// returns [`Publish::Flush`].
    fn publish(&mut self) -> Publish;

    /// Pushes what is published towards the peer, as far as it goes without waiting. `Pending` leaves the
    /// driver's waker behind. Ready at once on links that need no driver for it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>>;

    /// Whether the link can ever carry an element of so many bytes.
    ///
    /// # Errors
    ///
    /// [`SendFault::TooLarge`] when it cannot.
    fn check_element(&self, len: usize) -> Result<(), SendFault> {
        let _ = len; // links whose limit is the payload's carry whatever that allows
        Ok(())
    }

    /// Whether the messages of this link can carry descriptors. Where they cannot, none may stand in a body.
    fn carries_descriptors(&self) -> bool {
        false
    }

    /// Whether a message that was refused as [`SendFault::Full`] is worth another try. When it answers
    /// `false`, the driver is woken once there is room.
    fn has_room(&mut self) -> Result<bool, LinkEnd>;

    /// Whether, though [`has_room`](Sender::has_room) said `true`, there is none yet for another message that was
    /// refused. Then it is to be asked again, as if it had said `false`.
    fn still_waits(&self) -> bool {
        false
    }
}

/// What [`Sender::publish`] leaves to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Publish {
    /// Nothing: the peer can see it.
    Done,
    /// The driver must be woken to flush.
    Flush,
}

/// Why a message was not sent.
#[derive(Debug)]
pub(crate) enum SendFault {
    /// No room now. Ask [`Sender::has_room`], and try again when the driver says that there is.
    Full,
    /// The message can never fit this link.
    TooLarge {
        /// Bytes of the message, heads included.
        len: usize,
        /// The most that fits.
        limit: usize,
        /// The setting that widens it.
        setting: &'static str,
    },
    /// The system has no memory for a message of this length.
    NoMemory {
        /// Bytes of the payload.
        len: usize,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The body could not be encoded.
    Encode(EncodeFault),
    /// The link is of no use any more.
    Ended(LinkEnd),
}

impl From<LinkEnd> for SendFault {
    fn from(end: LinkEnd) -> Self {
        SendFault::Ended(end)
    }
}

/// The receiving end of a link. Whoever holds it has the receive role.
pub(crate) trait Receiver: Send {
    /// Hands what has arrived to `sink`, oldest first, until nothing is left, a batch is full or `sink`
    /// says stop, and returns how many messages that were. Never waits.
    ///
    /// # Errors
    ///
    /// The link is over. What had arrived before was handed out first.
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd>;

    /// As [`drain`](Receiver::drain), but `Pending` when nothing had arrived, and then the task of `cx` is
    /// woken for what comes. May spin for a short time before it says so.
    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>>;

    /// Whether the last [`poll_receive`](Receiver::poll_receive) that was `Pending` counts on the
    /// [`Watcher`] to wake the task. `false` while it keeps the task running in order to spin.
    fn asleep(&self) -> bool {
        true
    }

    /// Whether the last [`drain`](Receiver::drain), or [`poll_receive`](Receiver::poll_receive), left something behind that may
    /// not be taken yet, though it has arrived.
    fn held_up(&self) -> bool {
        false
    }

    /// Spins for messages for as long as experience says that it pays, and returns whether one is there.
    /// `false` at once on links that are not worth it.
    fn spin(&mut self) -> bool {
        false
    }

    /// Puts the calling thread to sleep until something happens on the link, [`Interrupt::interrupt`] is
    /// called, or `deadline` is over; may return early. `false` if this link's driver alone can wait.
    fn sleep(&mut self, deadline: Option<Instant>) -> Result<bool, LinkEnd> {
        let _ = deadline;
        Ok(false)
    }

    /// Hands the wake-ups back to the driver's task after [`drain`](Receiver::drain) or
    /// [`sleep`](Receiver::sleep) were used outside of it. `true` when something arrived meanwhile, so that
    /// the driver has to be woken.
    fn hand_back(&mut self) -> bool {
        false
    }
}

/// What takes the messages that a [`Receiver`] hands out.
pub(crate) trait Sink {
    /// Takes the descriptors of the message that comes next. `None`: it had some, and the system has closed them, since
    /// this process may not have so many open.
    fn descriptors(&mut self, descriptors: Option<Descriptors>) {
        drop(descriptors);
    }

    /// What comes next is copied, and that takes its time: what others wait for is let go.
    fn about_to_copy(&mut self) {}

    /// Takes one message; `false` stops the drain after it.
    fn message(&mut self, message: Message<'_>) -> bool;
}

/// Wakes a thread that sleeps in [`Receiver::sleep`].
pub(crate) trait Interrupt: Send + Sync {
    /// Ends the sleep now, or the next one at once.
    fn interrupt(&self);
}

/// The driver's watch on a peer whose messages do not come through a descriptor.
pub(crate) trait Watcher: Send {
    /// Ready when the peer rang since the last call (`Ok`), or is gone. Otherwise the task of `cx` is woken
    /// for either.
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>>;
}

/// Credit that both peers see without a message (protocol section 6, shared memory).
///
/// Each channel has a slot. The side that allocates a channel's id takes the slot, names it in the
/// Request or Response, and gives it back when the channel is over on its side.
pub(crate) trait CreditTable: Send + Sync {
    /// Takes a slot for a channel that this side opens. `None`: all are in use.
    fn allot(&self) -> Option<CreditSlot>;

    /// How many slots this side can have taken at once.
    fn capacity(&self) -> usize;

    /// Returns a slot that [`allot`](CreditTable::allot) gave.
    fn give_back(&self, slot: CreditSlot);

    /// Whether `slot` is one that the peer may allot.
    ///
    /// # Errors
    ///
    /// It is not: the peer wrote nonsense.
    fn check(&self, slot: CreditSlot) -> Result<(), LinkEnd>;

    /// Starts the credit that this side grants, as a channel's receiver.
    fn open(&self, slot: CreditSlot, initial: u64);

    /// Raises the credit of a channel that this side receives to `total` bytes since it opened, and wakes
    /// the peer if its sender waits.
    fn grant(&self, slot: CreditSlot, total: u64);

    /// The bytes that the peer ever granted on a channel that this side sends; `None` until the peer has
    /// seen that the channel is open. `known` is what it had granted when it was last asked.
    ///
    /// # Errors
    ///
    /// It is less than before: the peer wrote nonsense.
    fn granted(&self, slot: CreditSlot, known: u64) -> Result<Option<u64>, LinkEnd>;

    /// Says that this side's sender waits for credit. The caller reads [`granted`](CreditTable::granted)
    /// once more afterwards; what is granted later than that wakes the driver.
    fn await_credit(&self, slot: CreditSlot);

    /// Takes [`await_credit`](CreditTable::await_credit) back.
    fn stop_waiting(&self, slot: CreditSlot);
}

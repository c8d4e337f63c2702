//! The errors of calls and streams.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    error::LinkEnd,
    link::{EncodeFault, SendFault, message::HandleFault},
    session::metadata::{Metadata, MetadataError},
    strict::DecodeError,
};

/// A type without values: the error of a method that has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Never {}

impl std::fmt::Display for Never {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Never> {
    /// The service said no, with its own error.
    #[error("the service refused: {0}")]
    User(E),
    /// The peer has no such method: no such service, another name or another signature.
    ///
    /// Which of these it is, [`Connection::explain`](crate::Connection::explain) asks the peer. That is a round
    /// trip of its own, which no call makes by itself.
    #[error("the peer does not know the method")]
    UnknownMethod,
    /// The peer could not read the arguments.
    #[error("the peer could not read the arguments")]
    InvalidPayload,
    /// The call was cancelled: its handler panicked, its deadline ran out over there, or the peer had too
    /// many requests.
    #[error("the peer cancelled the call")]
    Cancelled,
    /// The peer did not serve the call, and says why: it did not run.
    ///
    /// On the wire that is `Cancelled`, with the reason in the Response's metadata.
    #[error("the peer rejected the call: {reason}")]
    Rejected {
        /// Why, in the peer's words.
        reason: String,
    },
    /// The peer had handed the call on, and what it handed it to is gone. Whether the call ran over there is not
    /// known.
    ///
    /// On the wire that is `Cancelled`, with the reason in the Response's metadata.
    #[error("the connection behind the peer ended: {reason}")]
    UpstreamEnded {
        /// How it ended, in the peer's words.
        reason: String,
    },
    /// The call ran, and the peer could not send what it returned: it has descriptors, which the link does not carry, or
    /// not so many, or which the system does not pass. (Other results that cannot be sent are
    /// [`Cancelled`](CallError::Cancelled).)
    ///
    /// On the wire that is `Cancelled`, with the reason in the Response's metadata.
    #[error("the call ran, and the peer could not send its result: {reason}")]
    Unanswered {
        /// Why, in the peer's words.
        reason: String,
    },
    /// The link ended while the call was in flight, and the call was not made again on the next one, since it may have
    /// run.
    #[error("whether the call ran is unknown: {end}")]
    OutcomeUnknown {
        /// How the link ended.
        end: LinkEnd,
    },
    /// A cell that is supervised (`supervise`) ended while the call was in flight, and the call was not made again, since it
    /// may have run.
    #[error("the cell `{cell}` ended, and whether the call ran is unknown: {end}")]
    CellEnded {
        /// Its name.
        cell: std::sync::Arc<str>,
        /// How its link ended.
        end: LinkEnd,
    },
    /// There is no connection, and none could be made; nothing was sent.
    #[error("no connection after {attempts} attempts: {why}")]
    Unconnected {
        /// How often it was tried since the last one.
        attempts: u32,
        /// What the last attempt failed with.
        why: String,
    },
    /// The timeout of the call ran out. Whether it ran over there is not known.
    #[error("the call timed out after {after:?}")]
    TimedOut {
        /// The timeout that the call was given.
        after: Duration,
    },
    /// The result could not be read.
    #[error("the peer's answer could not be read: {0}")]
    InvalidResponse(DecodeError),
    /// The link is gone. Whether the call ran over there is not known.
    #[error(transparent)]
    Ended(#[from] LinkEnd),
    /// The call was refused on this side; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl CallError {
    /// The same, for a method that has an error of its own.
    pub(crate) fn widen<E>(self) -> CallError<E> {
        match self {
            CallError::User(never) => match never {},
            CallError::UnknownMethod => CallError::UnknownMethod,
            CallError::InvalidPayload => CallError::InvalidPayload,
            CallError::Cancelled => CallError::Cancelled,
            CallError::Rejected { reason } => CallError::Rejected { reason },
            CallError::UpstreamEnded { reason } => CallError::UpstreamEnded { reason },
            CallError::Unanswered { reason } => CallError::Unanswered { reason },
            CallError::OutcomeUnknown { end } => CallError::OutcomeUnknown { end },
            CallError::CellEnded { cell, end } => CallError::CellEnded { cell, end },
            CallError::Unconnected { attempts, why } => CallError::Unconnected { attempts, why },
            CallError::TimedOut { after } => CallError::TimedOut { after },
            CallError::InvalidResponse(why) => CallError::InvalidResponse(why),
            CallError::Ended(end) => CallError::Ended(end),
            CallError::Refused(refusal) => CallError::Refused(refusal),
        }
    }
}

/// Why there is no virtual connection.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer rejected it.
    #[error("the peer rejected the connection: {reason}")]
    Rejected {
        /// Why, in the peer's words; `not listening` when nobody over there takes connections.
        reason: String,
        /// What it sent along.
        metadata: Metadata,
    },
    /// The peer accepted it with an id that another connection of the link has. That one is not touched.
    #[error("the peer accepted the connection with id {conn_id}, which another one has")]
    IdInUse {
        /// The id.
        conn_id: u64,
    },
    /// The link is gone.
    #[error(transparent)]
    Ended(#[from] LinkEnd),
    /// It was refused on this side; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why something was refused on this side, before anything was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The payload is longer than both peers agreed on.
    #[error(
        "a payload of {len} bytes exceeds the {limit} that both peers agreed on (Settings::max_payload_size)"
    )]
    PayloadTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The negotiated maximum.
        limit: usize,
    },
    /// The message is longer than the link can carry.
    #[error("a message of {len} bytes exceeds the {limit} that this link carries ({setting})")]
    MessageTooLarge {
        /// Its length in bytes, heads included.
        len: usize,
        /// The most that the link carries.
        limit: usize,
        /// The setting that widens it.
        setting: &'static str,
    },
    /// More memory was to be lent than the link ever lends.
    #[error(
        "a loan of {len} bytes exceeds the {limit} that this link lends (Settings::arena_bytes, Settings::arena_blocks)"
    )]
    LoanTooLarge {
        /// Bytes that were asked for.
        len: usize,
        /// The most that is lent at once.
        limit: usize,
    },
    /// The system has no shared memory for it.
    #[error("no shared memory for {len} bytes: {kind}")]
    NoMemory {
        /// Bytes of the payload, or of the loan.
        len: usize,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// A stream's element is longer than the stream's whole window: it could never be sent.
    #[error(
        "an element of {len} bytes exceeds the stream's window of {window} (Settings::initial_channel_credit)"
    )]
    ElementTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The window: the negotiated initial credit.
        window: usize,
    },
    /// More metadata than the protocol allows.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The value's own `Serialize` failed, or it is of a kind that postcard cannot express.
    #[error("a value cannot be encoded: {0}")]
    Serialize(#[source] EncodeError),
    /// More streams in one call than the link can ever have open.
    #[error("{count} streams in one message, at most {limit} can be opened (Settings::channel_slots)")]
    TooManyStreams {
        /// How many handles were passed.
        count: usize,
        /// How many this side can have open.
        limit: usize,
    },
    /// The link has as many virtual connections as it may.
    #[error("the link has {limit} connections, opened or asked for, already (Settings::max_connections)")]
    TooManyConnections {
        /// How many it may have.
        limit: usize,
    },
    /// The reason of a rejection is too long.
    #[error("a reason of {len} bytes exceeds the limit of {limit}")]
    ReasonTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is sent.
        limit: usize,
    },
    /// A `Tx` or `Rx` was passed whose other half is remote already, or that was passed before.
    #[error("a stream's handle was passed whose other half is remote already")]
    HandleInUse,
    /// A `Tx` or `Rx` stands where none may: in an error, or in a stream's element.
    #[error("a stream's handle cannot stand in an error or in a stream's element")]
    HandleMisplaced,
    /// A descriptor was passed on a link that carries none: a byte stream that is no Unix socket.
    #[error(
        "{count} descriptors were passed, and this link carries none: only Unix sockets, shared memory and links within a process do, unless Settings::max_descriptors is 0"
    )]
    DescriptorsNotCarried {
        /// How many were passed.
        count: usize,
    },
    /// The method returns a descriptor, and the link carries none.
    #[error(
        "the method returns a descriptor, and this link carries none: only Unix sockets, shared memory and links within a process do, unless Settings::max_descriptors is 0"
    )]
    DescriptorNotReturned,
    /// More descriptors in one message than it may carry.
    #[error("{count} descriptors in one message, at most {limit} are passed (Settings::max_descriptors)")]
    TooManyDescriptors {
        /// How many were passed.
        count: usize,
        /// The most that are.
        limit: usize,
    },
    /// A descriptor stands where none may: in an error, or in a stream's element.
    #[error("a descriptor cannot stand in an error or in a stream's element")]
    DescriptorMisplaced,
    /// The system refused to pass a descriptor: most likely this process has too many open, so that it cannot be duplicated,
    /// or it is of a kind that cannot be passed, or the peer's socket takes none (`SO_PASSRIGHTS`).
    #[error("a descriptor cannot be passed: {}", std::io::Error::from_raw_os_error(*.code))]
    DescriptorUnpassed {
        /// The system's error, by its number.
        code: i32,
    },
    /// The system passes no more descriptors of this user's: those that his processes have passed to each other, and that
    /// nobody has received yet, are as many as one process may have open.
    #[error(
        "no descriptor can be passed: this user's processes have {limit} (RLIMIT_NOFILE) under way that nobody has received, for {after:?} by now (Settings::descriptor_timeout)"
    )]
    DescriptorsCrowded {
        /// How many they may have under way.
        limit: u64,
        /// How long was waited.
        after: Duration,
    },
}

impl Refusal {
    /// Whether it is descriptors that were refused.
    pub(crate) fn is_of_descriptors(&self) -> bool {
        matches!(
            self,
            Refusal::DescriptorsNotCarried { .. }
                | Refusal::TooManyDescriptors { .. }
                | Refusal::DescriptorUnpassed { .. }
                | Refusal::DescriptorsCrowded { .. }
        )
    }
}

/// Why a value could not be encoded: its own `Serialize` failed, or it is of a kind that the format does not have,
/// such as a sequence whose length is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError(postcard::Error);

impl EncodeError {
    pub(crate) fn new(error: postcard::Error) -> Self {
        EncodeError(error)
    }
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for EncodeError {}

/// Why an element could not be sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver went away: it dropped its `Rx`, or its call failed.
    #[error("the receiver of the stream is gone")]
    Closed,
    /// The link is gone.
    #[error(transparent)]
    Ended(#[from] LinkEnd),
    /// The element was refused on this side.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why a value was not sent at once. It comes back with the error.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// The stream's window is used up, or the link is full: it can be sent later.
    #[error("the stream has no room now")]
    Full(T),
    /// The receiver went away, as [`SendError::Closed`].
    #[error("the receiver of the stream is gone")]
    Closed(T),
    /// The link is gone.
    #[error("{end}")]
    Ended {
        /// The value.
        value: T,
        /// How the link ended.
        end: LinkEnd,
    },
    /// The value was refused on this side.
    #[error("{refusal}")]
    Refused {
        /// The value.
        value: T,
        /// Which limit it exceeds, or what else is wrong with it.
        refusal: Refusal,
    },
}

impl<T> TrySendError<T> {
    pub(crate) fn failed(value: T, error: SendError) -> Self {
        match error {
            SendError::Closed => TrySendError::Closed(value),
            SendError::Ended(end) => TrySendError::Ended { value, end },
            SendError::Refused(refusal) => TrySendError::Refused { value, refusal },
        }
    }

    /// The value that was not sent.
    #[must_use]
    pub fn into_inner(self) -> T {
        match self {
            TrySendError::Full(value)
            | TrySendError::Closed(value)
            | TrySendError::Ended { value, .. }
            | TrySendError::Refused { value, .. } => value,
        }
    }

    /// Whether it can be sent later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, TrySendError::Full(_))
    }
}

/// Without the value, so that it is there for every `T`.
impl<T> std::fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TrySendError::Full(_) => f.write_str("Full(..)"),
            TrySendError::Closed(_) => f.write_str("Closed(..)"),
            TrySendError::Ended { end, .. } => {
                f.debug_struct("Ended").field("end", end).finish_non_exhaustive()
            }
            TrySendError::Refused { refusal, .. } => {
                f.debug_struct("Refused").field("refusal", refusal).finish_non_exhaustive()
            }
        }
    }
}

/// Why a stream ended before its sender closed it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The sender broke the stream off, or the call that opened it failed.
    #[error("the stream was broken off")]
    Reset,
    /// The link is gone.
    #[error(transparent)]
    Ended(#[from] LinkEnd),
    /// An element could not be read. (On a link, that ends the link.)
    #[error("an element could not be read: {0}")]
    InvalidElement(DecodeError),
}

/// Why there is no value at once.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing is there now; more may come.
    #[error("nothing has arrived")]
    Empty,
    /// The sender has closed the stream, and everything was received. ([`Rx::recv`](crate::Rx::recv) returns `None`.)
    #[error("the stream has come to its end")]
    Closed,
    /// The stream ended before its sender closed it.
    #[error(transparent)]
    Failed(#[from] RecvError),
}

/// What stands in the way of a message: something to wait for, or an end to it.
#[derive(Debug)]
pub(crate) enum Obstacle<E> {
    Blocked(Blocked),
    Final(E),
}

/// What has to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The link is full.
    Room,
    /// The channel's credit is used up.
    Credit { len: usize },
    /// All channels of the link are in use.
    Slot,
    /// The system passes no descriptors at the moment.
    Crowded,
}

/// Tells what has to be waited for from what is final.
pub(crate) fn sort<E: From<Refusal> + From<LinkEnd>>(fault: SendFault) -> Obstacle<E> {
    let refused = match fault {
        SendFault::Full => return Obstacle::Blocked(Blocked::Room),
        SendFault::Encode(EncodeFault::NoCredit { len }) => {
            return Obstacle::Blocked(Blocked::Credit { len });
        }
        SendFault::Encode(EncodeFault::NoSlot) => return Obstacle::Blocked(Blocked::Slot),
        SendFault::Encode(EncodeFault::Crowded) => return Obstacle::Blocked(Blocked::Crowded),
        SendFault::Ended(end) => return Obstacle::Final(end.into()),
        SendFault::TooLarge { len, limit, setting } => Refusal::MessageTooLarge { len, limit, setting },
        SendFault::NoMemory { len, kind } => Refusal::NoMemory { len, kind },
        SendFault::Encode(fault) => refusal(fault),
    };
    Obstacle::Final(refused.into())
}

/// What a fault says to the caller.
pub(crate) fn refusal(fault: EncodeFault) -> Refusal {
    match fault {
        EncodeFault::PayloadTooLarge { len, limit } => Refusal::PayloadTooLarge { len, limit },
        EncodeFault::ElementTooLarge { len, window } => Refusal::ElementTooLarge { len, window },
        EncodeFault::Serialize(error) => Refusal::Serialize(EncodeError::new(error)),
        EncodeFault::TooManyChannels { count, limit } => Refusal::TooManyStreams { count, limit },
        EncodeFault::Handle(HandleFault::Passed) => Refusal::HandleInUse,
        EncodeFault::Handle(HandleFault::Misplaced) => Refusal::HandleMisplaced,
        EncodeFault::Handle(HandleFault::MisplacedDescriptor) => Refusal::DescriptorMisplaced,
        EncodeFault::NoDescriptors { count } => Refusal::DescriptorsNotCarried { count },
        EncodeFault::TooManyDescriptors { count, limit } => Refusal::TooManyDescriptors { count, limit },
        EncodeFault::Descriptor { code } => Refusal::DescriptorUnpassed { code },
        // `sort` has waited for these.
        EncodeFault::NoCredit { len } => Refusal::ElementTooLarge { len, window: 0 },
        EncodeFault::NoSlot => Refusal::HandleInUse,
        EncodeFault::Crowded => Refusal::DescriptorsCrowded { limit: 0, after: Duration::ZERO },
        EncodeFault::Metadata { what, value, limit } => MetadataError::new(what, value, limit).into(),
    }
}

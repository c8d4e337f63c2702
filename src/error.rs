//! How links end, and what every layer says when they do.

use std::{fmt, io, sync::Arc, time::Duration};

use crate::strict::DecodeError;

/// Why a link is over, or one of its connections. Every call and channel that was open on it fails with this.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// This side closed it: its last handle was dropped, or it was told to close.
    #[error("the link was closed by this side")]
    Closed,
    /// The peer said goodbye. An empty reason is a normal end.
    #[error("the peer said goodbye{}", Reason(.reason))]
    Goodbye {
        /// The reason that the peer gave: empty, or a rule id of the protocol.
        reason: Arc<str>,
    },
    /// The peer's process exited.
    #[error("the peer's process exited with code {code}")]
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// The peer's process was ended by a signal.
    #[error("the peer's process was killed by signal {signal}")]
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The peer's process is gone, or its end of the connection is, and nobody can tell how.
    #[error("the peer is gone without a goodbye")]
    Gone,
    /// The peer broke a rule of the protocol; it was told which in a Goodbye.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The peer wrote a value into its half of the segment that cannot be true.
    #[error("the peer's half of the segment is corrupt: {field} is {value}")]
    Corrupt {
        /// The field, as the layout's table calls it.
        field: &'static str,
        /// What was found there.
        value: u64,
    },
    /// The peer makes this side answer and reads nothing: more messages waited for it than
    /// [`Settings::max_parked_messages`](crate::Settings::max_parked_messages) allows.
    #[error("the peer reads nothing: {messages} messages wait for it (Settings::max_parked_messages)")]
    Unread {
        /// How many waited.
        messages: usize,
    },
    /// The peer gave no sign of life: see [`Settings::keep_alive`](crate::Settings::keep_alive).
    #[error("the peer gave no sign of life for {after:?} (Settings::keep_alive)")]
    Silent {
        /// The interval of silence after which it was asked, and the time that it was given then.
        after: Duration,
    },
    /// The peer sent other descriptors than a message of its announced, or some that none did.
    #[error("the peer sent {arrived} descriptors where it announced {announced}")]
    Descriptors {
        /// How many a message announced.
        announced: u64,
        /// How many came; they are closed.
        arrived: usize,
    },
    /// The peer passes descriptors that nobody takes, and whose close takes its time: more of them waited for theirs than
    /// [`Settings::max_held_descriptors`](crate::Settings::max_held_descriptors) allows, or some that this process may not
    /// have (`RLIMIT_NOFILE`) stood before all that comes behind them, and one alone took a second of it; or no thread of
    /// this process was free for them within ten seconds, since others took theirs.
    #[error(
        "descriptors of the peer's take too long to close: {waiting} wait for it, at most {limit} may (Settings::max_held_descriptors)"
    )]
    Unclosed {
        /// How many waited.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// The system refused to carry the link on.
    #[error("the link failed: {0}")]
    Io(#[source] Arc<io::Error>),
    /// One virtual connection is over; its link goes on.
    #[error(transparent)]
    Connection(#[from] ConnectionEnd),
}

/// Why a virtual connection is over while its link goes on (protocol section 7).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// This side closed it: its last handle was dropped, or it was told to close.
    #[error("the connection was closed by this side")]
    Closed,
    /// The peer closed it. An empty reason is a normal end.
    #[error("the connection was closed by the peer{}", Reason(.reason))]
    Goodbye {
        /// The reason that the peer gave: empty, or a rule id of the protocol.
        reason: Arc<str>,
    },
    /// The peer broke a rule of the protocol on it; it was told which in a Goodbye.
    #[error("the connection was closed since the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
}

impl From<io::Error> for LinkEnd {
    fn from(error: io::Error) -> Self {
        LinkEnd::Io(Arc::new(error))
    }
}

/// A Goodbye's reason, as the rest of a sentence.
struct Reason<'a>(&'a str);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// A rule of the protocol that the peer broke. Never caused by a caller of this library.
///
/// [`rule`](Violation::rule) is the rule's id, which went out as the reason of a Goodbye.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// `message.hello.unknown-version`: the peer speaks another version of the protocol.
    #[error("it opened with a Hello of another version of the protocol")]
    UnknownVersion,
    /// `message.hello.ordering`: something came before Hello, or a second Hello came.
    #[error("a message came before Hello, or Hello came twice")]
    HelloOrdering,
    /// `message.decode-error`: bytes that are no message.
    #[error("{len} bytes are no message")]
    Decode {
        /// The length of the frame.
        len: usize,
    },
    /// `message.unknown-variant`: a message of a kind that does not exist.
    #[error("messages of kind {kind} do not exist")]
    UnknownVariant {
        /// The discriminant.
        kind: u64,
    },
    /// `message.conn-id`: a connection that was never opened.
    #[error("connection {conn_id} was never opened")]
    UnknownConnection {
        /// The connection's id.
        conn_id: u64,
    },
    /// `call.request-id.duplicate-detection`: a request id that is in flight already.
    #[error("request {request_id} is in flight already")]
    DuplicateRequest {
        /// The request's id.
        request_id: u64,
    },
    /// `call.metadata.limits`: more metadata than the protocol allows.
    #[error("metadata: {what} is {value}, at most {limit} are allowed")]
    MetadataLimits {
        /// What exceeded: entries, or bytes of a key, of a value, in all.
        what: &'static str,
        /// How much it was.
        value: usize,
        /// The limit.
        limit: usize,
    },
    /// `flow.call.payload-limit`: a payload longer than both sides agreed on.
    #[error("a payload of {len} bytes, at most {limit} were agreed on")]
    PayloadLimit {
        /// Its length.
        len: usize,
        /// The negotiated maximum.
        limit: usize,
    },
    /// `channeling.id.zero-reserved`: a channel with id 0.
    #[error("a channel has id 0")]
    ZeroChannel,
    /// `channeling.unknown`: a channel that was never opened.
    #[error("channel {channel_id} was never opened")]
    UnknownChannel {
        /// The channel's id.
        channel_id: u64,
    },
    /// `channeling.data.invalid`: an element that does not decode.
    #[error("an element of channel {channel_id} does not decode: {why}")]
    InvalidData {
        /// The channel's id.
        channel_id: u64,
        /// What is wrong with it.
        why: DecodeError,
    },
    /// `channeling.data.size-limit`: an element longer than the negotiated maximum.
    #[error("an element of {len} bytes, at most {limit} were agreed on")]
    DataSizeLimit {
        /// Its length.
        len: usize,
        /// The negotiated maximum.
        limit: usize,
    },
    /// `channeling.data-after-close`: an element after its channel was closed.
    #[error("an element came after Close of channel {channel_id}")]
    DataAfterClose {
        /// The channel's id.
        channel_id: u64,
    },
    /// `flow.channel.credit-overrun`: more bytes arrived on a channel than it was ever granted.
    #[error("channel {channel_id}: {sent} bytes sent, {granted} granted")]
    CreditOverrun {
        /// The channel's id.
        channel_id: u64,
        /// What was sent in all.
        sent: u64,
        /// What was granted in all.
        granted: u64,
    },
}

impl Violation {
    /// The rule's id in the protocol, as it goes out in a Goodbye.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Violation::UnknownVersion => "message.hello.unknown-version",
            Violation::HelloOrdering => "message.hello.ordering",
            Violation::Decode { .. } => "message.decode-error",
            Violation::UnknownVariant { .. } => "message.unknown-variant",
            Violation::UnknownConnection { .. } => "message.conn-id",
            Violation::DuplicateRequest { .. } => "call.request-id.duplicate-detection",
            Violation::MetadataLimits { .. } => "call.metadata.limits",
            Violation::PayloadLimit { .. } => "flow.call.payload-limit",
            Violation::ZeroChannel => "channeling.id.zero-reserved",
            Violation::UnknownChannel { .. } => "channeling.unknown",
            Violation::InvalidData { .. } => "channeling.data.invalid",
            Violation::DataSizeLimit { .. } => "channeling.data.size-limit",
            Violation::DataAfterClose { .. } => "channeling.data-after-close",
            Violation::CreditOverrun { .. } => "flow.channel.credit-overrun",
        }
    }
}

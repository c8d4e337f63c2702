//! How a handshake fails, and what the other side is told of it.

use std::io;

use adjoin_shm_layout::GeometryError;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use serde::{Deserialize, Serialize};

use crate::segments::segment::SegmentError;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer closed the control socket.
    #[error("the peer closed the control socket")]
    Closed,
    /// The control socket failed.
    #[error("the control socket failed")]
    Io(#[source] io::Error),
    /// What the peer sent does not begin like a message.
    #[error("the peer does not speak this protocol")]
    NotAdjoin,
    /// The peer speaks another version of the handshake.
    #[error("the peer speaks version {found} of the handshake, this side version {expected}")]
    Version {
        /// The peer's.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A message is longer than any of this version.
    #[error("the peer sent a message of {len} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its length.
        len: usize,
        /// The longest.
        limit: usize,
    },
    /// A message does not decode.
    #[error("the peer sent a message that does not decode")]
    Malformed,
    /// A message came that has no place there.
    #[error("the peer sent a message out of order")]
    OutOfOrder,
    /// A message came with more or fewer descriptors than it has.
    #[error("the peer sent {found} descriptors with a message that has {expected}")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many it has.
        expected: usize,
    },
    /// A message came with more descriptors than any has.
    #[error("the peer sent more than {limit} descriptors with a message")]
    TooManyDescriptors {
        /// The most that any has.
        limit: usize,
    },
    /// Descriptors that the peer sent could not be taken, since this process has as many as it may.
    #[error(
        "this process may have no further descriptor: it may have {limit} (RLIMIT_NOFILE), unless it is the system \
         that has no more"
    )]
    DescriptorLimit {
        /// How many it may have.
        limit: u64,
    },
    /// The process at the other end is not the host, or runs under another user.
    #[error("the other end of the control socket belongs to user {uid}, not to the host's process")]
    Stranger {
        /// The user of that process.
        uid: u32,
    },
    /// The descriptor that came as a handle on the host's process is none.
    #[error("the peer sent no handle on the host's process")]
    NoHost,
    /// The descriptor that came as a socket for descriptors is none.
    #[error("the peer sent no socket for descriptors")]
    NoSocket,
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(PeerRefusal),
    /// A limit that the host set is one that no segment can have.
    #[error("the host's limits are impossible")]
    Limit(#[source] GeometryError),
    /// One of the halves is not usable.
    #[error("the shared memory is not usable")]
    Segment(#[source] SegmentError),
}

impl HandshakeError {
    /// This process has as many descriptors as it may.
    pub(in super::super) fn descriptor_limit() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        HandshakeError::DescriptorLimit { limit }
    }

    /// What the peer is told of it.
    pub(in super::super) fn refusal(&self) -> PeerRefusal {
        match self {
            HandshakeError::DescriptorLimit { .. } => PeerRefusal::Descriptors,
            HandshakeError::Segment(_) => PeerRefusal::OwnHalf,
            _ => PeerRefusal::Message,
        }
    }
}

/// Whether the system refused since this process, or the whole system, has as many descriptors as it may; or the user as
/// many on their way between processes, which the same limit bounds.
fn is_descriptor_limit(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS))
}

/// Errors that mean that there are no descriptors left, or that the peer went away, are that.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if is_descriptor_limit(&error) => HandshakeError::descriptor_limit(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => HandshakeError::Closed,
            _ => HandshakeError::Io(error),
        }
    }
}

impl From<SegmentError> for HandshakeError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Create(error) if is_descriptor_limit(&error) => HandshakeError::descriptor_limit(),
            error => HandshakeError::Segment(error),
        }
    }
}

/// What a side that refuses tells the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// The guest cannot live with a limit of the host's.
    #[error("it cannot live with {limit} = {value}")]
    Limit {
        /// Which limit.
        limit: SegmentLimit,
        /// The host's value.
        value: u64,
    },
    /// The half that it got is not what a half must be; its own error says why.
    #[error("it does not take the shared memory that it was given")]
    Half,
    /// It could not make its own half; its own error says why.
    #[error("it could not make its own half of the shared memory")]
    OwnHalf,
    /// What it got is not what belongs there; its own error says what.
    #[error("it does not take what it was sent")]
    Message,
    /// This process is not one that it lets in.
    #[error("it does not allow this process (its Options::policy)")]
    NotAllowed,
    /// It has as many descriptors as it may, and could not take another.
    #[error("it may have no further descriptor (its RLIMIT_NOFILE)")]
    Descriptors,
}

/// A limit of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SegmentLimit {
    /// [`Settings::ring_bytes`](crate::Settings::ring_bytes)
    RingBytes,
    /// [`Settings::channel_slots`](crate::Settings::channel_slots)
    ChannelSlots,
    /// [`Settings::max_payload_size`](crate::Settings::max_payload_size)
    MaxPayloadSize,
    /// [`Settings::initial_channel_credit`](crate::Settings::initial_channel_credit)
    InitialChannelCredit,
    /// [`Settings::arena_blocks`](crate::Settings::arena_blocks)
    ArenaBlocks,
    /// [`Settings::arena_bytes`](crate::Settings::arena_bytes)
    ArenaBytes,
}

impl SegmentLimit {
    /// The limit that a field of [`Geometry`] is.
    pub(super) fn of(field: &str) -> Option<SegmentLimit> {
        [
            SegmentLimit::RingBytes,
            SegmentLimit::ChannelSlots,
            SegmentLimit::MaxPayloadSize,
            SegmentLimit::InitialChannelCredit,
            SegmentLimit::ArenaBlocks,
            SegmentLimit::ArenaBytes,
        ]
        .into_iter()
        .find(|limit| limit.name() == field)
    }

    const fn name(self) -> &'static str {
        match self {
            SegmentLimit::RingBytes => "ring_bytes",
            SegmentLimit::ChannelSlots => "channel_slots",
            SegmentLimit::MaxPayloadSize => "max_payload_size",
            SegmentLimit::InitialChannelCredit => "initial_channel_credit",
            SegmentLimit::ArenaBlocks => "arena_blocks",
            SegmentLimit::ArenaBytes => "arena_bytes",
        }
    }
}

impl std::fmt::Display for SegmentLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

//! The limits of a link, and how its sides wait.

use std::time::Duration;

use crate::strict;

/// Limits and ways of one side of a link. Every limit has a default that suits most programs.
///
/// ```
/// use adjoin::{Settings, Waiting};
///
/// let settings = Settings::default().max_payload_size(4 << 20).waiting(Waiting::Adaptive);
/// assert_eq!(settings.limits().0, 4 << 20);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Settings {
    pub(crate) max_payload_size: u32,
    pub(crate) initial_channel_credit: u32,
    pub(crate) window_growth: u32,
    pub(crate) max_concurrent_requests: u32,
    pub(crate) max_request_bytes: u64,
    pub(crate) max_connections: u32,
    pub(crate) max_channels: u32,
    pub(crate) max_parked_messages: u32,
    pub(crate) max_nesting: u32,
    pub(crate) max_descriptors: u32,
    pub(crate) max_held_descriptors: u32,
    pub(crate) descriptor_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) send_buffer: u32,
    pub(crate) ring_bytes: u32,
    pub(crate) channel_slots: u32,
    pub(crate) arena_bytes: Option<u64>,
    pub(crate) arena_blocks: u32,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) waiting: Waiting,
    pub(crate) trusted: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_payload_size: 64 << 20,
            initial_channel_credit: 64 << 10,
            window_growth: 4 << 20,
            max_concurrent_requests: 4096,
            max_request_bytes: 256 << 20,
            max_connections: 1024,
            max_channels: 32_768,
            max_parked_messages: 65_536,
            max_nesting: strict::NESTING,
            max_descriptors: 64,
            max_held_descriptors: 256,
            descriptor_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            send_buffer: 256 << 10,
            ring_bytes: 1 << 20,
            channel_slots: 16_384,
            arena_bytes: None,
            arena_blocks: 4096,
            keep_alive: None,
            waiting: Waiting::Adaptive,
            trusted: false,
        }
    }
}

impl Settings {
    /// The longest payload of a request, a response or a stream's element, in bytes: up to 4 GiB less one byte. Default:
    /// 64 MiB. The lower of both peers' values holds (protocol section 3); on shared memory the host's does.
    ///
    /// Over shared memory it also decides how long an [arena](Settings::arena_bytes) is, of which pages that were never
    /// used take no memory.
    pub fn max_payload_size(mut self, bytes: u32) -> Self {
        self.max_payload_size = bytes;
        self
    }

    /// The bytes that a sender may be ahead of the application that reads the channel. Default: 64 KiB. The
    /// lower of both peers' values holds; on shared memory the host's does. Elsewhere it is what a channel begins with, and
    /// [may grow](Settings::window_growth).
    pub fn initial_channel_credit(mut self, bytes: u32) -> Self {
        self.initial_channel_credit = bytes;
        self
    }

    /// Byte streams and the in-process link: the bytes by which windows of streams that this side receives may grow beyond
    /// the [initial one](Settings::initial_channel_credit), all of the link's together. Default: 4 MiB; a single window
    /// grows by a quarter of that at most.
    ///
    /// A window grows while its reader takes all that comes and the sender still waits for credit: then it is the window that
    /// makes the stream slow. It stays as wide until the stream ends. So what may wait here for readers that do not read any
    /// more is bounded: for each channel that is open the initial window, for all of them together this much more, and of
    /// either a quarter, which is granted ahead. With 0 no window grows.
    pub fn window_growth(mut self, bytes: u32) -> Self {
        self.window_growth = bytes;
        self
    }

    /// How many of the peer's requests may run here at once, on all connections of the link. Default: 4096. What
    /// comes beyond is answered `Cancelled` without running. A request counts until its handler is gone, also
    /// when it was cancelled before.
    pub fn max_concurrent_requests(mut self, requests: u32) -> Self {
        self.max_concurrent_requests = requests;
        self
    }

    /// How many bytes the payloads of the peer's requests that run here may have together, on all connections of the link.
    /// Default: 256 MiB. A request that would exceed it is answered [`Rejected`](crate::CallError::Rejected), unless it finds
    /// no other; those of up to 4 KiB are not counted. A request counts until its handler has returned, or is gone.
    pub fn max_request_bytes(mut self, bytes: u64) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// How many virtual connections a link may have, opened and asked for by either side. Default: 1024. The peer's
    /// wishes beyond that are rejected, and this side's refused. See
    /// [`Connection::connect`](crate::Connection::connect).
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many channels, which are the ends of streams, the peer may have opened here, on all connections of the link.
    /// Default: 32,768. A request of the peer's that would open more is answered `Cancelled`, and an answer that would
    /// is not read.
    ///
    /// A channel counts for as long as something here holds it: until its handle is dropped, also when the peer has
    /// closed it long before. How many can be open is a matter of [`channel_slots`](Settings::channel_slots).
    pub fn max_channels(mut self, channels: u32) -> Self {
        self.max_channels = channels;
        self
    }

    /// How many small messages that nobody waits to send (refusals, Cancel, Close, Reset, Credit) may wait for a
    /// peer that does not read. Default: 65,536. Beyond that the link ends with
    /// [`LinkEnd::Unread`](crate::LinkEnd::Unread). The answer to a Connect counts once more for each 128 bytes of its
    /// reason and its metadata.
    pub fn max_parked_messages(mut self, messages: u32) -> Self {
        self.max_parked_messages = messages;
        self
    }

    /// How deep the values that the peer sends may stand one within the other: levels of sequences, maps, options,
    /// structs, tuples and enums. Default: 128. Deeper arguments are answered `InvalidPayload`, a deeper result
    /// fails its call, and a deeper element of a stream ends the link; so a recursive type cannot use up this
    /// side's stack. A hundred levels of a type with little in it take some tens of KiB of that.
    pub fn max_nesting(mut self, levels: u32) -> Self {
        self.max_nesting = levels;
        self
    }

    /// How many descriptors one message may carry: the arguments of a call, or its result. Default: 64; at most the 253
    /// that Linux passes at once. A call of this side with more is refused. One of the peer's is answered
    /// [`Rejected`](crate::CallError::Rejected), and an answer of the peer's is not read; either way the descriptors that
    /// came are closed. With 0 the link carries none.
    ///
    /// As many, at most, are under way to a peer that has not received them: calls with more wait, so that a peer that does
    /// not read uses up little of what this user's processes may have under way. See `Descriptor`.
    pub fn max_descriptors(mut self, descriptors: u32) -> Self {
        self.max_descriptors = descriptors;
        self
    }

    /// How many descriptors of the peer's requests may be here at once, on all connections of the link. Default: 256. A
    /// request with more is answered [`Rejected`](crate::CallError::Rejected), and its descriptors are closed.
    ///
    /// A request's descriptors count until its handler has returned, or is gone, whatever the handler does with them.
    ///
    /// As many, again, may wait to be closed: where a peer passes descriptors that nobody takes and whose close takes its time,
    /// no more are received before some are closed (over a Unix socket: nothing is), and where one alone takes a second then, the
    /// link ends with [`LinkEnd::Unclosed`](crate::LinkEnd::Unclosed). So the peer of a link has at most twice as many open here, and those
    /// of one message, beside those that handlers and callers keep. A process whose `RLIMIT_NOFILE` leaves room for that times
    /// its links cannot be made to run out of them.
    pub fn max_held_descriptors(mut self, descriptors: u32) -> Self {
        self.max_held_descriptors = descriptors;
        self
    }

    /// How long a call, or an answer, with descriptors waits while the system passes no more of this user's: all his
    /// processes together have as many under way, that nobody has received, as `RLIMIT_NOFILE` allows (unless they are
    /// privileged). Default: 1 s. Then the call is refused with
    /// [`Refusal::DescriptorsCrowded`](crate::Refusal::DescriptorsCrowded). Others of the link go on meanwhile.
    pub fn descriptor_timeout(mut self, time: Duration) -> Self {
        self.descriptor_timeout = time;
        self
    }

    /// How long the peer may take to greet, a cell to serve, or a host to answer at all over TCP. Default: 5 s.
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }

    /// Asks a peer that was silent for `interval` for a sign of life, and ends the link with
    /// [`LinkEnd::Silent`](crate::LinkEnd::Silent) if none comes within `timeout`: for peers that are frozen, or behind a
    /// network that has gone. Default: off. A peer that dies is noticed without it.
    ///
    /// Any message counts as a sign, and every peer answers, also one that is not of this library. A peer that is busy
    /// must get to read within `timeout`. Each side decides for itself; with this off, an idle link wakes nobody.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = Some(KeepAlive { interval, timeout });
        self
    }

    /// Byte streams and the in-process link: bytes that may wait for the peer to read before senders have
    /// to wait. Default: 256 KiB.
    pub fn send_buffer(mut self, bytes: u32) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Shared memory: the size of each of the two rings, a power of two; the host's value holds. Default: 1 MiB.
    ///
    /// Payloads of up to an eighth of it travel in the ring, longer ones in blocks of the [arena](Settings::arena_bytes).
    /// What goes with a payload (metadata, and 16 bytes for each stream that it opens) must fit half of the ring, or the
    /// message is refused.
    pub fn ring_bytes(mut self, bytes: u32) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// How many channels may be open at once, half of them opened by either side; on shared memory the host's value
    /// holds for both. Default: 16,384. A call or an answer that would open more waits.
    pub fn channel_slots(mut self, slots: u32) -> Self {
        self.channel_slots = slots;
        self
    }

    /// Shared memory: the bytes of each of the two arenas, where payloads lie that are too long for the ring; whole pages
    /// of 4 KiB; the host's value holds. Default: twice [`max_payload_size`](Settings::max_payload_size).
    ///
    /// As many bytes as the longest payload takes are for messages on their way, which so always come through; that is
    /// the least that an arena can have. The rest can be [lent](crate::Connection::loan): filled in place by the sender, and
    /// read in place by a receiver that [trusts](Settings::trust_peer) its peer; up to a quarter of it may be long byte
    /// vectors of streams that wait for their reader. An arena takes memory for as many pages as were ever in use at once.
    pub fn arena_bytes(mut self, bytes: u64) -> Self {
        self.arena_bytes = Some(bytes);
        self
    }

    /// Shared memory: how many blocks of an arena may be in use at once, from 1 to 1,048,576; the host's value holds.
    /// Default: 4096. Who needs one more waits.
    ///
    /// A quarter of them, one at least, are for messages on their way, as is a part of the [bytes](Settings::arena_bytes):
    /// so those come through whatever is lent and kept. With a single block nothing is lent.
    pub fn arena_blocks(mut self, blocks: u32) -> Self {
        self.arena_blocks = blocks;
        self
    }

    /// How this side waits for its peer. Default: [`Waiting::Adaptive`].
    pub fn waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    /// Payloads that the peer sends in blocks of shared memory are read where they lie, without a copy: a
    /// [`Bytes`](bytes::Bytes) as an argument, a result or an element is a handle on its block, which goes back to the
    /// peer when the last handle is dropped. Other links, and payloads that are too short for a block, are as ever.
    ///
    /// Half of the peer's arena may be held in this way, for as long as one likes; what comes beyond that is copied.
    ///
    /// # Safety
    ///
    /// The peer's process does not write to a block that it has sent, until it was given back: it runs adjoin, unchanged,
    /// and nothing else in it writes at random. The kernel keeps everybody else from writing, but not the peer, and
    /// bytes that change while they are borrowed are undefined behaviour in this process.
    #[allow(unsafe_code, reason = "a promise that only the application can make")]
    pub unsafe fn trust_peer(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// The two limits that peers agree on: maximum payload and initial channel credit, in bytes.
    #[must_use]
    pub fn limits(&self) -> (u32, u32) {
        (self.max_payload_size, self.initial_channel_credit)
    }
}

/// How a silent peer is found to be dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// How one side of a link waits for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// Spins for as long as experience says that it pays (tens of microseconds at most), then sleeps. An
    /// idle link costs no CPU.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Sleep,
    /// Never sleeps: a whole core for the lowest latency.
    Spin,
}

//! Links over shared memory, on Linux: what makes a segment real.
//!
//! A segment is two memfds, one for each side to write (`adjoin_shm_layout` says what lies in them). This
//! module makes them, hands them over, wakes the other side, and notices its death.
//!
//! | file | does |
//! |---|---|
//! | `segment`, `mapping`, `seals` | our half made and sealed, the peer's checked before it is mapped |
//! | `control`, `handshake` | messages with descriptors over a socket; how two sides agree |
//! | `spawn`, `process`, `output` | a host starts a cell, owns its process, and shows what it writes |
//! | `cell`, `guard` | a cell finds its host, and dies with it |
//! | `strangers` | two processes that found each other by a path |
//! | `link` | two halves and a socket become a [`Parts`](crate::link::Parts) |
//! | `sender`, `receiver`, `frame`, `credit`, `spin` | the parts of a link |
//! | `arena`, `lending`, `blocks`, `backing` | blocks for long payloads: ours, those that are lent, the peer's, and where their memory comes from |
//! | `bell`, `futex` | how sleepers are woken: a task by a byte on the socket, a thread by a futex |
//! | `passage` | how the descriptors of messages cross |
//! | `death`, `exit` | that the peer is gone, and how it ended |
//! | `poller` | descriptors in the runtime's poller |
//!
//! # What a message costs
//!
//! Counted for a message that fits the ring, on links that are busy. System calls are made only for a peer
//! that sleeps; the bell is rung once for each sleep, however much is sent until it ends.
//!
//! | | sender | receiver |
//! |---|---|---|
//! | system calls | 1 for each kind of sleeper (futex, bell) | 1 to sleep on the futex, or to hear the bell |
//! | copies | 1: the encoding, straight into the ring | 1: out of the ring, into memory that is used again |
//! | fences | 1 SeqCst a `publish` | 1 SeqCst each time that room is given back, and for each sleep |
//! | locks | none; the caller's is around the sender | none; the caller's is around the receiver |
//! | allocations | none | none, once its memory has grown to the longest message |
//!
//! A payload that is longer than an eighth of the ring goes through a block of the arena. Beside the above that costs:
//!
//! | | sender | receiver |
//! |---|---|---|
//! | system calls | 1 for each part of the arena that is used for the first time | 1, likewise |
//! | copies | 1, into the block, after the length was found out by a first encoding that copies at most what fits the ring | 1, out of the block |
//! | fences | none | 1 SeqCst, to give the block back |
//! | locks | 2 short ones, of the arena | 1 short one, to give the block back |
//! | allocations | none | none up to 4 MiB, unless the application keeps the payload |

mod arena;
mod backing;
mod bell;
mod blocks;
mod cell;
mod control;
mod credit;
mod death;
mod exit;
mod frame;
mod futex;
mod guard;
mod handshake;
mod lending;
mod link;
mod mailbox;
mod mapping;
mod output;
mod passage;
mod poller;
mod process;
mod receiver;
mod seals;
mod segment;
mod sender;
mod spawn;
mod spin;
mod strangers;
mod unread;

pub use cell::AttachError;
pub use handshake::{HandshakeError, PeerRefusal, SegmentLimit};
pub use output::CellOutput;
pub use seals::Seal;
pub use segment::SegmentError;
pub use spawn::SpawnError;

pub(crate) use cell::attach;
#[cfg(test)]
pub(crate) use link::tests::{End, ends_for_test, pair_for_test};
pub(crate) use process::{Either, Process, race};
#[cfg(test)]
pub(crate) use spawn::geometry;
pub(crate) use spawn::{Manner, begin, launch};
pub use strangers::OpenError;
pub(crate) use strangers::{join, offer};

//! The parts of a running link: what the layer above holds of this crate.

use alloc::sync::Arc;

use crate::algo::arena::{Arena, PeerArena, Returns};
use crate::algo::channels::{Partition, SlotAllocator};
use crate::algo::credit::Credit;
use crate::algo::park::Park;
use crate::algo::ring::{RingReader, RingWriter};
use crate::halves::Halves;

/// Which of the two peers this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It connected, or it is the guest of a segment: it allots the lower half of the slots.
    Initiator,
    /// It listened, or it is the host: it allots the upper half of the slots.
    Acceptor,
}

/// One side of a link, in parts that different threads can own.
///
/// There is one writer and one reader of a pair of halves, by construction: `attach` takes the halves, and
/// neither part can be cloned.
#[derive(Debug)]
pub struct Attached<H> {
    /// The producer of the ring out.
    pub writer: RingWriter<H>,
    /// The consumer of the ring in.
    pub reader: RingReader<H>,
    /// Sleeping, for any thread of this side.
    pub park: Park<H>,
    /// The channel table, for any thread of this side.
    pub credit: Credit<H>,
    /// Hands out the slots that this side allots.
    pub slots: SlotAllocator,
    /// Checks the slots that the peer allots.
    pub partition: Partition,
    /// The blocks for payloads out.
    pub arena: Arena<H>,
    /// The peer's blocks, for payloads in.
    pub peer_arena: PeerArena<H>,
    /// Gives the peer's blocks back.
    pub returns: Returns<H>,
}

impl<H: Halves> Attached<H> {
    pub(crate) fn new(halves: H, side: Side) -> Self {
        let partition = Partition::new(side, halves.own().channels.len());
        let halves = Arc::new(halves);
        Self {
            writer: RingWriter::new(halves.clone()),
            reader: RingReader::new(halves.clone()),
            park: Park::new(halves.clone()),
            credit: Credit::new(halves.clone()),
            slots: SlotAllocator::new(&partition),
            partition,
            arena: Arena::new(halves.clone()),
            peer_arena: PeerArena::new(halves.clone()),
            returns: Returns::new(halves),
        }
    }
}

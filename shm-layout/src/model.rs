//! The halves of a model: on the heap, made of loom's types, as small as the model wants them.

use std::sync::Arc;

use crate::attached::{Attached, Side};
use crate::halves::{Halves, Own, Peer, Rung, sealed};
use crate::layout::channel::ChannelEntry;
use crate::layout::endpoint::{Endpoint, Line};
use crate::sync::{AtomicU32, AtomicU64, Granule, ReadOnly};

/// Makes a link of two sides in one process: the initiator's and the acceptor's. The rings have `ring_bytes`
/// bytes, which is a power of two and need not be within the bounds of a mapping.
#[must_use]
pub fn pair(ring_bytes: usize, channel_slots: usize) -> (Attached<ModelHalves>, Attached<ModelHalves>) {
    pair_with_arena(ring_bytes, channel_slots, ModelArena::default())
}

/// The arenas of a model: pages have 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelArena {
    /// Bytes to be lent.
    pub lending_bytes: usize,
    /// Bytes for what passes.
    pub passing_bytes: usize,
    /// Blocks that may be out at once.
    pub blocks: usize,
}

/// As [`pair`], with arenas.
#[must_use]
pub fn pair_with_arena(
    ring_bytes: usize,
    channel_slots: usize,
    arena: ModelArena,
) -> (Attached<ModelHalves>, Attached<ModelHalves>) {
    let half = || Arc::new(Half::new(ring_bytes, channel_slots, arena));
    let (initiator, acceptor) = (half(), half());
    let halves = |own, peer| ModelHalves { own, peer, lending: arena.lending_bytes, rung: Rung::default() };
    (
        Attached::new(halves(initiator.clone(), acceptor.clone()), Side::Initiator),
        Attached::new(halves(acceptor, initiator), Side::Acceptor),
    )
}

/// Both halves, as one side sees them.
#[derive(Debug)]
pub struct ModelHalves {
    own: Arc<Half>,
    peer: Arc<Half>,
    lending: usize,
    rung: Rung,
}

impl Halves for ModelHalves {}

impl sealed::Halves for ModelHalves {
    fn own(&self) -> Own<'_> {
        Own {
            endpoint: &self.own.endpoint,
            channels: &self.own.channels,
            returned: &self.own.returned,
            ring: &self.own.ring,
            arena: &self.own.arena,
        }
    }

    fn peer(&self) -> Peer<'_> {
        Peer {
            endpoint: ReadOnly::new(&self.peer.endpoint),
            channels: ReadOnly::new(&self.peer.channels),
            returned: ReadOnly::new(&self.peer.returned),
            ring: ReadOnly::new(&self.peer.ring),
            arena: ReadOnly::new(&self.peer.arena),
        }
    }

    fn lending_bytes(&self) -> usize {
        self.lending
    }

    fn rung(&self) -> &Rung {
        &self.rung
    }
}

/// One half.
struct Half {
    endpoint: Endpoint,
    channels: Box<[ChannelEntry]>,
    returned: Box<[AtomicU32]>,
    ring: Box<[Granule]>,
    arena: Box<[Granule]>,
}

impl Half {
    fn new(ring_bytes: usize, channel_slots: usize, arena: ModelArena) -> Self {
        assert!(ring_bytes.is_power_of_two() && ring_bytes >= 2 * Granule::BYTES);
        let channel = |_| ChannelEntry {
            granted_total: AtomicU64::new(0),
            generation: AtomicU32::new(ChannelEntry::NO_GENERATION),
            waiting: AtomicU32::new(0),
        };
        let endpoint = Endpoint {
            head: Line(AtomicU64::new(0)),
            consumed: Line(AtomicU64::new(0)),
            returned: Line(AtomicU64::new(0)),
            parked: AtomicU64::new(0),
            wake: AtomicU32::new(0),
            starved: AtomicU32::new(0),
        };
        let granules = |bytes: usize| (0..bytes / Granule::BYTES).map(|_| Granule::new()).collect();
        Self {
            endpoint,
            channels: (0..channel_slots).map(channel).collect(),
            returned: (0..arena.blocks).map(|_| AtomicU32::new(0)).collect(),
            ring: granules(ring_bytes),
            arena: granules(arena.lending_bytes + arena.passing_bytes),
        }
    }
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Half").finish_non_exhaustive()
    }
}

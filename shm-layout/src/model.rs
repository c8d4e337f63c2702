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
    let half = || Arc::new(Half::new(ring_bytes, channel_slots));
    let (initiator, acceptor) = (half(), half());
    (
        Attached::new(ModelHalves::new(initiator.clone(), acceptor.clone()), Side::Initiator),
        Attached::new(ModelHalves::new(acceptor, initiator), Side::Acceptor),
    )
}

/// Both halves, as one side sees them.
#[derive(Debug)]
pub struct ModelHalves {
    own: Arc<Half>,
    peer: Arc<Half>,
    rung: Rung,
}

impl ModelHalves {
    fn new(own: Arc<Half>, peer: Arc<Half>) -> Self {
        Self { own, peer, rung: Rung::default() }
    }
}

impl Halves for ModelHalves {}

impl sealed::Halves for ModelHalves {
    fn own(&self) -> Own<'_> {
        Own { endpoint: &self.own.endpoint, channels: &self.own.channels, ring: &self.own.ring }
    }

    fn peer(&self) -> Peer<'_> {
        Peer {
            endpoint: ReadOnly::new(&self.peer.endpoint),
            channels: ReadOnly::new(&self.peer.channels),
            ring: ReadOnly::new(&self.peer.ring),
        }
    }

    fn rung(&self) -> &Rung {
        &self.rung
    }
}

/// One half.
struct Half {
    endpoint: Endpoint,
    channels: Box<[ChannelEntry]>,
    ring: Box<[Granule]>,
}

impl Half {
    fn new(ring_bytes: usize, channel_slots: usize) -> Self {
        assert!(ring_bytes.is_power_of_two() && ring_bytes >= 2 * Granule::BYTES);
        let channel = |_| ChannelEntry {
            granted_total: AtomicU64::new(0),
            generation: AtomicU32::new(ChannelEntry::NO_GENERATION),
            waiting: AtomicU32::new(0),
        };
        let endpoint = Endpoint {
            head: Line(AtomicU64::new(0)),
            consumed: Line(AtomicU64::new(0)),
            parked: AtomicU64::new(0),
            wake: AtomicU32::new(0),
            starved: AtomicU32::new(0),
        };
        Self {
            endpoint,
            channels: (0..channel_slots).map(channel).collect(),
            ring: (0..ring_bytes / Granule::BYTES).map(|_| Granule::new()).collect(),
        }
    }
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Half").finish_non_exhaustive()
    }
}

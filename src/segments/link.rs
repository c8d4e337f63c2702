//! Two halves and a socket become a link.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use adjoin_shm_layout::{self as layout, Park, Side, Wake};

use super::{
    arena::OwnArena,
    bell::Bell,
    blocks::Blocks,
    credit::ShmCredit,
    death::{Peer, Watch},
    futex::{self, LocalWord},
    handshake::{Halves, HandshakeError},
    lending::ShmLending,
    mapping::Mapping,
    passage::Passage,
    receiver::ShmReceiver,
    segment::SegmentError,
    sender::ShmSender,
    spin::Spin,
};
use crate::{
    link::{Interrupt, Limits, Parts, Role},
    settings::{Settings, Waiting},
};

/// Both halves, as they are mapped here.
pub(super) type Mapped = layout::Mapped<Mapping, Mapping>;

/// What all parts of a link share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) park: Park<Mapped>,
    /// Has an owner of its own beside the link: whoever waits for the end holds it, and nothing else of this.
    pub(super) local: Arc<LocalWord>,
    pub(super) waiters: Waiters,
    pub(super) bell: Arc<Bell>,
    pub(super) passage: Passage,
    /// Whether this side has sent something since it last looked for an answer.
    sent: AtomicBool,
}

/// How many of this side wait for something that is not a message: room in the ring out, or credit.
///
/// Whoever goes to sleep for the whole side asks [`any`](Waiters::any) behind its announcement
/// (`Park::prepare`, which fences); whoever begins to wait [`enter`](Waiters::enter)s before its own
/// (`Park::starve`, `Credit::await_credit`, which fence). The fences are in one order: either the sleeper
/// sees the waiter and has it look once more, or the waiter's look comes behind the sleeper's announcement,
/// and what it then does not see, the peer publishes behind both, and wakes, or has a ring on its way
/// already.
#[derive(Debug, Default)]
pub(super) struct Waiters(AtomicUsize);

impl Waiters {
    pub(super) fn enter(&self) {
        // Relaxed: ordered by the fence that follows at the caller's, see there.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        // Relaxed: read late, it costs one look too many.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn any(&self) -> bool {
        // Relaxed: ordered by the fence in front of it at the caller's, see there.
        self.0.load(Ordering::Relaxed) != 0
    }
}

impl Shared {
    /// Wakes those sleepers of the peer that `wake` names. A system call for each kind.
    pub(super) fn wake(&self, wake: Wake) {
        if wake.futex() {
            // It fails for no word that is mapped; a peer that is not woken is woken by what comes next.
            let _ = futex::wake(self.park.wake_word());
        }
        if wake.bell() && !self.bell.ring() {
            self.park.not_rung();
        }
    }

    /// Something was sent: it is worth spinning for an answer.
    pub(super) fn expect_answer(&self) {
        // Relaxed, both: a hint. Looked at first, so that a line that the receiver looks at stays where it
        // is.
        if !self.sent.load(Ordering::Relaxed) {
            self.sent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something was sent since the last call.
    pub(super) fn take_expectation(&self) -> bool {
        // Relaxed, both: a hint.
        let sent = self.sent.load(Ordering::Relaxed);
        if sent {
            self.sent.store(false, Ordering::Relaxed);
        }
        sent
    }
}

impl Interrupt for LocalWord {
    /// One system call.
    fn interrupt(&self) {
        self.bump();
    }
}

/// How this side goes about a link, whatever its peer does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    pub(super) waiting: Waiting,
    /// Payloads may be read where they lie: see [`Settings::trust_peer`].
    pub(super) trusted: bool,
    /// How many descriptors may be under way: see [`Settings::max_descriptors`].
    pub(super) max_descriptors: usize,
    /// How many may wait to be closed: see [`Settings::max_held_descriptors`].
    pub(super) max_held_descriptors: usize,
}

impl From<&Settings> for Ways {
    fn from(settings: &Settings) -> Self {
        Ways {
            waiting: settings.waiting,
            trusted: settings.trusted,
            max_descriptors: settings.max_descriptors as usize,
            max_held_descriptors: settings.max_held_descriptors as usize,
        }
    }
}

/// Puts the parts of a link together.
pub(super) fn parts(
    halves: Halves,
    bell: Arc<Bell>,
    peer: Peer,
    role: Role,
    ways: Ways,
) -> Result<Parts, HandshakeError> {
    let geometry = *halves.own.geometry();
    let side = match role {
        Role::Initiator => Side::Initiator,
        Role::Acceptor => Side::Acceptor,
    };
    let attached = layout::attach(halves.own, halves.peer, side).map_err(SegmentError::Layout)?;
    let shared = Arc::new(Shared {
        park: attached.park,
        local: Arc::default(),
        waiters: Waiters::default(),
        bell: bell.clone(),
        passage: Passage::new(halves.descriptors, ways.max_descriptors, ways.max_held_descriptors)?,
        sent: AtomicBool::new(false),
    });
    let spin = Spin::new(ways.waiting, peer.pid());
    let credit = ShmCredit::new(
        attached.credit,
        attached.slots,
        attached.partition,
        geometry.channel_slots,
        shared.clone(),
    );
    let local = shared.local.clone();
    let arena = Arc::new(OwnArena::new(attached.arena));
    let (peers, returns) = (attached.peer_arena, attached.returns);
    let blocks = Blocks::new(peers, returns, &shared, ways.trusted, geometry.max_payload_size);
    Ok(Parts {
        role,
        limits: Limits {
            max_payload_size: geometry.max_payload_size,
            initial_channel_credit: geometry.initial_channel_credit,
        },
        sender: Box::new(ShmSender::new(attached.writer, arena.clone(), shared.clone())),
        receiver: Box::new(ShmReceiver::new(attached.reader, blocks, shared.clone(), spin)),
        credit: Some(Arc::new(credit)),
        lending: Some(Arc::new(ShmLending::new(arena, shared))),
        watcher: Some(Box::new(Watch::new(bell, peer))),
        interrupt: Some(local),
    })
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile;

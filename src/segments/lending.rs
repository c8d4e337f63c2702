//! Blocks of our arena that applications fill.
//!
//! A loan has a margin on both sides of its data. When it is sent, what stands in front of it and behind it in the
//! message's payload is written there, so that the payload is in one piece, in the block, and was not copied.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use adjoin_shm_layout::{Allot, Block, Frozen, Purpose, Starved};
use bytes::Bytes;

use super::{
    arena::{NoBlock, OwnArena},
    frame,
    link::{Mapped, Shared},
};
use crate::{
    error::LinkEnd,
    link::{
        SendFault,
        lending::{Fill, Lending},
    },
};

/// Lends the blocks of one link.
pub(super) struct ShmLending {
    lender: Arc<Lender>,
    shared: Arc<Shared>,
    waiting: Mutex<Option<Waiting>>,
}

/// What loans hold: the memory, and nothing of the link beside it.
struct Lender {
    arena: Arc<OwnArena>,
    returned: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Somebody waits for a loan.
struct Waiting {
    /// Bytes of the shortest that is waited for.
    len: usize,
    /// The peer was asked to wake this side when it gives a block back.
    starved: Starved,
}

impl ShmLending {
    pub(super) fn new(arena: Arc<OwnArena>, shared: Arc<Shared>) -> Self {
        let lender = Arc::new(Lender { arena, returned: OnceLock::new() });
        ShmLending { lender, shared, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lending for ShmLending {
    /// One short lock and one allocation; a system call where pages are new.
    fn lend(&self, len: usize) -> Result<Box<dyn Fill>, SendFault> {
        let limit = self.max_len();
        if len > limit || limit == 0 {
            return Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" });
        }
        match self.lender.arena.lock().allot(len + 2 * MARGIN, Purpose::Loan) {
            Ok(block) => Ok(Box::new(Filling { block: Some(block), len, lender: Arc::clone(&self.lender) })),
            Err(NoBlock::Allot(Allot::Full)) => Err(SendFault::Full),
            Err(NoBlock::Allot(Allot::TooLarge { .. })) => {
                Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" })
            }
            Err(NoBlock::Allot(Allot::Corrupt(corrupt))) => Err(SendFault::Ended(frame::corrupt(corrupt))),
            Err(NoBlock::Memory(error)) => Err(SendFault::NoMemory { len, kind: error.kind() }),
        }
    }

    fn max_len(&self) -> usize {
        self.lender.arena.lendable().len().saturating_sub(2 * MARGIN)
    }

    fn await_loan(&self, len: usize) {
        match &mut *self.waiting() {
            Some(waiting) => waiting.len = waiting.len.min(len),
            waiting => {
                // First, so that whoever falls asleep behind the fence in `starve` sees it.
                self.shared.waiters.enter();
                *waiting = Some(Waiting { len, starved: self.shared.park.starve() });
            }
        }
    }

    fn has_loan(&self) -> Result<bool, LinkEnd> {
        let mut waiting = self.waiting();
        let Some(Waiting { len, .. }) = &*waiting else { return Ok(true) };
        let mut inner = self.lender.arena.lock();
        if !inner.arena.has_room(len + 2 * MARGIN, Purpose::Loan).map_err(frame::corrupt)? {
            return Ok(false);
        }
        if let Some(Waiting { starved, .. }) = waiting.take() {
            self.shared.park.sate(starved);
            self.shared.waiters.leave();
        }
        Ok(true)
    }

    fn on_return(&self, returned: Box<dyn Fn() + Send + Sync>) {
        let _ = self.lender.returned.set(returned);
    }

    fn blocks_in_use(&self) -> Result<usize, LinkEnd> {
        self.lender.arena.lock().arena.in_use().map_err(frame::corrupt)
    }
}

impl Lender {
    /// A block of this side's came back: somebody may wait for it.
    fn returned(&self) {
        if let Some(returned) = self.returned.get() {
            returned();
        }
    }
}

/// A block that is filled.
struct Filling {
    /// Always there, until it is frozen or dropped.
    block: Option<Block<Mapped>>,
    len: usize,
    lender: Arc<Lender>,
}

impl Fill for Filling {
    fn bytes(&self) -> &[u8] {
        let bytes = self.block.as_ref().map(Block::as_bytes).unwrap_or_default();
        bytes.get(MARGIN..MARGIN + self.len).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.block.as_mut().map(Block::bytes).unwrap_or_default();
        bytes.get_mut(MARGIN..MARGIN + self.len).unwrap_or_default()
    }

    fn freeze(mut self: Box<Self>, len: usize) -> Bytes {
        let Some(block) = self.block.take() else { return Bytes::new() };
        let data = MARGIN..MARGIN + len.min(self.len);
        let frozen = Some(self.lender.arena.lock().arena.freeze(block, data));
        Bytes::from_owner(Filled { frozen, lender: Arc::clone(&self.lender) })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.lender.arena.give_up(block);
            self.lender.returned();
        }
    }
}

/// A block that was filled, and is read by whoever has a handle.
struct Filled {
    /// Always there, until it is dropped.
    frozen: Option<Frozen<Mapped>>,
    lender: Arc<Lender>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.frozen.as_ref().map(Frozen::bytes).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.lender.arena.lock().arena.drop_frozen(frozen);
            self.lender.returned();
        }
    }
}

/// Bytes in front of a loan's data and behind it, for what stands around it in a payload. The data is aligned to it.
const MARGIN: usize = 256;

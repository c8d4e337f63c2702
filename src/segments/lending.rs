//! Blocks of our arena that applications fill.
//!
//! A loan has a margin on both sides of its data. When it is sent, what stands in front of it and behind it in the
//! message's payload is written there, so that the payload is in one piece, in the block, and was not copied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adjoin_shm_layout::{Allot, Frozen, Purpose, Starved};
use bytes::Bytes;

use super::{
    arena::{NoBlock, OwnArena, Writing},
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
    arena: Arc<OwnArena>,
    shared: Arc<Shared>,
    waiting: Mutex<Option<Waiting>>,
}

/// Somebody waits for a loan.
struct Waiting {
    /// Bytes of the one that is waited for first.
    len: usize,
    /// The peer was asked to wake this side when it gives a block back.
    starved: Starved,
}

impl ShmLending {
    pub(super) fn new(arena: Arc<OwnArena>, shared: Arc<Shared>) -> Self {
        ShmLending { arena, shared, waiting: Mutex::default() }
    }

    fn sate(&self, waiting: Option<Waiting>) {
        if let Some(Waiting { starved, .. }) = waiting {
            self.shared.park.sate(starved);
            self.shared.waiters.leave();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lending for ShmLending {
    /// One short lock and one allocation; a system call where pages are new. A loan holds the memory, and nothing of the
    /// link beside it.
    fn lend(&self, len: usize) -> Result<Box<dyn Fill>, SendFault> {
        let limit = self.max_len();
        if len > limit || limit == 0 {
            return Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" });
        }
        match self.arena.allot_loan(len + 2 * MARGIN) {
            Ok(block) => Ok(Box::new(Filling { block, len, arena: Arc::clone(&self.arena) })),
            Err(NoBlock::Allot(Allot::Full)) => Err(SendFault::Full),
            Err(NoBlock::Allot(Allot::TooLarge { .. })) => {
                Err(SendFault::TooLarge { len, limit, setting: "Settings::arena_bytes" })
            }
            Err(NoBlock::Allot(Allot::Corrupt(corrupt))) => Err(SendFault::Ended(frame::corrupt(corrupt))),
            Err(NoBlock::Memory(error)) => Err(SendFault::NoMemory { len, kind: error.kind() }),
        }
    }

    fn max_len(&self) -> usize {
        self.arena.lending_len().saturating_sub(2 * MARGIN)
    }

    fn await_loan(&self, len: usize) {
        match &mut *self.waiting() {
            Some(waiting) => waiting.len = len,
            waiting => {
                // First, so that whoever falls asleep behind the fence in `starve` sees it.
                self.shared.waiters.enter();
                *waiting = Some(Waiting { len, starved: self.shared.park.starve() });
            }
        }
        self.arena.await_loan();
    }

    fn has_loan(&self) -> Result<bool, LinkEnd> {
        let mut waiting = self.waiting();
        let Some(Waiting { len, .. }) = &*waiting else { return Ok(true) };
        if !self.arena.has_room(len + 2 * MARGIN, Purpose::Loan).map_err(frame::corrupt)? {
            return Ok(false);
        }
        self.sate(waiting.take());
        Ok(true)
    }

    fn stop_waiting(&self) {
        self.sate(self.waiting().take());
        self.arena.stop_awaiting_loans();
    }

    fn on_return(&self, returned: Box<dyn Fn() + Send + Sync>) {
        self.arena.on_return(returned);
    }

    fn blocks_in_use(&self) -> Result<usize, LinkEnd> {
        self.arena.lock().arena.in_use().map_err(frame::corrupt)
    }
}

/// A block that is filled.
struct Filling {
    block: Writing,
    len: usize,
    arena: Arc<OwnArena>,
}

impl Fill for Filling {
    fn bytes(&self) -> &[u8] {
        self.block.bytes().get(MARGIN..MARGIN + self.len).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.block.bytes_mut().get_mut(MARGIN..MARGIN + self.len).unwrap_or_default()
    }

    fn freeze(self: Box<Self>, len: usize) -> Bytes {
        let Filling { block, len: most, arena } = *self;
        let data = MARGIN..MARGIN + len.min(most);
        let needed = data.end + MARGIN;
        let frozen = Some(block.freeze(data, needed));
        Bytes::from_owner(Filled { frozen, arena })
    }
}

/// A block that was filled, and is read by whoever has a handle.
struct Filled {
    /// Always there, until it is dropped.
    frozen: Option<Frozen<Mapped>>,
    arena: Arc<OwnArena>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.frozen.as_ref().map(Frozen::bytes).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.arena.drop_frozen(frozen);
        }
    }
}

/// Bytes in front of a loan's data and behind it, for what stands around it in a payload. The data is aligned to it.
const MARGIN: usize = 256;

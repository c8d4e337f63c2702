//! The blocks of our own half: taken by the sender for long payloads, and by applications that fill one.
//!
//! One short lock, which is taken for long payloads and loans alone.
#![allow(unsafe_code)]

use std::{
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use adjoin_shm_layout::{Allot, Arena, Block, BlockRef, Corrupt, Purpose};

use super::{
    backing::{Access, Backing},
    link::Mapped,
};
use crate::link::message::Lent;

/// The arena of one link, for all threads of this side.
#[derive(Debug)]
pub(super) struct OwnArena {
    inner: Mutex<Inner>,
    /// Where the lending region lies in this process.
    lendable: Range<usize>,
    /// Where the arena starts.
    start: usize,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) arena: Arena<Mapped>,
    backing: Backing,
}

/// Why there is no block.
#[derive(Debug)]
pub(super) enum NoBlock {
    /// What the arena says.
    Allot(Allot),
    /// The system has no memory for it.
    Memory(io::Error),
}

impl OwnArena {
    pub(super) fn new(arena: Arena<Mapped>) -> Self {
        let start = arena.base().addr().get();
        let lendable = start..start + arena.max_block_len(Purpose::Loan);
        // SAFETY: the arena starts at a page of our own half, which is mapped writable, and lives as long as the arena
        // beside it.
        let backing = unsafe { Backing::new(arena.base(), arena.len(), Access::Write) };
        OwnArena { inner: Mutex::new(Inner { arena, backing }), lendable, start }
    }

    /// The addresses of what may be lent.
    pub(super) fn lendable(&self) -> Range<usize> {
        self.lendable.clone()
    }

    /// Bytes of the longest payload of a message.
    pub(super) fn max_message_len(&self) -> usize {
        self.lock().arena.max_block_len(Purpose::Message)
    }

    /// Takes a block for a message. While somebody waits for a longer one, of `awaited` bytes, this one takes none of the
    /// room that the other will need.
    pub(super) fn allot_message(&self, len: usize, awaited: Option<usize>) -> Result<Block<Mapped>, NoBlock> {
        let mut inner = self.lock();
        if awaited.is_some_and(|awaited| awaited > len) && !inner.arena.has_lending_room(len) {
            return Err(NoBlock::Allot(Allot::Full));
        }
        inner.allot(len, Purpose::Message)
    }

    /// Whether a message would find a block now.
    pub(super) fn has_room(&self, len: usize) -> Result<bool, Corrupt> {
        self.lock().arena.has_room(len, Purpose::Message)
    }

    /// Hands the first `len` bytes of a block to the peer.
    pub(super) fn pass(&self, block: Block<Mapped>, len: usize) -> BlockRef {
        self.lock().arena.pass(block, 0, len)
    }

    /// Frees a block that was not passed.
    pub(super) fn give_up(&self, block: Block<Mapped>) {
        self.lock().arena.give_up(block);
    }

    /// Hands bytes that were lent to the peer, with what stands around them. `None`: they have to be copied.
    pub(super) fn pass_lent(
        &self,
        lent: Lent,
        before: &[u8],
        behind: &[u8],
    ) -> Result<Option<BlockRef>, Corrupt> {
        let at = lent.address.wrapping_sub(self.start);
        self.lock().arena.pass_frozen(at..at.saturating_add(lent.len), before, behind)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes a block whose pages are there.
    pub(super) fn allot(&mut self, len: usize, purpose: Purpose) -> Result<Block<Mapped>, NoBlock> {
        let block = self.arena.allot(len, purpose).map_err(NoBlock::Allot)?;
        match self.backing.ensure(&block.range()) {
            Ok(()) => Ok(block),
            Err(error) => {
                self.arena.give_up(block);
                Err(NoBlock::Memory(error))
            }
        }
    }
}

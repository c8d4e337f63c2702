//! The blocks of our own half: taken by the sender for long payloads, and by applications that fill one.
//!
//! One short lock, which is taken for long payloads and loans alone.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use adjoin_shm_layout::{Allot, Arena, Block, BlockRef, Corrupt, Frozen, Purpose};

use super::{
    backing::{Access, Backing},
    link::Mapped,
};
use crate::link::message::{Lendable, Lent};

/// The arena of one link, for all threads of this side.
pub(super) struct OwnArena {
    inner: Mutex<Inner>,
    /// Where the lending region lies in this process.
    addresses: Range<usize>,
    /// What the arena says of its freezes, for those that do not hold the lock.
    freezes: AtomicU64,
    /// Where the arena starts.
    start: usize,
    /// What is called when this side gives back what somebody waits for.
    returned: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) arena: Arena<Mapped>,
    backing: Backing,
    /// Somebody has found too little, and has not been told that something came back since. Under the lock, so that
    /// either whoever gives back finds this, or whoever waits finds what was given back.
    awaited: bool,
    /// Somebody waits for a loan, or is about to take the one that it waited for.
    loan_awaited: bool,
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
        let addresses = start..start + arena.max_block_len(Purpose::Loan);
        // SAFETY: the arena starts at a page of our own half, which is mapped writable, and lives as long as the arena
        // beside it.
        let backing = unsafe { Backing::new(arena.base(), arena.len(), Access::Write) };
        let inner = Mutex::new(Inner { arena, backing, awaited: false, loan_awaited: false });
        OwnArena { inner, addresses, freezes: AtomicU64::new(0), start, returned: OnceLock::new() }
    }

    /// What is to be called, while somebody waits, when this side gives a block back. Once.
    pub(super) fn on_return(&self, returned: Box<dyn Fn() + Send + Sync>) {
        let _ = self.returned.set(returned);
    }

    /// Bytes of the lending region.
    pub(super) fn lending_len(&self) -> usize {
        self.addresses.len()
    }

    /// What an encoding that begins now may leave where it lies. No lock.
    pub(super) fn lendable(&self) -> Lendable {
        // Relaxed: the order comes from elsewhere. Whoever has bytes that were frozen got them from the thread that froze
        // them, behind its store, so they are counted here. What is frozen in the place of bytes that are left where
        // they lie is frozen behind their last handle's end, and so behind this load, which cannot see its store.
        let frozen_before = self.freezes.load(Ordering::Relaxed);
        Lendable { addresses: self.addresses.clone(), frozen_before }
    }

    /// Bytes of the longest payload of a message.
    pub(super) fn max_message_len(&self) -> usize {
        self.lock().arena.max_block_len(Purpose::Message)
    }

    /// Takes a block for a message. While somebody waits for a longer one, of `awaited` bytes, this one takes none of the
    /// room that the other will need.
    pub(super) fn allot_message(
        self: &Arc<Self>,
        len: usize,
        awaited: Option<usize>,
    ) -> Result<Writing, NoBlock> {
        let mut inner = self.lock();
        let block = match awaited.is_some_and(|awaited| awaited > len) {
            true if inner.arena.has_lending_room(len) => inner.allot(len, Purpose::Message),
            true => Err(NoBlock::Allot(Allot::Full)),
            false => inner.allot_anywhere(len),
        };
        Ok(self.writing(block?))
    }

    /// Takes a block for an application that fills it.
    pub(super) fn allot_loan(self: &Arc<Self>, len: usize) -> Result<Writing, NoBlock> {
        Ok(self.writing(self.lock().allot(len, Purpose::Loan)?))
    }

    fn writing(self: &Arc<Self>, block: Block<Mapped>) -> Writing {
        Writing { arena: Arc::clone(self), block: Some(block) }
    }

    /// Whether a block would be found now. If not, what this side gives back is [told](Self::on_return).
    pub(super) fn has_room(&self, len: usize, purpose: Purpose) -> Result<bool, Corrupt> {
        let mut inner = self.lock();
        let room = inner.arena.has_room(len, purpose)?;
        inner.awaited |= !room;
        Ok(room)
    }

    /// Somebody waits for a loan: what this side gives back from here on is [told](Self::on_return), once, and messages
    /// leave the lending region to it where they can.
    pub(super) fn await_loan(&self) {
        let mut inner = self.lock();
        (inner.awaited, inner.loan_awaited) = (true, true);
    }

    /// Nobody waits for a loan any more.
    pub(super) fn stop_awaiting_loans(&self) {
        self.lock().loan_awaited = false;
    }

    /// Gives a frozen block back.
    pub(super) fn drop_frozen(&self, frozen: Frozen<Mapped>) {
        self.give_back(|arena| arena.drop_frozen(frozen));
    }

    /// Gives something back, and tells of it if somebody waits.
    fn give_back<T>(&self, give: impl FnOnce(&mut Arena<Mapped>) -> T) -> T {
        let mut inner = self.lock();
        let given = give(&mut inner.arena);
        let awaited = std::mem::take(&mut inner.awaited);
        drop(inner);
        if let (true, Some(returned)) = (awaited, self.returned.get()) {
            returned();
        }
        given
    }

    /// Hands bytes that were lent to the peer, with what stands around them. `None`: they have to be copied.
    pub(super) fn pass_lent(
        &self,
        lent: Lent,
        before: &[u8],
        behind: &[u8],
    ) -> Result<Option<BlockRef>, Corrupt> {
        let at = lent.address.wrapping_sub(self.start);
        let bytes = at..at.saturating_add(lent.len);
        self.lock().arena.pass_frozen(bytes, lent.frozen_before, before, behind)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OwnArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnArena").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A block that is written. It goes back when this is dropped, whatever ended the writing: a `Serialize` that panics,
/// too.
#[derive(Debug)]
pub(super) struct Writing {
    arena: Arc<OwnArena>,
    /// There until it is passed or frozen, by what takes the whole value.
    block: Option<Block<Mapped>>,
}

impl Writing {
    pub(super) fn bytes(&self) -> &[u8] {
        self.block.as_ref().map(Block::as_bytes).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().map(Block::bytes).unwrap_or_default()
    }

    /// Hands the first `len` bytes to the peer.
    pub(super) fn pass(mut self, len: usize) -> BlockRef {
        let block = self.block.take().expect("it is neither passed nor frozen");
        self.arena.lock().arena.pass(block, 0, len)
    }

    /// Ends the writing: `data` is only read from here on, and the pages behind the first `len` bytes are not needed.
    pub(super) fn freeze(mut self, data: Range<usize>, len: usize) -> Frozen<Mapped> {
        let mut block = self.block.take().expect("it is neither passed nor frozen");
        self.arena.give_back(|arena| {
            arena.shrink(&mut block, len);
            let frozen = arena.freeze(block, data);
            // Relaxed: see `lendable`; under the lock, so that it only grows.
            self.arena.freezes.store(arena.freezes(), Ordering::Relaxed);
            frozen
        })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.arena.give_back(|arena| arena.give_up(block));
        }
    }
}

impl Inner {
    /// Takes a block for a message in either region: in the lending region first, unless somebody waits for that. Where
    /// the system has no memory for one, the other may have pages that are there.
    fn allot_anywhere(&mut self, len: usize) -> Result<Block<Mapped>, NoBlock> {
        let (first, second) = match self.loan_awaited {
            true => (Purpose::Passing, Purpose::Message),
            false => (Purpose::Message, Purpose::Passing),
        };
        match self.allot(len, first) {
            Err(NoBlock::Allot(Allot::Full)) => self.allot(len, second),
            // Not "full" in any case: that promises that it will do once something comes back.
            Err(NoBlock::Memory(error)) => self.allot(len, second).map_err(|_| NoBlock::Memory(error)),
            done => done,
        }
    }

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

//! Credit by the channel tables of both halves.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use adjoin_shm_layout::{Credit, Granted, Partition, Slot, SlotAllocator};

use super::{
    frame,
    link::{Mapped, Shared},
};
use crate::{
    error::LinkEnd,
    link::{CreditSlot, CreditTable},
};

/// The table of one link. Any thread may use it.
///
/// No system call but to wake a peer's sender that waits. A slot of the peer's is found without a lock; one
/// of ours in a private table, under a lock that only channels of this link share.
#[derive(Debug)]
pub(super) struct ShmCredit {
    credit: Credit<Mapped>,
    partition: Partition,
    own: Mutex<Own>,
    /// One bit for each slot: whether a sender of this side waits for credit there.
    waiting: Box<[AtomicU64]>,
    /// Slots of the table, of both sides.
    slots: usize,
    shared: Arc<Shared>,
}

/// The slots that this side allots.
#[derive(Debug)]
struct Own {
    allocator: SlotAllocator,
    allotted: HashMap<u32, Slot, foldhash::fast::FixedState>,
}

impl ShmCredit {
    pub(super) fn new(
        credit: Credit<Mapped>,
        allocator: SlotAllocator,
        partition: Partition,
        slots: u32,
        shared: Arc<Shared>,
    ) -> Self {
        let own = Mutex::new(Own { allocator, allotted: HashMap::default() });
        let waiting = (0..slots.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect();
        ShmCredit { credit, partition, own, waiting, slots: slots as usize, shared }
    }

    /// The slot that is meant: one that the peer may have allotted, or one that this side has.
    fn slot(&self, slot: CreditSlot) -> Option<Slot> {
        if let Ok(theirs) = self.partition.accept(slot.index, slot.generation) {
            return Some(theirs);
        }
        let own = self.own();
        own.allotted.get(&slot.index).copied().filter(|ours| ours.generation() == slot.generation)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether a sender waits for credit in a slot, and counts those that do.
    fn note(&self, slot: CreditSlot, waits: bool) {
        let Some(word) = self.waiting.get((slot.index / u64::BITS) as usize) else { return };
        let bit = 1 << (slot.index % u64::BITS);
        // Relaxed, both: one sender owns the slot's bit; what orders the count is told at `Waiters`.
        if waits && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.shared.waiters.enter();
        }
        if !waits && word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
            self.shared.waiters.leave();
        }
    }
}

impl CreditTable for ShmCredit {
    fn allot(&self) -> Option<CreditSlot> {
        let mut own = self.own();
        let slot = own.allocator.allot()?;
        own.allotted.insert(slot.index(), slot);
        Some(CreditSlot { index: slot.index(), generation: slot.generation() })
    }

    fn capacity(&self) -> usize {
        self.slots / 2 // each side allots half of them
    }

    fn give_back(&self, slot: CreditSlot) {
        self.stop_waiting(slot);
        let mut own = self.own();
        if own.allotted.get(&slot.index).is_some_and(|ours| ours.generation() == slot.generation)
            && let Some(ours) = own.allotted.remove(&slot.index)
        {
            own.allocator.give_back(ours);
        }
    }

    fn check(&self, slot: CreditSlot) -> Result<(), LinkEnd> {
        self.partition.accept(slot.index, slot.generation).map(drop).map_err(frame::corrupt)
    }

    fn open(&self, slot: CreditSlot, initial: u64) {
        if let Some(slot) = self.slot(slot) {
            self.shared.wake(self.credit.open(slot, initial));
        }
    }

    /// Two stores' time, one fence, and a look at whether the peer's sender waits.
    fn grant(&self, slot: CreditSlot, total: u64) {
        if let Some(slot) = self.slot(slot) {
            self.shared.wake(self.credit.grant(slot, total));
        }
    }

    fn granted(&self, slot: CreditSlot, known: u64) -> Result<Option<u64>, LinkEnd> {
        let Some(slot) = self.slot(slot) else { return Ok(None) };
        match self.credit.granted(slot, known).map_err(frame::corrupt)? {
            Granted::Total(total) => Ok(Some(total)),
            Granted::NotOpened => Ok(None),
        }
    }

    fn await_credit(&self, slot: CreditSlot) {
        if let Some(found) = self.slot(slot) {
            // First, so that whoever falls asleep behind the fence in `await_credit` sees it.
            self.note(slot, true);
            // What it reads is read again by the caller.
            let _ = self.credit.await_credit(found, 0);
        }
    }

    fn stop_waiting(&self, slot: CreditSlot) {
        if let Some(found) = self.slot(slot) {
            self.credit.stop_waiting(found);
            self.note(slot, false);
        }
    }
}

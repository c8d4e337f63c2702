//! Credit that both sides see, in plain memory: as a segment's table of channels, without its races.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use super::link::other;
use crate::{
    error::LinkEnd,
    link::{ChannelRef, CreditSlot, CreditTable},
    rpc::waiters::lock,
};

/// The table of one link.
pub(super) struct Table {
    state: Mutex<State>,
    /// Slots of each side.
    each: u32,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// The most that each side ever granted, by slot and generation: a sender may use it up when the slot is
    /// another's already.
    ever: BTreeMap<(usize, u32, u32), u64>,
    rung: [bool; 2],
    drivers: [Option<Waker>; 2],
}

#[derive(Clone, Default)]
struct Slot {
    generation: u32,
    allotted: bool,
    /// What each side granted, and for which incarnation of the slot.
    granted: [(u32, u64); 2],
    /// Whether each side's sender waits for credit.
    waits: [bool; 2],
}

impl Table {
    /// One with so many slots for each side.
    pub(super) fn new(each: u32) -> Arc<Self> {
        let state = State { slots: vec![Slot::default(); 2 * each as usize], ..State::default() };
        Arc::new(Table { state: Mutex::new(state), each })
    }

    /// Channels that each side may have opened at once.
    pub(super) fn capacity(&self) -> usize {
        self.each as usize
    }

    /// What `side` has granted on a channel.
    pub(super) fn total(&self, side: usize, channel: ChannelRef) -> u64 {
        let CreditSlot { index, generation } = channel.slot;
        lock(&self.state).ever.get(&(side, index, generation)).copied().unwrap_or(0)
    }

    /// How many slots a side has taken.
    pub(super) fn taken(&self, side: usize) -> usize {
        let own = self.capacity() * side..self.capacity() * (side + 1);
        lock(&self.state).slots[own].iter().filter(|slot| slot.allotted).count()
    }
}

/// The table as one side sees it.
pub(super) struct TableEnd {
    table: Arc<Table>,
    side: usize,
}

impl TableEnd {
    pub(super) fn new(table: Arc<Table>, side: usize) -> Self {
        TableEnd { table, side }
    }

    /// Ready when the peer rang since the last call.
    pub(super) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.table.state);
        if std::mem::take(&mut state.rung[self.side]) {
            return Poll::Ready(());
        }
        state.drivers[self.side] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Changes a slot that is of this incarnation.
    fn change<T>(&self, slot: CreditSlot, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut state = lock(&self.table.state);
        let known = state.slots.get_mut(slot.index as usize)?;
        (known.generation == slot.generation).then(|| change(known))
    }

    /// Grants, and rings if the peer waits for it.
    fn set(&self, slot: CreditSlot, total: u64) {
        let waits = self.change(slot, |known| {
            known.granted[self.side] = (slot.generation, total);
            known.waits[other(self.side)]
        });
        if waits.is_some() {
            let place = (self.side, slot.index, slot.generation);
            lock(&self.table.state).ever.insert(place, total);
        }
        if waits == Some(true) {
            let mut state = lock(&self.table.state);
            state.rung[other(self.side)] = true;
            let driver = state.drivers[other(self.side)].take();
            drop(state);
            driver.into_iter().for_each(Waker::wake);
        }
    }
}

impl CreditTable for TableEnd {
    fn allot(&self) -> Option<CreditSlot> {
        let mut state = lock(&self.table.state);
        let first = self.table.capacity() * self.side;
        let own = state.slots.iter_mut().enumerate().skip(first).take(self.table.capacity());
        let (index, slot) = own.into_iter().find(|(_, slot)| !slot.allotted)?;
        slot.allotted = true;
        slot.generation += 1;
        Some(CreditSlot { index: index as u32, generation: slot.generation })
    }

    fn capacity(&self) -> usize {
        self.table.capacity()
    }

    fn give_back(&self, slot: CreditSlot) {
        self.change(slot, |known| {
            known.allotted = false;
            known.waits[self.side] = false;
        });
    }

    fn check(&self, slot: CreditSlot) -> Result<(), LinkEnd> {
        let theirs = slot.index / self.table.each == other(self.side) as u32;
        let value = slot.index.into();
        if theirs { Ok(()) } else { Err(LinkEnd::Corrupt { field: "slot", value }) }
    }

    fn open(&self, slot: CreditSlot, initial: u64) {
        self.set(slot, initial);
    }

    fn grant(&self, slot: CreditSlot, total: u64) {
        self.set(slot, total);
    }

    fn granted(&self, slot: CreditSlot, known: u64) -> Result<Option<u64>, LinkEnd> {
        let state = lock(&self.table.state);
        let (generation, total) = state.slots[slot.index as usize].granted[other(self.side)];
        if generation != slot.generation {
            return Ok(None);
        }
        if total < known {
            return Err(LinkEnd::Corrupt { field: "granted_total", value: total });
        }
        Ok(Some(total))
    }

    fn await_credit(&self, slot: CreditSlot) {
        self.change(slot, |known| known.waits[self.side] = true);
    }

    fn stop_waiting(&self, slot: CreditSlot) {
        self.change(slot, |known| known.waits[self.side] = false);
    }
}

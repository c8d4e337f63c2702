//! Which slots of the channel table are whose, and which are free.
//!
//! Each side allots one half of the indexes, so the two never meet. What is free is known to the allotting
//! side alone, in its private memory: there is no free list in the segment to corrupt, and no ABA. Every time
//! a slot is allotted its generation grows; the generation goes to the peer with the slot, and both stand in
//! whatever is said of the channel.
//!
//! The slot given back last is allotted first: a link with few channels touches few pages of the table.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Range;

use crate::attached::Side;
use crate::error::{Corrupt, Rule};
use crate::layout::channel::ChannelEntry;

/// One incarnation of one entry of the channel tables: the same index in both halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// The index in both channel tables.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The incarnation: never 0.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

/// Who allots which slots.
#[derive(Clone, Debug)]
pub struct Partition {
    ours: Range<u32>,
    theirs: Range<u32>,
}

impl Partition {
    pub(crate) fn new(side: Side, slots: usize) -> Self {
        let (middle, end) = (slots as u32 / 2, slots as u32);
        match side {
            Side::Initiator => Self { ours: 0..middle, theirs: middle..end },
            Side::Acceptor => Self { ours: middle..end, theirs: 0..middle },
        }
    }

    /// Checks a slot that the peer has allotted, as a message names it.
    ///
    /// # Errors
    ///
    /// When the index is not the peer's to allot, or when the generation is that of no incarnation.
    pub fn accept(&self, index: u32, generation: u32) -> Result<Slot, Corrupt> {
        if !self.theirs.contains(&index) {
            let rule = Rule::Within(self.theirs.start.into(), u64::from(self.theirs.end) - 1);
            return Err(Corrupt { field: "channel.slot", found: index.into(), rule });
        }
        if generation == ChannelEntry::NO_GENERATION {
            let rule = Rule::Within(1, u32::MAX.into());
            return Err(Corrupt { field: "channel.generation", found: generation.into(), rule });
        }
        Ok(Slot { index, generation })
    }
}

/// Hands out the slots that this side allots. Constant time, and no allocation after its making.
#[derive(Debug)]
pub struct SlotAllocator {
    /// The index of the first slot.
    first: u32,
    /// For each slot: the next free one, as a place in this list, or one of the two marks.
    next: Box<[u32]>,
    /// For each slot: the generation it was allotted with last, 0 for never.
    generations: Box<[u32]>,
    /// The free slot given back last, or [`NONE`].
    free: u32,
    /// How many slots were ever allotted: those behind are free and not in the list.
    touched: u32,
    /// How many slots are allotted now.
    allotted: u32,
}

impl SlotAllocator {
    pub(crate) fn new(partition: &Partition) -> Self {
        let slots = partition.ours.len();
        Self {
            first: partition.ours.start,
            next: vec![0; slots].into_boxed_slice(),
            generations: vec![ChannelEntry::NO_GENERATION; slots].into_boxed_slice(),
            free: NONE,
            touched: 0,
            allotted: 0,
        }
    }

    /// Takes a free slot, in a new incarnation. `None` when all are in use: the open has to wait for one to
    /// come back.
    pub fn allot(&mut self) -> Option<Slot> {
        let place = if self.free != NONE {
            let place = self.free;
            self.free = self.next[place as usize];
            place
        } else if (self.touched as usize) < self.next.len() {
            self.touched += 1;
            self.touched - 1
        } else {
            return None;
        };
        self.next[place as usize] = ALLOTTED;
        self.allotted += 1;
        let generation = &mut self.generations[place as usize];
        *generation = generation.wrapping_add(1).max(1); // 0 is the generation of no incarnation
        Some(Slot { index: self.first + place, generation: *generation })
    }

    /// Frees a slot, once both sides are done with its channel. False, and nothing changes, when this
    /// incarnation of the slot is not allotted.
    pub fn give_back(&mut self, slot: Slot) -> bool {
        let place = slot.index.wrapping_sub(self.first);
        let current = self.generations.get(place as usize) == Some(&slot.generation);
        if !current || self.next[place as usize] != ALLOTTED {
            return false;
        }
        self.next[place as usize] = self.free;
        self.free = place;
        self.allotted -= 1;
        true
    }

    /// How many slots are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.allotted as usize
    }
}

/// The end of the list of free slots.
const NONE: u32 = u32::MAX;
/// The mark of a slot in use. No place comes near to either.
const ALLOTTED: u32 = u32::MAX - 1;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_slot_is_never_allotted_twice_and_its_generation_grows() {
        let partition = Partition::new(Side::Acceptor, 16);
        let mut allocator = SlotAllocator::new(&partition);
        let mut allotted: HashMap<u32, u32> = HashMap::new();
        let mut latest: HashMap<u32, u32> = HashMap::new();
        let mut random = 7u64;
        for _ in 0..if cfg!(miri) { 300 } else { 30_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = 8 + (random >> 40) as u32 % 8;
            if random >> 63 == 0 {
                let Some(slot) = allocator.allot() else {
                    assert_eq!(allotted.len(), 8, "full");
                    continue;
                };
                assert!((8..16).contains(&slot.index), "ours: {slot:?}");
                assert_eq!(allotted.insert(slot.index, slot.generation), None, "in use: {slot:?}");
                let before = latest.insert(slot.index, slot.generation).unwrap_or(0);
                assert_eq!(slot.generation, before + 1);
            } else if let Some(generation) = allotted.remove(&index) {
                assert!(!allocator.give_back(Slot { index, generation: generation - 1 }), "an old one");
                assert!(allocator.give_back(Slot { index, generation }));
                assert!(!allocator.give_back(Slot { index, generation }), "twice");
            }
            assert_eq!(allocator.in_use(), allotted.len());
        }
    }

    #[test]
    fn a_slot_of_the_other_half_is_neither_ours_nor_accepted_from_the_peer() {
        let partition = Partition::new(Side::Initiator, 16);
        let mut allocator = SlotAllocator::new(&partition);
        assert!(!allocator.give_back(Slot { index: 8, generation: 1 }));
        assert_eq!(partition.accept(8, 3).map(|slot| (slot.index(), slot.generation())), Ok((8, 3)));
        for index in [0, 7, 16, u32::MAX] {
            let fault = partition.accept(index, 3).unwrap_err();
            assert_eq!((fault.field, fault.found), ("channel.slot", index.into()));
        }
        assert_eq!(partition.accept(8, 0).unwrap_err().field, "channel.generation");
    }

    #[test]
    fn a_generation_that_wraps_skips_the_one_of_no_incarnation() {
        let mut allocator = SlotAllocator::new(&Partition::new(Side::Initiator, 2));
        allocator.generations[0] = u32::MAX;
        assert_eq!(allocator.allot(), Some(Slot { index: 0, generation: 1 }));
    }
}

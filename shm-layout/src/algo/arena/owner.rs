//! The side that allots an arena's blocks and fills them. The protocol is told in the module above.
#![allow(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
#[cfg(not(loom))]
use core::ptr::NonNull;

use super::{
    PAGE,
    block::{Block, Frozen},
    pages::Pages,
};
use crate::error::{Corrupt, Rule};
use crate::halves::Halves;
use crate::layout::frame::BlockRef;
use crate::sync;

/// What a block is for: it decides where it may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A message that is on its way: in either region, in the lending region first.
    Message,
    /// A message that is on its way and leaves the lending region to others: in the passing region.
    Passing,
    /// Something that an application fills, and may keep: in the lending region.
    Loan,
}

/// Why no block was allotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allot {
    /// Not now: blocks have to come back first.
    Full,
    /// Never in this arena.
    TooLarge {
        /// Bytes that were asked for.
        len: usize,
        /// Bytes of the longest block.
        limit: usize,
    },
    /// The peer's half is corrupt.
    Corrupt(Corrupt),
}

impl fmt::Display for Allot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the arena has no room now"),
            Self::TooLarge { len, limit } => write!(f, "a block of {len} bytes exceeds the arena's {limit}"),
            Self::Corrupt(corrupt) => corrupt.fmt(f),
        }
    }
}

impl core::error::Error for Allot {}

impl From<Corrupt> for Allot {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// The arena of our own half: one for a link. Knows which blocks are free, in private memory.
#[derive(Debug)]
pub struct Arena<H> {
    halves: Arc<H>,
    lending: Pages,
    passing: Pages,
    /// Every block that was ever allotted at once, by its number. No longer than the list of returned ones.
    table: Vec<Entry>,
    /// Numbers of `table` that are free.
    unused: Vec<u32>,
    /// Frozen blocks, by their first page.
    frozen: BTreeMap<u32, u32>,
    /// How many blocks were ever frozen.
    freezes: u64,
    /// How many blocks of the lending region are not free.
    lent: usize,
    /// How many are with the peer.
    out: u64,
    /// How many returns were read.
    collected: u64,
}

/// One block. Free if it is neither ours nor theirs.
#[derive(Debug)]
struct Entry {
    first: u32,
    pages: u32,
    /// A [`Block`] or a [`Frozen`] stands for it.
    ours: bool,
    /// The peer was told of it, and has not given it back.
    theirs: bool,
    /// What of a frozen block is.
    frozen: Option<Data>,
}

/// The bytes of a frozen block. Around them it is ours to write, while it is not theirs.
#[derive(Clone, Debug, Default)]
struct Data {
    /// Where they lie in the arena.
    bytes: Range<usize>,
    /// How many blocks had been frozen before.
    serial: u64,
}

impl<H: Halves> Arena<H> {
    pub(crate) fn new(halves: Arc<H>) -> Self {
        let pages = |bytes: usize| (bytes / PAGE) as u32;
        let (lending, all) = (pages(halves.lending_bytes()), pages(size_of_val(halves.own().arena)));
        Self {
            halves,
            lending: Pages::new(0, lending),
            passing: Pages::new(lending, all - lending),
            table: Vec::new(),
            unused: Vec::new(),
            frozen: BTreeMap::new(),
            freezes: 0,
            lent: 0,
            out: 0,
            collected: 0,
        }
    }

    /// Bytes of the longest block for a purpose. None for loans where all numbers are for what passes.
    #[must_use]
    pub fn max_block_len(&self, purpose: Purpose) -> usize {
        let (lending, arena) = (self.halves.lending_bytes(), size_of_val(self.halves.own().arena));
        match purpose {
            Purpose::Message | Purpose::Passing => arena - lending,
            Purpose::Loan if self.most_lent() == 0 => 0,
            Purpose::Loan => lending,
        }
    }

    /// Takes a block of at least `len` bytes. Reads what the peer has given back first, which is one load where that
    /// is nothing.
    ///
    /// # Errors
    ///
    /// When there is no block now, when there never will be, or when the peer's `returned` cannot be.
    pub fn allot(&mut self, len: usize, purpose: Purpose) -> Result<Block<H>, Allot> {
        let pages = self.pages(len, purpose)?;
        self.collect()?;
        let first = match purpose {
            Purpose::Message => self.take_lending(pages).or_else(|| self.take_passing(pages)),
            Purpose::Passing => self.take_passing(pages),
            Purpose::Loan => self.take_lending(pages),
        };
        let first = first.ok_or(Allot::Full)?;
        let entry = Entry { first, pages, ours: true, theirs: false, frozen: None };
        let bytes = entry.bytes();
        let number = match self.unused.pop() {
            Some(number) => {
                self.table[number as usize] = entry;
                number
            }
            None => {
                self.table.push(entry);
                self.table.len() as u32 - 1
            }
        };
        Ok(Block { halves: self.halves.clone(), number, bytes })
    }

    /// Whether [`allot`](Self::allot) would find a block now.
    ///
    /// # Errors
    ///
    /// When the peer's `returned` cannot be.
    pub fn has_room(&mut self, len: usize, purpose: Purpose) -> Result<bool, Corrupt> {
        self.collect()?;
        let Ok(pages) = self.pages(len, purpose) else { return Ok(false) };
        let passes = self.has_number() && self.passing.has(pages);
        let lends = self.may_lend() && self.lending.has(pages);
        Ok(match purpose {
            Purpose::Message => lends || passes,
            Purpose::Passing => passes,
            Purpose::Loan => lends,
        })
    }

    /// Whether a message of `len` bytes would find a block in the lending region, as far as this side knows.
    #[must_use]
    pub fn has_lending_room(&self, len: usize) -> bool {
        self.may_lend() && self.pages(len, Purpose::Message).is_ok_and(|pages| self.lending.has(pages))
    }

    /// Frees a block that was not passed.
    pub fn give_up(&mut self, block: Block<H>) {
        self.leave(block.number);
    }

    /// Frees what of a block is not needed for its first `len` bytes: the pages behind them. Nothing if it is no longer.
    pub fn shrink(&mut self, block: &mut Block<H>, len: usize) {
        let entry = &mut self.table[block.number as usize];
        let pages = (len.div_ceil(PAGE).max(1) as u64).min(entry.pages.into()) as u32;
        let (first, freed) = (entry.first + pages, entry.pages - pages);
        entry.pages = pages;
        block.bytes = entry.bytes();
        if freed == 0 {
            return;
        }
        let lent = block.bytes.end <= self.halves.lending_bytes();
        if lent { &mut self.lending } else { &mut self.passing }.give_back(first, freed);
    }

    /// Hands `len` bytes from `offset` on to the peer, with the block. The peer is told where they lie by a frame.
    ///
    /// # Panics
    ///
    /// When they leave the block, or are more than a frame can tell.
    pub fn pass(&mut self, block: Block<H>, offset: usize, len: usize) -> BlockRef {
        assert!(
            offset <= block.len() && len <= block.len() - offset,
            "{len} bytes at {offset} leave the block"
        );
        let at = block.bytes.start + offset;
        self.table[block.number as usize].ours = false;
        self.tell(block.number, at, len)
    }

    /// Freezes a block: `data`, counted from its start, is not written any more. What is around it stays ours, to be
    /// filled by [`pass_frozen`](Self::pass_frozen).
    ///
    /// # Panics
    ///
    /// When `data` leaves the block.
    pub fn freeze(&mut self, block: Block<H>, data: Range<usize>) -> Frozen<H> {
        assert!(data.start <= data.end && data.end <= block.len(), "{data:?} leaves the block");
        let bytes = block.bytes.start + data.start..block.bytes.start + data.end;
        let entry = &mut self.table[block.number as usize];
        entry.frozen = Some(Data { bytes: bytes.clone(), serial: self.freezes });
        self.freezes += 1;
        self.frozen.insert(entry.first, block.number);
        Frozen { halves: block.halves, number: block.number, bytes }
    }

    /// How many blocks were ever frozen.
    #[must_use]
    pub fn freezes(&self) -> u64 {
        self.freezes
    }

    /// Hands bytes of a frozen block to the peer, with `before` put in front of them and `behind` put behind them.
    /// `bytes` counts from the start of the arena; their block is among the first `frozen_before` that were frozen. So
    /// the bytes are those that somebody saw there when there were so many [`freezes`](Self::freezes): where their block
    /// was freed since, another one that lies there now was frozen later.
    ///
    /// `None`, and nothing was done, when this can't be: no such block has the bytes, the peer has the block, or there
    /// is no room of ours around the bytes.
    ///
    /// # Errors
    ///
    /// When the peer's `returned` cannot be.
    pub fn pass_frozen(
        &mut self,
        bytes: Range<usize>,
        frozen_before: u64,
        before: &[u8],
        behind: &[u8],
    ) -> Result<Option<BlockRef>, Corrupt> {
        self.collect()?;
        let Some((_, &number)) = self.frozen.range(..=(bytes.start / PAGE) as u32).next_back() else {
            return Ok(None);
        };
        let entry = &self.table[number as usize];
        let (block, Data { bytes: data, serial }) = (entry.bytes(), entry.frozen.clone().unwrap_or_default());
        let inside = data.start <= bytes.start && bytes.end <= data.end;
        // What is around the bytes may be seen by whoever holds the frozen block, unless it is around all of them.
        let front =
            before.is_empty() || bytes.start == data.start && before.len() <= data.start - block.start;
        let back = behind.is_empty() || bytes.end == data.end && behind.len() <= block.end - data.end;
        if entry.theirs || serial >= frozen_before || !(inside && front && back) {
            return Ok(None);
        }
        let start = bytes.start - before.len();
        let arena = self.halves.own().arena;
        // SAFETY: in bounds: the callee checks it; and within the block, in front of its data, see `front`. Alone: the
        // block is not with the peer, its `Block` is gone, its `Frozen` reads `data` alone, and `&mut self` is the
        // only one that writes around it. Alive: `halves`.
        unsafe { sync::copy_in(arena, start, before) }
        // SAFETY: as above, behind its data, see `back`.
        unsafe { sync::copy_in(arena, bytes.end, behind) }
        Ok(Some(self.tell(number, start, bytes.end + behind.len() - start)))
    }

    /// Gives a frozen block up. It is free once the peer does not have it any more.
    pub fn drop_frozen(&mut self, frozen: Frozen<H>) {
        let entry = &mut self.table[frozen.number as usize];
        entry.frozen = None;
        self.frozen.remove(&entry.first);
        self.leave(frozen.number);
    }

    /// How many blocks are allotted: with this side's application, or with the peer.
    ///
    /// # Errors
    ///
    /// When the peer's `returned` cannot be.
    pub fn in_use(&mut self) -> Result<usize, Corrupt> {
        self.collect()?;
        Ok(self.table.len() - self.unused.len())
    }

    /// Where the arena starts in this process.
    #[cfg(not(loom))]
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        NonNull::from(self.halves.own().arena).cast()
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn len(&self) -> usize {
        size_of_val(self.halves.own().arena)
    }

    /// Whether there is no arena at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that the peer has a block.
    fn tell(&mut self, number: u32, at: usize, len: usize) -> BlockRef {
        self.table[number as usize].theirs = true;
        self.out += 1;
        let len = u32::try_from(len).expect("more bytes than a frame can tell");
        BlockRef { block: number, len, offset: at as u64 }
    }

    /// The pages of a block of `len` bytes.
    fn pages(&self, len: usize, purpose: Purpose) -> Result<u32, Allot> {
        let limit = self.max_block_len(purpose);
        if len > limit {
            return Err(Allot::TooLarge { len, limit });
        }
        Ok(len.div_ceil(PAGE).max(1) as u32) // an arena has fewer pages than 2^32, see the bounds of a geometry
    }

    /// Takes pages of the lending region, and counts their block.
    fn take_lending(&mut self, pages: u32) -> Option<u32> {
        let first = self.may_lend().then(|| self.lending.take(pages))??;
        self.lent += 1;
        debug_assert!(self.lent <= self.most_lent(), "{} blocks are lent", self.lent);
        Some(first)
    }

    fn take_passing(&mut self, pages: u32) -> Option<u32> {
        self.has_number().then(|| self.passing.take(pages))?
    }

    /// Whether one more block can be out.
    fn has_number(&self) -> bool {
        !self.unused.is_empty() || self.table.len() < self.halves.own().returned.len()
    }

    /// Whether one more block can be out in the lending region.
    fn may_lend(&self) -> bool {
        self.has_number() && self.lent < self.most_lent()
    }

    /// How many blocks the lending region can have: the rest of the numbers is for what passes.
    fn most_lent(&self) -> usize {
        let numbers = self.halves.own().returned.len();
        numbers.saturating_sub((numbers / PASSING_SHARE).max(1))
    }

    /// Reads what the peer has given back.
    fn collect(&mut self) -> Result<(), Corrupt> {
        let halves = self.halves.clone();
        let peer = halves.peer();
        // Acquire: pairs with the Release store of `returned` in `Returns::give_back`; the peer's copies out of these
        // blocks happen before we overwrite them, and their numbers are written.
        let returned = peer.endpoint.returned().acquire();
        if returned.wrapping_sub(self.collected) > self.out {
            let rule = Rule::Within(self.collected, self.collected.wrapping_add(self.out));
            return Err(Corrupt { field: "returned", found: returned, rule });
        }
        while self.collected != returned {
            let place = super::peer::place(self.collected, halves.own().returned.len());
            // Relaxed: published by the count.
            let number = peer.returned.part(|list| &list[place]).relaxed();
            let theirs = self.table.get_mut(number as usize).filter(|entry| entry.theirs);
            let Some(entry) = theirs else {
                let rule = Rule::AtMost((self.table.len() as u64).saturating_sub(1));
                return Err(Corrupt { field: "returned.block", found: number.into(), rule });
            };
            entry.theirs = false;
            self.out -= 1;
            self.collected = self.collected.wrapping_add(1);
            self.free_if_left(number);
        }
        Ok(())
    }

    /// Nothing of this side stands for a block any more.
    fn leave(&mut self, number: u32) {
        self.table[number as usize].ours = false;
        self.free_if_left(number);
    }

    fn free_if_left(&mut self, number: u32) {
        let entry = &self.table[number as usize];
        if entry.ours || entry.theirs {
            return;
        }
        let (first, pages) = (entry.first, entry.pages);
        if entry.bytes().end <= self.halves.lending_bytes() {
            self.lending.give_back(first, pages);
            self.lent -= 1;
        } else {
            self.passing.give_back(first, pages);
        }
        self.unused.push(number);
    }
}

impl Entry {
    /// Where it lies in the arena.
    fn bytes(&self) -> Range<usize> {
        let start = self.first as usize * PAGE;
        start..start + self.pages as usize * PAGE
    }
}

/// Of the numbers, what is for blocks of the passing region alone: a quarter, one at least.
const PASSING_SHARE: usize = 4;

//! The side that reads an arena's blocks and gives them back. The protocol is told in the module above.
#![allow(unsafe_code)]

use alloc::sync::Arc;
#[cfg(not(loom))]
use alloc::vec::Vec;
use core::ops::Range;
#[cfg(not(loom))]
use core::ptr::NonNull;

use super::PAGE;
use crate::algo::park::{self, Wake};
use crate::error::{Corrupt, Rule};
use crate::halves::Halves;
use crate::layout::frame::BlockRef;
use crate::sync::{self, Ordering, fence};

/// The arena of the peer's half, to be read.
#[derive(Debug)]
pub struct PeerArena<H> {
    halves: Arc<H>,
}

impl<H> Clone for PeerArena<H> {
    fn clone(&self) -> Self {
        Self { halves: self.halves.clone() }
    }
}

/// A payload in the peer's arena, where it was found to lie within it. It goes back by [`Returns::give_back`], once.
#[derive(Debug)]
#[must_use = "a parcel that is dropped is never given back"]
pub struct Parcel {
    number: u32,
    bytes: Range<usize>,
    lent: bool,
}

#[allow(clippy::len_without_is_empty, reason = "a payload of no bytes is one")]
impl Parcel {
    /// Bytes of the payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where it lies, from the start of the arena.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// Bytes of the pages that it lies in: what it keeps its owner from using, at the least.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.bytes.end.next_multiple_of(PAGE) - self.bytes.start / PAGE * PAGE
    }

    /// Whether it lies in the lending region, so that it may be kept.
    #[must_use]
    pub fn may_stay(&self) -> bool {
        self.lent
    }
}

impl<H: Halves> PeerArena<H> {
    pub(crate) fn new(halves: Arc<H>) -> Self {
        Self { halves }
    }

    /// Checks where a payload is said to lie.
    ///
    /// # Errors
    ///
    /// When that is outside of the arena, or when the block's number is none.
    pub fn check(&self, block: BlockRef) -> Result<Parcel, Corrupt> {
        let numbers = self.halves.own().returned.len() as u64; // both halves are laid out alike
        let BlockRef { block: number, len, offset } = block;
        if u64::from(number) >= numbers {
            let rule = Rule::AtMost(numbers.saturating_sub(1));
            return Err(Corrupt { field: "block.number", found: number.into(), rule });
        }
        let arena = self.len() as u64;
        if offset > arena {
            return Err(Corrupt { field: "block.offset", found: offset, rule: Rule::AtMost(arena) });
        }
        if u64::from(len) > arena - offset {
            let rule = Rule::AtMost(arena - offset);
            return Err(Corrupt { field: "block.len", found: len.into(), rule });
        }
        let bytes = offset as usize..offset as usize + len as usize;
        let lent = bytes.end <= self.halves.lending_bytes();
        Ok(Parcel { number, bytes, lent })
    }

    /// Copies the first bytes of a payload out into `to`: as many as it has room for.
    ///
    /// # Panics
    ///
    /// When the payload is shorter, or when the parcel is of another link that has a larger arena.
    pub fn copy_to(&self, parcel: &Parcel, to: &mut [u8]) {
        assert!(to.len() <= parcel.len(), "{} bytes leave the payload", to.len());
        // SAFETY: in bounds: `check` found it so (and the callee checks it). Alone: the peer has passed it and was not
        // given it back, so an honest peer is not there. Alive: `self` holds the mapping.
        unsafe { sync::copy_out(self.halves.peer().arena, parcel.bytes.start, to) }
    }

    /// Appends a payload, from `offset` on, to `to`: one copy, into memory that need not be initialised before.
    ///
    /// # Panics
    ///
    /// When `offset` is beyond the payload, or when the parcel is of another link that has a larger arena.
    #[cfg(not(loom))]
    pub fn append_to(&self, parcel: &Parcel, offset: usize, to: &mut Vec<u8>) {
        let len = parcel.len().checked_sub(offset).expect("the offset is within the payload");
        // SAFETY: as in `copy_to`.
        unsafe { sync::append_out(self.halves.peer().arena, parcel.bytes.start + offset, len, to) }
    }

    /// A payload where it lies.
    ///
    /// # Safety
    ///
    /// As long as the reference lives, the peer does not write there, and the parcel is not given back. The kernel
    /// does not keep the peer from writing: that is a promise about the program that it runs.
    ///
    /// # Panics
    ///
    /// When the parcel is of another link that has a larger arena.
    #[cfg(not(loom))]
    #[must_use]
    pub unsafe fn bytes(&self, parcel: &Parcel) -> &[u8] {
        // SAFETY: in bounds: `check` found it so (and the callee checks it). Alone: promised by the caller. Alive:
        // `self` holds the mapping.
        unsafe { sync::peer_bytes(self.halves.peer().arena, parcel.bytes.start, parcel.len()) }
    }

    /// Where the arena starts in this process.
    #[cfg(not(loom))]
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.halves.peer().arena.start().cast()
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn len(&self) -> usize {
        size_of_val(self.halves.own().arena) // both halves are laid out alike
    }

    /// Bytes of its lending region.
    #[must_use]
    pub fn lending_len(&self) -> usize {
        self.halves.lending_bytes()
    }

    /// How many blocks it may have out at once.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.halves.own().returned.len() // both halves are laid out alike
    }

    /// Whether there is no arena at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gives the peer its blocks back: one for a link, so `&mut self` is the only one that writes the list.
#[derive(Debug)]
pub struct Returns<H> {
    halves: Arc<H>,
    /// How many were given back.
    total: u64,
}

impl<H: Halves> Returns<H> {
    pub(crate) fn new(halves: Arc<H>) -> Self {
        Self { halves, total: 0 }
    }

    /// Gives a block back, and says whom to wake: two stores, a fence, and a look at whether the peer waits.
    pub fn give_back(&mut self, parcel: Parcel) -> Wake {
        let halves = &self.halves;
        let own = halves.own();
        // Relaxed: published by the count below. The peer has read what stood there before: it has no more blocks out
        // than the list is long. One that told of a block twice overwrites its own number, and learns of it.
        own.returned[place(self.total, own.returned.len())].store(parcel.number, Ordering::Relaxed);
        self.total = self.total.wrapping_add(1);
        // Release: pairs with the Acquire load of `returned` in `Arena::collect`; publishes the number, and our copies
        // out of the block happen before it is overwritten.
        own.endpoint.returned.0.store(self.total, Ordering::Release);
        // SeqCst fence: store-load, pairs with the fences in `Park::starve` and `Park::prepare`; either we see
        // `starved` and `parked`, or the sender's last look sees `returned`.
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        if halves.peer().endpoint.starved().relaxed() == 0 {
            return Wake::Nobody;
        }
        park::wake_sleepers(&**halves)
    }
}

/// Where the number of a return stands in a list of `len` places. The list has one at least: a parcel has a number.
pub(super) fn place(count: u64, len: usize) -> usize {
    (count % len as u64) as usize
}

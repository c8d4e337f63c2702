//! What stands for a block on the side that owns it: one value, that is not `Clone`.
#![allow(unsafe_code)]

use alloc::sync::Arc;
use core::ops::Range;

use crate::halves::Halves;
use crate::sync;

/// A block that this side writes: it alone, until it is [passed](super::Arena::pass).
///
/// Has to go back to its [`Arena`](super::Arena) in one way or another, or it is lost to it.
#[derive(Debug)]
#[must_use = "a block that is dropped is lost to its arena"]
pub struct Block<H> {
    pub(super) halves: Arc<H>,
    pub(super) number: u32,
    /// Where it lies in the arena.
    pub(super) bytes: Range<usize>,
}

#[allow(clippy::len_without_is_empty, reason = "no block is empty")]
impl<H: Halves> Block<H> {
    /// Bytes of the block: at least as many as were asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where it lies, from the start of the arena.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// The bytes of the block. They hold whatever was there before.
    #[cfg(not(loom))] // loom has to see each access: models use `write_at`
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: in bounds: the arena allotted it (and the callee checks it). Alone: it is allotted to this value
        // alone, which is not `Clone`, and not with the peer. Alive: `self` holds the mapping.
        unsafe { sync::bytes_mut(self.halves.own().arena, self.bytes.start, self.len()) }
    }

    /// The bytes of the block, to be read.
    #[cfg(not(loom))]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes`; through `&self` nobody writes.
        unsafe { sync::bytes_ref(self.halves.own().arena, self.bytes.start, self.len()) }
    }

    /// Copies `bytes` to `offset` in the block.
    ///
    /// # Panics
    ///
    /// When they leave the block.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len() && bytes.len() <= self.len() - offset, "the bytes leave the block");
        // SAFETY: in bounds: asserted. Alone and alive: as in `bytes`.
        unsafe { sync::copy_in(self.halves.own().arena, self.bytes.start + offset, bytes) }
    }
}

/// The bytes of a frozen block: nobody writes them any more, whoever reads them.
///
/// Has to go back to its [`Arena`](super::Arena) by [`Arena::drop_frozen`](super::Arena::drop_frozen), or it is lost to it.
#[derive(Debug)]
#[must_use = "a frozen block that is dropped is lost to its arena"]
#[cfg_attr(loom, expect(dead_code, reason = "models do not read in place"))]
pub struct Frozen<H> {
    pub(super) halves: Arc<H>,
    pub(super) number: u32,
    /// Where the data lies in the arena.
    pub(super) bytes: Range<usize>,
}

impl<H: Halves> Frozen<H> {
    /// The bytes.
    #[cfg(not(loom))]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds: as for the block that it was (and the callee checks it). Alone: whoever else has it, the
        // peer or `pass_frozen`, reads these bytes too, and it is not free before this value is given up. Alive:
        // `self` holds the mapping.
        unsafe { sync::bytes_ref(self.halves.own().arena, self.bytes.start, self.bytes.len()) }
    }
}

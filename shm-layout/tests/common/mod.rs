//! Two halves on the heap, both sides of their link, and a hand that writes into them behind everybody's
//! back.
#![allow(dead_code, reason = "each test file uses its part")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use adjoin_shm_layout::{Attached, Geometry, LayoutError, Mapped, Memory, OwnHalf, PeerHalf, Side, attach};

pub(crate) type Link = Attached<Mapped<Heap, Heap>>;

/// The limits of the tests: everything as small as it may be.
pub(crate) const SMALL: Geometry = Geometry {
    ring_bytes: 4096,
    channel_slots: 4,
    max_payload_size: 1000,
    initial_channel_credit: 100,
    arena_blocks: 4,
    arena_bytes: 3 * 4096,
};

/// Memory of a half, zero at first, that stands for the mappings of two processes.
#[derive(Clone, Debug)]
pub(crate) struct Heap(Arc<Block>);

#[derive(Debug)]
struct Block {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: in bounds: no access. Alone: the block is reached through `Memory` and `poke` only. Alive: until
// the last clone is dropped.
unsafe impl Send for Block {}
// SAFETY: as for `Send`.
unsafe impl Sync for Block {}

// SAFETY: `base` and the length never change, and the bytes, zero at first, live until the last clone is
// dropped. Nothing but this crate and `poke`, which makes no reference, touches them.
unsafe impl Memory for Heap {
    fn base(&self) -> NonNull<u8> {
        self.0.base
    }

    fn byte_len(&self) -> usize {
        self.0.layout.size()
    }
}

impl Heap {
    pub(crate) fn zeroed(len: u64) -> Self {
        let layout = Layout::from_size_align(len as usize, 4096).unwrap();
        // SAFETY: in bounds and alone: nothing is touched yet. Alive: until `Block::drop`; the layout is not
        // empty.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Self(Arc::new(Block { base, layout }))
    }

    /// A half that has been laid out, and the memory of it.
    pub(crate) fn half(geometry: Geometry) -> (Self, OwnHalf<Self>) {
        let heap = Self::zeroed(geometry.half_len());
        // SAFETY: the memory is zero and writable, and this is the only `OwnHalf` of it.
        let half = unsafe { OwnHalf::create(heap.clone(), geometry) };
        (heap, half.unwrap())
    }

    /// Reads the word at a multiple of eight.
    pub(crate) fn peek(&self, offset: u64) -> u64 {
        assert!(offset.is_multiple_of(8) && offset as usize + 8 <= self.byte_len());
        // SAFETY: in bounds and aligned: asserted. Alone: the tests that look have one thread. Alive:
        // `&self`.
        unsafe { self.base().add(offset as usize).cast::<u64>().read_volatile() }
    }

    /// Writes the word at a multiple of eight, as its owner could at any time.
    pub(crate) fn poke(&self, offset: u64, word: u64) {
        assert!(offset.is_multiple_of(8) && offset as usize + 8 <= self.byte_len());
        // SAFETY: as in `peek`; there is no reference to the bytes but to atomics and cells.
        unsafe { self.base().add(offset as usize).cast::<u64>().write_volatile(word) }
    }

    /// Writes the four bytes at a multiple of four.
    pub(crate) fn poke32(&self, offset: u64, word: u32) {
        let (at, shift) = (offset / 8 * 8, offset % 8 * 8);
        let rest = self.peek(at) & !(u64::from(u32::MAX) << shift);
        self.poke(at, rest | u64::from(word) << shift);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: in bounds: the whole block, as it was allocated. Alone and alive: this is the last clone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Both sides of one link, and the memory that each of them writes.
pub(crate) struct Pair {
    pub(crate) guest: Link,
    pub(crate) host: Link,
    pub(crate) guest_half: Heap,
    pub(crate) host_half: Heap,
}

/// Makes a link of two sides in this process.
pub(crate) fn pair(geometry: Geometry) -> Result<Pair, LayoutError> {
    let (guest_half, guest) = Heap::half(geometry);
    let (host_half, host) = Heap::half(geometry);
    let seen_by_guest = PeerHalf::read(host_half.clone())?;
    let seen_by_host = PeerHalf::check(guest_half.clone(), &geometry)?;
    Ok(Pair {
        guest: attach(guest, seen_by_guest, Side::Initiator)?,
        host: attach(host, seen_by_host, Side::Acceptor)?,
        guest_half,
        host_half,
    })
}

/// Numbers that look random, the same in every run: xorshift64*, Vigna 2016.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end
    }
}

/// As many rounds as Miri has the patience for, or more.
pub(crate) fn rounds(normally: usize) -> usize {
    if cfg!(miri) { normally / 200 } else { normally }
}

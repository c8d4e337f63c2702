//! Elements of streams that lie in the peer's blocks until their readers come.
//!
//! They are copied out by the reader, so that many that wait take no further memory, and one after the other is copied into
//! memory that is in his cache. They take up little of what the peer can lend, so that a stream that nobody reads holds up
//! nobody else: at most a quarter of its pages and of its blocks. When the link ends, what is left is copied out at once:
//! a stream that nobody reads does not keep the segment.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering},
};

use adjoin_shm_layout::{Parcel, PeerArena};

use super::{blocks::Kept, link::Mapped};
use crate::link::vector::LinkMemory;

/// Those of one link. Dropped with the link.
#[derive(Debug)]
pub(super) struct Unread {
    used: Arc<Used>,
    most_bytes: usize,
    most_blocks: usize,
    /// Those that were left, and some that were read since.
    left: Vec<Weak<Element>>,
    /// How many there may be of both before those that were read are forgotten.
    sweep_at: usize,
}

/// What they take up.
#[derive(Debug, Default)]
struct Used {
    bytes: AtomicUsize,
    blocks: AtomicUsize,
}

/// What they may take up, of the lending region and of all blocks: a quarter.
const SHARE: usize = 4;

/// The first sweep.
const SWEEP: usize = 64;

impl Unread {
    pub(super) fn of(arena: &PeerArena<Mapped>) -> Self {
        Unread {
            used: Arc::default(),
            most_bytes: arena.lending_len() / SHARE,
            most_blocks: arena.blocks() / SHARE,
            left: Vec::new(),
            sweep_at: SWEEP,
        }
    }

    /// Whether one more may be left where it lies.
    pub(super) fn has_room(&self, parcel: &Parcel) -> bool {
        // Relaxed, here and below: a bound on memory, not an order. This is the only one that adds.
        let (bytes, blocks) =
            (self.used.bytes.load(Ordering::Relaxed), self.used.blocks.load(Ordering::Relaxed));
        bytes + parcel.page_bytes() <= self.most_bytes && blocks < self.most_blocks
    }

    /// Leaves an element where it lies, whose bytes start at `from`.
    pub(super) fn leave(&mut self, kept: Kept, from: usize) -> Arc<dyn LinkMemory> {
        if self.left.len() >= self.sweep_at {
            self.left.retain(|element| element.strong_count() > 0);
            self.sweep_at = SWEEP.max(2 * self.left.len());
        }
        let bytes = kept.page_bytes();
        self.used.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used.blocks.fetch_add(1, Ordering::Relaxed);
        let block = InBlock { kept, from, bytes, used: Arc::clone(&self.used) };
        let element = Arc::new(Element(Mutex::new(Place::InBlock(block))));
        self.left.push(Arc::downgrade(&element));
        element
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.left.iter().filter_map(Weak::upgrade).for_each(|element| element.fetch());
    }
}

/// One element.
#[derive(Debug)]
struct Element(Mutex<Place>);

#[derive(Debug)]
enum Place {
    InBlock(InBlock),
    /// It was copied when the link ended.
    Copied(Vec<u8>),
}

impl Element {
    fn lock(&self) -> MutexGuard<'_, Place> {
        // Nothing under the lock can fail halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies it out, and gives its block back.
    fn fetch(&self) {
        let mut place = self.lock();
        if let Place::InBlock(block) = &*place {
            let mut bytes = Vec::new();
            block.kept.append_to(block.from, &mut bytes);
            *place = Place::Copied(bytes);
        }
    }
}

impl LinkMemory for Element {
    fn append_to(&self, bytes: &mut Vec<u8>) {
        match &*self.lock() {
            Place::InBlock(block) => block.kept.append_to(block.from, bytes),
            Place::Copied(copied) => bytes.extend_from_slice(copied),
        }
    }
}

/// An element in its block.
#[derive(Debug)]
struct InBlock {
    kept: Kept,
    /// Where its bytes start.
    from: usize,
    /// What it counts for.
    bytes: usize,
    used: Arc<Used>,
}

impl Drop for InBlock {
    fn drop(&mut self) {
        self.used.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.used.blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

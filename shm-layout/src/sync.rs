//! The only file that names an atomic or an `UnsafeCell`, so that loom can take their place.
//!
//! Aliases and not re-exports: the `disallowed-types` lint sees through a re-export. Ring memory is a slice
//! of [`Granule`]s. [`copy_in`] and [`copy_out`] are one memcpy normally and go cell by cell under loom,
//! which so sees each access: over plain memory a model could pass with every ordering Relaxed.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_types)] // this is the file that the list means to leave

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{Ordering, fence};

#[cfg(not(loom))]
pub(crate) type AtomicU32 = core::sync::atomic::AtomicU32;
#[cfg(loom)]
pub(crate) type AtomicU32 = loom::sync::atomic::AtomicU32;
#[cfg(not(loom))]
pub(crate) type AtomicU64 = core::sync::atomic::AtomicU64;
#[cfg(loom)]
pub(crate) type AtomicU64 = loom::sync::atomic::AtomicU64;
#[cfg(loom)]
type Cell = loom::cell::UnsafeCell<u64>;

/// Something in the peer's half: it can be looked at, and nothing else.
///
/// The half is mapped read-only, so a store or a read-modify-write would be a SIGSEGV. This type has neither.
pub(crate) struct ReadOnly<'a, T: ?Sized>(&'a T);

impl<'a, T: ?Sized> ReadOnly<'a, T> {
    #[inline]
    pub(crate) fn new(of: &'a T) -> Self {
        Self(of)
    }

    /// Narrows to one part.
    #[inline]
    pub(crate) fn part<U: ?Sized>(self, part: impl FnOnce(&'a T) -> &'a U) -> ReadOnly<'a, U> {
        ReadOnly(part(self.0))
    }
}

impl<T: ?Sized> Clone for ReadOnly<'_, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for ReadOnly<'_, T> {}

/// Loads of a word in read-only memory: of the atomic operations, Rust defines only the relaxed load there
/// (see "Atomic accesses to read-only memory" in `core::sync::atomic`), so an acquiring one is that and a
/// fence.
macro_rules! read_only_word {
    ($atomic:ty, $value:ty) => {
        impl ReadOnly<'_, $atomic> {
            /// Loads the word once. Relaxed: whoever calls names what orders it.
            #[inline]
            pub(crate) fn relaxed(self) -> $value {
                self.0.load(Ordering::Relaxed)
            }

            /// Loads the word once, with the effect of an Acquire load.
            #[allow(dead_code, reason = "not every width is acquired")]
            #[inline]
            pub(crate) fn acquire(self) -> $value {
                let value = self.0.load(Ordering::Relaxed);
                // Acquire fence: makes the load above an acquiring one; whoever calls names its partner.
                fence(Ordering::Acquire);
                value
            }
        }
    };
}
read_only_word!(AtomicU32, u32);
read_only_word!(AtomicU64, u64);

#[cfg(not(loom))]
impl ReadOnly<'_, AtomicU32> {
    /// The address of the word, for the kernel to wait on.
    #[inline]
    pub(crate) fn address(self) -> *const u32 {
        self.0.as_ptr().cast_const()
    }
}

/// The cell of loom, which wants closures, without loom.
#[cfg(not(loom))]
#[repr(transparent)]
struct Cell(core::cell::UnsafeCell<u64>);

#[cfg(not(loom))]
impl Cell {
    #[inline]
    fn with<R>(&self, read: impl FnOnce(*const u64) -> R) -> R {
        read(self.0.get())
    }

    #[inline]
    fn with_mut<R>(&self, write: impl FnOnce(*mut u64) -> R) -> R {
        write(self.0.get())
    }
}

#[cfg(not(loom))]
impl<'a, T> ReadOnly<'a, [T]> {
    /// Where they start.
    #[inline]
    pub(crate) fn start(self) -> core::ptr::NonNull<T> {
        core::ptr::NonNull::from(self.0).cast()
    }

    /// Each of them.
    #[inline]
    pub(crate) fn words(self) -> impl Iterator<Item = ReadOnly<'a, T>> {
        self.0.iter().map(ReadOnly)
    }
}

/// Eight bytes of a ring, aligned to eight: written by the owner of the half, copied out by its peer.
#[repr(transparent)]
pub(crate) struct Granule(Cell);

// SAFETY: in bounds and aligned: a granule is one whole cell. Alone: a shared granule is only reached by the
// unsafe functions below, whose callers promise that nobody else touches it meanwhile. Alive: a reference
// keeps it so.
unsafe impl Sync for Granule {}

impl Granule {
    /// Bytes in a granule.
    pub(crate) const BYTES: usize = 8;

    /// A granule of zeros, for a model's heap.
    #[cfg(loom)]
    #[inline]
    pub(crate) fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Stores the whole granule.
    ///
    /// # Safety
    ///
    /// The granule lies in our own half, and nobody else reads or writes it now.
    #[inline]
    pub(crate) unsafe fn store(&self, word: u64) {
        // SAFETY: in bounds and aligned: the cell's own pointer. Alone: promised by the caller. Alive:
        // `&self`.
        self.0.with_mut(|cell| unsafe { cell.write_volatile(word) });
    }
}

impl ReadOnly<'_, Granule> {
    /// Loads the whole granule, once, whatever its value is used for.
    ///
    /// # Safety
    ///
    /// The owner of the half keeps still here: it has published the granule and was not given it back.
    #[inline]
    pub(crate) unsafe fn load(self) -> u64 {
        // SAFETY: in bounds and aligned: the cell's own pointer. Alone: promised by the caller; a peer that
        // breaks its word changes what a volatile read yields, no more. Alive: `'_` borrows the mapping.
        self.0.0.with(|cell| unsafe { cell.read_volatile() })
    }
}

/// Copies `bytes` into the cells, from byte `at` on.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// The cells lie in our own half, and nobody else reads or writes the span now.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn copy_in(cells: &[Granule], at: usize, bytes: &[u8]) {
    let to = span(cells, at, bytes.len());
    // SAFETY: in bounds: `span` checked it; bytes need no alignment. Alone: promised by the caller, and
    // `bytes` is a reference, so it is none of the cells. Alive: `cells` is borrowed.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// Lends the bytes of our own cells, from byte `at` on, to be written in place.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// The cells lie in our own half, and nobody else reads or writes the span while the reference lives.
#[cfg(not(loom))]
#[allow(
    clippy::mut_from_ref,
    reason = "the cells are interior-mutable; exclusiveness is the caller's promise"
)]
#[inline]
pub(crate) unsafe fn bytes_mut(cells: &[Granule], at: usize, len: usize) -> &mut [u8] {
    let to = span(cells, at, len);
    // SAFETY: in bounds: `span` checked it; bytes need no alignment, and any value is valid for them. Alone:
    // promised by the caller. Alive: the result borrows `cells`.
    unsafe { core::slice::from_raw_parts_mut(to, len) }
}

/// Lends the bytes of our own cells, from byte `at` on, to be read.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// The cells lie in our own half, and nobody writes the span while the reference lives.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn bytes_ref(cells: &[Granule], at: usize, len: usize) -> &[u8] {
    let from = span(cells, at, len).cast_const();
    // SAFETY: in bounds: `span` checked it; bytes need no alignment, and any value is valid for them. Alone: promised
    // by the caller. Alive: the result borrows `cells`.
    unsafe { core::slice::from_raw_parts(from, len) }
}

/// Lends the bytes of the peer's cells, from byte `at` on, to be read where they lie.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// Nobody, the peer's process included, writes the span while the reference lives.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn peer_bytes(cells: ReadOnly<'_, [Granule]>, at: usize, len: usize) -> &[u8] {
    // SAFETY: promised by the caller, of memory that is nobody's to write instead of ours.
    unsafe { bytes_ref(cells.0, at, len) }
}

/// Appends `len` bytes of the cells, from byte `at` on, to `bytes`.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// As [`copy_out`].
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn append_out(
    cells: ReadOnly<'_, [Granule]>,
    at: usize,
    len: usize,
    bytes: &mut alloc::vec::Vec<u8>,
) {
    let from = span(cells.0, at, len).cast_const();
    bytes.reserve(len);
    let room = bytes.spare_capacity_mut();
    assert!(room.len() >= len, "reserved");
    // SAFETY: in bounds: `span` checked the one side, the line above the other; bytes need no alignment. Alone:
    // promised by the caller; a peer that breaks its word changes what was copied, no more. The room is a vector's
    // own. Alive: `cells` and `bytes` are borrowed.
    unsafe { core::ptr::copy_nonoverlapping(from, room.as_mut_ptr().cast::<u8>(), len) }
    // As in `copy_out`.
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    // SAFETY: in bounds: within the capacity, see above, and initialised by the copy. Alone and alive: `&mut`.
    unsafe { bytes.set_len(bytes.len() + len) }
}

/// Copies the bytes of the cells, from byte `at` on, out into `bytes`.
///
/// # Panics
///
/// When the span leaves the cells.
///
/// # Safety
///
/// The owner of the half keeps still in the span: it has published it and was not given it back.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn copy_out(cells: ReadOnly<'_, [Granule]>, at: usize, bytes: &mut [u8]) {
    let from = span(cells.0, at, bytes.len()).cast_const();
    // SAFETY: in bounds: `span` checked it; bytes need no alignment. Alone: promised by the caller; a peer
    // that breaks its word changes what was copied, no more. Alive: `cells` is borrowed.
    unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    // The compiler may not look at the peer's bytes again in place of the copy, which is what will have been
    // checked.
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// The checked address of `len` bytes from byte `at` on.
#[cfg(not(loom))]
#[inline]
fn span(cells: &[Granule], at: usize, len: usize) -> *mut u8 {
    let inside = at.checked_add(len).is_some_and(|end| end <= size_of_val(cells));
    assert!(inside, "{len} bytes at {at} leave the region");
    cells.as_ptr().cast::<u8>().cast_mut().wrapping_add(at)
}

/// As without loom, cell by cell.
///
/// # Safety
///
/// As without loom; a model fails where the promise is broken.
#[cfg(loom)]
#[inline]
pub(crate) unsafe fn copy_in(cells: &[Granule], at: usize, bytes: &[u8]) {
    for (index, byte) in (at..).zip(bytes) {
        cells[index / Granule::BYTES].0.with_mut(|cell| {
            // SAFETY: in bounds and aligned: one byte of the cell's own pointer. Alone: loom checks it.
            // Alive: borrowed.
            unsafe { cell.cast::<u8>().add(index % Granule::BYTES).write(*byte) }
        });
    }
}

/// As without loom, cell by cell.
///
/// # Safety
///
/// As without loom; a model fails where the promise is broken.
#[cfg(loom)]
#[inline]
pub(crate) unsafe fn copy_out(cells: ReadOnly<'_, [Granule]>, at: usize, bytes: &mut [u8]) {
    for (index, byte) in (at..).zip(bytes) {
        *byte = cells.0[index / Granule::BYTES].0.with(|cell| {
            // SAFETY: in bounds and aligned: one byte of the cell's own pointer. Alone: loom checks it.
            // Alive: borrowed.
            unsafe { cell.cast::<u8>().add(index % Granule::BYTES).read() }
        });
    }
}

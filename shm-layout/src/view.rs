//! From mapped memory to typed parts: every cast of a pointer is here.
//!
//! A mapping comes in as something that implements [`Memory`]. Our own becomes an [`OwnHalf`], which writes
//! the header; the peer's becomes a [`PeerHalf`], which checks it; the two together are [`attach`]ed.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use crate::algo::lifecycle;
use crate::attached::{Attached, Side};
use crate::error::{LayoutError, Rule};
use crate::halves::{Halves, Own, Peer, Rung, sealed};
use crate::layout::channel::ChannelEntry;
use crate::layout::endpoint::Endpoint;
use crate::layout::geometry::{Geometry, Offset};
use crate::layout::header::Header;
use crate::sync::{AtomicU32, Granule, ReadOnly};

/// A block of memory that holds one half.
///
/// # Safety
///
/// As long as the value lives, wherever it is moved:
///
/// - `base` and `byte_len` return what they returned first;
/// - that many bytes from `base` on are mapped, readable, and initialised; where the memory is that of a
///   file, nobody can make the file shorter (it is sealed);
/// - nothing in this process reads or writes them but through this crate, and no Rust reference to them
///   exists that this crate did not make.
///
/// Another process may write them at any time, whatever it likes.
pub unsafe trait Memory: Send + Sync + 'static {
    /// The address of the first byte.
    fn base(&self) -> NonNull<u8>;
    /// How many bytes there are.
    fn byte_len(&self) -> usize;
}

/// The half that this process writes, with its header written: ready to be handed over.
#[derive(Debug)]
pub struct OwnHalf<M> {
    memory: M,
    geometry: Geometry,
}

impl<M: Memory> OwnHalf<M> {
    /// Lays out a half in `memory`, which stays ours to write.
    ///
    /// # Errors
    ///
    /// When the geometry is out of bounds, or when the memory has not its length or alignment.
    ///
    /// # Safety
    ///
    /// The memory is writable, all zero, and no other `OwnHalf` is or will be made of the same bytes.
    #[inline]
    pub unsafe fn create(memory: M, geometry: Geometry) -> Result<Self, LayoutError> {
        geometry.validate()?;
        check_len(&memory, &geometry)?;
        lifecycle::write_header(header(&memory)?, &geometry);
        Ok(Self { memory, geometry })
    }

    /// The limits that the half is laid out by.
    #[must_use]
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// The half that the peer writes, with its header checked.
#[derive(Debug)]
pub struct PeerHalf<M> {
    memory: M,
    geometry: Geometry,
}

impl<M: Memory> PeerHalf<M> {
    /// Takes the half of a peer that sets the limits: [`geometry`](Self::geometry) tells them.
    ///
    /// # Errors
    ///
    /// Names the field of the header that is wrong.
    #[inline]
    pub fn read(memory: M) -> Result<Self, LayoutError> {
        let geometry = lifecycle::read_header(ReadOnly::new(header(&memory)?), memory.byte_len() as u64)?;
        Ok(Self { memory, geometry })
    }

    /// Takes the half of a peer that was told the limits.
    ///
    /// # Errors
    ///
    /// Names the field of the header that is wrong, or that differs from `expected`.
    #[inline]
    pub fn check(memory: M, expected: &Geometry) -> Result<Self, LayoutError> {
        let half = Self::read(memory)?;
        lifecycle::check_equal(&half.geometry, expected)?;
        Ok(half)
    }

    /// The limits that the peer's header states, each of them within its bounds.
    #[must_use]
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// Puts two halves together: the parts of a running link.
///
/// # Errors
///
/// When the halves are laid out by different limits.
#[inline]
pub fn attach<O: Memory, P: Memory>(
    own: OwnHalf<O>,
    peer: PeerHalf<P>,
    side: Side,
) -> Result<Attached<Mapped<O, P>>, LayoutError> {
    lifecycle::check_equal(&peer.geometry, &own.geometry)?;
    let halves = Mapped {
        own: Pointers::new(&own.memory, &own.geometry),
        peer: Pointers::new(&peer.memory, &own.geometry),
        lending_bytes: own.geometry.lending_bytes() as usize,
        rung: Rung::default(),
        _memory: (own.memory, peer.memory),
    };
    Ok(Attached::new(halves, side))
}

/// Two halves in mapped memory.
#[derive(Debug)]
pub struct Mapped<O, P> {
    own: Pointers,
    peer: Pointers,
    lending_bytes: usize,
    rung: Rung,
    /// Keeps the mappings alive that the pointers lead to.
    _memory: (O, P),
}

// SAFETY: in bounds and aligned: as where the pointers are followed. Alone: what they lead to is atomics and
// granules, which are `Sync`. Alive: the memories move along, and both are `Send`.
unsafe impl<O: Memory, P: Memory> Send for Mapped<O, P> {}
// SAFETY: as for `Send`; a shared `Mapped` gives out shared references only.
unsafe impl<O: Memory, P: Memory> Sync for Mapped<O, P> {}

impl<O: Memory, P: Memory> Halves for Mapped<O, P> {}

impl<O: Memory, P: Memory> sealed::Halves for Mapped<O, P> {
    #[inline]
    fn own(&self) -> Own<'_> {
        let Pointers { endpoint, channels, returned, ring, arena } = self.own;
        // SAFETY: in bounds and aligned: `Pointers::new` made them of a memory whose length and alignment
        // were checked. Alone: atomics and granules may be shared. Alive: `_memory` keeps the mapping for as
        // long as `&self` lives.
        unsafe {
            Own {
                endpoint: endpoint.as_ref(),
                channels: channels.as_ref(),
                returned: returned.as_ref(),
                ring: ring.as_ref(),
                arena: arena.as_ref(),
            }
        }
    }

    #[inline]
    fn peer(&self) -> Peer<'_> {
        let Pointers { endpoint, channels, returned, ring, arena } = self.peer;
        // SAFETY: as in `own`; the peer may write at any time, which atomics and granules are made for.
        unsafe {
            Peer {
                endpoint: ReadOnly::new(endpoint.as_ref()),
                channels: ReadOnly::new(channels.as_ref()),
                returned: ReadOnly::new(returned.as_ref()),
                ring: ReadOnly::new(ring.as_ref()),
                arena: ReadOnly::new(arena.as_ref()),
            }
        }
    }

    #[inline]
    fn lending_bytes(&self) -> usize {
        self.lending_bytes
    }

    #[inline]
    fn rung(&self) -> &Rung {
        &self.rung
    }
}

/// Where the parts of one half lie.
#[derive(Clone, Copy, Debug)]
struct Pointers {
    endpoint: NonNull<Endpoint>,
    channels: NonNull<[ChannelEntry]>,
    returned: NonNull<[AtomicU32]>,
    ring: NonNull<[Granule]>,
    arena: NonNull<[Granule]>,
}

impl Pointers {
    /// Computes them. The length of the memory was checked against the geometry, and its alignment.
    #[inline]
    fn new(memory: &impl Memory, geometry: &Geometry) -> Self {
        let slots = geometry.channel_slots as usize;
        let blocks = geometry.arena_blocks as usize;
        Self {
            endpoint: at(memory, geometry.endpoint_offset(), 1),
            channels: slice(memory, geometry.channels_offset(), slots),
            returned: slice(memory, geometry.returned_offset(), blocks),
            ring: slice(memory, geometry.ring_offset(), geometry.ring_bytes as usize / Granule::BYTES),
            arena: slice(memory, geometry.arena_offset(), geometry.arena_bytes as usize / Granule::BYTES),
        }
    }
}

/// `count` values of `T` at `offset`.
#[inline]
fn slice<T>(memory: &impl Memory, offset: Offset, count: usize) -> NonNull<[T]> {
    NonNull::slice_from_raw_parts(at(memory, offset, count), count)
}

/// The header of a half, once the memory can hold one.
#[inline]
fn header(memory: &impl Memory) -> Result<&Header, LayoutError> {
    let (base, len) = (memory.base().addr().get() as u64, memory.byte_len() as u64);
    let align = align_of::<Header>() as u64;
    if !base.is_multiple_of(align) {
        return Err(LayoutError { field: "mapped_base", found: base, expected: Rule::MultipleOf(align) });
    }
    if len < Header::BYTES {
        let expected = Rule::Within(Header::BYTES, u64::MAX);
        return Err(LayoutError { field: "mapped_len", found: len, expected });
    }
    // SAFETY: in bounds and aligned: both checked above. Alone: the header is atomics, which may be shared,
    // also with the process that writes them. Alive: the result borrows the memory.
    Ok(unsafe { memory.base().cast::<Header>().as_ref() })
}

/// Refuses memory that has not the length of a half.
#[inline]
fn check_len(memory: &impl Memory, geometry: &Geometry) -> Result<(), LayoutError> {
    let (found, half_len) = (memory.byte_len() as u64, geometry.half_len());
    if found == half_len {
        return Ok(());
    }
    Err(LayoutError { field: "mapped_len", found, expected: Rule::Exactly(half_len) })
}

/// The address of `count` values of `T` at `offset`.
#[inline]
fn at<T>(memory: &impl Memory, offset: Offset, count: usize) -> NonNull<T> {
    let offset = offset.get() as usize;
    let end = offset + count * size_of::<T>();
    assert!(end <= memory.byte_len(), "a part ends at {end} in a half of {} bytes", memory.byte_len());
    // SAFETY: in bounds: asserted; aligned: the base is (checked with the header), and so is every offset of
    // a geometry. Alone: only an address, nothing is touched. Alive: the caller keeps the memory beside the
    // pointer.
    unsafe { memory.base().add(offset).cast() }
}

//! The two halves of a segment as files: ours is made, the peer's is checked.
//!
//! **Ours**: a memfd of exactly [`Geometry::half_len`] bytes, mapped writable, then sealed, then handed over.
//! The pages in front of its arena are reserved when it is made: header, endpoint, channel table and ring are memory
//! that a link uses from its first hour on, and a page that cannot be had later would be a SIGBUS in the
//! middle of a call, in us or in the peer. So a half costs that much from the start (1 MiB for the ring and
//! 1 MiB for the channels by default), and a machine without that memory says so here, with an error. The arena's pages
//! are made when they are used first, see `backing`.
//!
//! **The peer's**: whatever it says of its half is checked on the descriptor before one byte is mapped. A
//! file of another file system could stall us at a page fault, an unsealed one could be cut short under our
//! mapping, one with holes could fail to give us a page. A memfd that is sealed and has its pages can do none
//! of that: holes cannot be punched into it any more. Pages of the peer's arena are asked for before they are read.

#![allow(unsafe_code)]

use std::{fs::File, io};

use adjoin_shm_layout::{Geometry, LayoutError, OwnHalf, PeerHalf};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, FallocateFlags, FileType, FsWord, MemfdFlags},
    io::Errno,
};

use super::{
    mapping::Mapping,
    seals::{self, Seal},
};

/// What is wrong with a half.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A memfd could not be made.
    #[error("shared memory could not be made")]
    Create(#[source] io::Error),
    /// The memory of a half could not be had.
    #[error("{len} bytes of shared memory could not be had")]
    Reserve {
        /// Bytes of the half, or of those in front of its arena.
        len: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A half could not be mapped.
    #[error("{len} bytes of shared memory could not be mapped")]
    Map {
        /// The length of a half.
        len: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Our own half could not be sealed.
    #[error("shared memory could not be sealed")]
    Seal(#[source] io::Error),
    /// A half of these limits is longer than this process can map.
    #[error("a half of {len} bytes is more than this process can address")]
    TooLong {
        /// The length of a half.
        len: u64,
    },
    /// The peer's descriptor does not answer questions.
    #[error("the peer's half cannot be examined")]
    Examine(#[source] io::Error),
    /// The peer's descriptor is no memfd.
    #[error("the peer's half is no shared memory but another kind of file")]
    NotMemory,
    /// The peer's half has another length than agreed on.
    #[error("the peer's half has {found} bytes, {expected} were agreed on")]
    Size {
        /// Its length.
        found: u64,
        /// The length that follows from the limits.
        expected: u64,
    },
    /// The peer's half has not all of its pages.
    #[error("the peer's half has memory for {found} bytes, not for {expected}")]
    Holes {
        /// The bytes that it has pages for.
        found: u64,
        /// The bytes in front of the arena, which follow from the limits.
        expected: u64,
    },
    /// The peer's half lacks a seal.
    #[error("the peer's half lacks the seal {0}")]
    Unsealed(Seal),
    /// A half is not laid out as agreed on.
    #[error("the half is not laid out as agreed on")]
    Layout(#[from] LayoutError),
}

/// Makes our own half: reserved, mapped writable, sealed against everybody else, its header written. Returns
/// what writes it, and the descriptor to hand over.
///
/// Seven system calls.
pub(super) fn create(geometry: &Geometry) -> Result<(OwnHalf<Mapping>, OwnedFd), SegmentError> {
    let (len, mapped_len) = lengths(geometry)?;
    let half = memfd().map_err(|error| SegmentError::Create(error.into()))?;
    fs::ftruncate(&half, len).map_err(|error| SegmentError::Reserve { len, source: error.into() })?;
    let reserved = geometry.arena_offset().get();
    fs::fallocate(&half, FallocateFlags::empty(), 0, reserved)
        .map_err(|error| SegmentError::Reserve { len: reserved, source: error.into() })?;
    let half = File::from(half);
    let mapping = Mapping::writable(&half, mapped_len).map_err(|source| SegmentError::Map { len, source })?;
    seals::add(&half).map_err(|error| SegmentError::Seal(error.into()))?;
    // SAFETY: in bounds and aligned: `create` checks the length and the alignment. Alone: the memory is new,
    // so it is all zero, no other `OwnHalf` has it, and none can be made of it, since the seals forbid
    // another writable mapping. Alive: the half owns the mapping, which `writable` made writable.
    let own = unsafe { OwnHalf::create(mapping, *geometry) }?;
    Ok((own, half.into()))
}

/// Checks the peer's half, maps it read-only, and checks its header. The mapping keeps the memory.
///
/// Seven system calls.
pub(super) fn open(half: impl AsFd, geometry: &Geometry) -> Result<PeerHalf<Mapping>, SegmentError> {
    let (len, mapped_len) = lengths(geometry)?;
    let reserved = geometry.arena_offset().get();
    let half = half.as_fd();
    verify(half, len, reserved)?;
    let mapping = Mapping::read_only(half, mapped_len).map_err(|source| SegmentError::Map { len, source })?;
    // What `verify` has counted need not lie where it is read.
    mapping.fill(reserved as usize).map_err(|source| SegmentError::Map { len: reserved, source })?;
    Ok(PeerHalf::check(mapping, geometry)?)
}

/// The length of a half, as the system and as this process counts it.
fn lengths(geometry: &Geometry) -> Result<(u64, usize), SegmentError> {
    let len = geometry.half_len();
    Ok((len, usize::try_from(len).map_err(|_| SegmentError::TooLong { len })?))
}

/// Checks seals, type, length and pages, in an order in which no check relies on what a later one finds: once
/// the seals are seen, length and pages stay what they are. And only memory has seals: of what else it may be, no question
/// is asked that a file system of the peer's own could leave unanswered.
fn verify(half: BorrowedFd<'_>, len: u64, reserved: u64) -> Result<(), SegmentError> {
    let examine = |error: Errno| SegmentError::Examine(error.into());
    match seals::missing(half) {
        Ok(None) => {}
        Ok(Some(seal)) => return Err(SegmentError::Unsealed(seal)),
        Err(Errno::INVAL) => return Err(SegmentError::NotMemory),
        Err(error) => return Err(examine(error)),
    }
    let kind = FileType::from_raw_mode(fs::fstat(half).map_err(examine)?.st_mode);
    if kind != FileType::RegularFile || fs::fstatfs(half).map_err(examine)?.f_type != TMPFS_MAGIC {
        return Err(SegmentError::NotMemory);
    }
    let stat = fs::fstat(half).map_err(examine)?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found != len {
        return Err(SegmentError::Size { found, expected: len });
    }
    let found = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK);
    if found < reserved {
        return Err(SegmentError::Holes { found, expected: reserved });
    }
    Ok(())
}

/// A new memfd that can be sealed and never executed. Linux before 6.3 does not know the latter, and then it
/// is left out.
fn memfd() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => fs::memfd_create(NAME, flags),
        made => made,
    }
}

/// What the memory is called in `/proc`.
const NAME: &str = "adjoin";
/// `f_type` of the file system that memfds live on.
const TMPFS_MAGIC: FsWord = 0x0102_1994;
/// The unit of `st_blocks`, whatever the file system's blocks are.
const STAT_BLOCK: u64 = 512;

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;

//! The memory of a half in this process.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use adjoin_shm_layout::Memory;
use memmap2::{Advice, MmapOptions, MmapRaw};

use super::backing::{self, Access};

/// A half that is mapped: ours writable, the peer's read-only. Unmapped when it is dropped.
///
/// It hands out an address and a length and no reference: what lies there is shared with another process, and
/// only the layout crate knows how to touch it.
#[derive(Debug)]
pub(super) struct Mapping {
    memory: MmapRaw,
    base: NonNull<u8>,
}

// SAFETY: in bounds: the address and length are those of the mapping, which was made as long as the file, and
// both files are sealed against shrinking (the peer's before it is mapped, ours before anybody else has it),
// so every byte stays readable. Alone: the address leaves this module through this trait only, to the layout
// crate. Alive: the mapping is private to the value, neither unmapped nor remapped before it is dropped, and
// does not move with it.
unsafe impl Memory for Mapping {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn byte_len(&self) -> usize {
        self.memory.len()
    }
}

// SAFETY: in bounds and aligned, alone: the value is an address and a length, and nothing is read or written
// through it here. Alive: which thread drops the mapping makes no difference to the system. `MmapRaw` is
// `Send` itself; the address beside it is a copy of the one inside.
unsafe impl Send for Mapping {}

// SAFETY: as for `Send`: `&Mapping` only tells the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps our own half to be written. Before it is sealed: afterwards nobody can.
    ///
    /// A forked child does not get the mapping, so that this process stays the only writer.
    pub(super) fn writable(half: &File, len: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(len).map_raw(half)?;
        memory.advise(Advice::DontFork)?;
        Mapping::new(memory)
    }

    /// Maps the peer's half. A store to it would be a SIGSEGV.
    pub(super) fn read_only(half: impl AsFd, len: usize) -> io::Result<Self> {
        Mapping::new(MmapOptions::new().len(len).map_raw_read_only(half.as_fd().as_raw_fd())?)
    }

    /// Has the system make the pages of the first `len` bytes, which are within the mapping.
    pub(super) fn fill(&self, len: usize) -> io::Result<()> {
        let len = len.min(self.memory.len());
        // SAFETY: in bounds and aligned: a mapping starts at a page, and `len` is within it. Alive: `&self`.
        unsafe { backing::populate(self.base, len, Access::Read) }
    }

    fn new(memory: MmapRaw) -> io::Result<Self> {
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapping { memory, base })
    }
}

//! Memory that two processes share: a file in memory, which a child finds by its number.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
    ptr::NonNull,
};

use adjoin_shm_layout::Memory;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, memfd_create};

/// A file in memory. A child that is started from now on has it, too.
pub(super) fn file(len: u64) -> io::Result<(File, String)> {
    let file = File::from(memfd_create("adjoin-bench", MemfdFlags::empty())?);
    file.set_len(len)?;
    let name = file.as_raw_fd().to_string();
    Ok((file, name))
}

/// The file of the parent's that has this number here.
pub(super) fn inherited(name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{name}"))
}

/// A mapping, which the other process has, too.
#[derive(Debug)]
pub(super) struct Shared {
    memory: MmapRaw,
    base: NonNull<u8>,
}

impl Shared {
    /// Maps all of a file, with its pages.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        let memory = MmapOptions::new().populate().map_raw(file)?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { memory, base })
    }
}

// SAFETY: the mapping is as long as the file, which nobody shortens; it is private to the value, and lives as long.
unsafe impl Memory for Shared {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn byte_len(&self) -> usize {
        self.memory.len()
    }
}

// SAFETY: it is an address and a length, and nothing is read or written through it here.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

//! Pages of an arena are had when they are first used, and not before.
//!
//! A page that could not be had in the middle of a copy would be a SIGBUS, in us or in the peer. So before a part of an
//! arena is touched for the first time, the system is asked to make all of its pages (`MADV_POPULATE_WRITE` in our own
//! half, `MADV_POPULATE_READ` in the peer's), and says by an error if it cannot. One system call for each part that is
//! new, and none any more once a link has used as much at once as it ever will; page tables are filled along the way.
#![allow(unsafe_code)]

use std::{io, ops::Range, ptr::NonNull};

use rustix::{
    io::Errno,
    mm::{Advice, madvise},
};

/// What is known of the pages of one region of memory.
#[derive(Debug)]
pub(super) struct Backing {
    base: NonNull<u8>,
    len: usize,
    access: Access,
    /// One bit for each [`CHUNK`]: its pages are there.
    there: Vec<u64>,
}

/// How the pages will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

// SAFETY: in bounds and aligned, alone: the address is told to the system, and nothing is read or written through it.
// Alive: promised to `new`, wherever the value is moved.
unsafe impl Send for Backing {}

impl Backing {
    /// # Safety
    ///
    /// The region starts at a page, is mapped, writable if it is to be written, and stays so for as long as the value
    /// lives.
    pub(super) unsafe fn new(base: NonNull<u8>, len: usize, access: Access) -> Self {
        let words = len.div_ceil(CHUNK).div_ceil(u64::BITS as usize);
        Backing { base, len, access, there: vec![0; words] }
    }

    /// Makes sure that the bytes of a range within the region can be touched.
    ///
    /// No system call if they were touched before.
    pub(super) fn ensure(&mut self, range: &Range<usize>) -> io::Result<()> {
        let mut chunks = range.start / CHUNK..range.end.min(self.len).div_ceil(CHUNK);
        while let Some(first) = chunks.find(|chunk| !self.is_there(*chunk)) {
            let missing = 1 + chunks.clone().take_while(|chunk| !self.is_there(*chunk)).count();
            self.populate(first..first + missing)?;
        }
        Ok(())
    }

    fn is_there(&self, chunk: usize) -> bool {
        let word = self.there.get(chunk / u64::BITS as usize).copied().unwrap_or_default();
        word >> (chunk % u64::BITS as usize) & 1 == 1
    }

    fn populate(&mut self, chunks: Range<usize>) -> io::Result<()> {
        let start = chunks.start * CHUNK;
        let len = (chunks.end * CHUNK).min(self.len).saturating_sub(start);
        // SAFETY: in bounds and aligned: `start` is within the region, at a page, and the length ends with it. Alone:
        // the system reads and writes nothing that was there. Alive: promised to `new`.
        unsafe { populate(self.base.add(start), len, self.access)? };
        for chunk in chunks {
            if let Some(word) = self.there.get_mut(chunk / u64::BITS as usize) {
                *word |= 1 << (chunk % u64::BITS as usize);
            }
        }
        Ok(())
    }
}

/// Has the system make all pages of a region.
///
/// # Safety
///
/// The region starts at a page and is mapped, writable if it is to be written.
pub(super) unsafe fn populate(base: NonNull<u8>, len: usize, access: Access) -> io::Result<()> {
    let advice = match access {
        Access::Read => Advice::LinuxPopulateRead,
        Access::Write => Advice::LinuxPopulateWrite,
    };
    loop {
        // SAFETY: in bounds and aligned, alive: promised by the caller. Alone: it changes no byte.
        match unsafe { madvise(base.as_ptr().cast(), len, advice) } {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A system that does not know this advice makes the pages as they are touched.
            Ok(()) | Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What pages are asked for in, in bytes: a multiple of every page size in use.
const CHUNK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use memmap2::MmapMut;

    use super::*;

    #[test]
    fn pages_are_asked_for_once_and_up_to_the_end_of_a_region_that_is_no_multiple() {
        let mut memory = MmapMut::map_anon(3 * CHUNK + 4096).unwrap();
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        // SAFETY: the mapping is writable and outlives the value.
        let mut backing = unsafe { Backing::new(base, memory.len(), Access::Write) };
        backing.ensure(&(CHUNK..CHUNK + 1)).unwrap();
        assert_eq!(
            (0..4).map(|chunk| backing.is_there(chunk)).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        backing.ensure(&(0..memory.len())).unwrap();
        assert!((0..4).all(|chunk| backing.is_there(chunk)));
        backing.ensure(&(5..5)).unwrap();
    }

    #[test]
    fn pages_that_cannot_be_had_are_an_error() {
        let file = tempfile::tempfile().unwrap();
        // SAFETY: nobody else has the file. It has no pages at all, and stays so.
        let mut memory = unsafe { memmap2::MmapOptions::new().len(CHUNK).map_mut(&file) }.unwrap();
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        // SAFETY: the mapping is writable and outlives the value.
        let mut backing = unsafe { Backing::new(base, CHUNK, Access::Read) };
        assert!(backing.ensure(&(0..1)).is_err(), "a touch would be a SIGBUS");
        assert!(!backing.is_there(0));
    }
}

//! The seals of a half: what makes it safe to give away, and to take.
//!
//! | seal | keeps | from |
//! |---|---|---|
//! | `F_SEAL_SHRINK` | the peer | cutting the file under our mapping, which would kill us by SIGBUS |
//! | `F_SEAL_GROW` | both | disagreeing on the length |
//! | `F_SEAL_FUTURE_WRITE` | everybody | mapping it writable again, writing to it, punching holes into it |
//! | `F_SEAL_SEAL` | everybody | adding `F_SEAL_WRITE`, or any other, later |
//!
//! The owner maps its half writable first and seals then: `F_SEAL_FUTURE_WRITE` leaves that mapping as it is.

use std::fmt;

use rustix::{
    fd::AsFd,
    fs::{SealFlags, fcntl_add_seals, fcntl_get_seals},
    io,
};

/// The seals that every half carries.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// A seal that a half must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seal {
    /// `F_SEAL_SHRINK`: it never gets shorter.
    Shrink,
    /// `F_SEAL_GROW`: it never gets longer.
    Grow,
    /// `F_SEAL_FUTURE_WRITE`: nobody ever maps it writable again.
    FutureWrite,
    /// `F_SEAL_SEAL`: its seals never change.
    Seal,
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seal::Shrink => "F_SEAL_SHRINK",
            Seal::Grow => "F_SEAL_GROW",
            Seal::FutureWrite => "F_SEAL_FUTURE_WRITE",
            Seal::Seal => "F_SEAL_SEAL",
        })
    }
}

/// Seals a half that its owner has mapped. One system call; all seals at once, so that none can be missing.
pub(super) fn add(half: impl AsFd) -> io::Result<()> {
    fcntl_add_seals(half, SEALS)
}

/// The first seal that a half lacks. Fails on a file that cannot be sealed at all.
pub(super) fn missing(half: impl AsFd) -> io::Result<Option<Seal>> {
    let found = fcntl_get_seals(half)?;
    let needed = [
        (SealFlags::SHRINK, Seal::Shrink),
        (SealFlags::GROW, Seal::Grow),
        (SealFlags::FUTURE_WRITE, Seal::FutureWrite),
        (SealFlags::SEAL, Seal::Seal),
    ];
    Ok(needed.into_iter().find(|(flag, _)| !found.contains(*flag)).map(|(_, seal)| seal))
}

//! The libraries, one file each.

pub(crate) mod adjoin;

//! Bytes: the types of a half, where they lie, and the arithmetic on both. No loads, no pointers.

pub(crate) mod channel;
pub(crate) mod endpoint;
pub(crate) mod frame;
pub(crate) mod geometry;
pub(crate) mod header;
pub(crate) mod ring;
#[cfg(all(test, not(loom)))]
mod table;

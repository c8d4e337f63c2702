//! Behaviour: the algorithms, over references to typed parts. No addresses: the same functions run on a
//! mapping and on a model's heap.

pub(crate) mod arena;
pub(crate) mod channels;
pub(crate) mod credit;
#[cfg(not(loom))]
pub(crate) mod lifecycle;
pub(crate) mod park;
pub(crate) mod ring;

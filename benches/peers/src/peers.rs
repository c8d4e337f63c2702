//! The libraries, one file each.

pub(crate) mod adjoin;
pub(crate) mod iceoryx2;
pub(crate) mod ipc_channel;
pub(crate) mod tarpc;
pub(crate) mod tonic;

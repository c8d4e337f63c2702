//! Where connections come from: byte streams, this process, and cells over shared memory.

pub mod address;
#[cfg(target_os = "linux")]
pub(crate) mod cell;
pub mod local;
#[cfg(target_os = "linux")]
pub mod shm;
pub mod stream;
#[cfg(unix)]
pub mod uds;
#[cfg(unix)]
mod unix;

/// How many may have connected to a listener and not got their link yet, unless it is set.
const HANDSHAKES: usize = 64;

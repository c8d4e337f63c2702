//! Where connections come from: byte streams, this process, and cells over shared memory.

#[cfg(target_os = "linux")]
pub(crate) mod cell;
pub mod local;
#[cfg(target_os = "linux")]
pub mod shm;
pub mod stream;

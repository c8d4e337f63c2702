//! What lies inside an adjoin segment, and the lock-free algorithms on it.
#![cfg_attr(not(any(test, loom)), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

mod algo;
mod attached;
mod error;
mod halves;
mod layout;
#[cfg(loom)]
pub mod model;
mod sync;
#[cfg(not(loom))]
mod view;

pub use algo::channels::{Partition, Slot, SlotAllocator};
pub use algo::credit::{Credit, Granted};
pub use algo::park::{Mode, Park, Parked, Starved, Wake};
pub use algo::ring::{Frame, Reserve, RingReader, RingWriter, Room};
pub use attached::{Attached, Side};
pub use error::{Corrupt, GeometryError, LayoutError, Rule};
pub use halves::Halves;
pub use layout::frame::{ChannelRef, FrameHead, Parts, Tag, parse};
pub use layout::geometry::{Geometry, Offset};
#[cfg(not(loom))]
pub use view::{Mapped, Memory, OwnHalf, PeerHalf, attach};

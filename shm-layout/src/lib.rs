//! What lies inside an adjoin segment, and the lock-free algorithms on it.
//!
//! No system call, no runtime, no thread, and no allocation once a link is attached, but for the private table of an
//! arena's blocks, which grows to the most that were out at once. Where the memory comes
//! from, and what a sleep is, is the business of the layer above.
//!
//! # A segment is two halves
//!
//! ```text
//!      half of A: A writes, B has it mapped read-only       half of B: B writes, A has it mapped read-only
//!    +------------------------------------------------+   +------------------------------------------------+
//!    | header    what the half is                     |   | header                                         |
//!    | endpoint  head of A's ring    - - - - - - - - - - - - -> RingReader of B                            |
//!    |           consumed of B's ring  - - - - - - - - - - - -> RingWriter of B                            |
//!    |           parked, wake, starved - - - - - - - - - - - -> Park of B                                  |
//!    | channels  granted_total, waiting  - - - - - - - - - - -> Credit of B                                |
//!    | returned  numbers of B's blocks - - - - - - - - - - - -> Arena of B                                 |
//!    | ring      frames from A to B  - - - - - - - - - - - - -> RingReader of B                            |
//!    | arena     payloads from A to B  - - - - - - - - - - - -> PeerArena of B                             |
//!    +------------------------------------------------+   +------------------------------------------------+
//! ```
//!
//! Every shared word has one writing process, and the kernel enforces it. So nothing is read-modified-written
//! between processes, and what a peer can corrupt is what it says, never what we remember.
//!
//! # Trust
//!
//! None. What is read from the peer's half is read once, into private memory, and checked before it is used.
//! A wrong value is a [`Corrupt`] or a [`LayoutError`] that names the field; it is never a panic, an endless
//! loop, or an access out of bounds. There is no `&mut T` and no `&[u8]` into the peer's half: bytes are
//! copied out. No method of this crate writes there, which the types see to.
//!
//! # The layout
//!
//! Offsets of fields, and of the regions for [`Geometry::default`]. A test compares this table with what the
//! compiler says.
//!
#![doc = include_str!("layout/table.md")]
//!
//! # Reading order
//!
//! `layout/` is bytes: types, offsets, assertions. `algo/` is behaviour: `ring.rs`, `arena.rs`, `park.rs` and
//! `credit.rs` tell their protocols in words. `view.rs` makes typed parts of a mapping, `halves.rs` is what the
//! algorithms see of them, and `sync.rs` is where the atomics come from. [`Attached`] is what the layer above
//! holds.
//!
//! # Use
//!
//! ```
//! use adjoin_shm_layout::{Attached, Corrupt, Halves, Mode, Reserve, Wake};
//!
//! /// Sends one message, encoded where it will lie; the caller carries out the wake.
//! fn send<H: Halves>(link: &mut Attached<H>, message: &[u8]) -> Result<Wake, Reserve> {
//!     let mut room = link.writer.reserve(message.len())?;
//!     room.bytes()[..message.len()].copy_from_slice(message);
//!     room.commit(7, message.len());
//!     Ok(link.writer.publish())
//! }
//!
//! /// Takes all that is there, and gives the room back.
//! fn drain<H: Halves>(link: &mut Attached<H>, mut each: impl FnMut(u32, &[u8])) -> Result<Wake, Corrupt> {
//!     while let Some(frame) = link.reader.next_frame()? {
//!         let mut body = vec![0; frame.len()];
//!         frame.copy_to(0, &mut body);
//!         each(frame.tag(), &body);
//!         frame.release();
//!     }
//!     Ok(link.reader.publish_consumed())
//! }
//!
//! /// Sleeps until there may be something: `futex_wait` returns once the peer's wake word is not the one seen.
//! fn sleep<H: Halves>(link: &mut Attached<H>, futex_wait: impl Fn(*const u32, u32)) -> Result<(), Corrupt> {
//!     let parked = link.park.prepare(Mode::Futex);
//!     let nothing_new = link.reader.is_empty();
//!     if let Ok(true) = nothing_new {
//!         futex_wait(link.park.peer_wake_word(), parked.seen());
//!     }
//!     link.park.unpark(parked);
//!     nothing_new.map(drop)
//! }
//! ```
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

pub use algo::arena::{Allot, Arena, Block, Frozen, Parcel, PeerArena, Purpose, Returns};
pub use algo::channels::{Partition, Slot, SlotAllocator};
pub use algo::credit::{Credit, Granted};
pub use algo::park::{Mode, Park, Parked, Starved, Wake};
pub use algo::ring::{Frame, Reserve, RingReader, RingWriter, Room};
pub use attached::{Attached, Side};
pub use error::{Corrupt, GeometryError, LayoutError, Rule};
pub use halves::Halves;
pub use layout::frame::{BlockRef, ChannelRef, FrameHead, Parts, Tag, parse};
pub use layout::geometry::{Geometry, Offset};
#[cfg(not(loom))]
pub use view::{Mapped, Memory, OwnHalf, PeerHalf, attach};

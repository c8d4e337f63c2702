//! The arena: blocks for payloads that are too big for the ring. Their owner allots them and fills them, a frame of
//! the ring says where one lies, and the peer gives it back when it has read it.
//!
//! # Who writes what
//!
//! Side A owns the arena, side B reads it.
//!
//! | what             | where      | written by                                                                   |
//! |------------------|------------|------------------------------------------------------------------------------|
//! | the bytes        | A's half   | [`Block`], in what is allotted and not with the peer                         |
//! | `returned` (list)| B's half   | [`Returns::give_back`]: the block's number, at the count modulo the list's length |
//! | `returned` (count)| B's half  | [`Returns::give_back`], behind the number                                    |
//! | which is free    | A, private | [`Arena`]                                                                    |
//!
//! There is no free list in shared memory, so none to corrupt, and no ABA: what a block's number means is looked up
//! in A's private table when B gives it back, and a number that is not with B ends the link.
//!
//! # The states of a block
//!
//! | state  | who may touch its bytes                   | left by                                          |
//! |--------|-------------------------------------------|--------------------------------------------------|
//! | free   | nobody                                    | [`Arena::allot`]                                 |
//! | ours   | A writes, through the [`Block`]           | [`Arena::pass`], [`Arena::freeze`], [`Arena::give_up`] |
//! | frozen | A reads, through the [`Frozen`]           | [`Arena::drop_frozen`]; [`Arena::pass_frozen`] adds "theirs" |
//! | theirs | B reads; A, too, if it is frozen as well  | B's return, which A collects                     |
//!
//! A block that is neither ours, nor frozen, nor theirs is free.
//!
//! # Two regions
//!
//! Blocks in the *lending* region may stay for as long as an application likes: with the sender's, which fills a loan,
//! or with the receiver's, which reads a payload where it lies. Blocks in the *passing* region are given back as soon
//! as the peer has drained its ring, which waits for nothing. It is as long as the largest payload, and a quarter of the
//! numbers, one at least, is for its blocks alone; so a message always finds its block in the end, whatever the
//! applications of both sides keep: exhaustion is a wait, never a deadlock. With a single number nothing is lent.
//! Messages are put into the lending region first, where the peer may read them in place, and then into the other.
//!
//! # Fragmentation
//!
//! Blocks are whole pages; the lowest place that is long enough is taken, and neighbours that are free are one. So a
//! block wastes less than a page, few pages are ever touched, and an arena of which everything came back is in one
//! piece again. What is in pieces in the passing region is whole again when the peer has drained its ring. A block that
//! turns out too long [shrinks](Arena::shrink).
//!
//! # The races that look possible
//!
//! *Frozen bytes are taken for others that lay in their place*: they are told by their address and by how many blocks had
//! been frozen when somebody saw them there, see [`Arena::pass_frozen`]. *A payload is read before it was written*: the frame that tells of it is published behind it, see the ring. *A block
//! is written again while it is read*: the count is stored with Release behind the copy out and loaded with Acquire
//! before the block is allotted. *A number is overwritten before it was read*: the list has a place for every block
//! that can be out. *The sender falls asleep while a block comes back*: the fences of `Park::starve` and
//! `Returns::give_back` are in one order, as with room in the ring.

mod block;
mod owner;
mod pages;
mod peer;

pub use block::{Block, Frozen};
pub use owner::{Allot, Arena, Purpose};
pub use peer::{Parcel, PeerArena, Returns};

/// What blocks are measured in, in bytes. A model has no room for real pages.
const PAGE: usize = if cfg!(loom) { 8 } else { crate::layout::geometry::PAGE_BYTES as usize };

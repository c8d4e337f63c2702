//! The byte ring: one producer, one consumer, frames of any length, each of them contiguous.
//!
//! # Who writes what
//!
//! | what       | in the half of | written by                                                        |
//! |------------|----------------|-------------------------------------------------------------------|
//! | the bytes  | the writer     | [`Room`] and its `commit`, in what is free                        |
//! | `head`     | the writer     | [`RingWriter::publish`]: all committed frames, in one store       |
//! | `consumed` | the reader     | [`RingReader::publish_consumed`]: all released frames             |
//!
//! `head` and `consumed` count bytes since attach, so full and empty differ. Each side keeps its own index
//! privately, and stores a copy for the peer; it caches the peer's, and looks again only when it has to. So
//! `consumed <= tail <= head published <= head private <= consumed + capacity`, with the cached ones in
//! between.
//!
//! # The states of a byte of the ring
//!
//! | state     | indexes                  | who may touch it                               | left by            |
//! |-----------|--------------------------|------------------------------------------------|--------------------|
//! | free      | from head private on     | the writer writes                              | `Room::commit`     |
//! | committed | to head private          | nobody                                         | `publish`          |
//! | published | to head published        | the reader copies out                          | `Frame::release`   |
//! | released  | to tail                  | nobody                                         | `publish_consumed` |
//!
//! # The races that look possible
//!
//! *A frame is read before it was written*: `head` is stored with Release behind the frame and loaded with
//! Acquire before it. *A frame is overwritten while it is read*: `consumed` is stored with Release behind the
//! copy out and loaded with Acquire before the bytes are written again. *A peer lies*: each index is checked
//! against what this side knows before it is used, a frame's word is read once, and what the body was is
//! decided by the copy.

mod reader;
mod writer;

pub use reader::{Frame, RingReader};
pub use writer::{Reserve, RingWriter, Room};

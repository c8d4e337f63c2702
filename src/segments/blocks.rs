//! Payloads that come in blocks of the peer's arena: copied out once and given back at once, or kept where they lie.
//!
//! | the peer is | copies | the block goes back |
//! |---|---|---|
//! | not trusted | 1, into memory that is used again unless somebody keeps the payload; of a payload that is one byte vector, into memory that the application gets | when it was copied: at once, or when its reader comes, if it is a vector in a stream |
//! | trusted ([`Settings::trust_peer`](crate::Settings::trust_peer)) | none, if the block may stay | when the last handle is dropped |
//!
//! A block of the passing region may not stay, whoever sent it: what an application keeps must not be in the way of
//! messages.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use adjoin_shm_layout::{BlockRef, Parcel, PeerArena, Returns};
use bytes::Bytes;

use super::{
    backing::{Access, Backing},
    frame,
    link::{Mapped, Shared},
    unread::Unread,
};
use crate::{
    error::LinkEnd,
    link::{
        Brought,
        pool::Pool,
        vector::{Front, MIN_VECTOR, MOST_FRONT, Vector},
    },
};

/// What reads the peer's blocks. Part of the receiver.
#[derive(Debug)]
pub(super) struct Blocks {
    arena: PeerArena<Mapped>,
    returning: Arc<Returning>,
    backing: Backing,
    /// Elements that were left where they lie.
    unread: Unread,
    trusted: bool,
    /// Bytes of the longest payload: longer ones are not looked at.
    max_payload_size: usize,
    /// Memory for vectors.
    pool: Arc<Pool>,
    /// Memory for the next payload that is copied and no vector.
    spare: Vec<u8>,
}

/// What gives blocks back, from whatever thread drops a payload.
#[derive(Debug)]
pub(super) struct Returning {
    returns: Mutex<Returns<Mapped>>,
    /// Weak: a payload that is kept does not keep the link's descriptors.
    shared: Weak<Shared>,
}

impl Returning {
    /// A short lock of its own; a system call only if the peer waits for a block.
    fn give_back(&self, parcel: Parcel) {
        let wake = self.returns.lock().unwrap_or_else(PoisonError::into_inner).give_back(parcel);
        if let Some(shared) = self.shared.upgrade() {
            shared.wake(wake);
        }
    }
}

impl Blocks {
    pub(super) fn new(
        arena: PeerArena<Mapped>,
        returns: Returns<Mapped>,
        shared: &Arc<Shared>,
        trusted: bool,
        max_payload_size: u32,
    ) -> Self {
        // SAFETY: the arena starts at a page of the peer's half, which is mapped, and lives as long as the arena beside
        // it.
        let backing = unsafe { Backing::new(arena.base(), arena.len(), Access::Read) };
        let (returns, shared) = (Mutex::new(returns), Arc::downgrade(shared));
        let returning = Arc::new(Returning { returns, shared });
        let (unread, max_payload_size) = (Unread::of(&arena), max_payload_size as usize);
        let (pool, spare) = (Arc::default(), Vec::new());
        Blocks { arena, returning, backing, unread, trusted, max_payload_size, pool, spare }
    }

    /// Where the memory of vectors comes from.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Takes a payload in.
    pub(super) fn take(&mut self, block: BlockRef, of: PayloadOf) -> Result<Taken, LinkEnd> {
        let parcel = self.arena.check(block).map_err(frame::corrupt)?;
        if parcel.len() > self.max_payload_size {
            let len = parcel.len();
            self.returning.give_back(parcel);
            return Ok(Taken::TooLong(len));
        }
        self.backing.ensure(&parcel.range())?;
        if self.trusted && parcel.may_stay() {
            return Ok(Taken::Whole(Bytes::from_owner(self.keep(parcel))));
        }
        Ok(self.copy(parcel, of))
    }

    /// Copies a payload out, and gives its block back; or leaves it there until its reader comes. Each byte is read once, so
    /// that what was looked at is what is used.
    fn copy(&mut self, parcel: Parcel, of: PayloadOf) -> Taken {
        let (len, mut first) = (parcel.len(), [0; MOST_FRONT]);
        let first = &mut first[..len.min(MOST_FRONT)];
        self.arena.copy_to(&parcel, first);
        let taken = match Front::of(first, len, of == PayloadOf::Answer) {
            Some(front) if of == PayloadOf::Element && parcel.may_stay() && self.unread.has_room(&parcel) => {
                let left = self.unread.leave(self.keep(parcel), front.len());
                return Taken::Vector(Vector::left(front, len - front.len(), left, &self.pool).into());
            }
            Some(front) => {
                let append = |bytes: &mut Vec<u8>| self.arena.append_to(&parcel, front.len(), bytes);
                Taken::Vector(Vector::pooled(front, len, &self.pool, append).into())
            }
            None => {
                let mut payload = self.room(len);
                payload.extend_from_slice(first);
                self.arena.append_to(&parcel, first.len(), &mut payload);
                if len < MIN_VECTOR { Taken::Short(payload) } else { Taken::Whole(Bytes::from(payload)) }
            }
        };
        self.returning.give_back(parcel);
        taken
    }

    /// Empty memory for a payload of `len` bytes. Of one that may be kept it is not much longer than that: who keeps a few
    /// bytes must not keep what somebody else's payload needed.
    fn room(&mut self, len: usize) -> Vec<u8> {
        if len < MIN_VECTOR || self.spare.capacity() / 2 <= len {
            let mut spare = std::mem::take(&mut self.spare);
            spare.clear();
            spare.reserve_exact(len);
            return spare;
        }
        Vec::with_capacity(len)
    }

    /// A payload that is read where it lies.
    fn keep(&self, parcel: Parcel) -> Kept {
        Kept { arena: self.arena.clone(), parcel: Some(parcel), returning: Arc::clone(&self.returning) }
    }

    /// The message was handed on: uses the memory again, unless somebody has kept the payload.
    pub(super) fn done(&mut self, taken: Taken) {
        let used = match taken {
            Taken::Short(payload) => payload,
            Taken::Whole(payload) if payload.len() <= MAX_SPARE && payload.is_unique() => Vec::from(payload),
            _ => return,
        };
        if used.capacity() > self.spare.capacity() {
            self.spare = used;
        }
    }
}

/// What a payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadOf {
    /// A request: its arguments are read at once.
    Request,
    /// An answer: a verdict stands in front.
    Answer,
    /// A stream: many may wait for their reader.
    Element,
}

/// A payload that was taken in.
pub(super) enum Taken {
    /// In one piece, where it lies or copied.
    Whole(Bytes),
    /// Copied, and too short to be kept without another copy.
    Short(Vec<u8>),
    /// Copied and taken apart.
    Vector(RefCell<Vector>),
    /// Longer than any may be: not looked at. Its length.
    TooLong(usize),
}

impl Taken {
    /// As a message has it.
    pub(super) fn brought(&self) -> Brought<'_> {
        match self {
            Taken::Whole(payload) => Brought::Shared(payload),
            Taken::Short(payload) => Brought::Here(payload),
            Taken::TooLong(len) => Brought::TooLong(*len),
            Taken::Vector(vector) => Brought::Vector(vector),
        }
    }
}

/// A payload that is read where it lies. Dropped, its block goes back.
#[derive(Debug)]
pub(super) struct Kept {
    arena: PeerArena<Mapped>,
    /// Always there, until it is given back.
    parcel: Option<Parcel>,
    returning: Arc<Returning>,
}

impl Kept {
    /// Bytes of the pages that it lies in.
    pub(super) fn page_bytes(&self) -> usize {
        self.parcel.as_ref().map_or(0, Parcel::page_bytes)
    }

    /// Copies it out, from `from` on.
    pub(super) fn append_to(&self, from: usize, bytes: &mut Vec<u8>) {
        if let Some(parcel) = &self.parcel {
            self.arena.append_to(parcel, from, bytes);
        }
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        let Some(parcel) = &self.parcel else { return &[] };
        // SAFETY: that the peer does not write here before it has the block back is what the application has promised
        // by `Settings::trust_peer`. The block goes back when this is dropped, which outlives the reference.
        unsafe { self.arena.bytes(parcel) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            self.returning.give_back(parcel);
        }
    }
}

/// Bytes of memory for payloads that is kept from one to the next.
const MAX_SPARE: usize = 1 << 20;

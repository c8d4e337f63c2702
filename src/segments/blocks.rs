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
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use adjoin_shm_layout::{BlockRef, Parcel, PeerArena, Returns};
use bytes::Bytes;

use super::{
    backing::{Access, Backing},
    frame,
    link::{Mapped, Shared},
};
use crate::{
    error::LinkEnd,
    link::{
        Brought,
        vector::{Front, LinkMemory, MOST_FRONT, Vector},
    },
};

/// What reads the peer's blocks. Part of the receiver.
#[derive(Debug)]
pub(super) struct Blocks {
    arena: PeerArena<Mapped>,
    returning: Arc<Returning>,
    backing: Backing,
    trusted: bool,
    /// Memory for the next payload that is copied.
    spare: Vec<u8>,
}

/// What gives blocks back, from whatever thread drops a payload.
#[derive(Debug)]
struct Returning {
    returns: Mutex<Returns<Mapped>>,
    /// Weak: a payload that is kept does not keep the link's descriptors.
    shared: Weak<Shared>,
    /// Bytes of elements that lie where they are until their readers come.
    unread: AtomicUsize,
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
    ) -> Self {
        // SAFETY: the arena starts at a page of the peer's half, which is mapped, and lives as long as the arena beside
        // it.
        let backing = unsafe { Backing::new(arena.base(), arena.len(), Access::Read) };
        let (returns, shared) = (Mutex::new(returns), Arc::downgrade(shared));
        let returning = Arc::new(Returning { returns, shared, unread: AtomicUsize::new(0) });
        Blocks { arena, returning, backing, trusted, spare: Vec::new() }
    }

    /// Takes a payload in.
    pub(super) fn take(&mut self, block: BlockRef, of: PayloadOf) -> Result<Taken, LinkEnd> {
        let parcel = self.arena.check(block).map_err(frame::corrupt)?;
        self.backing.ensure(&parcel.range())?;
        if self.trusted && parcel.may_stay() {
            let (arena, returning) = (self.arena.clone(), self.returning.clone());
            return Ok(Taken::Whole(Bytes::from_owner(Kept { arena, parcel: Some(parcel), returning })));
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
            Some(front) if of == PayloadOf::Element && parcel.may_stay() && self.may_leave(len) => {
                let left = Unread::new(&self.arena, parcel, front.len(), &self.returning);
                return Taken::Vector(Vector::left(front, len - front.len(), Box::new(left)).into());
            }
            Some(front) => {
                let append = |bytes: &mut Vec<u8>| self.arena.append_to(&parcel, front.len(), bytes);
                Taken::Vector(Vector::new(front, len, append).into())
            }
            None => {
                let mut payload = std::mem::take(&mut self.spare);
                payload.clear();
                payload.extend_from_slice(first);
                self.arena.append_to(&parcel, first.len(), &mut payload);
                Taken::Whole(Bytes::from(payload))
            }
        };
        self.returning.give_back(parcel);
        taken
    }

    /// Whether so many more bytes may be left where they lie: the rest of the lending region is for the peer's loans.
    fn may_leave(&self, len: usize) -> bool {
        // Relaxed: a bound on memory, not an order. This is the only one that adds.
        let unread = self.returning.unread.load(Ordering::Relaxed);
        unread.saturating_add(len) <= self.arena.lending_len() / UNREAD_SHARE
    }

    /// The message was handed on: uses the memory again, unless somebody has kept the payload.
    pub(super) fn done(&mut self, payload: Bytes) {
        if payload.len() <= MAX_SPARE && payload.is_unique() {
            self.spare = Vec::from(payload);
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

/// An element that lies in its block until its reader comes: copied out by him, so that many that wait take no further
/// memory, and one after the other is copied into memory that is in the cache.
struct Unread {
    kept: Kept,
    /// Where its bytes start.
    from: usize,
}

impl Unread {
    fn new(arena: &PeerArena<Mapped>, parcel: Parcel, from: usize, returning: &Arc<Returning>) -> Self {
        // Relaxed: see `may_leave`.
        returning.unread.fetch_add(parcel.len(), Ordering::Relaxed);
        let kept = Kept { arena: arena.clone(), parcel: Some(parcel), returning: Arc::clone(returning) };
        Unread { kept, from }
    }
}

impl LinkMemory for Unread {
    fn append_to(&self, bytes: &mut Vec<u8>) {
        if let Some(parcel) = &self.kept.parcel {
            self.kept.arena.append_to(parcel, self.from, bytes);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let len = self.kept.parcel.as_ref().map_or(0, Parcel::len);
        // Relaxed: see `may_leave`.
        self.kept.returning.unread.fetch_sub(len, Ordering::Relaxed);
    }
}

/// Of the lending region, what may be elements that wait for their readers: a quarter.
const UNREAD_SHARE: usize = 4;

/// A payload that was taken in.
pub(super) enum Taken {
    /// In one piece, where it lies or copied.
    Whole(Bytes),
    /// Copied and taken apart.
    Vector(RefCell<Vector>),
}

impl Taken {
    /// As a message has it.
    pub(super) fn brought(&self) -> Brought<'_> {
        match self {
            Taken::Whole(payload) => Brought::Shared(payload),
            Taken::Vector(vector) => Brought::Vector(vector),
        }
    }
}

/// A payload that is read where it lies.
struct Kept {
    arena: PeerArena<Mapped>,
    /// Always there, until it is given back.
    parcel: Option<Parcel>,
    returning: Arc<Returning>,
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
const MAX_SPARE: usize = 4 << 20;

//! A run of elements: those of one channel that came one behind the other.

use std::sync::Arc;

use super::{
    channel::Channel,
    elements::{Elements, Kept},
};
use crate::{
    link::{Brought, vector::MIN_VECTOR},
    session::connections::ConnKey,
};

/// Elements of one channel that came one behind the other: looked up once, and put into the channel's queue
/// under one lock.
pub(super) struct Run {
    pub(super) channel: Arc<Channel>,
    pub(super) conn: ConnKey,
    pub(super) channel_id: u64,
    pub(super) elements: Elements,
    /// Bytes of payload.
    pub(super) len: usize,
}

impl Run {
    #[inline]
    pub(super) fn push(&mut self, payload: Brought<'_>) {
        self.len += payload.len();
        match payload {
            Brought::Here(bytes) => self.elements.push(bytes),
            // Who keeps it takes more than it has.
            Brought::Shared(shared) if shared.len() < MIN_VECTOR => self.elements.push(shared),
            Brought::Shared(shared) => self.elements.push_kept(Kept::Shared(shared.clone())),
            Brought::Vector(vector) => self.elements.push_kept(Kept::Vector(vector.take())),
            Brought::TooLong(_) => {} // refused before
        }
    }
}

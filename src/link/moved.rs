//! Values that cross a link within one process as they are: neither written nor read.
//!
//! A value that was encoded once, into a place too short for it, is known to be within all limits, and how many bytes it
//! would take. So it counts for those, everywhere: for the payload's limit, for credit and for what may wait. What carries
//! more than bytes, a stream's handle or a descriptor, cannot go like this: it has to be bound.
//!
//! Whoever wants another type than the one that came, or bytes, has it [encoded](Moved::into_bytes) after all.

use std::{
    any::Any,
    fmt, mem,
    sync::{Mutex, PoisonError},
};

use super::{Body, EncodeFault, Encoder, message::encode_into};

/// A value of a type that is known to those who sent it.
pub(crate) trait Value: Any + Send {
    /// Appends the payload that it stands for.
    fn encode(&self, out: &mut Encoder<'_>) -> Result<(), EncodeFault>;
}

/// A payload that is a value, until somebody takes it.
#[derive(Default)]
pub(crate) struct Moved {
    /// `None`: it was taken. The lock is never taken: with it, what can be sent to other threads can be seen by them, too.
    value: Option<Mutex<Box<dyn Value>>>,
    len: usize,
}

impl Moved {
    /// A value that was found to take `len` bytes.
    pub(crate) fn new(value: Box<dyn Value>, len: usize) -> Self {
        Moved { value: Some(Mutex::new(value)), len }
    }

    /// Bytes of the payload that it stands for.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody has taken it.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.value.is_some()
    }

    /// Takes it, to be kept.
    pub(crate) fn take(&mut self) -> Moved {
        mem::take(self)
    }

    /// Takes the value, if that is its type.
    pub(crate) fn take_as<T: Any>(&mut self) -> Option<T> {
        let taken = self.value.take_if(|value| {
            let any: &dyn Any = &**value.get_mut().unwrap_or_else(PoisonError::into_inner);
            any.is::<T>()
        });
        let any: Box<dyn Any> = unlocked(taken?);
        any.downcast().ok().map(|value| *value)
    }

    /// The payload that it stands for. Empty if it was taken, or cannot be encoded any more, though it once could.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let (mut bytes, mut channels) = (Vec::with_capacity(self.len), Vec::new());
        bytes.resize(self.len, 0);
        let value = self.value.map(unlocked);
        let len = value.and_then(|value| encode_into(&mut Again(&*value), &mut bytes, &mut channels).ok());
        bytes.truncate(len.unwrap_or_default());
        bytes
    }
}

fn unlocked(value: Mutex<Box<dyn Value>>) -> Box<dyn Value> {
    value.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is encoded for those who want bytes.
struct Again<'a>(&'a dyn Value);

impl Body for Again<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        self.0.encode(out)
    }
}

impl PartialEq for Moved {
    /// Of values nothing is known: none is another one.
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl fmt::Debug for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved").field("len", &self.len).finish_non_exhaustive()
    }
}

//! What can cross a link within one process as it is (`link::moved`): arguments, results and elements.
//!
//! Each has a type of its own here, so that it is taken only where it stands for the same. A value within them is known
//! to have no handles and no descriptors: it was encoded once, and met none.

use serde::Serialize;

use super::{
    scope::{self, Encoded},
    wire::{Arguments, encode_value},
};
use crate::{
    link::{EncodeFault, Encoder, moved::Value},
    session::answer::Verdict,
};

/// The arguments of a call.
pub(crate) struct Passed<A>(pub(crate) A);

/// What a handler returned, and no error.
pub(crate) struct Returned<T>(pub(crate) T);

/// An element of a stream.
pub(crate) struct Element<T>(pub(crate) T);

impl<A: Arguments> Value for Passed<A> {
    fn encode(&self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        scope::without_scope(|| self.0.encode(out))
    }
}

impl<T: Serialize + Send + 'static> Value for Returned<T> {
    fn encode(&self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(Verdict::Ok.bytes());
        scope::without_scope(|| encode_value(&self.0, out))
    }
}

impl<T: Serialize + Send + 'static> Value for Element<T> {
    fn encode(&self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        scope::without_scope(|| encode_value(&self.0, out))
    }
}

/// What a payload comes from.
pub(crate) trait Source {
    /// Encodes it, and the handles in it: their ids count from `first_id`.
    fn encode(&mut self, out: &mut Encoder<'_>, first_id: u64) -> Encoded;

    /// Whether [`take`](Source::take) may be asked for the value.
    fn can_be_taken(&self) -> bool {
        false
    }

    /// Takes the value, to pass it as it is.
    fn take(&mut self) -> Option<Box<dyn Value>> {
        None
    }
}

impl<F: FnMut(&mut Encoder<'_>, u64) -> Encoded> Source for F {
    fn encode(&mut self, out: &mut Encoder<'_>, first_id: u64) -> Encoded {
        self(out, first_id)
    }
}

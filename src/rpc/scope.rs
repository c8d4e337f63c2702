//! How `Tx` and `Rx` find their channels while values are encoded and decoded.
//!
//! Serde gives a value no context, so the call that is being encoded or decoded on this thread stands in a
//! thread-local scope for that long. Encoding asks it for the next channel id; decoding takes the next
//! channel of the message's list. Outside of a scope a handle refuses to be written or read.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{
    channel::{Channel, Half, Pass, Unclaimed},
    elements::Elements,
};
use crate::{
    link::{EncodeFault, message::HandleFault},
    session::channels::STEP,
    strict::DecodeError,
};

/// The handles that one encoding has met.
#[derive(Default)]
pub(crate) struct Encoding {
    next_id: u64,
    pub(crate) bound: Vec<Bound>,
    fault: Option<HandleFault>,
}

/// A handle that was encoded: it becomes the peer's when the message is sent.
pub(crate) struct Bound {
    pub(crate) pass: Pass,
    /// The half that was passed.
    pub(crate) half: Half,
    pub(crate) id: u64,
    /// What its reader had taken out of the queue and not looked at.
    pub(crate) unread: Elements,
}

thread_local! {
    static ENCODING: RefCell<Option<Encoding>> = const { RefCell::new(None) };
    static MISPLACED: Cell<bool> = const { Cell::new(false) };
    static DECODING: RefCell<Option<Unclaimed>> = const { RefCell::new(None) };
}

/// Encodes values with their handles: ids count from `first_id`. Returns the handles met.
///
/// Knows no types, so that it is compiled once, not once a method.
pub(crate) fn encoding(
    first_id: u64,
    encode: &mut dyn FnMut() -> postcard::Result<()>,
) -> Result<Vec<Bound>, EncodeFault> {
    let scope = Encoding { next_id: first_id, bound: Vec::new(), fault: None };
    let outer = ENCODING.replace(Some(scope));
    let guard = Restore(outer);
    let encoded = encode();
    let scope = ENCODING.take().unwrap_or_default();
    drop(guard);
    match (encoded, scope.fault) {
        (_, Some(fault)) => Err(EncodeFault::Handle(fault)),
        (Err(error), None) => Err(EncodeFault::Serialize(error)),
        (Ok(_), None) => Ok(scope.bound),
    }
}

/// What is wrong with a message whose channels were not all taken.
const LEFT_OVER: &str = "more streams came with it than stand in it";

/// Puts the outer scope back, also when a value's `Serialize` panics.
struct Restore(Option<Encoding>);

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        ENCODING.replace(self.0.take());
    }
}

/// A handle is being encoded: the id that stands for it, or `None` when it cannot be passed here.
#[inline]
pub(crate) fn bind(channel: &Arc<Channel>, half: Half, unread: impl FnOnce() -> Elements) -> Option<u64> {
    ENCODING.with_borrow_mut(|scope| {
        let Some(scope) = scope.as_mut() else {
            MISPLACED.set(true);
            return None;
        };
        let Some(pass) = channel.start_pass() else {
            scope.fault = Some(HandleFault::Passed);
            return None;
        };
        let id = scope.next_id;
        scope.next_id += STEP;
        scope.bound.push(Bound { pass, half, id, unread: unread() });
        Some(id)
    })
}

/// Decodes values with their handles, which take `channels` in order. Refused when some were left over; those are
/// dropped, which resets them.
///
/// Knows no types, so that it is compiled once, not once a method.
pub(crate) fn decoding(
    channels: Unclaimed,
    decode: &mut dyn FnMut() -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    // An empty list counts too: it hides the channels of an outer decoding.
    let outer = RestoreDecoding(DECODING.replace(Some(channels)));
    let decoded = decode();
    let rest = DECODING.take();
    drop(outer);
    decoded?;
    if rest.is_none_or(|rest| rest.is_empty()) { Ok(()) } else { Err(DecodeError::refused(LEFT_OVER)) }
}

/// Puts the outer scope back, also when a value's `Deserialize` panics.
struct RestoreDecoding(Option<Unclaimed>);

impl Drop for RestoreDecoding {
    #[inline]
    fn drop(&mut self) {
        let inner = DECODING.replace(self.0.take());
        drop(inner);
    }
}

/// A handle is being decoded: the next channel of the message.
#[inline]
pub(crate) fn claim() -> Option<Arc<Channel>> {
    DECODING.with_borrow_mut(|scope| scope.as_mut()?.claim())
}

/// Why a value outside of a scope could not be encoded: because of a handle in it, or because of itself.
#[inline]
pub(crate) fn fault_without_scope(error: postcard::Error) -> EncodeFault {
    if MISPLACED.take() { EncodeFault::Handle(HandleFault::Misplaced) } else { EncodeFault::Serialize(error) }
}

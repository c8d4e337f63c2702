//! How `Tx` and `Rx` find their channels, and descriptors their place, while values are encoded and decoded.
//!
//! Serde gives a value no context, so the call that is being encoded or decoded on this thread stands in a
//! thread-local scope for that long. Encoding asks it for the next channel id; decoding takes the next
//! channel of the message's list. Descriptors are bound and claimed in the same way. Outside of a scope a handle
//! refuses to be written or read.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{
    channel::{Channel, Half, Pass, Unclaimed},
    elements::Elements,
};
use crate::{
    link::{EncodeFault, descriptors::Descriptors, message::HandleFault},
    session::channels::STEP,
    strict::DecodeError,
};

/// An encoding that is under way on this thread. Nearly all meet neither a handle nor a descriptor: what they have is in
/// two words, and what others have met is elsewhere.
#[derive(Clone, Copy)]
struct Encoding {
    /// The id of the next channel.
    next_id: u64,
    /// Something was met.
    any: bool,
}

/// What an encoding has met.
#[derive(Default)]
struct Met {
    bindings: Bindings,
    fault: Option<EncodeFault>,
}

/// What a message carries beside its payload.
#[derive(Default)]
pub(crate) struct Bindings {
    pub(crate) handles: Vec<Bound>,
    /// Duplicates of those that stand in the value.
    pub(crate) descriptors: Descriptors,
}

/// What came of encoding a message. One word, since nearly always nothing is carried beside the payload.
pub(crate) type Encoded = Result<Option<Box<Bindings>>, EncodeFault>;

impl Bindings {
    /// Whether there are no handles and no descriptors.
    pub(crate) fn is_empty(&self) -> bool {
        self.handles.is_empty() && self.descriptors.is_empty()
    }
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
    static ENCODING: Cell<Option<Encoding>> = const { Cell::new(None) };
    /// What the encoding that is under way has met; nothing, unless it says so.
    static MET: RefCell<Met> = const { RefCell::new(Met::NOTHING) };
    static MISPLACED: Cell<Option<HandleFault>> = const { Cell::new(None) };
    /// Whether something can be claimed; looked at first, since nearly always that is not so.
    static CLAIMABLE: Cell<bool> = const { Cell::new(false) };
    static DECODING: RefCell<Option<Unclaimed>> = const { RefCell::new(None) };
}

impl Met {
    const NOTHING: Met =
        Met { bindings: Bindings { handles: Vec::new(), descriptors: Descriptors::NONE }, fault: None };
}

/// Encodes values with their handles: ids count from `first_id`. Returns the handles and descriptors met, if any were.
///
/// Knows no types, so that it is compiled once, not once a method.
pub(crate) fn encoding(first_id: u64, encode: &mut dyn FnMut() -> postcard::Result<()>) -> Encoded {
    let guard = Restore::enter(Encoding { next_id: first_id, any: false });
    let encoded = encode();
    if !ENCODING.get().is_some_and(|scope| scope.any) {
        drop(guard);
        return encoded.map(|()| None).map_err(EncodeFault::Serialize);
    }
    let met = MET.take();
    drop(guard);
    match (encoded, met.fault) {
        (_, Some(fault)) => Err(fault),
        (Err(error), None) => Err(EncodeFault::Serialize(error)),
        (Ok(()), None) => Ok((!met.bindings.is_empty()).then(|| Box::new(met.bindings))),
    }
}

/// What is wrong with a message whose channels and descriptors were not all taken.
const LEFT_OVER: &str = "more streams or descriptors came with it than stand in it";

/// Puts the outer scope back, also when a value's `Serialize` panics.
struct Restore {
    outer: Option<Encoding>,
    /// What the outer one had met.
    met: Option<Box<Met>>,
}

impl Restore {
    #[inline]
    fn enter(scope: Encoding) -> Self {
        let outer = ENCODING.replace(Some(scope));
        let met = outer.is_some_and(|outer| outer.any).then(|| Box::new(MET.take()));
        Restore { outer, met }
    }
}

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        let inner = ENCODING.replace(self.outer);
        if self.met.is_some() || inner.is_some_and(|inner| inner.any) {
            // Dropped under no borrow: what was bound takes locks.
            drop(MET.replace(self.met.take().map_or(Met::NOTHING, |met| *met)));
        }
    }
}

/// Hands what is under way to something that is met. `None`: nothing is.
fn meet<R>(meets: impl FnOnce(&mut Encoding, &mut Met) -> R) -> Option<R> {
    let mut scope = ENCODING.get()?;
    scope.any = true;
    ENCODING.set(Some(scope)); // also if it panics
    let met = MET.with_borrow_mut(|met| meets(&mut scope, met));
    ENCODING.set(Some(scope));
    Some(met)
}

/// A handle is being encoded: the id that stands for it, or `None` when it cannot be passed here.
#[inline]
pub(crate) fn bind(channel: &Arc<Channel>, half: Half, unread: impl FnOnce() -> Elements) -> Option<u64> {
    let bound = meet(|scope, met| {
        let Some(pass) = channel.start_pass() else {
            met.fault = Some(EncodeFault::Handle(HandleFault::Passed));
            return None;
        };
        let id = scope.next_id;
        scope.next_id += STEP;
        met.bindings.handles.push(Bound { pass, half, id, unread: unread() });
        Some(id)
    });
    bound.unwrap_or_else(|| {
        MISPLACED.set(Some(HandleFault::Misplaced));
        None
    })
}

/// A descriptor is being encoded: the place that it has in the message's list, or `None` when it cannot be passed.
///
/// One system call, which duplicates it: the value stays its owner, however often it is encoded.
#[cfg(unix)]
pub(crate) fn bind_descriptor(descriptor: std::os::fd::BorrowedFd<'_>) -> Option<u64> {
    let bound = meet(|_, met| {
        let descriptors = &mut met.bindings.descriptors;
        match descriptor.try_clone_to_owned() {
            Ok(duplicate) => descriptors.push(duplicate),
            Err(error) => {
                let code = error.raw_os_error().unwrap_or_default();
                met.fault = Some(EncodeFault::Descriptor { code });
                return None;
            }
        }
        Some(descriptors.len() as u64 - 1)
    });
    bound.unwrap_or_else(|| {
        MISPLACED.set(Some(HandleFault::MisplacedDescriptor));
        None
    })
}

/// Decodes values with their handles, which take `channels` in order. Refused when some were left over; those are
/// dropped, which resets them. So do descriptors, which are closed.
///
/// Knows no types, so that it is compiled once, not once a method.
pub(crate) fn decoding(
    channels: Unclaimed,
    decode: &mut dyn FnMut() -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if channels.is_empty() && !CLAIMABLE.get() {
        return decode();
    }
    // An empty list counts too: it hides the channels of an outer decoding.
    let outer = RestoreDecoding(CLAIMABLE.replace(true), DECODING.replace(Some(channels)));
    let decoded = decode();
    let rest = DECODING.take();
    drop(outer);
    decoded?;
    if rest.is_none_or(|rest| rest.is_empty()) { Ok(()) } else { Err(DecodeError::refused(LEFT_OVER)) }
}

/// Puts the outer scope back, also when a value's `Deserialize` panics.
struct RestoreDecoding(bool, Option<Unclaimed>);

impl Drop for RestoreDecoding {
    #[inline]
    fn drop(&mut self) {
        CLAIMABLE.set(self.0);
        let inner = DECODING.replace(self.1.take());
        drop(inner);
    }
}

/// A handle is being decoded: the next channel of the message.
#[inline]
pub(crate) fn claim() -> Option<Arc<Channel>> {
    DECODING.with_borrow_mut(|scope| scope.as_mut()?.claim())
}

/// A descriptor is being decoded: the next one of the message.
#[cfg(unix)]
pub(crate) fn claim_descriptor() -> Option<crate::link::descriptors::Apart> {
    DECODING.with_borrow_mut(|scope| scope.as_mut()?.claim_descriptor())
}

/// Encodes a value outside of a scope. What it fails with is a handle in it, or itself.
#[inline]
pub(crate) fn without_scope(encode: impl FnOnce() -> postcard::Result<()>) -> Result<(), EncodeFault> {
    MISPLACED.set(None); // what was met by other serializers
    encode().map_err(|error| MISPLACED.take().map_or(EncodeFault::Serialize(error), EncodeFault::Handle))
}

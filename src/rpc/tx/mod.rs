//! The sending handle of a stream.
//!
//! Per element on a link: no thread switch, one copy (the encoding, into the place where the link wants
//! it), two locks (the link's sender; `state` only when something has ended or blocks), no allocation; the
//! system calls are the link's, and none on shared memory while the peer is awake.

mod bytes;
mod element;
mod permit;
mod pump;
mod sink;
mod wait;

use std::{fmt, future::poll_fn, marker::PhantomData, sync::Arc, task::Poll};

use postcard_schema::{
    Schema,
    schema::{DataModelType, NamedType, NamedValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::element::{NotNow, encode_plain, poll_element, try_element};
pub use self::permit::Permit;
pub(crate) use self::{element::send_now, pump::pump, wait::Wait};
use super::{
    block::block_on,
    channel::{Channel, End, Half, Unclaimed, Way},
    elements::Elements,
    errors::{SendError, TrySendError},
    method_id::TX_FIELD,
    rx::Rx,
    scope,
    turn::Turn,
    waiters::lock,
};
use crate::link::Encoder;

/// Sends the values of a stream, in order.
///
/// As an argument of a method it lets the callee send; a caller that wants to send passes an [`Rx`] and
/// keeps the `Tx`. Dropping it closes the stream (Close, protocol section 5): the receiver gets everything
/// that was sent, and then the end.
///
/// A send waits while the receiver is a whole window behind (protocol section 6). It is a
/// [`Sink`](futures_sink::Sink), too.
///
/// | to | use |
/// |---|---|
/// | wait for room and send | [`send`](Tx::send), [`blocking_send`](Tx::blocking_send) |
/// | send, or be told that there is no room | [`try_send`](Tx::try_send) |
/// | wait for room first, and have the value then | [`reserve`](Tx::reserve) |
/// | stop when nobody receives any more | [`closed`](Tx::closed), [`is_closed`](Tx::is_closed) |
/// | say that it was all, or that it was not | drop it, or [`reset`](Tx::reset) |
pub struct Tx<T> {
    channel: Arc<Channel>,
    /// The encoded value that `Sink::start_send` took and that waits for room.
    held: Option<Vec<u8>>,
    /// Where the `Sink` waits.
    wait: Wait,
    turn: Turn,
    value: PhantomData<fn(T)>,
}

/// A stream within this process: what goes into the first comes out of the second.
///
/// Pass one of them in a call, or return it: the other one is then the remote end, and what was sent before
/// is delivered first. Within the process up to 64 KiB of encoded values wait for the receiver.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (tx, mut rx) = adjoin::channel::<u32>();
/// tx.send(7).await?;
/// drop(tx);
/// assert_eq!(rx.recv().await?, Some(7));
/// assert_eq!(rx.recv().await?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[must_use]
pub fn channel<T>() -> (Tx<T>, Rx<T>) {
    let channel = Channel::local();
    (Tx::new(Arc::clone(&channel)), Rx::new(channel))
}

impl<T> Tx<T> {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Tx { channel, held: None, wait: Wait::default(), turn: Turn::default(), value: PhantomData }
    }

    /// Whether the receiver is gone, or the link. What is sent then fails.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_over()
    }

    /// Completes when the receiver is gone, or the link.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn closed(&self) {
        let mut wait = Wait::default();
        poll_fn(|cx| {
            for waits in [false, true] {
                if lock(&self.channel.state).end.is_some() {
                    return Poll::Ready(());
                }
                if !waits {
                    wait.on(&self.channel, cx.waker());
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Breaks the stream off: the receiver gets what has arrived, and then
    /// [`RecvError::Reset`](crate::RecvError::Reset) instead of the end. For what must not look complete when it is not.
    pub fn reset(self) {
        self.break_off();
    }

    /// As [`reset`](Tx::reset), in place.
    pub(crate) fn break_off(&self) {
        self.channel.end(End::Reset);
        if lock(&self.channel.state).way == Way::Sending
            && let Some(remote) = self.channel.remote()
        {
            remote.hub.reset_channel(remote);
        }
    }
}

impl<T: Serialize + 'static> Tx<T> {
    /// Sends one value, and waits while the stream's window is used up or the link is full.
    ///
    /// Values that a task sends one behind the other become visible to the peer in batches: the first at once, the
    /// others after a few, or when the task waits for something. A task that computes for long after several sends
    /// lets the last of them out with `tokio::task::yield_now().await`.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the receiver is gone, [`SendError::Ended`] when the link is, and
    /// [`SendError::Refused`] when the value exceeds a limit: the error names it.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped before it is done, the value was not sent, and it is lost.
    pub fn send(&self, value: T) -> impl Future<Output = Result<(), SendError>> + Send
    where
        T: Send,
    {
        let mut wait = Wait::default();
        poll_fn(move |cx| {
            let mut encode = |out: &mut Encoder<'_>| encode_plain(&value, out);
            poll_element(&self.channel, &self.turn, cx, &mut wait, &mut encode)
        })
    }

    /// Sends one value if there is room for it now, and gives it back if there is not.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] while the stream's window is used up or the link is full; the others as
    /// [`send`](Tx::send).
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let sent = try_element(&self.channel, &mut |out: &mut Encoder<'_>| encode_plain(&value, out));
        sent.map_err(|why| unsent(value, why))
    }

    /// Waits until `len` bytes of the stream's credit are free and the link is not full, and sets them aside for one
    /// value.
    ///
    /// With the permit, a value that takes at most `len` bytes is sent without waiting, whoever else sends on this
    /// stream meanwhile and however full the link gets: a program can wait for the stream first, and make the value, or
    /// take it from somewhere, then. Senders that wait are served in no order.
    ///
    /// `len` counts the bytes that the value takes when it is encoded: at most 5 and one for each byte or character of a
    /// `Vec<u8>` or a `String`, at most 10 for an integer, and the sum of its fields for a struct.
    ///
    /// # Errors
    ///
    /// As [`send`](Tx::send); [`SendError::Refused`] when no element of `len` bytes can ever be sent.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is set aside until there is a permit.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let mut queue = vec![String::from("seven")];
    /// let (tx, mut rx) = adjoin::channel::<String>();
    /// let permit = tx.reserve(5 + 80).await?;
    /// if let Some(line) = queue.pop() {
    ///     permit.send(line)?; // does not wait
    /// }
    /// assert_eq!(rx.recv().await?.as_deref(), Some("seven"));
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn reserve(&self, len: usize) -> impl Future<Output = Result<Permit<'_, T>, SendError>> + Send {
        permit::reserve(self, len)
    }

    /// Sets credit aside for one value if it is free now. See [`reserve`](Tx::reserve).
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] while it is not; the others as [`reserve`](Tx::reserve).
    pub fn try_reserve(&self, len: usize) -> Result<Permit<'_, T>, TrySendError<()>> {
        permit::try_reserve(self, len).map_err(|why| unsent((), why))
    }

    /// Sends one value from a thread outside of any runtime.
    ///
    /// # Errors
    ///
    /// As [`send`](Tx::send).
    ///
    /// # Deadlocks
    ///
    /// The thread must not be the one that runs the link's driver, which is the case for a thread of a
    /// current-thread runtime.
    pub fn blocking_send(&self, value: T) -> Result<(), SendError>
    where
        T: Send,
    {
        block_on(self.send(value))
    }
}

/// The error that gives a value back.
fn unsent<T>(value: T, why: NotNow) -> TrySendError<T> {
    match why {
        NotNow::Full => TrySendError::Full(value),
        NotNow::Failed(error) => TrySendError::failed(value, error),
    }
}

impl<T> Drop for Tx<T> {
    fn drop(&mut self) {
        close(&self.channel);
        if lock(&self.channel.state).way == Way::Sending {
            self.channel.let_go();
        }
    }
}

/// Closes the stream from its sending side, once.
fn close(channel: &Arc<Channel>) {
    let mut state = lock(&channel.state);
    match state.way {
        Way::Local => {
            drop(state);
            channel.end(End::Closed);
        }
        Way::Sending if state.end.is_none() => {
            if channel.direct().is_none() {
                state.close_after_queue = true;
                return;
            }
            drop(state);
            send_close(channel);
        }
        // It was passed: the channel is the peer's to feed. Or it ended before.
        Way::Receiving | Way::Open | Way::Sending => {}
    }
}

/// Tells the peer that the stream is complete.
pub(crate) fn send_close(channel: &Arc<Channel>) {
    channel.end(End::Closed);
    if let Some(remote) = channel.remote() {
        remote.hub.close_channel(remote);
    }
}

impl<T> fmt::Debug for Tx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("id", &self.channel.remote().map(|remote| remote.reference.id)).finish()
    }
}

/// Binds the channel while a call's arguments or result are encoded; refuses elsewhere.
impl<T> Serialize for Tx<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = scope::bind(&self.channel, Half::Tx, Elements::default)
            .ok_or_else(|| serde::ser::Error::custom("a stream's handle cannot be passed here"))?;
        serializer.serialize_u64(id)
    }
}

/// Takes the next channel of the message that is being decoded; refuses elsewhere.
impl<'de, T> Deserialize<'de> for Tx<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer)?; // the message's list is authoritative
        let channel = scope::claim().ok_or_else(|| serde::de::Error::custom("no channel for this handle"))?;
        if !channel.claimed_as(Half::Tx) {
            drop(Unclaimed::new([channel].into())); // which resets it
            return Err(serde::de::Error::custom("elements came for a channel that is this side's to send"));
        }
        Ok(Tx::new(channel))
    }
}

/// A structure that no user's type can have: its direction, and its element's schema.
impl<T: Schema> Schema for Tx<T> {
    const SCHEMA: &'static NamedType = &NamedType {
        name: "Tx",
        ty: &DataModelType::Struct(&[&NamedValue { name: TX_FIELD, ty: T::SCHEMA }]),
    };
}

#[cfg(test)]
mod tests;

//! The receiving handle of a stream.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_core::Stream;
use postcard_schema::{
    Schema,
    schema::{DataModelType, NamedType, NamedValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{
    block::block_on,
    channel::{Channel, End, Half, Way},
    elements::Reading,
    errors::RecvError,
    method_id::RX_FIELD,
    scope,
    turn::Turn,
    waiters::lock,
    wire::decode_value,
};
use crate::{
    error::Violation,
    strict::{self, DecodeError},
};

/// Receives the values of a stream, in order.
///
/// As an argument of a method it lets the callee receive what the caller sends; as a result it lets the
/// caller receive. Dropping it before the end tells the sender to stop (Reset, protocol section 5).
///
/// Credit goes back to the sender as values are taken out (protocol section 6). It is a
/// [`Stream`](futures_core::Stream), too.
pub struct Rx<T> {
    channel: Arc<Channel>,
    /// What was taken out of the channel's queue. Locked only when the handle is passed in a call.
    reading: Mutex<Reading>,
    turn: Turn,
    value: PhantomData<fn() -> T>,
}

impl<T> Rx<T> {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Rx { channel, reading: Mutex::default(), turn: Turn::default(), value: PhantomData }
    }
}

impl<T: DeserializeOwned + 'static> Rx<T> {
    /// Receives the next value; `None` when the sender has closed the stream and everything was received.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when the stream ended before it was closed. Values that arrived before are received
    /// first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no value is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<Option<T>, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Receives the next value from a thread outside of any runtime.
    ///
    /// # Errors
    ///
    /// As [`recv`](Rx::recv).
    ///
    /// # Deadlocks
    ///
    /// The thread must not be the one that runs the link's driver, which is the case for a thread of a
    /// current-thread runtime.
    pub fn blocking_recv(&mut self) -> Result<Option<T>, RecvError> {
        block_on(self.recv())
    }

    /// Polls for the next value. See [`recv`](Rx::recv).
    ///
    /// # Errors
    ///
    /// As [`recv`](Rx::recv).
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, RecvError>> {
        if self.turn.is_over(cx) {
            return Poll::Pending;
        }
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(element) = reading.next() {
                let nesting = self.channel.remote().map_or(strict::NESTING, |remote| remote.hub.max_nesting);
                let value = decode_value(element, nesting);
                if reading.taken() >= REPORT_STEP {
                    report(&self.channel, reading.take_taken());
                }
                return Poll::Ready(value.map(Some).map_err(|why| self.invalid(why)));
            }
            let taken = reading.take_taken();
            if taken > 0 {
                report(&self.channel, taken);
            }
            let mut state = lock(&self.channel.state);
            if reading.refill(&mut state.queue) {
                continue;
            }
            let end = match &state.end {
                None => {
                    match &mut state.reader {
                        Some(waker) => waker.clone_from(cx.waker()),
                        reader => *reader = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
                Some(End::Closed) => Ok(None),
                Some(End::Reset | End::Refused(_)) => Err(RecvError::Reset),
                Some(End::Link(end)) => Err(RecvError::Ended(end.clone())),
            };
            return Poll::Ready(end);
        }
    }

    /// `channeling.data.invalid`: an element that does not decode costs the connection.
    fn invalid(&self, why: DecodeError) -> RecvError {
        if let Some(remote) = self.channel.remote() {
            let violation = Violation::InvalidData { channel_id: remote.reference.id, why };
            return RecvError::Ended(remote.hub.violated(remote.conn, violation));
        }
        RecvError::InvalidElement(why)
    }
}

/// Tells the channel what the application has taken, and grants the sender more if it is time.
fn report(channel: &Channel, taken: usize) {
    if let Some(grant) = channel.report_taken(taken)
        && let Some(remote) = channel.remote()
    {
        remote.hub.grant_by_message(remote, grant);
    }
}

/// Bytes that the reader takes before the window hears of it within a batch.
const REPORT_STEP: usize = 4 << 10;

impl<T: DeserializeOwned + 'static> Stream for Rx<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl<T> Drop for Rx<T> {
    fn drop(&mut self) {
        let way = lock(&self.channel.state).way;
        match way {
            Way::Local => self.channel.end(End::Reset),
            Way::Receiving => {
                self.channel.let_go();
                if let Some(remote) = self.channel.remote() {
                    // A reader that is done with a closed channel only forgets it.
                    let closed = matches!(lock(&self.channel.state).end, Some(End::Closed));
                    self.channel.end(End::Reset);
                    if closed {
                        remote.hub.forget_channel(remote);
                    } else {
                        remote.hub.reset_channel(remote);
                    }
                }
            }
            // It was passed: the channel is the peer's to read, and the `Tx` keeps it.
            Way::Sending | Way::Arrived => {}
        }
    }
}

impl<T> fmt::Debug for Rx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rx").field("id", &self.channel.remote().map(|remote| remote.reference.id)).finish()
    }
}

/// Binds the channel while a call's arguments or result are encoded; refuses elsewhere.
impl<T> Serialize for Rx<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = scope::bind(&self.channel, Half::Rx, || lock(&self.reading).unread())
            .ok_or_else(|| serde::ser::Error::custom("a stream's handle cannot be passed here"))?;
        serializer.serialize_u64(id)
    }
}

/// Takes the next channel of the message that is being decoded; refuses elsewhere.
impl<'de, T> Deserialize<'de> for Rx<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer)?; // the message's list is authoritative
        let channel = scope::claim().ok_or_else(|| serde::de::Error::custom("no channel for this handle"))?;
        channel.claimed_as(Half::Rx);
        Ok(Rx::new(channel))
    }
}

/// A structure that no user's type can have: its direction, and its element's schema.
impl<T: Schema> Schema for Rx<T> {
    const SCHEMA: &'static NamedType = &NamedType {
        name: "Rx",
        ty: &DataModelType::Struct(&[&NamedValue { name: RX_FIELD, ty: T::SCHEMA }]),
    };
}

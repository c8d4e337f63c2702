//! The receiving handle of a stream.

pub(crate) mod bytes;

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use futures_core::{FusedStream, Stream};
use postcard_schema::{
    Schema,
    schema::{DataModelType, NamedType, NamedValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{
    block::block_on,
    channel::{Channel, End, Half, Way},
    elements::{Elements, Reading},
    errors::{RecvError, TryRecvError},
    method_id::RX_FIELD,
    payload::decode_shared,
    scope,
    turn::Turn,
    waiters::lock,
    wire::{decode_value, put_vector},
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
/// [`Stream`](futures_core::Stream), too, and a [`FusedStream`](futures_core::FusedStream).
///
/// | to | use |
/// |---|---|
/// | wait for a value | [`recv`](Rx::recv), [`blocking_recv`](Rx::blocking_recv), [`poll_recv`](Rx::poll_recv) |
/// | wait for some at once | [`recv_many`](Rx::recv_many) |
/// | take one if it is there | [`try_recv`](Rx::try_recv) |
/// | stop the sender, and read what is there | [`close`](Rx::close) |
/// | stop the sender | drop it |
pub struct Rx<T> {
    channel: Arc<Channel>,
    /// What was taken out of the channel's queue. Locked only when the handle is passed in a call.
    reading: Mutex<Reading>,
    turn: Turn,
    /// The `Stream` has given its last item.
    fused: bool,
    value: PhantomData<fn() -> T>,
}

impl<T> Rx<T> {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Rx { channel, reading: Mutex::default(), turn: Turn::default(), fused: false, value: PhantomData }
    }
}

impl<T> Rx<T> {
    /// Stops the sender, and lets what has arrived be received: then comes the end, `None`.
    ///
    /// The sender's next send fails with [`SendError::Closed`](crate::SendError::Closed). What it has sent and is still
    /// on its way is lost: a receiver that needs all of it lets the sender know and reads on to the end.
    pub fn close(&mut self) {
        let state = lock(&self.channel.state);
        // One that was passed is the peer's to read.
        if state.end.is_some() || !matches!(state.way, Way::Local | Way::Receiving) {
            return;
        }
        drop(state);
        self.channel.end(End::Closed);
        if let Some(remote) = self.channel.remote() {
            remote.hub.reset_channel(remote);
        }
    }

    /// The place of the next element. `waker` is left behind if there is none yet.
    fn advance(&mut self, waker: Option<&Waker>) -> Result<Range<usize>, TryRecvError> {
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(place) = reading.advance() {
                return Ok(place);
            }
            let taken = reading.take_taken();
            if taken > 0 {
                report(&self.channel, taken);
            }
            let mut state = lock(&self.channel.state);
            if reading.refill(&mut state.queue) {
                continue;
            }
            return Err(match (&state.end, waker) {
                (None, None) => TryRecvError::Empty,
                (None, Some(waker)) => {
                    match &mut state.reader {
                        Some(known) => known.clone_from(waker),
                        reader => *reader = Some(waker.clone()),
                    }
                    TryRecvError::Empty
                }
                (Some(End::Closed), _) => TryRecvError::Closed,
                (Some(End::Reset | End::Refused(_)), _) => TryRecvError::Failed(RecvError::Reset),
                (Some(End::Link(end)), _) => TryRecvError::Failed(RecvError::Ended(end.clone())),
            });
        }
    }

    /// What lies at a place that [`advance`](Rx::advance) gave.
    fn bytes(&mut self, place: Range<usize>) -> &[u8] {
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        reading.make_whole();
        reading.bytes(place)
    }

    /// Gives credit back for what was taken, if that is enough by now.
    fn report_if_due(&mut self) {
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        if reading.taken() >= REPORT_STEP {
            report(&self.channel, reading.take_taken());
        }
    }

    fn max_nesting(&self) -> u32 {
        self.channel.remote().map_or(strict::NESTING, |remote| remote.hub.max_nesting)
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

impl<T: DeserializeOwned + 'static> Rx<T> {
    /// Receives the next value; `None` when the sender has closed the stream and everything was received.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when the stream ended before it was closed. Values that arrived before are received
    /// first. Once it has ended, each call says so again.
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
        match self.take(Some(cx.waker())) {
            Ok(value) => Poll::Ready(Ok(Some(value))),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Closed) => Poll::Ready(Ok(None)),
            Err(TryRecvError::Failed(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Receives the next value if it is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when nothing has arrived, [`TryRecvError::Closed`] at the stream's end, and
    /// [`TryRecvError::Failed`] when it ended before it was closed.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.take(None)
    }

    /// Waits until a value is there, and receives it and those behind it that are there, too: at most `limit` of them,
    /// which are appended to `buffer`. Returns how many they are; 0 at the stream's end, or if `limit` is 0.
    ///
    /// # Errors
    ///
    /// As [`recv`](Rx::recv), when no value is left before the end. Behind an element that cannot be read it fails at
    /// once: the values in front of that are in `buffer`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: when the future is dropped, nothing was received.
    pub async fn recv_many(&mut self, buffer: &mut Vec<T>, limit: usize) -> Result<usize, RecvError> {
        poll_fn(|cx| self.poll_recv_many(cx, buffer, limit)).await
    }

    /// [`recv_many`](Rx::recv_many) from a thread outside of any runtime.
    ///
    /// # Errors
    ///
    /// As [`recv_many`](Rx::recv_many).
    ///
    /// # Deadlocks
    ///
    /// As [`blocking_recv`](Rx::blocking_recv).
    pub fn blocking_recv_many(&mut self, buffer: &mut Vec<T>, limit: usize) -> Result<usize, RecvError> {
        block_on(self.recv_many(buffer, limit))
    }

    /// Polls for values. See [`recv_many`](Rx::recv_many).
    ///
    /// # Errors
    ///
    /// As [`recv_many`](Rx::recv_many).
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<T>,
        limit: usize,
    ) -> Poll<Result<usize, RecvError>> {
        if limit == 0 {
            return Poll::Ready(Ok(0));
        }
        let Some(first) = ready!(self.poll_recv(cx))? else { return Poll::Ready(Ok(0)) };
        buffer.push(first);
        for received in 1..limit {
            match self.take(None) {
                Ok(value) => buffer.push(value),
                // The end stays the end; this, the next element would hide.
                Err(TryRecvError::Failed(error @ RecvError::InvalidElement(_))) => {
                    return Poll::Ready(Err(error));
                }
                Err(_) => return Poll::Ready(Ok(received)),
            }
        }
        Poll::Ready(Ok(limit))
    }

    /// Takes the next value. `waker` is left behind if there is none yet.
    fn take(&mut self, waker: Option<&Waker>) -> Result<T, TryRecvError> {
        let place = self.advance(waker)?;
        let nesting = self.max_nesting();
        let reading = self.reading.get_mut().unwrap_or_else(PoisonError::into_inner);
        let value = if let Some(value) = reading.take_vector::<T>(put_vector) {
            Ok(value)
        } else {
            reading.make_whole();
            match reading.shared() {
                Some(shared) => decode_shared(shared, |bytes| decode_value(bytes, nesting)),
                None => decode_value(reading.bytes(place), nesting),
            }
        };
        self.report_if_due();
        value.map_err(|why| TryRecvError::Failed(self.invalid(why)))
    }
}

/// Tells the channel what the application has taken, and grants the sender more if it is time.
pub(super) fn report(channel: &Channel, taken: usize) {
    if let Some(grant) = channel.report_taken(taken)
        && let Some(remote) = channel.remote()
    {
        remote.hub.grant_by_message(remote, grant);
    }
}

/// Bytes that the reader takes before the window hears of it within a batch.
pub(super) const REPORT_STEP: usize = 4 << 10;

/// After its end it gives `None` for ever; an error is an item, and the last one.
impl<T: DeserializeOwned + 'static> Stream for Rx<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.fused {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_recv(cx)).transpose();
        self.fused = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl<T: DeserializeOwned + 'static> FusedStream for Rx<T> {
    fn is_terminated(&self) -> bool {
        self.fused
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
            Way::Sending | Way::Open => {}
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
        self.bind(serializer, Reading::unread)
    }
}

impl<T> Rx<T> {
    /// Binds the channel, with what was taken out of its queue and not received.
    fn bind<S: Serializer>(
        &self,
        serializer: S,
        unread: impl FnOnce(&Reading) -> Elements,
    ) -> Result<S::Ok, S::Error> {
        let id = scope::bind(&self.channel, Half::Rx, || unread(&lock(&self.reading)))
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

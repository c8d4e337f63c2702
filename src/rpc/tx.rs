//! The sending handle of a stream.
//!
//! Per element on a link: no thread switch, one copy (the encoding, into the place where the link wants
//! it), two locks (the link's sender; `state` only when something has ended or blocks), no allocation; the
//! system calls are the link's, and none on shared memory while the peer is awake.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use futures_sink::Sink;
use postcard_schema::{
    Schema,
    schema::{DataModelType, NamedType, NamedValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    block::block_on,
    channel::{Channel, End, Full, Half, Remote, Unclaimed, Way},
    connection::Connection,
    elements::{Elements, Reading},
    errors::{Blocked, Obstacle, Refusal, SendError, refusal, sort},
    hub::Place,
    method_id::TX_FIELD,
    rx::Rx,
    scope,
    turn::Turn,
    waiters::lock,
    wire::encode_value,
};
use crate::link::{Body, EncodeFault, Encoder, Head, SendFault, message::encode_into};

/// Sends the values of a stream, in order.
///
/// As an argument of a method it lets the callee send; a caller that wants to send passes an [`Rx`] and
/// keeps the `Tx`. Dropping it closes the stream (Close, protocol section 5): the receiver gets everything
/// that was sent, and then the end.
///
/// A send waits while the receiver is a whole window behind (protocol section 6). It is a
/// [`Sink`](futures_sink::Sink), too.
pub struct Tx<T> {
    channel: Arc<Channel>,
    /// The encoded value that `Sink::start_send` took and that waits for room.
    held: Option<Vec<u8>>,
    /// Where the `Sink` waits for room in the link.
    place: Place,
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
        Tx { channel, held: None, place: Place::default(), turn: Turn::default(), value: PhantomData }
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
        poll_fn(|cx| {
            let mut state = lock(&self.channel.state);
            if state.end.is_some() {
                return Poll::Ready(());
            }
            state.writers.add(cx.waker());
            Poll::Pending
        })
        .await;
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
        let mut place = Place::default();
        poll_fn(move |cx| {
            let mut encode =
                |out: &mut Encoder<'_>| encode_value(&value, out).map_err(scope::fault_without_scope);
            poll_element(&self.channel, &self.turn, cx, &mut place, &mut encode)
        })
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

/// What encodes an element.
type Encode<'a> = dyn FnMut(&mut Encoder<'_>) -> Result<(), EncodeFault> + 'a;

/// Sends one element on a channel, wherever it leads. A sender whose receiver keeps up lets other tasks run
/// now and then.
fn poll_element(
    channel: &Arc<Channel>,
    turn: &Turn,
    cx: &mut Context<'_>,
    place: &mut Place,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    if let Some(error) = ended(channel) {
        return Poll::Ready(Err(error));
    }
    if turn.is_over(cx) {
        return Poll::Pending;
    }
    match channel.direct() {
        Some(remote) => poll_send_remote(channel, remote, cx, place, encode),
        None => poll_send_queue(channel, cx, encode),
    }
}

fn ended(channel: &Channel) -> Option<SendError> {
    if !channel.is_over() {
        return None;
    }
    lock(&channel.state).end.as_ref().map(|end| match end {
        End::Closed | End::Reset => SendError::Closed,
        End::Refused(refusal) => SendError::Refused(refusal.clone()),
        End::Link(end) => SendError::Ended(end.clone()),
    })
}

fn poll_send_remote(
    channel: &Arc<Channel>,
    remote: &Remote,
    cx: &mut Context<'_>,
    place: &mut Place,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    let hub = &remote.hub;
    let mut waits_for = None;
    loop {
        let blocked = match send_now(channel, remote, encode).map_err(sort) {
            Ok(()) => return Poll::Ready(Ok(())),
            Err(Obstacle::Final(error)) => return Poll::Ready(Err(error)),
            Err(Obstacle::Blocked(blocked)) => blocked,
        };
        // As `Hub::poll_attempt`, but credit is waited for on the channel, which may end meanwhile.
        if waits_for == Some(blocked) {
            return Poll::Pending;
        }
        match blocked {
            Blocked::Room | Blocked::Slot => hub.wait_for_room(place, cx.waker()),
            Blocked::Credit { .. } => {
                lock(&channel.state).writers.add(cx.waker());
                hub.wait_for_credit(channel, remote);
            }
        }
        waits_for = Some(blocked);
        if let Some(error) = ended(channel) {
            return Poll::Ready(Err(error));
        }
    }
}

/// Sends one element if link and credit allow it.
fn send_now(channel: &Channel, remote: &Remote, encode: &mut Encode<'_>) -> Result<(), SendFault> {
    let head = Head::Data { conn_id: remote.conn.id, channel_id: remote.reference.id };
    let hub = &remote.hub;
    hub.send_element(&head, &mut ElementBody { channel, remote, encode }, &remote.credit)
}

struct ElementBody<'a, 'e> {
    channel: &'a Channel,
    remote: &'a Remote,
    encode: &'a mut Encode<'e>,
}

impl Body for ElementBody<'_, '_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        (self.encode)(out)?;
        let (len, hub) = (out.len(), &self.remote.hub);
        hub.check_payload(len)?;
        let window = self.remote.window as usize;
        if len > window {
            return Err(EncodeFault::ElementTooLarge { len, window });
        }
        if self.channel.is_over() {
            // Looked at under the sender's lock: nothing follows a connection's Goodbye. The caller finds out why.
            return Err(EncodeFault::NoCredit { len });
        }
        if !self.remote.credit.allows(len) {
            hub.refresh_credit(self.remote);
            if !self.remote.credit.allows(len) {
                return Err(EncodeFault::NoCredit { len });
            }
        }
        Ok(())
    }
}

/// Sends one element to a receiver in this process, or to a queue that is on its way out.
fn poll_send_queue(
    channel: &Arc<Channel>,
    cx: &mut Context<'_>,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    let element = match encoded(encode) {
        Ok(element) => element,
        Err(error) => return Poll::Ready(Err(error)),
    };
    for registered in [false, true] {
        match channel.push_local(&element) {
            Ok(reader) => {
                reader.into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            Err(Full::Passed) => return Poll::Ready(Err(SendError::Refused(Refusal::HandleInUse))),
            // It became direct meanwhile.
            Err(Full::Moved) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(Full::Now) if registered => break,
            Err(Full::Now) => lock(&channel.state).writers.add(cx.waker()),
        }
        if let Some(error) = ended(channel) {
            return Poll::Ready(Err(error));
        }
    }
    Poll::Pending
}

/// The bytes of one element.
fn encoded(encode: &mut Encode<'_>) -> Result<Vec<u8>, SendError> {
    struct Plain<'a, 'e>(&'a mut Encode<'e>);
    impl Body for Plain<'_, '_> {
        fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
            (self.0)(out)
        }
    }
    let (mut room, mut channels) = (Vec::new(), Vec::new());
    let len = encode_into(&mut Plain(encode), &mut room, &mut channels).map_err(refusal)?;
    room.truncate(len);
    Ok(room)
}

/// Sends elements that were queued before their channel was remote, then those that were queued meanwhile;
/// then the channel is direct. Keeps the link open until all of them are out.
pub(crate) async fn pump(channel: Arc<Channel>, queued: Vec<Elements>, _keeps: Connection) {
    let mut batches = std::collections::VecDeque::from(queued);
    loop {
        let Some(batch) = batches.pop_front().or_else(|| channel.take_queue()) else {
            return;
        };
        let mut batch = Reading::of(batch);
        while let Some(element) = batch.next() {
            let mut place = Place::default();
            let sent = poll_fn(|cx| {
                let Some(remote) = channel.remote() else { return Poll::Ready(Ok(())) };
                if let Some(error) = ended(&channel) {
                    return Poll::Ready(Err(error));
                }
                let mut encode = |out: &mut Encoder<'_>| {
                    out.extend(element);
                    Ok(())
                };
                poll_send_remote(&channel, remote, cx, &mut place, &mut encode)
            })
            .await;
            if let Err(error) = sent {
                // What the queue took, the link refuses: the sender hears of it with its next element.
                tracing::debug!(%error, "queued elements of a stream were not sent");
                channel.end(match error {
                    SendError::Refused(refusal) => End::Refused(refusal),
                    SendError::Ended(end) => End::Link(end),
                    SendError::Closed => End::Reset,
                });
                if let Some(remote) = channel.remote() {
                    remote.hub.reset_channel(remote);
                }
                return;
            }
            let taken = batch.take_taken();
            channel.report_taken(taken);
        }
    }
}

impl<T: Serialize + 'static> Sink<T> for Tx<T> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = &mut *self;
        let Some(element) = &this.held else {
            return Poll::Ready(ended(&this.channel).map_or(Ok(()), Err));
        };
        let mut encode = |out: &mut Encoder<'_>| {
            out.extend(element);
            Ok(())
        };
        let sent = ready!(poll_element(&this.channel, &this.turn, cx, &mut this.place, &mut encode));
        this.held = None;
        Poll::Ready(sent)
    }

    fn start_send(mut self: Pin<&mut Self>, value: T) -> Result<(), SendError> {
        let mut encode =
            |out: &mut Encoder<'_>| encode_value(&value, out).map_err(scope::fault_without_scope);
        let mut cx = Context::from_waker(Waker::noop());
        match poll_element(&self.channel, &self.turn, &mut cx, &mut Place::default(), &mut encode) {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                self.held = Some(encoded(&mut encode)?);
                Ok(())
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_ready(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.as_mut().poll_flush(cx))?;
        close(&self.channel);
        Poll::Ready(Ok(()))
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
        Way::Receiving | Way::Arrived | Way::Sending => {}
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

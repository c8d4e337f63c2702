//! How one element goes: straight to its channel's link, or into the queue of a channel within this process.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use serde::Serialize;

use super::wait::Wait;
use crate::{
    link::{Body, EncodeFault, Encoder, Head, SendFault, message::encode_into},
    rpc::{
        channel::{Channel, End, Full, Remote},
        errors::{Blocked, Obstacle, Refusal, SendError, refusal, sort},
        scope,
        turn::Turn,
        waiters::lock,
        wire::encode_value,
    },
};

/// What encodes an element.
pub(crate) type Encode<'a> = dyn FnMut(&mut Encoder<'_>) -> Result<(), EncodeFault> + 'a;

/// Encodes a value. No handle may stand in it.
pub(super) fn encode_plain<T: Serialize + 'static>(
    value: &T,
    out: &mut Encoder<'_>,
) -> Result<(), EncodeFault> {
    scope::without_scope(|| encode_value(value, out))
}

/// Sends one element on a channel, wherever it leads. A sender whose receiver keeps up lets other tasks run
/// now and then.
pub(super) fn poll_element(
    channel: &Arc<Channel>,
    turn: &Turn,
    cx: &mut Context<'_>,
    wait: &mut Wait,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    if let Some(error) = ended(channel) {
        return Poll::Ready(Err(error));
    }
    if turn.is_over(cx) {
        return Poll::Pending;
    }
    match channel.direct() {
        Some(remote) => poll_send_remote(channel, remote, cx, wait, encode),
        None => poll_send_queue(channel, cx, wait, encode),
    }
}

/// Why nothing can be sent any more, if the channel is over.
pub(super) fn ended(channel: &Channel) -> Option<SendError> {
    if !channel.is_over() {
        return None;
    }
    lock(&channel.state).end.as_ref().map(|end| match end {
        End::Closed | End::Reset => SendError::Closed,
        End::Refused(refusal) => SendError::Refused(refusal.clone()),
        End::Link(end) => SendError::Ended(end.clone()),
    })
}

pub(super) fn poll_send_remote(
    channel: &Arc<Channel>,
    remote: &Remote,
    cx: &mut Context<'_>,
    wait: &mut Wait,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    poll_remote(channel, remote, cx, wait, || send_now(channel, remote, encode))
}

/// Attempts something on a channel's link until it is done, or the same is in the way as when the task's waker was
/// left behind.
pub(super) fn poll_remote(
    channel: &Arc<Channel>,
    remote: &Remote,
    cx: &mut Context<'_>,
    wait: &mut Wait,
    mut attempt: impl FnMut() -> Result<(), SendFault>,
) -> Poll<Result<(), SendError>> {
    let hub = &remote.hub;
    let mut waits_for = None;
    loop {
        let blocked = match attempt().map_err(sort) {
            Ok(()) => return Poll::Ready(Ok(())),
            Err(Obstacle::Final(error)) => return Poll::Ready(Err(error)),
            Err(Obstacle::Blocked(blocked)) => blocked,
        };
        // As `Hub::poll_attempt`, but credit is waited for on the channel, which may end meanwhile.
        if waits_for == Some(blocked) {
            return Poll::Pending;
        }
        match blocked {
            // An element carries no descriptors.
            Blocked::Room | Blocked::Slot | Blocked::Crowded => hub.wait_for_room(&mut wait.room, cx.waker()),
            Blocked::Credit { .. } => {
                wait.on(channel, cx.waker());
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
pub(crate) fn send_now(channel: &Channel, remote: &Remote, encode: &mut Encode<'_>) -> Result<(), SendFault> {
    let mut body = ElementBody { channel, remote, encode, set_aside: 0 };
    remote.hub.send_element(&data(remote), &mut body, &remote.credit)
}

/// Sends one element for which so many bytes of credit are set aside; they are released when it is sent. One that is no
/// longer than that is always sent, however full the link is.
pub(super) fn send_set_aside(
    channel: &Channel,
    remote: &Remote,
    encode: &mut Encode<'_>,
    set_aside: usize,
) -> Result<(), SendFault> {
    let mut body = ElementBody { channel, remote, encode, set_aside };
    remote.hub.send_set_aside(&data(remote), &mut body, &remote.credit, set_aside)
}

fn data(remote: &Remote) -> Head<'static> {
    Head::Data { conn_id: remote.conn.id, channel_id: remote.reference.id }
}

struct ElementBody<'a, 'e> {
    channel: &'a Channel,
    remote: &'a Remote,
    encode: &'a mut Encode<'e>,
    /// Bytes of credit that are set aside for it.
    set_aside: usize,
}

impl Body for ElementBody<'_, '_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        (self.encode)(out)?;
        let len = out.len();
        check_length(self.remote, len)?;
        if self.channel.is_over() {
            // Looked at under the sender's lock: nothing follows a connection's Goodbye. The caller finds out why.
            return Err(EncodeFault::NoCredit { len });
        }
        check_credit(self.remote, len.saturating_sub(self.set_aside), len)
    }
}

/// What no element may exceed, however long it waits.
pub(super) fn check_length(remote: &Remote, len: usize) -> Result<(), EncodeFault> {
    remote.hub.check_payload(len)?;
    let window = remote.window as usize;
    if len > window { Err(EncodeFault::ElementTooLarge { len, window }) } else { Ok(()) }
}

/// Whether there is credit for `needed` bytes of an element of `len`.
pub(super) fn check_credit(remote: &Remote, needed: usize, len: usize) -> Result<(), EncodeFault> {
    if !remote.credit.allows(needed) {
        remote.hub.refresh_credit(remote);
        if !remote.credit.allows(needed) {
            return Err(EncodeFault::NoCredit { len });
        }
    }
    Ok(())
}

/// Why an element was not sent at once.
pub(super) enum NotNow {
    /// There is no room.
    Full,
    Failed(SendError),
}

/// Sends one element, or says that there is no room.
pub(super) fn try_element(channel: &Channel, encode: &mut Encode<'_>) -> Result<(), NotNow> {
    if let Some(error) = ended(channel) {
        return Err(NotNow::Failed(error));
    }
    match channel.direct() {
        Some(remote) => now(channel, send_now(channel, remote, encode)),
        None => try_queue(channel, encode, 0),
    }
}

/// What came of an attempt on a link that does not wait.
pub(super) fn now(channel: &Channel, sent: Result<(), SendFault>) -> Result<(), NotNow> {
    match sent.map_err(sort) {
        Ok(()) => Ok(()),
        Err(Obstacle::Final(error)) => Err(NotNow::Failed(error)),
        // Also what finds its channel over says that it has no credit.
        Err(Obstacle::Blocked(_)) => Err(ended(channel).map_or(NotNow::Full, NotNow::Failed)),
    }
}

/// Puts one element into the queue, or says that there is no room. `set_aside` bytes were kept for it.
pub(super) fn try_queue(channel: &Channel, encode: &mut Encode<'_>, set_aside: usize) -> Result<(), NotNow> {
    let element = encoded(encode).map_err(NotNow::Failed)?;
    match channel.push_local(&element, set_aside) {
        Ok(reader) => {
            reader.into_iter().for_each(Waker::wake);
            Ok(())
        }
        Err(Full::Passed) => Err(NotNow::Failed(SendError::Refused(Refusal::HandleInUse))),
        // It became direct meanwhile, for which it needed no room here.
        Err(Full::Moved) => try_element(channel, encode),
        Err(Full::Now) => Err(NotNow::Full),
    }
}

/// Sends one element to a receiver in this process, or to a queue that is on its way out.
fn poll_send_queue(
    channel: &Arc<Channel>,
    cx: &mut Context<'_>,
    wait: &mut Wait,
    encode: &mut Encode<'_>,
) -> Poll<Result<(), SendError>> {
    let element = match encoded(encode) {
        Ok(element) => element,
        Err(error) => return Poll::Ready(Err(error)),
    };
    for registered in [false, true] {
        match channel.push_local(&element, 0) {
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
            Err(Full::Now) => wait.on(channel, cx.waker()),
        }
        if let Some(error) = ended(channel) {
            return Poll::Ready(Err(error));
        }
    }
    Poll::Pending
}

/// The bytes of one element.
pub(super) fn encoded(encode: &mut Encode<'_>) -> Result<Vec<u8>, SendError> {
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

//! Credit that is set aside for one value.
//!
//! On a link it is taken out of the channel's window under the lock of the link's sender, where all senders look; within
//! the process out of the queue's room. Nothing can be set aside of the link's own room, which all streams and calls
//! share. An element with a permit that finds the link full is parked in front of it instead; nobody gets a permit while
//! anything is parked, so that what is parked is what had permits by then.

use std::{fmt, future::poll_fn, sync::Arc, task::Poll};

use serde::Serialize;

use super::{
    Tx,
    element::{
        NotNow, check_credit, check_length, encode_plain, ended, now, poll_remote, send_set_aside,
        try_element, try_queue,
    },
    unsent,
    wait::Wait,
};
use crate::{
    link::{EncodeFault, Encoder, SendFault},
    rpc::{
        channel::{Channel, Full, Remote},
        errors::{Refusal, SendError, TrySendError},
    },
};

/// The right to send one value without waiting. See [`Tx::reserve`].
///
/// Dropped unused, it gives its bytes back to the stream.
#[must_use = "a permit that is not used only holds credit back"]
pub struct Permit<'a, T> {
    tx: &'a Tx<T>,
    held: Held,
}

/// What a permit holds.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// Bytes of a channel's credit.
    Credit(usize),
    /// Bytes of room in the queue of a channel within this process.
    Queue(usize),
    Nothing,
}

impl<T> Permit<'_, T> {
    /// The bytes that are set aside for the value.
    #[must_use]
    pub fn reserved(&self) -> usize {
        match self.held {
            Held::Credit(len) | Held::Queue(len) => len,
            Held::Nothing => 0,
        }
    }
}

impl<T: Serialize + 'static> Permit<'_, T> {
    /// Sends one value, without waiting.
    ///
    /// A value that takes more bytes than are set aside takes the rest of what is free now. If the link has no room at
    /// the moment, the encoded value waits for it in this process.
    ///
    /// # Errors
    ///
    /// The value comes back. [`TrySendError::Closed`] and [`TrySendError::Ended`] when the receiver or the link has gone
    /// since, [`TrySendError::Refused`] when the value cannot be encoded or exceeds a limit.
    ///
    /// [`TrySendError::Full`] only if it takes more bytes than are set aside, and as many are not free; or if the permit
    /// is from before the other half was passed in a call: what it was promised was the room of this process.
    pub fn send(mut self, value: T) -> Result<(), TrySendError<T>> {
        let sent = self.send_encoded(&mut |out: &mut Encoder<'_>| encode_plain(&value, out));
        sent.map_err(|why| unsent(value, why))
    }

    fn send_encoded(&mut self, encode: &mut super::element::Encode<'_>) -> Result<(), NotNow> {
        let channel = &self.tx.channel;
        if let Some(error) = ended(channel) {
            return Err(NotNow::Failed(error));
        }
        let sent = match (channel.direct(), self.held) {
            (Some(remote), Held::Credit(len)) => now(channel, send_set_aside(channel, remote, encode, len)),
            (None, Held::Queue(len)) => try_queue(channel, encode, len),
            // The other half was passed meanwhile.
            _ => return try_element(channel, encode),
        };
        if sent.is_ok() {
            self.held = Held::Nothing;
            // It may have taken less than it had.
            channel.wake_writers();
        }
        sent
    }
}

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        let channel = &self.tx.channel;
        match (self.held, channel.remote()) {
            (Held::Credit(len), Some(remote)) => {
                remote.credit.release(len);
                channel.wake_writers();
            }
            (Held::Queue(len), _) => channel.release_local(len),
            (Held::Credit(_), None) | (Held::Nothing, _) => {}
        }
    }
}

impl<T> fmt::Debug for Permit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("tx", self.tx).field("reserved", &self.reserved()).finish()
    }
}

/// Waits for a permit.
pub(super) async fn reserve<T>(tx: &Tx<T>, len: usize) -> Result<Permit<'_, T>, SendError> {
    let mut wait = Wait::default();
    poll_fn(|cx| {
        let channel = &tx.channel;
        if let Some(error) = ended(channel) {
            return Poll::Ready(Err(error));
        }
        if tx.turn.is_over(cx) {
            return Poll::Pending;
        }
        if let Some(remote) = channel.direct() {
            let reserved = poll_remote(channel, remote, cx, &mut wait, || credit(channel, remote, len));
            return reserved.map_ok(|()| Permit { tx, held: Held::Credit(len) });
        }
        for waits in [false, true] {
            match channel.set_aside_local(len) {
                Ok(()) => return Poll::Ready(Ok(Permit { tx, held: Held::Queue(len) })),
                Err(Full::Passed) => return Poll::Ready(Err(SendError::Refused(Refusal::HandleInUse))),
                Err(Full::Moved) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(Full::Now) if waits => break,
                Err(Full::Now) => wait.on(channel, cx.waker()),
            }
            if let Some(error) = ended(channel) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    })
    .await
}

/// A permit, if there can be one now.
pub(super) fn try_reserve<T>(tx: &Tx<T>, len: usize) -> Result<Permit<'_, T>, NotNow> {
    let channel = &tx.channel;
    if let Some(error) = ended(channel) {
        return Err(NotNow::Failed(error));
    }
    if let Some(remote) = channel.direct() {
        now(channel, credit(channel, remote, len))?;
        return Ok(Permit { tx, held: Held::Credit(len) });
    }
    match channel.set_aside_local(len) {
        Ok(()) => Ok(Permit { tx, held: Held::Queue(len) }),
        Err(Full::Passed) => Err(NotNow::Failed(SendError::Refused(Refusal::HandleInUse))),
        Err(Full::Now | Full::Moved) => Err(NotNow::Full),
    }
}

/// Sets credit aside on a channel's link.
fn credit(channel: &Arc<Channel>, remote: &Remote, len: usize) -> Result<(), SendFault> {
    remote.hub.set_aside(&remote.credit, len, || {
        check_length(remote, len)?;
        if channel.is_over() {
            return Err(EncodeFault::NoCredit { len });
        }
        check_credit(remote, len, len)
    })
}

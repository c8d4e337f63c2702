//! The link over a byte stream: anything `AsyncRead + AsyncWrite`, as two halves. The bytes are those of
//! `roam` 0.6, to the byte (protocol section 2).
//!
//! | per message | sending | receiving |
//! |---|---|---|
//! | copies in this process | 2: encoded into scratch, framed into the buffer | 1: unframed in place |
//! | ... of a byte vector of 2 KiB and more | 2 | 1: unframed into the vector that the application gets (`apart`) |
//! | passes that only read | none | 1: for the frame's end |
//! | system calls | 1 for all that is buffered when the driver flushes; of a payload of 32 KiB and more 1 for each 64 KiB, and 1 for the first 16 (`outbox`) | 1 for all that has arrived |
//! | thread switches | the driver's, unless it is flushing already | the driver's |
//! | allocations, locks | none of its own; 2 for the state and head of a payload of 32 KiB and more | none; a vector that is taken apart, and its head |
//!
//! What waits to be sent is `send_buffer`, or one message; what is kept beside it to be used again is as much, or one message's memory. The
//! receiver's buffer is as long as a read, up to 256 KiB, unless a long message comes that is no vector.
//!
//! What is sent is buffered and written by the link's driver, so that senders do not wait for the system and
//! many small messages share one write. Credit is granted by messages.

mod apart;
mod carried;
mod outbox;
mod receiver;
mod retire;
mod sender;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, io, task::Poll, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

pub(in crate::link) use self::receiver::BATCH;
use self::{receiver::StreamReceiver, retire::Retired, sender::StreamSender};
use super::{Head, Limits, Message, Parts, Receiver as _, Role, Sender as _, Sink};
use crate::{
    error::{LinkEnd, Violation},
    settings::Settings,
};

/// The connection on which the link itself is told to end.
const ROOT: u64 = 0;

/// Greets the peer at the other end of a byte stream (protocol section 3).
///
/// Needs a tokio runtime with its timers enabled.
///
/// # Errors
///
/// The peer did not greet, or not as this side can accept. Where the protocol has a rule for it, the peer was
/// told in a Goodbye, which may take as long as the greeting itself; the stream is closed in any case.
///
/// # Cancel safety
///
/// Dropping the future closes the stream.
pub(crate) async fn establish<R, W>(
    read: R,
    write: W,
    role: Role,
    settings: &Settings,
) -> Result<Parts, HandshakeError>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (max_payload_size, initial_channel_credit) = settings.limits();
    let offer = Limits { max_payload_size, initial_channel_credit };
    if let Some(setting) = absurd(offer) {
        return Err(HandshakeError::OwnLimit { setting });
    }
    let after = settings.handshake_timeout;
    let retired = match Retired::new(&read, settings.max_held_descriptors as usize) {
        Ok(retired) => retired,
        Err(error) => {
            Retired::without((read, write));
            return Err(HandshakeError::Ended(error.into()));
        }
    };
    let mut sender = StreamSender::new(write, settings, &retired);
    let mut receiver = StreamReceiver::new(read, settings, retired);

    let answer = match timeout(after, greet(&mut sender, &mut receiver, offer)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(end)) => {
            if let LinkEnd::Violation(violation) = &end {
                say_goodbye(&mut sender, violation.rule(), after).await;
            }
            return Err(HandshakeError::Ended(end));
        }
        Err(_) => return Err(HandshakeError::TimedOut { after }),
    };
    if let Some(limit) = absurd(answer) {
        return Err(HandshakeError::PeerLimit { limit });
    }

    let limits = Limits {
        max_payload_size: offer.max_payload_size.min(answer.max_payload_size),
        initial_channel_credit: offer.initial_channel_credit.min(answer.initial_channel_credit),
    };
    sender.begin(limits);
    receiver.begin(limits);
    Ok(Parts {
        role,
        limits,
        sender: Box::new(sender),
        receiver: Box::new(receiver),
        credit: None,
        lending: None,
        watcher: None,
        interrupt: None,
    })
}

/// Tells the peer at the other end of a byte stream why there will be no link, instead of greeting it. Takes
/// [`Settings::handshake_timeout`] at most.
#[cfg(unix)]
pub(crate) async fn turn_away<R, W>((read, write): (R, W), reason: &str, settings: &Settings)
where
    R: Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Ok(retired) = Retired::new(&read, 0) else {
        return Retired::without((read, write)); // who is turned away hears no reason
    };
    let mut sender = StreamSender::new(write, settings, &retired);
    let _receiver = StreamReceiver::new(read, settings, retired); // for how it closes its half
    say_goodbye(&mut sender, reason, settings.handshake_timeout).await;
}

async fn say_goodbye<W>(sender: &mut StreamSender<W>, reason: &str, within: Duration)
where
    W: AsyncWrite + Unpin + Send + 'static,
{
    sender.say(&Head::Goodbye { conn_id: ROOT, reason });
    // The link is over whether the peer hears of it or not.
    let _ = timeout(within, poll_fn(|cx| sender.poll_flush(cx))).await;
}

/// Why a byte stream did not become a link.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer sent no Hello in time: see [`Settings::handshake_timeout`].
    #[error("the peer sent no Hello within {after:?}")]
    TimedOut {
        /// The time that it had.
        after: Duration,
    },
    /// The stream ended before the peer's Hello, or the peer sent something else: another version's Hello, a
    /// message that may only follow Hello, a Goodbye, or bytes that are no message.
    #[error("the handshake failed: {0}")]
    Ended(#[source] LinkEnd),
    /// The peer's Hello sets a limit with which nothing could ever be sent.
    #[error("the peer's Hello sets {limit} to 0")]
    PeerLimit {
        /// The limit, as the protocol calls it.
        limit: &'static str,
    },
    /// This side's settings have a limit with which nothing could ever be sent. The peer heard nothing of it.
    #[error("the setting {setting} is 0")]
    OwnLimit {
        /// The setting.
        setting: &'static str,
    },
}

/// The limit that leaves nothing to be sent, if there is one.
fn absurd(limits: Limits) -> Option<&'static str> {
    match limits {
        Limits { max_payload_size: 0, .. } => Some("max_payload_size"),
        Limits { initial_channel_credit: 0, .. } => Some("initial_channel_credit"),
        _ => None,
    }
}

/// Sends Hello and receives the peer's, both at once: over a stream that takes less than a Hello at a time,
/// either alone could wait for the other for ever.
async fn greet<R, W>(
    sender: &mut StreamSender<W>,
    receiver: &mut StreamReceiver<R>,
    Limits { max_payload_size, initial_channel_credit }: Limits,
) -> Result<Limits, LinkEnd>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    sender.say(&Head::Hello { max_payload_size, initial_channel_credit });
    let (mut greeting, mut sent) = (Greeting(None), false);
    poll_fn(|cx| {
        // First what the peer says: if it has closed already, that tells why, and the failed write does not.
        if greeting.0.is_none() {
            let _ = receiver.poll_receive(cx, &mut greeting)?;
        }
        if let Some(Err(end)) = &greeting.0 {
            return Poll::Ready(Err(end.clone()));
        }
        sent = sent || sender.poll_flush(cx)?.is_ready();
        match &greeting.0 {
            Some(Ok(limits)) if sent => Poll::Ready(Ok(*limits)),
            _ => Poll::Pending,
        }
    })
    .await
}

/// The first message of the peer. Takes one and leaves what is behind it to the session.
struct Greeting(Option<Result<Limits, LinkEnd>>);

impl Sink for Greeting {
    fn message(&mut self, message: Message<'_>) -> bool {
        self.0 = Some(match message.head {
            Head::Hello { max_payload_size, initial_channel_credit } => {
                Ok(Limits { max_payload_size, initial_channel_credit })
            }
            Head::Goodbye { conn_id: ROOT, reason } => Err(LinkEnd::Goodbye { reason: reason.into() }),
            _ => Err(Violation::HelloOrdering.into()),
        });
        false
    }
}

/// How an error of the stream ends the link.
fn end_of(error: io::Error) -> LinkEnd {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => LinkEnd::Gone,
        _ => error.into(),
    }
}

//! The protocol's state machine: messages in, deliveries out.
//!
//! A [`Session`] is a value. It knows which calls, requests and channels are open on a link and what the
//! protocol says about each message; it has no socket, no clock, no task and no lock. The driver of a link
//! feeds it each [`Message`] that arrives and carries out the [`Delivery`] that comes back; the paths that
//! send register here what they opened, before the peer can see it.
//!
//! What it keeps for the local side (who waits for an answer, where an element goes) are opaque ends of
//! the types that [`Ends`] names, so that tests can run it with plain numbers.
//!
//! | file | keeps | protocol |
//! |---|---|---|
//! | `calls` | our requests in flight | 4 |
//! | `serving` | the peer's requests that run here | 4 |
//! | `channels`, `ids` | open channels, and which ids are spent | 5 |
//! | `credit` | what one channel may send, or was granted | 6 |
//! | `deadlines` | when calls and requests run out | 4 |
//! | `metadata` | entries and their limits | 4 |
//! | `answer` | the first bytes of a Response's payload | 4 |
//!
//! Order of calls: [`Session::receive`] for each message in the order of arrival. On a [`Violation`] the
//! driver sends Goodbye with its rule and ends the link; [`Session::end`] gives back everything that was
//! open.

pub(crate) mod answer;
pub(crate) mod calls;
pub(crate) mod channels;
pub(crate) mod credit;
pub(crate) mod deadlines;
mod ids;
pub(crate) mod metadata;
pub(crate) mod serving;

#[cfg(test)]
mod tests;

use std::time::Duration;

use calls::Calls;
use channels::{Arrived, Channels};
use deadlines::Deadlines;
use metadata::Metadata;
use serving::Serving;

use crate::{
    error::Violation,
    link::{ChannelRef, Head, Limits, Message, Role},
};

/// The id of the connection that exists as soon as the link does.
pub(crate) const ROOT: u64 = 0;

/// Maps from ids. The hash is seeded, since the peer chooses some of them.
pub(crate) type IdMap<V> = std::collections::HashMap<u64, V, foldhash::fast::RandomState>;

/// The local ends of what a session keeps.
pub(crate) trait Ends {
    /// Who waits for the answer to a call of ours.
    type Call;
    /// Where a channel's elements go, or who sends them.
    type Channel: Clone;
    /// What stops a handler.
    type Handler;
}

/// The state of one link's protocol. See the module's documentation.
pub(crate) struct Session<E: Ends> {
    limits: Limits,
    /// The one connection so far. Virtual connections get a `Connection` each beside it.
    root: Connection<E>,
    pub(crate) deadlines: Deadlines,
}

/// The ids and what is open on one connection.
pub(crate) struct Connection<E: Ends> {
    pub(crate) calls: Calls<E>,
    pub(crate) serving: Serving<E>,
    pub(crate) channels: Channels<E>,
}

/// What was open when a session ended.
pub(crate) struct LeftOpen<E: Ends> {
    /// Calls whose callers still wait.
    pub(crate) calls: Vec<E::Call>,
    pub(crate) channels: Vec<E::Channel>,
    /// Handlers that were not told to stop yet.
    pub(crate) handlers: Vec<E::Handler>,
}

/// What a message means for the local side.
pub(crate) enum Delivery<'s, 'm, E: Ends> {
    /// Nothing: it crossed something that ended meanwhile.
    Nothing,
    /// A request to serve. The driver registers its channels and its handler.
    Request(Incoming<'m>),
    /// A request beyond the limit of concurrent ones: it is answered Cancelled.
    Refused { conn_id: u64, request_id: u64 },
    /// The answer to a call. `call` is `None` when the caller went away; the channels are to be reset then.
    Response { call: Option<E::Call>, opened: Vec<E::Channel>, answer: Answered<'m> },
    /// The peer cancels a request that runs here.
    Cancel { handler: E::Handler },
    /// An element of a channel.
    Element { channel: &'s E::Channel, payload: &'m [u8] },
    /// The sender of a channel closed it.
    Closed { channel: E::Channel },
    /// The other side of a channel ended it.
    Reset { channel: E::Channel },
    /// The receiver of a channel grants credit.
    Credit { channel: &'s E::Channel, bytes: u32 },
    /// The peer ends the link.
    Goodbye { reason: &'m str },
}

/// A Request that keeps all rules.
pub(crate) struct Incoming<'a> {
    pub(crate) conn_id: u64,
    pub(crate) request_id: u64,
    pub(crate) method_id: u64,
    pub(crate) metadata: Metadata,
    /// From the metadata key `timeout-ns`.
    pub(crate) timeout: Option<Duration>,
    pub(crate) channels: &'a [ChannelRef],
    pub(crate) payload: &'a [u8],
}

/// A Response that keeps all rules.
pub(crate) struct Answered<'a> {
    pub(crate) conn_id: u64,
    pub(crate) channels: &'a [ChannelRef],
    pub(crate) payload: &'a [u8],
}

impl<E: Ends> Session<E> {
    /// The session of a link whose peers have agreed on `limits`.
    pub(crate) fn new(role: Role, limits: Limits, max_concurrent_requests: u32) -> Self {
        Session {
            limits,
            root: Connection {
                calls: Calls::new(),
                serving: Serving::new(max_concurrent_requests),
                channels: Channels::new(role),
            },
            deadlines: Deadlines::new(),
        }
    }

    /// The connection `conn_id`, if it is open.
    pub(crate) fn connection(&mut self, conn_id: u64) -> Option<&mut Connection<E>> {
        (conn_id == ROOT).then_some(&mut self.root)
    }

    /// Takes one message that arrived.
    ///
    /// # Errors
    ///
    /// The peer broke a rule.
    pub(crate) fn receive<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
    ) -> Result<Delivery<'s, 'm, E>, Violation> {
        match message.head {
            // `message.hello.ordering`: "A second Hello: Goodbye".
            Head::Hello { .. } => Err(Violation::HelloOrdering),
            Head::Request { conn_id, request_id, method_id, metadata } => {
                self.request(message, conn_id, request_id, method_id, metadata)
            }
            Head::Response { conn_id, request_id, metadata } => {
                self.response(message, conn_id, request_id, metadata)
            }
            Head::Cancel { conn_id, request_id } => self.cancel(conn_id, request_id),
            Head::Data { conn_id, channel_id } => self.data(message, conn_id, channel_id),
            Head::Close { conn_id, channel_id } => self.close(conn_id, channel_id),
            Head::Reset { conn_id, channel_id } => self.reset(conn_id, channel_id),
            Head::Credit { conn_id, channel_id, bytes } => {
                Ok(match self.open(conn_id)?.channels.arrived(channel_id)? {
                    Arrived::Open(entry) => Delivery::Credit { channel: &entry.channel, bytes },
                    Arrived::Spent => Delivery::Nothing,
                })
            }
            // "Goodbye for an unknown connection is ignored."
            Head::Goodbye { conn_id, reason } if conn_id == ROOT => Ok(Delivery::Goodbye { reason }),
            Head::Goodbye { .. } => Ok(Delivery::Nothing),
            Head::Connect { .. } | Head::Accept { .. } | Head::Reject { .. } => {
                Err(Violation::UnknownVariant { kind: message.head.kind() })
            }
        }
    }

    /// Forgets a channel of `conn_id` and says whether it was still open.
    pub(crate) fn forget_channel(&mut self, conn_id: u64, channel_id: u64) -> bool {
        self.connection(conn_id).is_some_and(|connection| connection.channels.remove(channel_id).is_some())
    }

    /// Ends the session and gives back all that was open: calls, channels, handlers.
    pub(crate) fn end(&mut self) -> LeftOpen<E> {
        self.deadlines.clear();
        LeftOpen {
            calls: self.root.calls.take_all(),
            channels: self.root.channels.take_all(),
            handlers: self.root.serving.take_all(),
        }
    }

    /// `message.conn-id`: the connection of a message, which must be open.
    fn open(&mut self, conn_id: u64) -> Result<&mut Connection<E>, Violation> {
        self.connection(conn_id).ok_or(Violation::UnknownConnection { conn_id })
    }

    /// `flow.call.payload-limit`: "a receiver that gets one sends Goodbye".
    fn check_payload(&self, payload: &[u8]) -> Result<(), Violation> {
        let limit = self.limits.max_payload_size as usize;
        if payload.len() > limit {
            return Err(Violation::PayloadLimit { len: payload.len(), limit });
        }
        Ok(())
    }

    fn request<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
        conn_id: u64,
        request_id: u64,
        method_id: u64,
        metadata: &[u8],
    ) -> Result<Delivery<'s, 'm, E>, Violation> {
        self.check_payload(message.payload)?;
        let metadata = Metadata::decode(metadata)?;
        let connection = self.open(conn_id)?;
        connection.channels.take_ids(message.channels)?;
        // `call.request-id.duplicate-detection`: "a duplicate of one in flight: Goodbye".
        if connection.serving.is_running(request_id) {
            return Err(Violation::DuplicateRequest { request_id });
        }
        if connection.serving.is_full() {
            return Ok(Delivery::Refused { conn_id, request_id });
        }
        Ok(Delivery::Request(Incoming {
            conn_id,
            request_id,
            method_id,
            timeout: metadata.timeout(),
            metadata,
            channels: message.channels,
            payload: message.payload,
        }))
    }

    fn response<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
        conn_id: u64,
        request_id: u64,
        metadata: &[u8],
    ) -> Result<Delivery<'s, 'm, E>, Violation> {
        self.check_payload(message.payload)?;
        // Nobody is shown a Response's metadata, but its rules hold.
        Metadata::decode(metadata)?;
        let connection = self.open(conn_id)?;
        connection.channels.take_ids(message.channels)?;
        // "A Response for an unknown id is ignored (and logged)."
        let Some(pending) = connection.calls.answered(request_id) else {
            tracing::debug!(request_id, "a response to no call was ignored");
            return Ok(Delivery::Nothing);
        };
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove_call(deadline, conn_id, request_id);
        }
        Ok(Delivery::Response {
            call: pending.call,
            opened: pending.channels,
            answer: Answered { conn_id, channels: message.channels, payload: message.payload },
        })
    }

    /// "Cancel for an unknown id is ignored."
    fn cancel<'s, 'm>(&'s mut self, conn_id: u64, request_id: u64) -> Result<Delivery<'s, 'm, E>, Violation> {
        let handler = self.open(conn_id)?.serving.take_handler(request_id);
        Ok(handler.map_or(Delivery::Nothing, |handler| Delivery::Cancel { handler }))
    }

    fn data<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
        conn_id: u64,
        channel_id: u64,
    ) -> Result<Delivery<'s, 'm, E>, Violation> {
        let (len, limit) = (message.payload.len(), self.limits.max_payload_size as usize);
        if len > limit {
            return Err(Violation::DataSizeLimit { len, limit });
        }
        match self.open(conn_id)?.channels.arrived(channel_id)? {
            Arrived::Open(entry) if entry.closed => Err(Violation::DataAfterClose { channel_id }),
            Arrived::Open(entry) => {
                Ok(Delivery::Element { channel: &entry.channel, payload: message.payload })
            }
            Arrived::Spent => Ok(Delivery::Nothing),
        }
    }

    fn close<'s, 'm>(&'s mut self, conn_id: u64, channel_id: u64) -> Result<Delivery<'s, 'm, E>, Violation> {
        match self.open(conn_id)?.channels.arrived(channel_id)? {
            Arrived::Open(entry) if entry.closed => Err(Violation::DataAfterClose { channel_id }),
            Arrived::Open(entry) => {
                // The entry stays until the reader is done, so that Data after Close is told apart.
                entry.closed = true;
                Ok(Delivery::Closed { channel: entry.channel.clone() })
            }
            Arrived::Spent => Ok(Delivery::Nothing),
        }
    }

    fn reset<'s, 'm>(&'s mut self, conn_id: u64, channel_id: u64) -> Result<Delivery<'s, 'm, E>, Violation> {
        let channels = &mut self.open(conn_id)?.channels;
        if let Arrived::Spent = channels.arrived(channel_id)? {
            return Ok(Delivery::Nothing);
        }
        Ok(channels.remove(channel_id).map_or(Delivery::Nothing, |channel| Delivery::Reset { channel }))
    }
}

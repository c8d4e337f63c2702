//! The rules of protocol sections 4 and 5, one message at a time: what a session makes of it.
//!
//! The session under test is the acceptor of its link: its own channels are even, the peer's are odd.

mod calls;
mod channels;
mod connections;
mod serving;
mod table;

use std::time::Duration;

use super::{
    Breach, Delivery, Ends, LeftOpen, Quota, ROOT, Requested, Response, Session, connections::ConnKey,
    metadata::Metadata,
};
use crate::{
    error::Violation,
    link::{Brought, ChannelRef, CreditSlot, Head, Limits, Message, Role},
};

/// Ends that are numbers.
pub(super) struct Numbers;

impl Ends for Numbers {
    type Call = u32;
    type Channel = u32;
    type Handler = u32;
    type Connection = u64;
    type Connect = u32;
}

/// What a session made of a message, as a value to compare.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    Request { method_id: u64, metadata: Metadata, timeout: Option<Duration> },
    Refused { request_id: u64 },
    Response { call: Option<u32>, opened: Vec<u32> },
    Cancel { handler: u32 },
    Element { channel: u32, payload: Vec<u8> },
    Closed { channel: u32 },
    Reset { channel: u32 },
    Credit { channel: u32, bytes: u32 },
    Connect { metadata: Metadata },
    TooManyConnections { limit: usize },
    Accepted { connect: u32, conn_id: u64, metadata: Metadata },
    AcceptedTwice { connect: u32, conn_id: u64 },
    Rejected { connect: u32, reason: String, metadata: Metadata },
    ConnectionGoodbye { open: Open, reason: String },
    Goodbye { reason: String },
}

/// What was left open on a connection, as a value to compare: its calls, channels and handlers.
pub(super) type Open = (Vec<u32>, Vec<u32>, Vec<u32>);

pub(super) fn sorted(mut open: LeftOpen<Numbers>) -> Open {
    open.calls.sort_unstable();
    open.channels.sort_unstable();
    open.handlers.sort_unstable();
    (open.calls, open.channels, open.handlers)
}

impl From<Delivery<'_, '_, Numbers>> for Seen {
    fn from(delivery: Delivery<'_, '_, Numbers>) -> Self {
        match delivery {
            Delivery::Nothing => Seen::Nothing,
            Delivery::Request(Requested::Serve(request)) => Seen::Request {
                method_id: request.method_id,
                metadata: request.metadata,
                timeout: request.timeout,
            },
            Delivery::Request(Requested::Refuse { request_id, .. }) => Seen::Refused { request_id },
            Delivery::Response(Response { call, opened, .. }) => Seen::Response { call, opened },
            Delivery::Cancel { handler } => Seen::Cancel { handler },
            Delivery::Element { channel, payload, .. } => {
                Seen::Element { channel: *channel, payload: payload.to_vec() }
            }
            Delivery::Closed { channel, .. } => Seen::Closed { channel },
            Delivery::Reset { channel } => Seen::Reset { channel },
            Delivery::Credit { channel, bytes } => Seen::Credit { channel: *channel, bytes },
            Delivery::Connect { metadata, .. } => Seen::Connect { metadata },
            Delivery::TooManyConnections { limit, .. } => Seen::TooManyConnections { limit },
            Delivery::Accepted { connect, conn_id, metadata } => {
                Seen::Accepted { connect, conn_id, metadata }
            }
            Delivery::AcceptedTwice { connect, conn_id } => Seen::AcceptedTwice { connect, conn_id },
            Delivery::Rejected { connect, reason, metadata } => {
                Seen::Rejected { connect, reason: reason.to_owned(), metadata }
            }
            Delivery::ConnectionGoodbye { open, reason } => {
                Seen::ConnectionGoodbye { open: sorted(open), reason: reason.to_owned() }
            }
            Delivery::Goodbye { reason } => Seen::Goodbye { reason: reason.to_owned() },
        }
    }
}

/// The longest payload in these tests.
pub(super) const MAX_PAYLOAD: usize = 100;
/// How many of the peer's requests may run at once.
pub(super) const MAX_REQUESTS: u32 = 3;
/// How many virtual connections there may be.
pub(super) const MAX_CONNECTIONS: u32 = 4;
const QUOTA: Quota = Quota { requests: MAX_REQUESTS, connections: MAX_CONNECTIONS };
/// A method. The session does not care which.
pub(super) const METHOD: u64 = 0xadd;

/// A session, and the peer that sends to it.
pub(super) struct Scene {
    pub(super) session: Session<Numbers>,
    /// What the last violation cost.
    pub(super) breach: Option<ConnKey>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let limits = Limits { max_payload_size: MAX_PAYLOAD as u32, initial_channel_credit: 1000 };
        Scene { session: Session::new(Role::Acceptor, limits, QUOTA, 0), breach: None }
    }

    /// The peer sends a message of any kind.
    pub(super) fn message(
        &mut self,
        head: Head<'_>,
        channels: &[u64],
        payload: &[u8],
    ) -> Result<Seen, Violation> {
        let channels: Vec<_> =
            channels.iter().map(|id| ChannelRef { id: *id, slot: CreditSlot::NONE }).collect();
        match self.session.receive(&Message { head, channels: &channels, payload: Brought::Here(payload) }) {
            Ok(delivery) => Ok(delivery.into()),
            Err(Breach { costs, violation }) => {
                self.breach = Some(costs);
                Err(violation)
            }
        }
    }

    /// The peer sends a message without payload and channels.
    pub(super) fn head(&mut self, head: Head<'_>) -> Result<Seen, Violation> {
        self.message(head, &[], &[])
    }

    /// The peer sends a Request. If it is accepted, it is started and its channels are opened, each under
    /// its id as its local end, as the driver does.
    pub(super) fn request_with(
        &mut self,
        request_id: u64,
        metadata: &[u8],
        channels: &[u64],
        payload: &[u8],
    ) -> Result<Seen, Violation> {
        let head = Head::Request { conn_id: ROOT, request_id, method_id: METHOD, metadata };
        let seen = self.message(head, channels, payload)?;
        if let Seen::Request { .. } = seen {
            self.session.start(ConnKey::ROOT, request_id, None);
            self.open_peers(channels);
        }
        Ok(seen)
    }

    pub(super) fn request(&mut self, request_id: u64, channels: &[u64]) -> Result<Seen, Violation> {
        self.request_with(request_id, &[], channels, &[])
    }

    /// The peer sends a Response. Its channels are opened as those of a Request.
    pub(super) fn response_with(
        &mut self,
        request_id: u64,
        metadata: &[u8],
        channels: &[u64],
        payload: &[u8],
    ) -> Result<Seen, Violation> {
        let seen = self.message(Head::Response { conn_id: ROOT, request_id, metadata }, channels, payload)?;
        if let Seen::Response { .. } = seen {
            self.open_peers(channels);
        }
        Ok(seen)
    }

    pub(super) fn response(&mut self, request_id: u64, channels: &[u64]) -> Result<Seen, Violation> {
        self.response_with(request_id, &[], channels, &[])
    }

    /// We call. Returns the id of the request, which is also the number of its end.
    pub(super) fn call(&mut self, channels: &[u32]) -> u64 {
        let request_id = self.session.root.calls.next_id();
        self.session.root.calls.start(request_id as u32, channels.to_vec(), None);
        for channel in channels {
            let id = self.session.root.channels.next_id();
            self.session.root.channels.insert_own(id, *channel);
        }
        request_id
    }

    fn open_peers(&mut self, channels: &[u64]) {
        for id in channels {
            self.session.root.channels.insert_peers(*id, *id as u32);
        }
    }

    /// Ends the session; what was open on its root.
    pub(super) fn left_open(&mut self) -> Open {
        sorted(self.session.end().connections.remove(0))
    }

    pub(super) fn data(&mut self, channel_id: u64, payload: &[u8]) -> Result<Seen, Violation> {
        self.message(Head::Data { conn_id: ROOT, channel_id }, &[], payload)
    }

    pub(super) fn close(&mut self, channel_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Close { conn_id: ROOT, channel_id })
    }

    pub(super) fn reset(&mut self, channel_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Reset { conn_id: ROOT, channel_id })
    }

    pub(super) fn credit(&mut self, channel_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Credit { conn_id: ROOT, channel_id, bytes: 7 })
    }

    pub(super) fn cancel(&mut self, request_id: u64) -> Result<Seen, Violation> {
        self.head(Head::Cancel { conn_id: ROOT, request_id })
    }
}

/// A Request that was accepted, without metadata.
pub(super) fn accepted() -> Result<Seen, Violation> {
    Ok(Seen::Request { method_id: METHOD, metadata: Metadata::EMPTY, timeout: None })
}

/// The rule that was broken.
pub(super) fn rule(seen: &Result<Seen, Violation>) -> Option<&'static str> {
    seen.as_ref().err().map(Violation::rule)
}

//! What each message means (protocol sections 2 to 7): the rules, one handler a message.

use super::{
    Answered, Breach, Connection, Delivery, Ends, Incoming, ROOT, Requested, Response, Session,
    channels::Arrived,
    connections::{ConnKey, Named},
    metadata::Metadata,
};
use crate::{
    error::Violation,
    link::{Brought, Head, Message},
};

/// What a handler makes of a message.
type Delivered<'s, 'm, E> = Result<Delivery<'s, 'm, E>, Violation>;

/// Leaves a handler whose message is for a connection that is gone.
macro_rules! open_or_ignore {
    ($named:expr) => {
        match $named? {
            Some(connection) => connection,
            None => return Ok(Delivery::Nothing),
        }
    };
}

impl<E: Ends> Session<E> {
    /// Takes one message that arrived.
    ///
    /// # Errors
    ///
    /// The peer broke a rule.
    pub(crate) fn receive<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
    ) -> Result<Delivery<'s, 'm, E>, Breach> {
        let Some(costs) = self.accountable(&message.head) else { return Ok(Delivery::Nothing) };
        self.handle(message).map_err(|violation| Breach { costs, violation })
    }

    /// As [`receive`](Session::receive), for a Response: most of what a caller receives is one, and is not carried
    /// through a [`Delivery`], which has room for the longest of all. `None`: there is nothing to deliver.
    #[inline]
    pub(crate) fn receive_response<'m>(
        &mut self,
        message: &Message<'m>,
        conn_id: u64,
        request_id: u64,
        metadata: &[u8],
    ) -> Result<Option<Response<'m, E>>, Breach> {
        let Some(costs) = self.accountable(&message.head) else { return Ok(None) };
        self.response(message, conn_id, request_id, metadata).map_err(|violation| Breach { costs, violation })
    }

    /// As [`receive_response`](Session::receive_response), for a Request with its id and its method.
    #[inline]
    pub(crate) fn receive_request<'m>(
        &mut self,
        message: &Message<'m>,
        conn_id: u64,
        ids: (u64, u64),
        metadata: &[u8],
    ) -> Result<Option<Requested<'m>>, Breach> {
        let Some(costs) = self.accountable(&message.head) else { return Ok(None) };
        self.request(message, conn_id, ids, metadata).map_err(|violation| Breach { costs, violation })
    }

    fn handle<'s, 'm>(&'s mut self, message: &Message<'m>) -> Delivered<'s, 'm, E> {
        match message.head {
            // `message.hello.ordering`: "A second Hello: Goodbye".
            Head::Hello { .. } => Err(Violation::HelloOrdering),
            Head::Connect { request_id, metadata } => self.connect(request_id, metadata),
            Head::Accept { request_id, conn_id, metadata } => self.accepted(request_id, conn_id, metadata),
            Head::Reject { request_id, reason, metadata } => self.rejected(request_id, reason, metadata),
            Head::Goodbye { conn_id, reason } => Ok(self.goodbye(conn_id, reason)),
            Head::Request { conn_id, request_id, method_id, metadata } => {
                let request = self.request(message, conn_id, (request_id, method_id), metadata)?;
                Ok(request.map_or(Delivery::Nothing, Delivery::Request))
            }
            Head::Response { conn_id, request_id, metadata } => {
                let response = self.response(message, conn_id, request_id, metadata)?;
                Ok(response.map_or(Delivery::Nothing, Delivery::Response))
            }
            Head::Cancel { conn_id, request_id } => self.cancel(conn_id, request_id),
            Head::Data { conn_id, channel_id } => self.data(message, conn_id, channel_id),
            Head::Close { conn_id, channel_id } => self.closed(conn_id, channel_id),
            Head::Reset { conn_id, channel_id } => self.reset(conn_id, channel_id),
            Head::Credit { conn_id, channel_id, bytes } => {
                Ok(match open_or_ignore!(self.open(conn_id)).channels.arrived(channel_id)? {
                    Arrived::Open(entry) => Delivery::Credit { channel: &entry.channel, bytes },
                    Arrived::Spent => Delivery::Nothing,
                })
            }
        }
    }

    /// The connection that a message's violation costs. `None`: it is gone, and "what still arrives for it is dropped
    /// in silence", whatever is wrong with it.
    #[inline]
    fn accountable(&mut self, head: &Head<'_>) -> Option<ConnKey> {
        match head.conn_id() {
            None | Some(ROOT) => Some(ConnKey::ROOT),
            Some(conn_id) => self.accountable_virtual(conn_id),
        }
    }

    fn accountable_virtual(&mut self, conn_id: u64) -> Option<ConnKey> {
        match self.connections.named(conn_id) {
            Named::Open(key, _) => Some(key),
            Named::Gone => None,
            Named::Unknown => Some(ConnKey::ROOT),
        }
    }

    /// `message.conn-id`: the connection of a message, which must be open. `None`: it was, once.
    #[inline]
    fn open(&mut self, conn_id: u64) -> Result<Option<&mut Connection<E>>, Violation> {
        if conn_id == ROOT {
            return Ok(Some(&mut self.root));
        }
        match self.connections.named(conn_id) {
            Named::Open(_, connection) => Ok(Some(connection)),
            Named::Gone => Ok(None),
            Named::Unknown => Err(Violation::UnknownConnection { conn_id }),
        }
    }

    /// `flow.call.payload-limit`: "a receiver that gets one sends Goodbye".
    #[inline]
    fn check_payload(&self, payload: Brought<'_>) -> Result<(), Violation> {
        let limit = self.limits.max_payload_size as usize;
        if payload.len() > limit {
            return Err(Violation::PayloadLimit { len: payload.len(), limit });
        }
        Ok(())
    }

    fn connect<'s, 'm>(&'s mut self, request_id: u64, metadata: &[u8]) -> Delivered<'s, 'm, E> {
        let metadata = Metadata::decode(metadata)?;
        Ok(match self.connections.ask(request_id)? {
            Ok(()) => Delivery::Connect { request_id, metadata },
            Err(too_many) => Delivery::TooManyConnections { request_id, limit: too_many.limit },
        })
    }

    fn accepted<'s, 'm>(
        &'s mut self,
        request_id: u64,
        conn_id: u64,
        metadata: &[u8],
    ) -> Delivered<'s, 'm, E> {
        let metadata = Metadata::decode(metadata)?;
        let Some(connect) = self.connections.answered(request_id) else {
            tracing::debug!(request_id, "an accept to no connect was ignored");
            return Ok(Delivery::Nothing);
        };
        // "As long as no two live connections collide; where they would, the later one is refused, not mixed up."
        if self.connections.is_open(conn_id) {
            return Ok(Delivery::AcceptedTwice { connect, conn_id });
        }
        Ok(Delivery::Accepted { connect, conn_id, metadata })
    }

    fn rejected<'s, 'm>(
        &'s mut self,
        request_id: u64,
        reason: &'m str,
        metadata: &[u8],
    ) -> Delivered<'s, 'm, E> {
        let metadata = Metadata::decode(metadata)?;
        Ok(match self.connections.answered(request_id) {
            Some(connect) => Delivery::Rejected { connect, reason, metadata },
            None => {
                tracing::debug!(request_id, reason, "a reject to no connect was ignored");
                Delivery::Nothing
            }
        })
    }

    /// "Goodbye for an unknown connection is ignored."
    fn goodbye<'s, 'm>(&'s mut self, conn_id: u64, reason: &'m str) -> Delivery<'s, 'm, E> {
        if conn_id == ROOT {
            return Delivery::Goodbye { reason };
        }
        let Named::Open(key, _) = self.connections.named(conn_id) else { return Delivery::Nothing };
        match self.close(key) {
            Some(open) => Delivery::ConnectionGoodbye { open, reason },
            None => Delivery::Nothing,
        }
    }

    #[inline(always)] // as `response`
    fn request<'m>(
        &mut self,
        message: &Message<'m>,
        conn_id: u64,
        (request_id, method_id): (u64, u64),
        metadata: &[u8],
    ) -> Result<Option<Requested<'m>>, Violation> {
        self.check_payload(message.payload)?;
        let metadata = Metadata::decode(metadata)?;
        let is_full = self.running >= self.max_running || self.root.draining;
        let Some(connection) = self.open(conn_id)? else { return Ok(None) };
        connection.channels.take_ids(message.channels)?;
        let conn = connection.key;
        // `call.request-id.duplicate-detection`: "a duplicate of one in flight: Goodbye".
        if connection.serving.is_running(request_id) {
            return Err(Violation::DuplicateRequest { request_id });
        }
        if is_full || connection.draining {
            return Ok(Some(Requested::Refuse { conn, request_id }));
        }
        Ok(Some(Requested::Serve(Incoming {
            conn,
            request_id,
            method_id,
            timeout: metadata.timeout(),
            metadata,
            channels: message.channels,
            payload: message.payload,
        })))
    }

    #[inline(always)] // else it is not, for being called twice; what it returns is long
    fn response<'m>(
        &mut self,
        message: &Message<'m>,
        conn_id: u64,
        request_id: u64,
        metadata: &[u8],
    ) -> Result<Option<Response<'m, E>>, Violation> {
        self.check_payload(message.payload)?;
        let metadata = Metadata::decode(metadata)?;
        let Some(connection) = self.open(conn_id)? else { return Ok(None) };
        connection.channels.take_ids(message.channels)?;
        let conn = connection.key;
        // "A Response for an unknown id is ignored (and logged)."
        let Some(pending) = connection.calls.answered(request_id) else {
            ignored(request_id);
            return Ok(None);
        };
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove_call(deadline, conn, request_id);
        }
        Ok(Some(Response {
            call: pending.call,
            opened: pending.channels,
            answer: Answered { conn, metadata, channels: message.channels, payload: message.payload },
        }))
    }

    /// "Cancel for an unknown id is ignored."
    fn cancel<'s, 'm>(&'s mut self, conn_id: u64, request_id: u64) -> Delivered<'s, 'm, E> {
        let handler = open_or_ignore!(self.open(conn_id)).serving.take_handler(request_id);
        Ok(handler.map_or(Delivery::Nothing, |handler| Delivery::Cancel { handler }))
    }

    fn data<'s, 'm>(
        &'s mut self,
        message: &Message<'m>,
        conn_id: u64,
        channel_id: u64,
    ) -> Delivered<'s, 'm, E> {
        let (len, limit) = (message.payload.len(), self.limits.max_payload_size as usize);
        if len > limit {
            return Err(Violation::DataSizeLimit { len, limit });
        }
        let connection = open_or_ignore!(self.open(conn_id));
        let conn = connection.key;
        match connection.channels.arrived(channel_id)? {
            Arrived::Open(entry) if entry.closed => Err(Violation::DataAfterClose { channel_id }),
            Arrived::Open(entry) => {
                Ok(Delivery::Element { conn, channel: &entry.channel, payload: message.payload })
            }
            Arrived::Spent => Ok(Delivery::Nothing),
        }
    }

    fn closed<'s, 'm>(&'s mut self, conn_id: u64, channel_id: u64) -> Delivered<'s, 'm, E> {
        let connection = open_or_ignore!(self.open(conn_id));
        let conn = connection.key;
        match connection.channels.arrived(channel_id)? {
            Arrived::Open(entry) if entry.closed => Err(Violation::DataAfterClose { channel_id }),
            Arrived::Open(entry) => {
                // The entry stays until the reader is done, so that Data after Close is told apart.
                entry.closed = true;
                Ok(Delivery::Closed { conn, channel: entry.channel.clone() })
            }
            Arrived::Spent => Ok(Delivery::Nothing),
        }
    }

    fn reset<'s, 'm>(&'s mut self, conn_id: u64, channel_id: u64) -> Delivered<'s, 'm, E> {
        let channels = &mut open_or_ignore!(self.open(conn_id)).channels;
        if let Arrived::Spent = channels.arrived(channel_id)? {
            return Ok(Delivery::Nothing);
        }
        Ok(channels.remove(channel_id).map_or(Delivery::Nothing, |channel| Delivery::Reset { channel }))
    }
}

#[cold]
fn ignored(request_id: u64) {
    tracing::debug!(request_id, "a response to no call was ignored");
}

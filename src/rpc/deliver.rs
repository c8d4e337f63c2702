//! From messages that arrived to those who wait for them.
//!
//! One [`Delivery`](crate::session::Delivery) a message. The session's lock is kept from one message to the
//! next, so that a run of elements takes it once, and is let go before anything is handed to application
//! code. Tasks are woken at the end of the drain: one wake of a reader for all elements that it brought.
//!
//! Counts, per message: a call's answer is one look-up, one copy into a vector of its own (one allocation)
//! and one wake; an element is one look-up, one copy into its channel's queue and no allocation.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    task::Waker,
    time::Instant,
};

use tokio::task::AbortHandle;

use super::{
    channel::{Channel, End, Unclaimed},
    connection::Connection,
    dispatch::IncomingRequest,
    hub::{Hub, Local},
    respond::Responder,
    slot::{Answer, CallSlot, Outcome},
    waiters::lock,
};
use crate::{
    error::{LinkEnd, Violation},
    link::{ChannelRef, Message, Sink},
    session::{Answered, Delivery, Incoming, Session, answer::Verdict, deadlines::Due},
};

/// Takes the messages of one drain.
pub(crate) struct Deliver<'h> {
    hub: &'h Arc<Hub>,
    session: Option<MutexGuard<'h, Session<Local>>>,
    wakers: Vec<Waker>,
    /// What ends the link, found in a message.
    end: Option<LinkEnd>,
}

/// What is left to do for a message once the session is let go.
enum Todo<'m> {
    Nothing,
    Serve { connection: Connection, request: Incoming<'m>, channels: Unclaimed },
    Refuse { conn_id: u64, request_id: u64 },
    Complete { slot: Arc<CallSlot>, answer: Answer, dead: Vec<Arc<Channel>> },
    Abandoned { dead: Vec<Arc<Channel>>, channels: Unclaimed },
    Abort(AbortHandle),
    End(Arc<Channel>, End),
    LinkEnd(LinkEnd),
}

impl<'h> Deliver<'h> {
    pub(crate) fn new(hub: &'h Arc<Hub>) -> Self {
        Deliver { hub, session: None, wakers: Vec::new(), end: None }
    }

    /// Ends the drain: wakes everybody, and says if the link is to end.
    pub(crate) fn finish(mut self) -> Option<LinkEnd> {
        self.session = None;
        self.wakers.drain(..).for_each(Waker::wake);
        self.end.take()
    }

    /// Takes one message under the session's lock.
    fn receive<'m>(&mut self, message: &Message<'m>) -> Result<Todo<'m>, Violation> {
        let hub = self.hub;
        let session = self.session.get_or_insert_with(|| lock(&hub.session));
        Ok(match session.receive(message)? {
            Delivery::Nothing => Todo::Nothing,
            Delivery::Element { channel, payload } => {
                let id = channel.remote().map_or(0, |remote| remote.reference.id);
                self.wakers.extend(channel.push(id, payload)?);
                Todo::Nothing
            }
            Delivery::Credit { channel, bytes } => {
                if let Some(remote) = channel.remote() {
                    remote.credit.grant(bytes);
                }
                channel.wake_writers();
                Todo::Nothing
            }
            Delivery::Request(request) => return self.open_request(request),
            Delivery::Refused { conn_id, request_id } => Todo::Refuse { conn_id, request_id },
            Delivery::Response { call, opened, answer } => {
                let channels = self.open_channels(answer.conn_id, answer.channels)?;
                Self::response(call, opened, answer, channels)
            }
            Delivery::Cancel { handler } => Todo::Abort(handler),
            Delivery::Closed { channel } => Todo::End(channel, End::Closed),
            Delivery::Reset { channel } => Todo::End(channel, End::Reset),
            Delivery::Goodbye { reason } => Todo::LinkEnd(LinkEnd::Goodbye { reason: reason.into() }),
        })
    }

    fn open_request<'m>(&mut self, request: Incoming<'m>) -> Result<Todo<'m>, Violation> {
        let Some(connection) = self.hub.connection() else { return Ok(Todo::Nothing) };
        let channels = self.open_channels(request.conn_id, request.channels)?;
        let deadline = request.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let (conn_id, request_id) = (request.conn_id, request.request_id);
        let hub = self.hub;
        let session = self.session.get_or_insert_with(|| lock(&hub.session));
        if let Some(open) = session.connection(conn_id) {
            open.serving.start(request_id, deadline);
        }
        if let Some(at) = deadline
            && session.deadlines.add(at, Due::Request { conn_id, request_id })
        {
            hub.wake_driver();
        }
        Ok(Todo::Serve { connection, request, channels })
    }

    /// "A Response's channels exist for the caller from the moment the Response arrives."
    fn open_channels(&mut self, conn_id: u64, channels: &[ChannelRef]) -> Result<Unclaimed, Violation> {
        if channels.is_empty() {
            return Ok(Unclaimed::default());
        }
        let Some(connection) = self.hub.connection() else { return Ok(Unclaimed::default()) };
        let (hub, window) = (self.hub, self.hub.limits.initial_channel_credit);
        let session = self.session.get_or_insert_with(|| lock(&hub.session));
        let mut opened = VecDeque::with_capacity(channels.len());
        for reference in channels {
            if let Some(table) = hub.table() {
                if let Err(end) = table.check(reference.slot) {
                    self.end = Some(end);
                    break;
                }
                table.open(reference.slot, u64::from(window));
            }
            let channel = Channel::arrived(connection.clone(), conn_id, *reference, window);
            if let Some(open) = session.connection(conn_id) {
                open.channels.insert_peers(reference.id, Arc::clone(&channel));
            }
            opened.push_back(channel);
        }
        Ok(Unclaimed::new(opened))
    }

    fn response<'m>(
        call: Option<Arc<CallSlot>>,
        opened: Vec<Arc<Channel>>,
        answer: Answered<'m>,
        channels: Unclaimed,
    ) -> Todo<'m> {
        let kills = Verdict::split(answer.payload).is_none_or(|(verdict, _)| verdict.kills_channels());
        let dead = if kills { opened } else { Vec::new() };
        match call {
            Some(slot) => {
                let answer = Answer { payload: answer.payload.to_vec(), channels };
                Todo::Complete { slot, answer, dead }
            }
            None => Todo::Abandoned { dead, channels },
        }
    }

    /// "The call's channels are dead and their ids are spent."
    fn bury(&self, dead: Vec<Arc<Channel>>) {
        for channel in dead {
            channel.end(End::Reset);
            if let Some(remote) = channel.remote() {
                self.hub.forget_channel(remote);
            }
        }
    }

    /// Does what is left without the session's lock.
    fn carry_out(&mut self, todo: Todo<'_>) {
        let hub = self.hub;
        match todo {
            Todo::Nothing => {}
            Todo::Serve { connection, request, channels } => {
                IncomingRequest::arrived(connection, request, channels).dispatch(hub);
            }
            Todo::Refuse { conn_id, request_id } => {
                Responder::refuse_unopened(hub, conn_id, request_id);
            }
            Todo::Complete { slot, answer, dead } => {
                self.bury(dead);
                self.wakers.extend(slot.complete(Outcome::Answer(answer)));
            }
            Todo::Abandoned { dead, channels } => {
                self.bury(dead);
                drop(channels); // resets them
            }
            Todo::Abort(handler) => handler.abort(),
            Todo::End(channel, end) => {
                let reset = matches!(end, End::Reset);
                channel.end(end);
                if let Some(remote) = channel.remote()
                    && reset
                    && remote.own
                {
                    hub.give_back(remote.reference.slot);
                }
            }
            Todo::LinkEnd(end) => self.end = Some(end),
        }
    }
}

impl Sink for Deliver<'_> {
    fn message(&mut self, message: Message<'_>) -> bool {
        match self.receive(&message) {
            Ok(Todo::Nothing) => {}
            Ok(todo) => {
                self.session = None;
                self.carry_out(todo);
            }
            Err(violation) => self.end = Some(LinkEnd::Violation(violation)),
        }
        self.end.is_none()
    }
}

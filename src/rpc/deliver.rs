//! From messages that arrived to those who wait for them.
//!
//! One [`Delivery`](crate::session::Delivery) a message. The session's lock is kept from one message to the
//! next, so that a run of elements takes it once, and is let go before anything is handed to application
//! code. Tasks are woken at the end of the drain: one wake of a reader for all elements that it brought.
//!
//! Counts, per message: a call's answer is one look-up, one copy into a vector of its own (one allocation)
//! and one wake; a run of elements of one channel is
//! one look-up and one lock, and for each one copy and no allocation.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    task::Waker,
    time::Instant,
};

use tokio::task::AbortHandle;

use super::{
    channel::{Channel, End, Unclaimed, Way},
    connection::Connection,
    dispatch::IncomingRequest,
    elements::Elements,
    hub::{Hub, Local},
    respond::Responder,
    slot::{Answer, CallSlot, Outcome},
    waiters::lock,
};
use crate::{
    error::{LinkEnd, Violation},
    link::{ChannelRef, Head, Message, Sink},
    session::{Answered, Delivery, Incoming, Session, answer::Verdict, deadlines::Due},
};

/// Takes the messages of one drain.
pub(crate) struct Deliver<'h> {
    hub: &'h Arc<Hub>,
    session: Option<MutexGuard<'h, Session<Local>>>,
    wakers: Vec<Waker>,
    run: Option<Run>,
    /// What ends the link, found in a message.
    end: Option<LinkEnd>,
}

/// Elements of one channel that came one behind the other: looked up once, and put into the channel's queue
/// under one lock.
struct Run {
    channel: Arc<Channel>,
    conn_id: u64,
    channel_id: u64,
    elements: Elements,
    /// Bytes of payload.
    len: usize,
}

impl Run {
    #[inline]
    fn push(&mut self, payload: &[u8]) {
        self.elements.push(payload);
        self.len += payload.len();
    }
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
        Deliver { hub, session: None, wakers: Vec::new(), run: None, end: None }
    }

    /// Ends the drain: wakes everybody, and says if the link is to end.
    pub(crate) fn finish(mut self) -> Option<LinkEnd> {
        self.end_run();
        self.session = None;
        self.wakers.drain(..).for_each(Waker::wake);
        self.end.take()
    }

    /// One more element of the channel that had the last one.
    #[inline]
    fn continue_run(&mut self, message: &Message<'_>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let same = message.head == Head::Data { conn_id: run.conn_id, channel_id: run.channel_id };
        // A longer one is for the session to refuse.
        // And what cannot be within the credit is not collected: it is found out at the run's end.
        let fits = message.payload.len() <= self.hub.limits.max_payload_size as usize
            && run.len <= self.hub.limits.initial_channel_credit as usize;
        if same && fits {
            run.push(message.payload);
        }
        same && fits
    }

    /// Hands the run to its channel. What it breaks ends the link.
    fn end_run(&mut self) {
        let Some(mut run) = self.run.take() else { return };
        match run.channel.push(run.channel_id, &mut run.elements, run.len) {
            Ok(reader) => self.wakers.extend(reader),
            Err(violation) => self.end = Some(LinkEnd::Violation(violation)),
        }
        self.hub.keep_spare(run.elements);
    }

    /// Takes one message under the session's lock.
    fn receive<'m>(&mut self, message: &Message<'m>) -> Result<Todo<'m>, Violation> {
        let hub = self.hub;
        let session = self.session.get_or_insert_with(|| lock(&hub.session));
        // The driver may have ended the link while another thread drains: nothing is opened after that.
        if let Some(end) = hub.ended() {
            return Ok(Todo::LinkEnd(end.clone()));
        }
        Ok(match session.receive(message)? {
            Delivery::Nothing => Todo::Nothing,
            Delivery::Element { channel, payload } => {
                if let Head::Data { conn_id, channel_id } = message.head {
                    let (channel, elements) = (Arc::clone(channel), hub.take_spare());
                    let run = self.run.insert(Run { channel, conn_id, channel_id, elements, len: 0 });
                    run.push(payload);
                }
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
                self.response(call, opened, answer, channels)
            }
            Delivery::Cancel { handler } => Todo::Abort(handler),
            // "Close ends a channel normally, sent by its data sender."
            Delivery::Closed { channel } if lock(&channel.state).way == Way::Sending => {
                let channel_id = channel.remote().map_or(0, |remote| remote.reference.id);
                return Err(Violation::UnknownChannel { channel_id });
            }
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
        &mut self,
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
                if !answer.channels.is_empty() || !dead.is_empty() {
                    return Todo::Complete { slot, answer, dead };
                }
                // Nothing in it takes the session's lock, which the next answer needs again.
                self.wakers.extend(slot.complete(Outcome::Answer(answer)));
                Todo::Nothing
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
        if self.continue_run(&message) {
            return true;
        }
        self.end_run();
        if self.end.is_some() {
            return false;
        }
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

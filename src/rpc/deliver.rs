//! From messages that arrived to those who wait for them.
//!
//! One [`Delivery`](crate::session::Delivery) a message. The session's lock is kept from one message to the
//! next, so that a run of elements takes it once, and is let go before anything is handed to application
//! code. Tasks are woken at the end of the drain: one wake of a reader for all elements that it brought.
//!
//! Counts, per message: a call's answer is one look-up, one copy into its slot (no allocation in steady state)
//! and one wake; a run of elements of one channel is one look-up and one lock, and for each one copy and no allocation.
//! What came in memory of its own, in a block or as a long vector (`link::vector`), is not copied again.

mod requests;

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, MutexGuard},
    task::Waker,
};

use smallvec::SmallVec;

use super::{
    carried::Carried,
    channel::{Channel, End, Unclaimed, Way},
    connect::Connecting,
    connection::Connection,
    handler::Handler,
    hub::{Hub, Local},
    incoming::{IncomingConnection, NOT_LISTENING},
    payload::Payload,
    reason::Reason,
    run::Run,
    slot::{Answer, CallSlot, ConnectOutcome, Outcome},
    state::{ConnectionState, Guard},
    waiters::lock,
};
use crate::{
    error::{ConnectionEnd, LinkEnd, Violation},
    link::{Brought, ChannelRef, Head, Message, Sink, descriptors::Descriptors, vector::MIN_VECTOR},
    session::{
        Breach, Delivery, LeftOpen, Response, Session, answer::Verdict, connections::ConnKey,
        metadata::Metadata,
    },
};

/// Takes the messages of one drain.
pub(crate) struct Deliver<'h> {
    hub: &'h Arc<Hub>,
    session: Option<MutexGuard<'h, Session<Local>>>,
    /// Who is to be woken when the drain is over: room for as many as mostly are.
    wakers: SmallVec<[Waker; 8]>,
    run: Option<Run>,
    heard: bool,
    /// What ends the link, found in a message.
    end: Option<LinkEnd>,
    /// What came with the message at hand. One word, since nearly always that is nothing.
    carried: Option<Box<Carried>>,
}

/// What is left to do for a message once the session is let go.
enum Todo {
    Nothing,
    Complete {
        slot: Arc<CallSlot>,
        answer: Answer,
        dead: Vec<Arc<Channel>>,
    },
    Abandoned {
        dead: Vec<Arc<Channel>>,
        channels: Unclaimed,
    },
    Stop(Handler),
    End(Arc<Channel>, End),
    /// The peer asks for a connection.
    Decide(IncomingConnection),
    RejectMany {
        request_id: u64,
        limit: usize,
    },
    /// A Connect of ours has its answer. The service that goes with it, if it is of no use, is dropped with this:
    /// what that does is the application's.
    Connected(Connecting, ConnectOutcome),
    ConnectionOver(LeftOpen<Local>, ConnectionEnd),
    LinkEnd(LinkEnd),
}

impl<'h> Deliver<'h> {
    pub(crate) fn new(hub: &'h Arc<Hub>) -> Self {
        Deliver {
            hub,
            session: None,
            wakers: SmallVec::new(),
            run: None,
            heard: false,
            end: None,
            carried: None,
        }
    }

    /// Ends the drain: wakes everybody, and says if the link is to end.
    pub(crate) fn finish(mut self) -> Option<LinkEnd> {
        self.end_run();
        self.session = None;
        if self.heard {
            self.hub.note_heard();
        }
        self.hub.quieter();
        self.wakers.drain(..).for_each(Waker::wake);
        self.end.take()
    }

    /// The session, whose lock is kept until it is let go.
    #[inline]
    fn session(&mut self) -> &mut Session<Local> {
        let hub = self.hub;
        self.session.get_or_insert_with(|| lock(&hub.session))
    }

    /// One more element of the channel that had the last one.
    #[inline]
    fn continue_run(&mut self, message: &Message<'_>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let same = message.head == Head::Data { conn_id: run.conn.id, channel_id: run.channel_id };
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
            Err(violation) => self.breach(Breach { costs: run.conn, violation }),
        }
        self.hub.keep_spare(run.elements);
    }

    /// The peer broke a rule.
    fn breach(&mut self, Breach { costs, violation }: Breach) {
        if costs.is_root() {
            self.end = Some(LinkEnd::Violation(violation));
        } else {
            self.session = None;
            self.hub.violated(costs, violation);
        }
    }

    /// Takes one message under the session's lock.
    fn receive(&mut self, message: &Message<'_>) -> Result<Todo, Breach> {
        let hub = self.hub;
        let session = self.session();
        // The driver may have ended the link while another thread drains: nothing is opened after that.
        if let Some(end) = hub.ended() {
            return Ok(Todo::LinkEnd(end.clone()));
        }
        match message.head {
            Head::Response { conn_id, request_id, metadata } => {
                let response = session.receive_response(message, conn_id, request_id, metadata)?;
                return Ok(response.map_or(Todo::Nothing, |response| self.response(response)));
            }
            Head::Request { conn_id, request_id, method_id, metadata } => {
                let request = session.receive_request(message, conn_id, (request_id, method_id), metadata)?;
                return Ok(request.map_or(Todo::Nothing, |request| self.request(request)));
            }
            _ => {}
        }
        Ok(match session.receive(message)? {
            Delivery::Nothing => Todo::Nothing,
            Delivery::Element { conn, channel, payload } => {
                if let Head::Data { channel_id, .. } = message.head {
                    let (channel, elements) = (Arc::clone(channel), hub.take_spare());
                    let run = self.run.insert(Run { channel, conn, channel_id, elements, len: 0 });
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
            Delivery::Request(request) => self.request(request),
            Delivery::Response(response) => self.response(response),
            Delivery::Cancel { handler } => Todo::Stop(handler),
            // "Close ends a channel normally, sent by its data sender."
            Delivery::Closed { conn, channel } if lock(&channel.state).way == Way::Sending => {
                let channel_id = channel.remote().map_or(0, |remote| remote.reference.id);
                return Err(Breach { costs: conn, violation: Violation::UnknownChannel { channel_id } });
            }
            Delivery::Closed { channel, .. } => Todo::End(channel, End::Closed),
            Delivery::Reset { channel } => Todo::End(channel, End::Reset),
            Delivery::Connect { request_id, metadata } => match hub.root.handle() {
                Some(link) => Todo::Decide(IncomingConnection::new(link, request_id, metadata)),
                None => Todo::Nothing, // the link is closing
            },
            Delivery::TooManyConnections { request_id, limit } => Todo::RejectMany { request_id, limit },
            Delivery::Accepted { connect, conn_id, metadata } => {
                self.open_connection(connect, conn_id, metadata)
            }
            Delivery::AcceptedTwice { connect, conn_id } => {
                Todo::Connected(connect, ConnectOutcome::IdInUse { conn_id })
            }
            Delivery::Rejected { connect, reason, metadata } => {
                Todo::Connected(connect, ConnectOutcome::Rejected { reason: reason.to_owned(), metadata })
            }
            Delivery::ConnectionGoodbye { open, reason } => connection_goodbye(open, reason),
            Delivery::Goodbye { reason } => Todo::LinkEnd(LinkEnd::Goodbye { reason: reason.into() }),
        })
    }

    /// "A Response's channels exist for the caller from the moment the Response arrives."
    #[inline]
    fn open_channels(&mut self, conn: ConnKey, channels: &[ChannelRef]) -> Unclaimed {
        if channels.is_empty() { Unclaimed::default() } else { self.open_some(conn, channels) }
    }

    fn open_some(&mut self, conn: ConnKey, channels: &[ChannelRef]) -> Unclaimed {
        let Some(connection) = self.handle(conn) else { return Unclaimed::default() };
        let (hub, window) = (self.hub, self.hub.limits.initial_channel_credit);
        let session = self.session();
        let mut opened = VecDeque::with_capacity(channels.len());
        for reference in channels {
            if let Some(table) = hub.table() {
                if let Err(end) = table.check(reference.slot) {
                    self.end = Some(end);
                    break;
                }
                table.open(reference.slot, u64::from(window));
            }
            let channel = Channel::arrived(connection.clone(), conn, *reference, window);
            if let Some(open) = session.connection(conn) {
                open.channels.insert_peers(reference.id, Arc::clone(&channel));
            }
            opened.push_back(channel);
        }
        Unclaimed::new(opened)
    }

    /// Adds the descriptors that came with the message, if they are all there.
    fn with_descriptors(&mut self, channels: Unclaimed) -> Unclaimed {
        match self.carried.as_deref_mut() {
            Some(Carried::Here(descriptors)) => channels.with_descriptors(mem::take(descriptors)),
            _ => channels,
        }
    }

    /// The handle of an open connection; `None` while it is closing.
    #[inline]
    fn handle(&mut self, conn: ConnKey) -> Option<Connection> {
        let session = self.session();
        session.connection(conn)?.local.handle()
    }

    /// The connection exists from the moment its Accept arrives: what comes behind it must find it.
    fn open_connection(&mut self, mut connect: Connecting, conn_id: u64, metadata: Metadata) -> Todo {
        let hub = self.hub;
        let Some(link) = hub.root.handle() else {
            return Todo::Connected(connect, ConnectOutcome::Ended(LinkEnd::Closed)); // the link is closing
        };
        let dispatcher = connect.dispatcher.take();
        let session = self.session();
        let mut opened = None;
        session.open_accepted(conn_id, |key| {
            let state = ConnectionState::new(key, dispatcher, metadata);
            Arc::clone(opened.insert(state))
        });
        match opened {
            Some(state) => {
                let connection = Guard::first(Arc::clone(hub), state, Some(link));
                Todo::Connected(connect, ConnectOutcome::Accepted(connection))
            }
            None => Todo::Nothing,
        }
    }

    #[inline]
    fn response(&mut self, response: Response<'_, Local>) -> Todo {
        let Response { call, opened, answer } = response;
        let nothing_opened = opened.is_empty() && answer.channels.is_empty();
        if nothing_opened
            && answer.metadata.is_empty()
            && self.carried.is_none()
            && let (Some(slot), Brought::Here(payload)) = (&call, answer.payload)
            && payload.len() < MIN_VECTOR
        {
            // Nothing in it takes the session's lock, which the next answer needs again.
            if let Some(waker) = slot.answer(payload) {
                self.wakers.push(waker);
            }
            return Todo::Nothing;
        }
        self.response_with_more(Response { call, opened, answer })
    }

    /// An answer that is more than a short payload, or for nobody.
    #[inline(never)]
    fn response_with_more(&mut self, response: Response<'_, Local>) -> Todo {
        let Response { call, opened, answer } = response;
        let channels = if self.hub.admits(answer.channels.len()) {
            self.open_channels(answer.conn, answer.channels)
        } else {
            self.hub.refuse_channels(answer.conn, answer.channels);
            Unclaimed::default() // of which the answer lacks some, so that it is not read
        };
        if let Some(Carried::Lost(why)) = self.carried.as_deref_mut() {
            let why = mem::take(why);
            return lost(call, why, channels);
        }
        let channels = self.with_descriptors(channels);
        let kills = answer.verdict().is_none_or(Verdict::kills_channels);
        let dead = if kills { opened } else { Vec::new() };
        match call {
            Some(slot) => {
                let payload = Payload::answer(answer.payload);
                let metadata = (!answer.metadata.is_empty()).then(|| Box::new(answer.metadata));
                let answer = Answer { payload, channels, metadata };
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
    fn carry_out(&mut self, todo: Todo) {
        let hub = self.hub;
        match todo {
            Todo::Nothing => {}
            Todo::Complete { slot, answer, dead } => {
                self.bury(dead);
                self.wakers.extend(slot.complete(Outcome::Answer(answer)));
            }
            Todo::Abandoned { dead, channels } => {
                self.bury(dead);
                drop(channels); // resets them
            }
            Todo::Stop(handler) => handler.stop(),
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
            Todo::Decide(incoming) => decide(hub, incoming),
            Todo::RejectMany { request_id, limit } => hub.reject_unasked(request_id, limit),
            Todo::Connected(connect, outcome) => self.wakers.extend(connect.slot.complete(outcome)),
            Todo::ConnectionOver(open, end) => hub.connection_over(open, end),
            Todo::LinkEnd(end) => self.end = Some(end),
        }
    }
}

/// An answer whose descriptors could not be had: as if the peer could not send it. It ran, and its answer is not whole.
#[cold]
fn lost(call: Option<Arc<CallSlot>>, why: String, channels: Unclaimed) -> Todo {
    let Some(slot) = call else { return Todo::Abandoned { dead: Vec::new(), channels } };
    let payload = Payload::Copied(Verdict::Cancelled.bytes().to_vec());
    let metadata = Some(Box::new(Reason::Unsent(why).to_metadata()));
    Todo::Complete { slot, answer: Answer { payload, channels, metadata }, dead: Vec::new() }
}

/// The peer has ended a connection: how, before anybody finds it closed. Under the session's lock.
fn connection_goodbye(open: LeftOpen<Local>, reason: &str) -> Todo {
    let end = ConnectionEnd::Goodbye { reason: reason.into() };
    open.local.set_ended(end.clone().into());
    Todo::ConnectionOver(open, end)
}

/// Lets the application decide on a connection that the peer asks for.
fn decide(hub: &Hub, incoming: IncomingConnection) {
    match &hub.on_connect {
        None => incoming.reject(NOT_LISTENING),
        Some(on_connect) => {
            if catch_unwind(AssertUnwindSafe(|| on_connect(incoming))).is_err() {
                tracing::error!("deciding on a connection panicked; it was rejected");
            }
        }
    }
}

impl Sink for Deliver<'_> {
    fn descriptors(&mut self, descriptors: Option<Descriptors>) {
        let carried = Carried::arrived(self.hub, descriptors);
        if let Carried::Lost(why) = &carried {
            self.session = None; // a subscriber may send the log over this very link
            tracing::warn!(why, "the descriptors of a message were closed");
        }
        self.carried = Some(Box::new(carried));
    }

    fn about_to_copy(&mut self) {
        self.session = None;
    }

    fn message(&mut self, message: Message<'_>) -> bool {
        self.heard = true;
        if self.continue_run(&message) {
            return true;
        }
        if self.run.is_some() {
            self.end_run();
            if self.end.is_some() {
                return false;
            }
        }
        match self.receive(&message) {
            // It holds nothing, which the compiler does not see: it would look for what there is to drop, each time.
            Ok(todo @ Todo::Nothing) => mem::forget(todo),
            Ok(todo) => {
                self.session = None;
                self.carry_out(todo);
            }
            Err(breach) => self.breach(breach),
        }
        if self.carried.is_some() {
            self.carried = None;
        }
        self.end.is_none()
    }
}

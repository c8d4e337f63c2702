//! A connection under test: our side in service, the raw peer, and the steps that most cases are made of.

use std::{any::Any, fmt::Debug, mem, ops::Deref, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use super::{
    links::{Ground, Place, Process},
    note::{Entries, Note},
    peer::{Heard, Peer},
    service::{Event, Handlers, NOP, THEIRS},
};
use crate::{
    error::{ConnectionEnd, LinkEnd, Violation},
    link::Role,
    rpc::{
        connect::ConnectOptions,
        connection::Connection,
        errors::CallError,
        incoming::IncomingConnection,
        method::Method,
        rx::Rx,
        tx::{Tx, channel},
    },
};

/// A link, and the connection of it that a case is about.
pub(super) struct Rig {
    pub(super) ground: Ground,
    pub(super) peer: Peer,
    pub(super) process: Process,
    line: Line,
    /// The link's other connections: the root first, unless the case is about it.
    pub(super) others: Vec<Line>,
    /// Connections that the peer asks for.
    asking: mpsc::UnboundedReceiver<IncomingConnection>,
    next_connect: u64,
    kept: Vec<Box<dyn Any + Send>>,
}

/// One connection of a link, with a service of its own on our side.
pub(super) struct Line {
    /// As the wire names it.
    pub(super) conn: u64,
    /// Our handle of it.
    pub(super) ours: Connection,
    /// Opens for the handlers that wait at it.
    pub(super) gate: Arc<Semaphore>,
    seen: mpsc::UnboundedReceiver<Event>,
    /// The peer's next ids.
    next_request: u64,
    next_channel: u64,
}

impl Line {
    pub(super) fn new(
        role: Role,
        ours: Connection,
        seen: mpsc::UnboundedReceiver<Event>,
        gate: Arc<Semaphore>,
    ) -> Self {
        let next_channel = if role == Role::Acceptor { 1 } else { 2 };
        Line { conn: ours.id(), ours, gate, seen, next_request: 1, next_channel }
    }
}

impl Deref for Rig {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

/// A call of ours, under way.
pub(super) type Calling<T = ()> = JoinHandle<Result<T, CallError<u8>>>;

/// A call of ours that a stream belongs to.
pub(super) struct Streaming<Half> {
    pub(super) half: Half,
    pub(super) call: Calling,
    pub(super) request_id: u64,
    pub(super) channel_id: u64,
}

/// The payload of a Response: the handler returned nothing.
pub(super) const OK: &[u8] = &[0];
/// The service's own error 7.
pub(super) const USER_7: &[u8] = &[1, 0, 7];
pub(super) const UNKNOWN_METHOD: &[u8] = &[1, 1];
pub(super) const INVALID_PAYLOAD: &[u8] = &[1, 2];
pub(super) const CANCELLED: &[u8] = &[1, 3];

impl Rig {
    pub(super) fn new(
        ground: Ground,
        line: Line,
        peer: Peer,
        process: Process,
        asking: mpsc::UnboundedReceiver<IncomingConnection>,
    ) -> Self {
        let (others, kept) = (Vec::new(), Vec::new());
        Rig { ground, peer, process, line, others, asking, next_connect: 1, kept }
    }

    /// Opens a virtual connection on the link.
    pub(super) async fn open_line(&mut self, place: Place) -> Line {
        let (handlers, seen, gate) = Handlers::new();
        let options = ConnectOptions::new().serve(handlers);
        let ours = match place {
            Place::Root => panic!("a link has one root"),
            Place::Accepted => {
                let (request_id, incoming) = self.asked(Vec::new()).await;
                let ours = incoming.accept(options).expect("the link lives");
                let (conn_id, metadata) = (ours.id(), Vec::new());
                self.hears(Note::Accept { request_id, conn_id, metadata }).await;
                ours
            }
            Place::Connected => {
                let link = self.ours.link().clone();
                let connecting = tokio::spawn(async move { link.connect(options).await });
                let Note::Connect { request_id, .. } = self.hear().await else { panic!("no connect") };
                // Ids of the peer's parity, which it has not given yet.
                let conn_id = self.peers_conn_id(request_id);
                self.say(Note::Accept { request_id, conn_id, metadata: Vec::new() }).await;
                of(connecting).await.expect("the peer has accepted")
            }
        };
        Line::new(self.ground.role, ours, seen, gate)
    }

    /// The `index`th connection id of the peer's parity, counted from 1.
    pub(super) fn peers_conn_id(&self, index: u64) -> u64 {
        if self.ground.role == Role::Acceptor { 2 * index - 1 } else { 2 * index }
    }

    /// The peer asks for a connection, which waits for our side's decision. Its request's id.
    pub(super) async fn asked(&mut self, metadata: Entries) -> (u64, IncomingConnection) {
        let request_id = self.fresh_connect();
        self.say(Note::Connect { request_id, metadata }).await;
        (request_id, self.incoming().await)
    }

    /// The next connection that the peer asks for.
    pub(super) async fn incoming(&mut self) -> IncomingConnection {
        self.asking.recv().await.expect("the link lives")
    }

    /// A request id for a Connect of the peer's.
    pub(super) fn fresh_connect(&mut self) -> u64 {
        self.next_connect += 1;
        self.next_connect - 1
    }

    /// From now on the case is about another connection of the link.
    pub(super) fn go_to(&mut self, line: Line) {
        let left = mem::replace(&mut self.line, line);
        self.others.push(left);
    }

    /// Does something on another connection of the link.
    pub(super) async fn on<T>(&mut self, line: &mut Line, does: impl AsyncFnOnce(&mut Rig) -> T) -> T {
        mem::swap(&mut self.line, line);
        let done = does(self).await;
        mem::swap(&mut self.line, line);
        done
    }

    /// Drops our handle of the connection, and keeps everything else of the link: the peer, and the rest.
    pub(super) fn let_go(self) -> (Peer, impl Sized) {
        let Rig { peer, process, line, others, asking, kept, .. } = self;
        let Line { ours, seen, gate, .. } = line;
        drop(ours);
        (peer, (process, others, asking, kept, seen, gate))
    }

    /// Keeps something for as long as the link is looked at.
    pub(super) fn keep(&mut self, kept: impl Any + Send) {
        self.kept.push(Box::new(kept));
    }

    pub(super) async fn say(&mut self, note: Note) {
        self.peer.say(note).await;
    }

    /// The next message that the peer hears.
    pub(super) async fn hear(&mut self) -> Note {
        match self.peer.hear().await {
            Heard::Note(note) => note,
            Heard::End => panic!("the link ended: {:?}", self.ours.end()),
        }
    }

    /// The peer hears this next.
    pub(super) async fn hears(&mut self, expected: Note) {
        let heard = self.peer.hear().await;
        assert_eq!(heard, Heard::Note(expected), "and the connection: {:?}", self.ours.end());
    }

    /// The peer hears the end of the link next.
    pub(super) async fn hears_the_end(&mut self) {
        assert_eq!(self.peer.hear().await, Heard::End);
    }

    /// What a handler saw next.
    pub(super) async fn event(&mut self) -> Event {
        self.line.seen.recv().await.expect("the service lives")
    }

    /// What handlers saw and nobody asked for.
    pub(super) fn unseen(&mut self) -> Option<Event> {
        self.line.seen.try_recv().ok()
    }

    /// How the end of the connection looks on our side when the peer broke this rule on it.
    pub(super) fn violated(&self, violation: &Violation) -> LinkEnd {
        match self.ground.place {
            Place::Root => LinkEnd::Violation(violation.clone()),
            Place::Accepted | Place::Connected => ConnectionEnd::Violation(violation.clone()).into(),
        }
    }

    /// A request id of the peer's that it has not used.
    pub(super) fn fresh_request(&mut self) -> u64 {
        self.line.next_request += 1;
        self.line.next_request - 1
    }

    /// A channel id of the peer's that it has not used.
    pub(super) fn fresh_channel(&mut self) -> u64 {
        self.line.next_channel += 2;
        self.line.next_channel - 2
    }

    /// The first channel id of our side, which it has not used yet.
    pub(super) fn our_first_channel(&self) -> u64 {
        if self.ground.role == Role::Acceptor { 2 } else { 1 }
    }

    /// The peer calls a method of ours. Its request's id.
    pub(super) async fn peer_calls(&mut self, method: &Method, payload: &[u8]) -> u64 {
        let request_id = self.fresh_request();
        self.say(Note::request(self.conn, request_id, method, payload)).await;
        request_id
    }

    /// The peer calls a method that takes one stream, and perhaps more arguments. The request's id, and the
    /// channel's.
    pub(super) async fn peer_opens(&mut self, method: &Method, arguments: &[u8]) -> (u64, u64) {
        let (request_id, channel_id) = (self.fresh_request(), self.fresh_channel());
        self.say(self.opening(request_id, method, channel_id, arguments)).await;
        (request_id, channel_id)
    }

    /// A Request with one stream as its first argument.
    pub(super) fn opening(
        &self,
        request_id: u64,
        method: &Method,
        channel_id: u64,
        arguments: &[u8],
    ) -> Note {
        // What stands for the stream in the payload is ignored.
        let payload = [&[0][..], arguments].concat();
        Note::request(self.conn, request_id, method, &payload).naming(&[channel_id])
    }

    /// The peer hears the answer to a request of its own next.
    pub(super) async fn hears_answer(&mut self, request_id: u64, payload: &[u8]) {
        self.hears(Note::response(self.conn, request_id, payload)).await;
    }

    /// The peer answers a call of ours.
    pub(super) async fn answer(&mut self, request_id: u64, payload: &[u8]) {
        self.say(Note::response(self.conn, request_id, payload)).await;
    }

    /// The peer hears a call of ours next: its request's id, and its channels.
    pub(super) async fn hears_call(&mut self) -> (u64, Vec<u64>) {
        match self.hear().await {
            Note::Request { conn_id, request_id, channels, .. } if conn_id == self.conn => {
                (request_id, channels)
            }
            other => panic!("{other:?} is no request on connection {}", self.conn),
        }
    }

    /// Our side calls a method that the peer answers with nothing, or with the service's error.
    pub(super) fn call(&self) -> Calling {
        tokio::spawn(self.ours.call::<(), (), u8>(&THEIRS, ()))
    }

    /// Our side makes a call, which the peer hears. The request's id.
    pub(super) async fn calling(&mut self) -> (Calling, u64) {
        let call = self.call();
        let (request_id, channels) = self.hears_call().await;
        assert!(channels.is_empty());
        (call, request_id)
    }

    /// Our side makes a call whose callee is to receive what our side sends.
    pub(super) async fn calling_to_send(&mut self) -> Streaming<Tx<Vec<u8>>> {
        let (tx, rx) = channel();
        let call = tokio::spawn(self.ours.call::<(Rx<Vec<u8>>,), (), u8>(&THEIRS, (rx,)));
        self.streaming(tx, call).await
    }

    /// Our side makes a call whose callee is to send what our side receives.
    pub(super) async fn calling_to_receive(&mut self) -> Streaming<Rx<Vec<u8>>> {
        let (tx, rx) = channel();
        let call = tokio::spawn(self.ours.call::<(Tx<Vec<u8>>,), (), u8>(&THEIRS, (tx,)));
        self.streaming(rx, call).await
    }

    async fn streaming<Half>(&mut self, half: Half, call: Calling) -> Streaming<Half> {
        let (request_id, channels) = self.hears_call().await;
        let [channel_id] = channels[..] else { panic!("{channels:?}") };
        Streaming { half, call, request_id, channel_id }
    }

    /// The connection is in use both ways, and the peer has heard nothing that a case did not ask for: each side calls
    /// the other, and nothing comes in between.
    pub(super) async fn goes_on(&mut self) {
        let request_id = self.peer_calls(&NOP, &[]).await;
        self.hears_answer(request_id, OK).await;
        let (call, request_id) = self.calling().await;
        self.answer(request_id, OK).await;
        call.await.expect("nobody stops it").expect("the peer has answered");
        if let Some(event) = self.unseen() {
            panic!("{event:?} was not asked for");
        }
    }
}

/// An element of a stream of byte vectors that takes `len` bytes on the wire.
pub(super) fn element(len: usize) -> Vec<u8> {
    let head = if len > 128 { 2 } else { 1 };
    let element = postcard::to_extend(&vec![7_u8; len - head], Vec::new()).expect("it has an encoding");
    assert_eq!(element.len(), len);
    element
}

/// The value that [`element`] encodes.
pub(super) fn value(len: usize) -> Vec<u8> {
    vec![7; len - if len > 128 { 2 } else { 1 }]
}

/// What a task found out.
pub(super) async fn of<T>(task: JoinHandle<T>) -> T {
    task.await.expect("nobody stops it")
}

/// Both say the same.
pub(super) fn assert_same(found: &impl Debug, expected: &impl Debug) {
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

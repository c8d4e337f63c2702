//! The one answer to each request.

use std::{
    future::poll_fn,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use serde::Serialize;

use super::{
    channel::{Channel, End},
    connect::encoded,
    connection::Connection,
    dedup::Recorder,
    errors::{Blocked, Never, Obstacle, SendError},
    hub::{Holds, Hub, Local, Patience, Place},
    intercept::Outcome,
    outgoing::{Bytes, Outgoing},
    payload::Payload,
    reason::Reason,
    scope::{self, Bindings, Bound, Encoded},
    waiters::lock,
    wire::encode_value,
};
use crate::{
    link::{Body, ChannelRef, EncodeFault, Encoder, Head, SendFault, message::encode_into},
    session::{Session, answer::Verdict, connections::ConnKey, metadata::Metadata},
};

/// Answers one request, exactly once: dropped without an answer (its handler was stopped, or it panicked) it
/// answers Cancelled.
pub(crate) struct Responder {
    connection: Connection,
    request_id: u64,
    answered: bool,
    /// What it holds on this side, until this is gone.
    holds: Holds,
    /// `None`, as nearly always: there is nothing of it. It goes from hand to hand with each request.
    rare: Option<Box<Rare>>,
}

/// What few requests have.
#[derive(Default)]
struct Rare {
    /// Those that the request opened.
    channels: Vec<u64>,
    /// Remembers the answer, for the same request when it comes again.
    recorder: Option<Recorder>,
    /// Where the reason stands if it is dropped because an interceptor rejects the request.
    rejected: Option<Arc<OnceLock<Reason>>>,
}

/// What a handler returned. What is done with it is compiled once, not once a method.
pub(crate) trait Returned {
    /// `Ok`, or `User` for an error of its own.
    fn verdict(&self) -> Verdict;

    /// Appends the value or the error.
    fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()>;
}

impl<T: Serialize + 'static, E: Serialize + 'static> Returned for Result<T, E> {
    fn verdict(&self) -> Verdict {
        if self.is_ok() { Verdict::Ok } else { Verdict::User }
    }

    fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()> {
        match self {
            Ok(value) => encode_value(value, out),
            Err(error) => encode_value(error, out),
        }
    }
}

impl Responder {
    /// For a request that opened channels, and that holds something until this is gone.
    #[inline]
    pub(crate) fn new(connection: Connection, request_id: u64, opened: &[ChannelRef], holds: Holds) -> Self {
        let rare = (!opened.is_empty()).then(|| {
            let channels = opened.iter().map(|channel| channel.id).collect();
            Box::new(Rare { channels, ..Rare::default() })
        });
        Responder { connection, request_id, answered: false, holds, rare }
    }

    /// What serves the request is done with it.
    fn let_go(&mut self) {
        self.connection.hub().held.let_go(std::mem::take(&mut self.holds));
    }

    /// The answer is to be remembered.
    pub(crate) fn record_with(&mut self, recorder: Recorder) {
        self.rare.get_or_insert_default().recorder = Some(recorder);
    }

    /// Where to leave the reason before this is dropped, if the request is rejected.
    pub(crate) fn rejected_by(&mut self) -> Arc<OnceLock<Reason>> {
        Arc::clone(self.rare.get_or_insert_default().rejected.get_or_insert_default())
    }

    /// Whether the answer is remembered, so that the handler has a reason to go on when nobody waits here.
    pub(crate) fn is_recorded(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.recorder.is_some())
    }

    #[inline]
    fn take_recorder(&mut self) -> Option<Recorder> {
        self.rare.as_mut()?.recorder.take()
    }

    /// Answers with what the handler returned. Waits while the link is full, or if the result opens channels,
    /// and all of the link's are in use: so what waits for a peer that does not read is bounded by the
    /// requests that it may have running.
    ///
    /// The result is encoded straight into the link, under the locks of session and sender. The responder stays where it
    /// is: moved into the future, it would be there several times over.
    pub(crate) async fn result(&mut self, result: &mut (dyn Returned + Send)) -> Outcome {
        if let Some(recorder) = self.take_recorder()
            && let Some(payload) = recorded(recorder, result, self.connection.hub())
        {
            return Box::pin(self.payload(payload)).await;
        }
        let verdict = result.verdict();
        let mut place = Place::default();
        let sent = poll_fn(move |cx| {
            self.poll_answer(cx, &mut place, &[], &mut |out, first_id| {
                out.extend(verdict.bytes());
                if verdict == Verdict::Ok {
                    return scope::encoding(first_id, &mut || result.encode(out));
                }
                // "and not inside an error type": no scope, so that a handle refuses.
                scope::without_scope(|| result.encode(out))?;
                Ok(None)
            })
        })
        .await;
        Outcome::of(Some(verdict)).sent(sent)
    }

    /// Answers with a payload that is there already. Waits as [`result`](Responder::result).
    pub(crate) async fn payload(&mut self, payload: Arc<[u8]>) -> Outcome {
        let mut place = Place::default();
        let outcome = Outcome::of(Verdict::split(&payload).map(|(verdict, _)| verdict));
        let sent = poll_fn(move |cx| {
            self.poll_answer(cx, &mut place, &[], &mut |out, _| {
                out.extend(&payload);
                Ok(None)
            })
        })
        .await;
        outcome.sent(sent)
    }

    /// Answers with whatever `encode` writes, and with encoded metadata. `false`: that cannot be sent, and the answer
    /// was Cancelled.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &Context<'_>,
        place: &mut Place,
        metadata: &[u8],
        encode: &mut EncodeAnswer<'_>,
    ) -> Poll<bool> {
        self.let_go(); // before the peer can know, and sends the next
        let attempt = |patience| answer(self, metadata, encode, patience).map_err(Obstacle::Blocked);
        let answered = self.connection.hub().poll_attempt::<_, Never>(cx, place, attempt);
        answered.map(|sent| {
            self.answered = true;
            sent.unwrap_or_else(|never| match never {})
        })
    }

    /// Answers with an error of the protocol.
    pub(crate) fn refuse(self, verdict: Verdict) {
        self.refuse_alike(verdict, &[]);
    }

    /// Answers with the error of the protocol that somebody else has answered, and with encoded metadata.
    pub(crate) fn refuse_alike(mut self, verdict: Verdict, metadata: &[u8]) {
        // Of what was Cancelled somewhere else nobody knows how far it came, unless it was rejected.
        let did_not_run = verdict != Verdict::Cancelled
            || Metadata::decode(metadata)
                .is_ok_and(|said| matches!(Reason::of(&said), Some(Reason::Rejected(_))));
        if let (Some(recorder), true) = (self.take_recorder(), did_not_run) {
            recorder.withdraw(verdict);
        }
        self.refuse_with(verdict, metadata);
    }

    /// The answer that is about to be given, for those who ask again. `alone`: it opens channels or carries descriptors,
    /// so that it is for this caller alone, and the record is that nobody knows.
    pub(crate) fn record(&mut self, payload: &mut Payload<'_>, alone: bool) {
        if let Some(recorder) = self.take_recorder()
            && !alone
        {
            recorder.record(&payload.whole().into());
        }
    }

    /// Answers Cancelled, and says why.
    pub(crate) fn cancel(mut self, reason: &Reason) {
        self.cancel_with(reason);
    }

    fn cancel_with(&mut self, reason: &Reason) {
        // A request that was rejected did not run; of one that was handed on nothing is known.
        if let (Some(recorder), Reason::Rejected(_)) = (self.take_recorder(), reason) {
            recorder.withdraw(Verdict::Cancelled);
        }
        // Within its limits by its make.
        let metadata = encoded(&reason.to_metadata()).unwrap_or_default();
        self.refuse_with(Verdict::Cancelled, &metadata);
    }

    /// Answers Cancelled to a request that was never opened here.
    pub(crate) fn refuse_unopened(hub: &Hub, conn: ConnKey, request_id: u64) {
        let mut session = lock(&hub.session);
        if session.connection(conn).is_some() {
            let mut out = lock(&hub.out);
            send_verdict(hub, &mut out, conn, request_id, Verdict::Cancelled, &[]);
        }
    }

    fn refuse_with(&mut self, verdict: Verdict, metadata: &[u8]) {
        let (hub, conn) = (self.connection.hub(), self.connection.key());
        let mut session = lock(&hub.session);
        if is_running(&mut session, conn, self.request_id) {
            let mut out = lock(&hub.out);
            send_verdict(hub, &mut out, conn, self.request_id, verdict, metadata);
        }
        let dead = self.spend_channels(&mut session);
        session.finish(conn, self.request_id);
        drop(session);
        dead.iter().for_each(|channel| channel.end(End::Reset));
        hub.quieter();
        self.answered = true;
    }

    /// "If the Response is an error of the protocol, the call's channels are dead and their ids are spent": also
    /// those whose handles the handler gave to somebody who goes on without it. They are to be ended under no lock.
    fn spend_channels(&self, session: &mut Session<Local>) -> Vec<Arc<Channel>> {
        let (Some(rare), Some(open)) = (&self.rare, session.connection(self.connection.key())) else {
            return Vec::new();
        };
        rare.channels.iter().filter_map(|id| open.channels.remove(*id)).collect()
    }
}

/// Records what the handler returned, as the payload that answers it. `None`: it opens channels or carries
/// descriptors, so it is for this caller alone, and the record is that nobody knows.
fn recorded(recorder: Recorder, result: &dyn Returned, hub: &Hub) -> Option<Arc<[u8]>> {
    struct Plain<'a>(&'a dyn Returned, &'a Hub);
    impl Body for Plain<'_> {
        fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
            out.extend(self.0.verdict().bytes());
            scope::without_scope(|| self.0.encode(out))?;
            self.1.check_payload(out.len())
        }
    }
    let (mut room, mut channels) = (Vec::new(), Vec::new());
    // What cannot be encoded is refused once more, and logged, where it is sent.
    let len = encode_into(&mut Plain(result, hub), &mut room, &mut channels).ok()?;
    let payload: Arc<[u8]> = room.get(..len)?.into();
    recorder.record(&payload);
    Some(payload)
}

/// Sends the answer to a request, unless it has ended with its link. `Err`: what is in the way; nothing has
/// happened.
fn answer(
    responder: &Responder,
    metadata: &[u8],
    encode: &mut EncodeAnswer<'_>,
    patience: Patience,
) -> Result<bool, Blocked> {
    let (connection, request_id) = (&responder.connection, responder.request_id);
    let (conn, hub) = (connection.key(), connection.hub());
    let mut session = lock(&hub.session);
    let first_id = session.connection(conn).map(|open| open.channels.next_id());
    let mut body = BindingBody::new(hub, first_id.unwrap_or_default(), encode);
    let mut out = lock(&hub.out);
    if hub.check_open().is_err() || !is_running(&mut session, conn, request_id) {
        session.finish(conn, request_id);
        return Ok(true); // nobody waits for it
    }
    let head = Head::Response { conn_id: conn.id, request_id, metadata };
    let refused = match hub.noted(out.send(&head, &mut body)) {
        Ok(_) => {
            body.adopt(connection, &mut session, conn);
            hub.publish_soon(&mut out);
            None
        }
        Err(fault) => {
            let why: SendError = match hub.sort(fault, patience) {
                Obstacle::Blocked(blocked) => return Err(blocked),
                Obstacle::Final(why) => why,
            };
            let reason = match &why {
                SendError::Refused(refusal) if refusal.is_of_descriptors() => {
                    encoded(&Reason::Unsent(refusal.to_string()).to_metadata()).unwrap_or_default() // within limits
                }
                _ => Vec::new(),
            };
            send_verdict(hub, &mut out, conn, request_id, Verdict::Cancelled, &reason);
            Some((why, responder.spend_channels(&mut session)))
        }
    };
    session.finish(conn, request_id);
    drop(out);
    drop(session);
    hub.quieter();
    if let Some((why, dead)) = refused {
        dead.iter().for_each(|channel| channel.end(End::Reset));
        tracing::error!(request_id, ?why, "an answer could not be sent; the call was answered Cancelled");
        return Ok(false);
    }
    Ok(true)
}

impl Drop for Responder {
    #[inline]
    fn drop(&mut self) {
        self.let_go();
        if self.answered {
            return;
        }
        let rejected = self.rare.as_ref().and_then(|rare| rare.rejected.as_ref()?.get()).cloned();
        match rejected {
            None => self.refuse_with(Verdict::Cancelled, &[]),
            Some(reason) => self.cancel_with(&reason),
        }
    }
}

fn is_running(session: &mut Session<Local>, conn: ConnKey, request_id: u64) -> bool {
    session.connection(conn).is_some_and(|open| open.serving.is_running(request_id))
}

/// Answers with an error of the protocol. What fails with the link needs no answer.
fn send_verdict(
    hub: &Hub,
    out: &mut Outgoing,
    conn: ConnKey,
    request_id: u64,
    verdict: Verdict,
    metadata: &[u8],
) {
    let head = Head::Response { conn_id: conn.id, request_id, metadata };
    if hub.check_open().is_err() {
        return;
    }
    let mut sent = out.send_or_park(&head, &mut Bytes(verdict.bytes()));
    if let (Err(SendFault::TooLarge { .. }), false) = (&sent, metadata.is_empty()) {
        // A link of tiny messages: the answer matters more than what goes with it.
        let head = Head::Response { conn_id: conn.id, request_id, metadata: &[] };
        sent = out.send_or_park(&head, &mut Bytes(verdict.bytes()));
    }
    if hub.noted(sent).is_ok() {
        hub.publish_soon(out);
    }
}

/// What encodes a payload with handles in it: ids count from the second argument.
pub(crate) type EncodeAnswer<'a> = dyn FnMut(&mut Encoder<'_>, u64) -> Encoded + 'a;

/// A payload whose handles become channels of the link when the message was sent.
pub(crate) struct BindingBody<'a, 'e> {
    hub: &'a Arc<Hub>,
    first_id: u64,
    encode: &'a mut EncodeAnswer<'e>,
    bound: Vec<(Bound, ChannelRef)>,
}

impl<'a, 'e> BindingBody<'a, 'e> {
    pub(crate) fn new(hub: &'a Arc<Hub>, first_id: u64, encode: &'a mut EncodeAnswer<'e>) -> Self {
        BindingBody { hub, first_id, encode, bound: Vec::new() }
    }

    /// The message was sent: its handles are remote from now on. Before anything can be sent behind it, so
    /// the caller holds the locks of session and sender.
    #[inline]
    pub(crate) fn adopt(mut self, connection: &Connection, session: &mut Session<Local>, conn: ConnKey) {
        if !self.bound.is_empty() {
            self.adopt_bound(connection, session, conn);
        }
    }

    #[cold]
    fn adopt_bound(&mut self, connection: &Connection, session: &mut Session<Local>, conn: ConnKey) {
        for (bound, reference) in self.bound.drain(..) {
            if let (Some(open), Some(channel)) = (session.connection(conn), bound.pass.channel()) {
                open.channels.insert_own(reference.id, Arc::clone(channel));
            }
            self.hub.adopt(connection, conn, bound, reference);
        }
    }

    /// The channels that were bound.
    #[inline]
    pub(crate) fn channels(&self) -> Vec<Arc<Channel>> {
        if self.bound.is_empty() { Vec::new() } else { self.bound_channels() }
    }

    #[cold]
    fn bound_channels(&self) -> Vec<Arc<Channel>> {
        self.bound.iter().filter_map(|(bound, _)| bound.pass.channel().cloned()).collect()
    }

    #[inline]
    fn unbind(&mut self) {
        if !self.bound.is_empty() {
            self.unbind_bound();
        }
    }

    #[cold]
    fn unbind_bound(&mut self) {
        for (_, reference) in self.bound.drain(..) {
            // Nobody is to be woken for it: it was taken under the same locks.
            self.hub.take_back(reference.slot);
        }
    }
}

impl Body for BindingBody<'_, '_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        self.unbind();
        let bindings = (self.encode)(out, self.first_id)?;
        self.hub.check_payload(out.len())?;
        match bindings {
            None => Ok(()), // without a look at the table, which costs a lock and a count
            Some(bindings) => self.bind(*bindings, out),
        }
    }
}

impl BindingBody<'_, '_> {
    fn bind(
        &mut self,
        Bindings { handles, descriptors }: Bindings,
        out: &mut Encoder<'_>,
    ) -> Result<(), EncodeFault> {
        if !descriptors.is_empty() {
            self.hub.descriptors.check(descriptors.len())?;
            out.attach(descriptors);
        }
        if handles.is_empty() {
            return Ok(());
        }
        self.hub.check_channels(handles.len())?;
        for bound in handles {
            let slot = self.hub.allot().ok_or(EncodeFault::NoSlot)?;
            let reference = ChannelRef { id: bound.id, slot };
            self.bound.push((bound, reference));
            out.channel(reference);
        }
        Ok(())
    }
}

impl Drop for BindingBody<'_, '_> {
    /// What was not sent binds nothing.
    fn drop(&mut self) {
        self.unbind();
    }
}

//! The one answer to each request.

use std::{future::poll_fn, sync::Arc, task::Poll};

use serde::Serialize;

use super::{
    connection::Connection,
    errors::sort,
    hub::{Hub, Local},
    outgoing::{Bytes, Outgoing},
    scope::{self, Bound},
    waiters::lock,
    wire::encode_value,
};
use crate::{
    link::{Body, ChannelRef, EncodeFault, Encoder, Head, SendFault},
    session::{Session, answer::Verdict},
};

/// Answers one request, exactly once: dropped without an answer (its handler was stopped, or it panicked) it
/// answers Cancelled.
pub(crate) struct Responder {
    connection: Connection,
    conn_id: u64,
    request_id: u64,
    answered: bool,
}

impl Responder {
    pub(crate) fn new(connection: Connection, conn_id: u64, request_id: u64) -> Self {
        Responder { connection, conn_id, request_id, answered: false }
    }

    /// Answers with what the handler returned. Waits only if the result opens channels, and all of the link's
    /// are in use.
    ///
    /// The result is encoded straight into the link, under the locks of session and sender.
    pub(crate) fn result<T, E>(mut self, result: Result<T, E>) -> impl Future<Output = ()> + Send
    where
        T: Serialize + Send + 'static,
        E: Serialize + Send + 'static,
    {
        poll_fn(move |cx| {
            let mut encode = |out: &mut Encoder<'_>, first_id: u64| match &result {
                Ok(value) => {
                    out.extend(Verdict::Ok.bytes());
                    scope::encoding(first_id, || encode_value(value, out))
                }
                Err(error) => {
                    out.extend(Verdict::User.bytes());
                    // "and not inside an error type": no scope, so that a handle refuses.
                    encode_value(error, out).map_err(scope::fault_without_scope)?;
                    Ok(Vec::new())
                }
            };
            for _ in 0..2 {
                if self.answer(&mut encode).is_ok() {
                    return Poll::Ready(());
                }
                self.connection.hub().wait_for_slot(cx.waker());
            }
            Poll::Pending
        })
    }

    /// Answers with an error of the protocol.
    pub(crate) fn refuse(mut self, verdict: Verdict) {
        self.refuse_with(verdict);
    }

    /// Answers Cancelled to a request that was never opened here.
    pub(crate) fn refuse_unopened(hub: &Hub, conn_id: u64, request_id: u64) {
        let mut out = lock(&hub.out);
        send_verdict(&mut out, conn_id, request_id, Verdict::Cancelled);
        hub.publish_soon(&mut out);
    }

    fn refuse_with(&mut self, verdict: Verdict) {
        let _ = self.answer(&mut |out, _| {
            out.extend(verdict.bytes());
            Ok(Vec::new())
        });
    }

    fn answer(&mut self, encode: &mut EncodeAnswer<'_>) -> Result<(), NoSlot> {
        answer(&self.connection, self.conn_id, self.request_id, encode)?;
        self.answered = true;
        Ok(())
    }
}

/// Sends the answer to a request, unless it has ended with its link. `Err`: all channels of the link are in
/// use, and nothing has happened.
fn answer(
    connection: &Connection,
    conn_id: u64,
    request_id: u64,
    encode: &mut EncodeAnswer<'_>,
) -> Result<(), NoSlot> {
    let hub = connection.hub();
    let mut session = lock(&hub.session);
    let first_id = session.connection(conn_id).map(|open| open.channels.next_id());
    let mut body = BindingBody::new(hub, first_id.unwrap_or_default(), encode);
    let mut out = lock(&hub.out);
    if hub.check_open().is_err() || !is_running(&mut session, conn_id, request_id) {
        return Ok(()); // nobody waits for it
    }
    match out.send_or_park(&Head::Response { conn_id, request_id, metadata: &[] }, &mut body) {
        Ok(()) => body.adopt(connection, &mut session, conn_id),
        Err(SendFault::Encode(EncodeFault::NoSlot)) => return Err(NoSlot),
        Err(fault) => {
            let why = sort(fault);
            tracing::error!(request_id, ?why, "an answer cannot be sent; the call is answered Cancelled");
            send_verdict(&mut out, conn_id, request_id, Verdict::Cancelled);
        }
    }
    finish(&mut session, conn_id, request_id);
    hub.publish_soon(&mut out);
    Ok(())
}

/// All channels of the link are in use.
struct NoSlot;

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.refuse_with(Verdict::Cancelled);
        }
    }
}

fn is_running(session: &mut Session<Local>, conn_id: u64, request_id: u64) -> bool {
    session.connection(conn_id).is_some_and(|open| open.serving.is_running(request_id))
}

/// The request is answered: takes it, and its deadline, out of the session.
fn finish(session: &mut Session<Local>, conn_id: u64, request_id: u64) {
    let finished = session.connection(conn_id).and_then(|open| open.serving.finish(request_id));
    if let Some(Some(at)) = finished {
        session.deadlines.remove_request(at, conn_id, request_id);
    }
}

fn send_verdict(out: &mut Outgoing, conn_id: u64, request_id: u64, verdict: Verdict) {
    let head = Head::Response { conn_id, request_id, metadata: &[] };
    if let Err(fault) = out.send_or_park(&head, &mut Bytes(verdict.bytes())) {
        tracing::debug!(?fault, request_id, "an answer was not sent");
    }
}

/// What encodes a payload with handles in it: ids count from the second argument.
pub(crate) type EncodeAnswer<'a> = dyn FnMut(&mut Encoder<'_>, u64) -> Result<Vec<Bound>, EncodeFault> + 'a;

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
    pub(crate) fn adopt(mut self, connection: &Connection, session: &mut Session<Local>, conn_id: u64) {
        for (bound, reference) in self.bound.drain(..) {
            if let Some(open) = session.connection(conn_id) {
                open.channels.insert_own(reference.id, Arc::clone(&bound.channel));
            }
            self.hub.adopt(connection, conn_id, bound, reference);
        }
    }

    /// The channels that were bound.
    pub(crate) fn channels(&self) -> Vec<Arc<super::channel::Channel>> {
        self.bound.iter().map(|(bound, _)| Arc::clone(&bound.channel)).collect()
    }

    fn unbind(&mut self) {
        for (_, reference) in self.bound.drain(..) {
            self.hub.give_back(reference.slot);
        }
    }
}

impl Body for BindingBody<'_, '_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        self.unbind();
        let bound = (self.encode)(out, self.first_id)?;
        self.hub.check_payload(out.len())?;
        for bound in bound {
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

//! A request that is passed on: its payload goes to another caller as it came, and so does the answer.
//!
//! The payload is not read. The handles in it are found in the message's list of channels, which is authoritative
//! (protocol section 5): each gets a channel of the other connection, and a relay between the two.
//!
//! Counts, for a request with no streams: two copies (into private memory, and into the other link) and the same for
//! its answer; one task, which is spawned where the request was read, after the request went out if there was room;
//! allocations for the payload, the task and the relays.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_util::stream::FuturesUnordered;

use super::{
    caller::{Caller, OutgoingCall},
    channel::{Channel, Half, Unclaimed},
    clock::now,
    connect::encoded,
    dispatch::{Dispatch, IncomingRequest, Unread},
    elements::Elements,
    errors::CallError,
    handler::Answering,
    hub::Place,
    intercept::Outcome,
    payload::Payload as Arrived,
    raw_call::{CallOptions, Payload, Reply},
    reason::Reason,
    relay::Relay,
    respond::Responder,
    scope::{Bindings, Bound, Encoded},
};
use crate::{
    link::{EncodeFault, Encoder, descriptors::Descriptors, message::HandleFault},
    session::{answer::Verdict, channels::STEP, metadata::Metadata},
};

/// A payload whose handles are channels that are relayed.
struct Passed {
    payload: Arrived<'static>,
    channels: Vec<Arc<Channel>>,
    descriptors: Descriptors,
}

impl Payload for Passed {
    fn encode(&self, out: &mut Encoder<'_>, first_id: u64) -> Encoded {
        self.payload.parts().iter().for_each(|part| out.extend(part));
        pass(&self.channels, &self.descriptors, first_id)
    }
}

/// Binds channels that are relayed, in their order, and descriptors that are passed on.
fn pass(channels: &[Arc<Channel>], descriptors: &Descriptors, first_id: u64) -> Encoded {
    let ids = (first_id..).step_by(STEP as usize);
    let bind = |(channel, id): (&Arc<Channel>, u64)| {
        let pass = channel.start_pass().ok_or(EncodeFault::Handle(HandleFault::Passed))?;
        Ok(Bound { pass, half: Half::Unknown, id, unread: Elements::default() })
    };
    let handles = channels.iter().zip(ids).map(bind).collect::<Result<_, _>>()?;
    let bindings = Bindings { handles, descriptors: duplicates(descriptors)? };
    Ok((!bindings.is_empty()).then(|| Box::new(bindings)))
}

/// They are encoded as often as it takes.
#[cfg(unix)]
fn duplicates(descriptors: &Descriptors) -> Result<Descriptors, EncodeFault> {
    let unpassed =
        |error: std::io::Error| EncodeFault::Descriptor { code: error.raw_os_error().unwrap_or(0) };
    descriptors.iter().map(|descriptor| descriptor.try_clone().map_err(unpassed)).collect()
}

#[cfg(not(unix))]
fn duplicates(_: &Descriptors) -> Result<Descriptors, EncodeFault> {
    Ok(Descriptors::default())
}

/// Streams that are about to be relayed: channels that arrived, and those that they go on as.
#[derive(Default)]
struct Streams {
    arrived: Vec<Arc<Channel>>,
    passed: Vec<Arc<Channel>>,
    /// Breaks off those that were never relayed.
    unclaimed: Unclaimed,
}

impl Streams {
    fn new(unclaimed: Unclaimed) -> Self {
        let arrived: Vec<_> = unclaimed.iter().cloned().collect();
        let passed = arrived.iter().map(|_| Channel::local()).collect();
        Streams { arrived, passed, unclaimed }
    }

    /// Whether what carries them has been sent.
    fn are_passed(&self) -> bool {
        self.passed.iter().all(|channel| channel.remote().is_some())
    }

    /// From now on they are relayed.
    fn relay(&mut self, relays: &FuturesUnordered<Relay>) {
        while self.unclaimed.claim().is_some() {} // they are the relays' from here on
        let pairs = self.arrived.drain(..).zip(self.passed.drain(..));
        pairs.for_each(|(arrived, passed)| relays.push(Relay::new(arrived, passed)));
    }
}

impl Drop for Streams {
    /// Those that went out, and were not relayed: a caller may be dropped between the two.
    fn drop(&mut self) {
        drop(Unclaimed::new(self.passed.drain(..).filter(|channel| channel.remote().is_some()).collect()));
    }
}

impl IncomingRequest<'_> {
    /// Passes the request on to another caller, whatever it is, and the answer back.
    ///
    /// Payloads are not read and not changed. Metadata goes along in both directions, with what is left of the
    /// request's time; so do the streams and the descriptors of arguments and results, errors, and cancellation. What the caller refuses
    /// (a payload above the limits that it has with its peer) is answered
    /// [`Rejected`](crate::CallError::Rejected), and when its connection ends the answer is
    /// [`UpstreamEnded`](crate::CallError::UpstreamEnded).
    ///
    /// See [`Forward`](crate::proxy::Forward) for a dispatcher that does this with all requests.
    pub fn forward(self, to: &Caller) -> Dispatch {
        let Some((origin, Unread { mut responder, mut channels, payload })) = self.split() else {
            return Dispatch(());
        };
        let (method_id, deadline) = (origin.method_id, origin.deadline);
        let runtime = origin.connection.hub().runtime.clone();
        let (descriptors, streams) = (channels.take_descriptors(), Streams::new(channels));
        let payload = Passed { payload: payload.into_kept(), channels: streams.passed.clone(), descriptors };
        let to = to.clone();
        let serving = origin.about_to_serve(None, &mut responder);
        serving.run(Forwarding::Unsent(Some(Box::new(move |metadata| {
            let timeout = deadline.map(|at| at.saturating_duration_since(now()));
            let options = CallOptions { metadata, timeout, nonce: None };
            let call = OutgoingCall { method_id, method: None, payload: Box::new(payload), options };
            Box::pin(run(to, call, streams, responder, runtime))
        }))));
        Dispatch(())
    }
}

/// A request that is passed on, with the metadata that the interceptors leave it.
enum Forwarding {
    Unsent(Option<Box<dyn FnOnce(Metadata) -> Running + Send>>),
    Running(Running),
}

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Answering for Forwarding {
    fn set_metadata(&mut self, metadata: Metadata) {
        if let Forwarding::Unsent(unsent) = self
            && let Some(start) = unsent.take()
        {
            *self = Forwarding::Running(start(metadata));
        }
    }
}

impl Future for Forwarding {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Forwarding::Unsent(_) => Poll::Pending,
            Forwarding::Running(running) => running.as_mut().poll(cx),
        }
    }
}

/// Makes the call and answers with its outcome; then goes on with the streams until all have ended.
async fn run(
    to: Caller,
    call: OutgoingCall,
    mut streams: Streams,
    responder: Responder,
    runtime: tokio::runtime::Handle,
) -> Outcome {
    let mut relays = FuturesUnordered::new();
    let mut reply = to.start(call);
    let reply = poll_fn(|cx| {
        let reply = reply.as_mut().poll(cx);
        if streams.are_passed() {
            streams.relay(&relays);
        }
        let _ = poll_relays(&mut relays, cx);
        reply
    })
    .await;
    // "What a handler sent before it returned, before its Response": as far as the reader lets it.
    poll_fn(|cx| {
        let _ = poll_relays(&mut relays, cx);
        let mut pushed = Poll::Ready(());
        for relay in relays.iter_mut() {
            if relay.push_on(cx).is_pending() {
                pushed = Poll::Pending;
            }
        }
        pushed
    })
    .await;
    let outcome = match reply {
        Ok(reply) => answer(reply, responder, &mut relays).await,
        Err(error) => fail(error, responder),
    };
    drop(streams);
    if !relays.is_empty() {
        // Not in this task, which may be stopped as soon as the request is answered.
        drop(runtime.spawn(async move { poll_fn(|cx| poll_relays(&mut relays, cx)).await }));
    }
    outcome
}

/// Goes on with all streams. `Ready`: they have ended.
fn poll_relays(relays: &mut FuturesUnordered<Relay>, cx: &mut Context<'_>) -> Poll<()> {
    while ready!(Pin::new(&mut *relays).poll_next(cx)).is_some() {}
    Poll::Ready(())
}

/// Answers as the peer did.
async fn answer(reply: Reply, mut responder: Responder, relays: &mut FuturesUnordered<Relay>) -> Outcome {
    let metadata = encoded(reply.metadata()).unwrap_or_default(); // it is within the limits, since it came
    let Reply { mut payload, mut channels, .. } = reply;
    let verdict = payload.verdict();
    if let Some(verdict) = verdict.filter(|verdict| verdict.kills_channels()) {
        responder.refuse_alike(verdict, &metadata);
        return Outcome::of(Some(verdict));
    }
    let alone = !channels.is_empty();
    let (descriptors, mut streams) = (channels.take_descriptors(), Streams::new(channels));
    responder.record(&mut payload, alone);
    let mut place = Place::default();
    let sent = poll_fn(|cx| {
        let answered = responder.poll_answer(cx, &mut place, &metadata, &mut |out, first_id| {
            payload.parts().iter().for_each(|part| out.extend(part));
            pass(&streams.passed, &descriptors, first_id)
        });
        let _ = poll_relays(relays, cx);
        answered
    })
    .await;
    if streams.are_passed() {
        streams.relay(relays);
    }
    Outcome::of(verdict).sent(sent)
}

/// Answers a call that has no answer.
fn fail(error: CallError, responder: Responder) -> Outcome {
    match &error {
        CallError::Refused(_) | CallError::Rejected { .. } | CallError::Unconnected { .. } => {
            responder.cancel(&Reason::Rejected(error.to_string()));
        }
        CallError::Ended(end) | CallError::OutcomeUnknown { end } | CallError::CellEnded { end, .. } => {
            responder.cancel(&Reason::UpstreamEnded(end.to_string()));
        }
        _ => responder.refuse(Verdict::Cancelled),
    }
    Outcome::failed(error)
}

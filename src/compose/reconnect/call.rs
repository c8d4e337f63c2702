//! A call on whichever connection there is, and when it is made again.
//!
//! | the link ended | the call |
//! |---|---|
//! | before the request was sent | is made on the next one |
//! | after it was sent, and the method is idempotent or the server deduplicates | is made again, within bounds |
//! | after it was sent, otherwise | fails with "outcome unknown" |
//!
//! Whatever the peer answers is the answer.
//!
//! Counts, beside those of the call itself: one lock, which all callers share for some nanoseconds, the clone of a handle
//! and of the call's options, and two allocations; with a timeout a timer. That was 0.15 us of 1.8 where it was measured,
//! 0.25 us with a timeout.

use std::{cell::Cell, future::poll_fn, sync::Arc, time::Duration, time::Instant};

use super::{
    Handle,
    shared::{Current, NoConnection, Shared},
};
use crate::{
    error::LinkEnd,
    link::Encoder,
    rpc::{
        caller::OutgoingCall,
        clock::now,
        dedup::Nonce,
        errors::CallError,
        method::Method,
        method_id::MethodId,
        raw_call::{CallOptions, Payload, RawCall, Reply},
        scope::Encoded,
    },
};

/// Makes a call. It keeps the client open, though nobody else may hold it.
pub(super) async fn run(handle: Arc<Handle>, call: OutgoingCall) -> Result<Reply, CallError> {
    let shared = &handle.shared;
    let mut request = Request::new(shared, call)?;
    shared.tokens.pay_in();
    // How the link ended on which it was sent last.
    let mut sent: Option<LinkEnd> = None;
    let failed = loop {
        let current = match shared.connection(request.deadline).await {
            Ok(current) => current,
            Err(NoConnection::TimedOut) => return Err(request.timed_out()),
            Err(NoConnection::Unmade(unmade)) => break unmade.into(),
        };
        let end = match request.attempt(&current).await {
            Ok(reply) => {
                current.prove();
                return Ok(reply);
            }
            Err(Failed::Unsent) => None,
            Err(Failed::Sent(end)) => Some(end),
            Err(Failed::Otherwise(CallError::TimedOut { .. })) => return Err(request.timed_out()),
            Err(Failed::Otherwise(error)) => break error,
        };
        let lost = shared.lost(&current);
        match (end, lost) {
            (Some(end), _) if !request.may_be_repeated(shared) => {
                return Err(CallError::OutcomeUnknown { end });
            }
            (Some(end), _) => sent = Some(end),
            (None, Err(unmade)) => break unmade.into(),
            (None, Ok(())) => {}
        }
    };
    // What says that nothing was sent holds for the last attempt only.
    Err(sent.map_or(failed, |end| CallError::OutcomeUnknown { end }))
}

/// A call, as it is made each time.
struct Request {
    method_id: MethodId,
    method: Option<&'static Method>,
    options: CallOptions,
    deadline: Option<Instant>,
    /// `None` once it was sent, and is not to be sent again.
    payload: Option<Watched>,
    repeatable: bool,
    repeats: u32,
}

/// How an attempt failed.
enum Failed {
    /// The link ended, and the request was not sent.
    Unsent,
    /// The link ended, and the request was sent.
    Sent(LinkEnd),
    /// With something that another attempt does not help.
    Otherwise(CallError),
}

impl Request {
    fn new(shared: &Shared, call: OutgoingCall) -> Result<Self, CallError> {
        let OutgoingCall { method_id, method, payload, mut options } = call;
        let deadline = options.settle_deadline()?;
        let marked = options.nonce.is_some() || options.metadata.get(Nonce::KEY).is_some();
        if shared.policy.deduplicated && !marked {
            // A call that opens streams is not deduplicated, and not repeated either. Without a random source no
            // call is.
            options.nonce = Nonce::random().ok();
        }
        let deduplicated = shared.policy.deduplicated && (marked || options.nonce.is_some());
        let repeatable = deduplicated || method.is_some_and(|method| method.idempotent);
        let payload = Some(Watched { payload, opens_streams: Cell::new(false) });
        Ok(Request { method_id, method, options, deadline, payload, repeatable, repeats: 0 })
    }

    /// Makes the call on a connection, with the time that is left.
    async fn attempt(&mut self, current: &Current) -> Result<Reply, Failed> {
        let mut options = self.options.clone();
        if let Some(deadline) = self.deadline {
            options.timeout = Some(deadline.saturating_duration_since(now()));
        }
        let connection = current.connection.clone();
        if let Some(Err(refusal)) = self.method.map(|method| connection.hub().check_result(method)) {
            return Err(Failed::Otherwise(refusal.into()));
        }
        let mut call = RawCall::new(connection, self.method_id, options).map_err(Failed::Otherwise)?;
        let replied = match self.send(&mut call).await {
            Ok(()) => poll_fn(|cx| call.poll_reply(cx)).await,
            Err(error) => Err(error),
        };
        replied.map_err(|error| match error {
            CallError::Ended(end) if call.was_sent() => Failed::Sent(end),
            CallError::Ended(_) => Failed::Unsent,
            error => Failed::Otherwise(error),
        })
    }

    async fn send(&mut self, call: &mut RawCall) -> Result<(), CallError> {
        let Some(payload) = &mut self.payload else { return Ok(()) };
        let watched = &mut *payload; // moved, since it can be sent to other threads, and not shared with them
        poll_fn(move |cx| call.poll_send(cx, &*watched)).await?;
        if !self.repeatable || payload.opens_streams.get() {
            self.payload = None;
        }
        Ok(())
    }

    /// Whether it is made again though it may have run.
    fn may_be_repeated(&mut self, shared: &Shared) -> bool {
        if self.payload.is_none() || self.repeats >= shared.policy.max_repeats || !shared.tokens.take() {
            return false;
        }
        self.repeats += 1;
        true
    }

    fn timed_out(&self) -> CallError {
        CallError::TimedOut { after: self.options.timeout.unwrap_or(Duration::ZERO) }
    }
}

/// A payload, and whether it opens streams or carries descriptors, which is known when it was encoded.
struct Watched {
    payload: Box<dyn Payload>,
    opens_streams: Cell<bool>,
}

impl Payload for Watched {
    fn encode(&self, out: &mut Encoder<'_>, first_id: u64) -> Encoded {
        let bound = self.payload.encode(out, first_id)?;
        self.opens_streams.set(bound.is_some());
        Ok(bound)
    }
}

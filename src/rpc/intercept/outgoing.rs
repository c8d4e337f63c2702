//! Interceptors of the side that calls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Chain, Innermost, InterceptedCall, Intercepting, Outcome, Side};
use crate::{
    rpc::{
        caller::{Caller, Manage, OutgoingCall, Replying},
        clock::now,
        dedup::Nonce,
        errors::CallError,
        method::Method,
        method_id::MethodId,
        raw_call::{CallOptions, Payload, Reply},
        reason::Reason,
        slot::timed_out,
    },
    session::answer::Verdict,
};

/// A caller with interceptors in front of it.
pub(crate) struct Intercepted {
    pub(crate) inner: Caller,
    pub(crate) chain: Chain,
}

impl Manage for Intercepted {
    fn start(self: Arc<Self>, call: OutgoingCall) -> Replying {
        Box::pin(async move {
            let OutgoingCall { method_id, method, payload, mut options } = call;
            let deadline = options.settle_deadline()?;
            let metadata = std::mem::take(&mut options.metadata);
            let mut seen = InterceptedCall {
                side: Side::Caller,
                method_id,
                method,
                metadata,
                deadline,
                connection: None,
                began: now(),
            };
            let unsent =
                Unsent { caller: self.inner.clone(), method_id, method, payload, nonce: options.nonce };
            let mut request =
                Request { unsent: Some(unsent), deadline, timeout: options.timeout, reply: None };
            let outcome = self.chain.run(&mut seen, &mut request).await;
            request.reply.unwrap_or_else(|| Err(outcome.into_error()))
        })
    }

    fn name(&self) -> &'static str {
        "intercepted"
    }
}

/// A request that goes out when the last interceptor lets it.
struct Request {
    unsent: Option<Unsent>,
    deadline: Option<Instant>,
    /// What the call was given, of which some may be gone.
    timeout: Option<Duration>,
    reply: Option<Result<Reply, CallError>>,
}

struct Unsent {
    caller: Caller,
    method_id: MethodId,
    method: Option<&'static Method>,
    payload: Box<dyn Payload>,
    nonce: Option<Nonce>,
}

impl Innermost for Request {
    fn run<'a>(&'a mut self, call: &'a mut InterceptedCall) -> Intercepting<'a> {
        Box::pin(async move {
            let Some(unsent) = self.unsent.take() else { return Outcome::failed(CallError::Cancelled) };
            let Unsent { caller, method_id, method, payload, nonce } = unsent;
            // What the interceptors have waited is gone.
            let timeout = self.deadline.map(|at| at.saturating_duration_since(now()));
            let options = CallOptions { timeout, nonce, metadata: call.metadata.clone() };
            let mut reply = caller.start(OutgoingCall { method_id, method, payload, options }).await;
            if let Err(CallError::TimedOut { .. }) = reply {
                reply = Err(timed_out(self.timeout));
            }
            let outcome = outcome(&reply);
            self.reply = Some(reply);
            outcome
        })
    }
}

/// How a call went that has a reply, or none.
fn outcome(reply: &Result<Reply, CallError>) -> Outcome {
    match reply {
        Err(error) => Outcome::failed(error.clone()),
        Ok(reply) => match Verdict::split(&reply.payload) {
            Some((Verdict::Cancelled, _)) => {
                Outcome::failed(Reason::of(&reply.metadata).map_or(CallError::Cancelled, Reason::into_error))
            }
            split => Outcome::of(split.map(|(verdict, _)| verdict)),
        },
    }
}

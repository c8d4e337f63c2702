//! Interceptors of the side that calls.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, time::sleep_until};

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
            let timeout = options.timeout;
            let in_flight = AtomicBool::new(false);
            let mut request =
                Request { unsent: Some(unsent), deadline, timeout, in_flight: &in_flight, reply: None };
            let running = self.chain.run(&mut seen, &mut request);
            let outcome = in_time(running, deadline, self.inner.runtime(), &in_flight).await;
            let unmade = || Err(outcome.map_or_else(|| timed_out(timeout), Outcome::into_error));
            request.reply.unwrap_or_else(unmade)
        })
    }

    fn runtime(&self) -> &Handle {
        self.inner.runtime()
    }

    fn name(&self) -> &'static str {
        "intercepted"
    }
}

/// Lets interceptors have the time of their call, and no more. `None`: it is over. A call that is in flight then ends by
/// its own deadline, so that they see how.
async fn in_time(
    running: impl Future<Output = Outcome>,
    deadline: Option<Instant>,
    runtime: &Handle,
    in_flight: &AtomicBool,
) -> Option<Outcome> {
    let Some(at) = deadline else { return Some(running.await) };
    let mut running = pin!(running);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = running.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        // Set when they wait for the first time; a caller on a plain thread has no runtime.
        let timer = timer.get_or_insert_with(|| {
            let _inside = runtime.enter();
            Box::pin(sleep_until(at.into()))
        });
        ready!(timer.as_mut().poll(cx));
        // Relaxed: it is set within the poll above. What is in flight wakes this task when it is over.
        if in_flight.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(None) }
    })
    .await
}

/// A request that goes out when the last interceptor lets it.
struct Request<'f> {
    unsent: Option<Unsent>,
    deadline: Option<Instant>,
    /// What the call was given, of which some may be gone.
    timeout: Option<Duration>,
    in_flight: &'f AtomicBool,
    reply: Option<Result<Reply, CallError>>,
}

struct Unsent {
    caller: Caller,
    method_id: MethodId,
    method: Option<&'static Method>,
    payload: Box<dyn Payload>,
    nonce: Option<Nonce>,
}

impl Innermost for Request<'_> {
    fn run<'a>(&'a mut self, call: &'a mut InterceptedCall) -> Intercepting<'a> {
        Box::pin(async move {
            let Some(unsent) = self.unsent.take() else { return Outcome::failed(CallError::Cancelled) };
            let Unsent { caller, method_id, method, payload, nonce } = unsent;
            // What the interceptors have waited is gone.
            let timeout = self.deadline.map(|at| at.saturating_duration_since(now()));
            let options = CallOptions { timeout, nonce, metadata: call.metadata.clone() };
            let in_flight = InFlight::begin(self.in_flight);
            let mut reply = caller.start(OutgoingCall { method_id, method, payload, options }).await;
            drop(in_flight);
            if let Err(CallError::TimedOut { .. }) = reply {
                reply = Err(timed_out(self.timeout));
            }
            let outcome = outcome(&reply);
            self.reply = Some(reply);
            outcome
        })
    }
}

/// Also an interceptor that gives a call up ends it.
struct InFlight<'f>(&'f AtomicBool);

impl<'f> InFlight<'f> {
    fn begin(flag: &'f AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed); // Relaxed: as where it is read
        InFlight(flag)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed); // Relaxed: as where it is read
    }
}

/// How a call went that has a reply, or none.
fn outcome(reply: &Result<Reply, CallError>) -> Outcome {
    match reply {
        Err(error) => Outcome::failed(error.clone()),
        Ok(reply) => match reply.payload.verdict() {
            Some(Verdict::Cancelled) => {
                Outcome::failed(Reason::of(reply.metadata()).map_or(CallError::Cancelled, Reason::into_error))
            }
            verdict => Outcome::of(verdict),
        },
    }
}

//! Requests that may come twice, and run once: idempotent retry (protocol section 4).
//!
//! A caller marks a call with a [`Nonce`]. A service behind [`Deduplicate`] runs it once: the same nonce again, on
//! whichever link, is answered from memory, or waits for the one that runs.
//!
//! The promise is kept at the cost of the answer, not the other way round: where memory is short, answers are
//! forgotten before nonces are, and new requests are refused before nonces are. What cannot be answered again is
//! answered Cancelled; it never runs a second time.

mod cache;
mod nonce;

use std::{sync::Arc, time::Duration};

use super::{
    clock::now,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    method::Service,
};
use crate::session::answer::Verdict;

use cache::{Cache, Found, Limits};
pub(crate) use cache::{Joint, Recorder};
pub use nonce::Nonce;

/// Serves another dispatcher, and runs a request that a caller marked with a [`Nonce`] once, however often it comes.
///
/// Clones share what they remember: give one to each link, so that a caller that lost its link finds its answer on
/// the next. For that reason the handler of a marked request goes on when its link ends; Cancel and the call's
/// deadline stop it.
///
/// - A nonce that was answered is answered again, with the same bytes, for [at least five
///   minutes](Deduplicate::keep).
/// - A nonce that still runs joins: both get the one answer.
/// - One whose handler was stopped, or panicked, is answered [`Cancelled`](crate::CallError::Cancelled) again:
///   what it had done by then is not known.
/// - Requests without a nonce, and those that open streams or carry [descriptors](crate::Descriptor), are served as
///   ever. A result that opens streams or carries descriptors is not remembered; its nonce again is answered
///   `Cancelled`.
///
/// Memory is [bounded](Deduplicate::memory). The oldest answers are forgotten first: their nonces are answered
/// `Cancelled` from then on. When there is no room for another nonce, requests that carry one are refused with
/// `Cancelled`, unserved.
///
/// ```
/// # #[cfg(feature = "macros")] mod example {
/// use adjoin::{Deduplicate, Nonce, Options, local};
///
/// #[adjoin::service]
/// trait Bank {
///     async fn pay(&self, cents: u64) -> u64;
/// }
///
/// #[derive(Default)]
/// struct Ledger {
///     paid: std::sync::atomic::AtomicU64,
/// }
///
/// impl Bank for Ledger {
///     async fn pay(&self, cents: u64) -> u64 {
///         self.paid.fetch_add(cents, std::sync::atomic::Ordering::Relaxed) + cents
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bank = Deduplicate::new(BankDispatcher::new(Ledger::default()));
/// let nonce = Nonce::random()?;
/// for _ in 0..2 {
///     // Two links, one after the other.
///     let (client, _server) = local::pair(Options::new(), Options::new().serve(bank.clone()));
///     let client = BankClient::new(&client);
///     assert_eq!(client.pay(100).with_nonce(nonce).await?, 100); // paid once
/// }
/// # Ok(()) }
/// # }
/// # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
/// # #[cfg(not(feature = "macros"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Deduplicate<D> {
    dispatcher: D,
    cache: Arc<Cache>,
}

impl<D: ServiceDispatcher> Deduplicate<D> {
    /// Remembers in up to 64 MiB, for five minutes, with up to 4096 marked requests that run at once.
    pub fn new(dispatcher: D) -> Self {
        Deduplicate { dispatcher, cache: Cache::new(Limits::default()) }
    }

    /// The memory for nonces and answers, in bytes. Default: 64 MiB. A nonce takes about
    /// [`Deduplicate::<()>::BYTES_PER_NONCE`](Deduplicate::BYTES_PER_NONCE) beside its answer.
    ///
    /// For a service that is not in use yet: what was remembered is forgotten.
    pub fn memory(self, bytes: usize) -> Self {
        let limits = Limits { memory: bytes, ..self.cache.limits() };
        Deduplicate { cache: Cache::new(limits), ..self }
    }

    /// How long a nonce is remembered once it was answered. Default: five minutes, the least that the protocol
    /// allows; what is shorter is raised to it.
    ///
    /// For a service that is not in use yet: what was remembered is forgotten.
    pub fn keep(self, time: Duration) -> Self {
        let limits = Limits { keep: time.max(Limits::default().keep), ..self.cache.limits() };
        Deduplicate { cache: Cache::new(limits), ..self }
    }

    /// How many marked requests may run at once, those included whose links are gone. Default: 4096. What comes
    /// beyond is answered `Cancelled` without running.
    ///
    /// For a service that is not in use yet: what was remembered is forgotten.
    pub fn max_running(self, requests: usize) -> Self {
        let limits = Limits { running: requests, ..self.cache.limits() };
        Deduplicate { cache: Cache::new(limits), ..self }
    }
}

impl<D> Deduplicate<D> {
    /// What a nonce takes of the [memory](Deduplicate::memory) beside its answer, in bytes.
    pub const BYTES_PER_NONCE: usize = cache::ENTRY;
}

impl<D: ServiceDispatcher> ServiceDispatcher for Deduplicate<D> {
    fn service(&self) -> &'static Service {
        self.dispatcher.service()
    }

    fn services(&self) -> Vec<&'static Service> {
        self.dispatcher.services()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let nonce = match Nonce::of(request.metadata()) {
            Ok(Some(nonce)) if !request.is_for_one_run() => nonce,
            Ok(_) => return self.dispatcher.dispatch(request),
            // To run it without its mark could be to run it twice.
            Err(()) => return request.refuse(Verdict::InvalidPayload),
        };
        match self.cache.find(now(), (nonce, request.method_id().get())) {
            Found::New(recorder) => self.dispatcher.dispatch(request.recorded(recorder)),
            Found::Runs(joint) => request.join(joint),
            Found::Answered(payload) => request.answer_with(payload),
            Found::Forgotten => request.refuse(Verdict::Cancelled),
            Found::Full { what, limit } => {
                tracing::warn!(what, limit, "no room for another nonce; a request was answered Cancelled");
                request.refuse(Verdict::Cancelled)
            }
        }
    }
}

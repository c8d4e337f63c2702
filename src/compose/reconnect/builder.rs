//! How a reconnecting client behaves.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Handle, Reconnecting,
    backoff::Backoff,
    budget::{RetryBudget, Tokens},
    connector::Connector,
    shared::{Policy, Shared},
};

/// Sets how a [`Reconnecting`] client behaves. Made by [`Reconnecting::builder`].
#[must_use]
pub struct Builder {
    connector: Box<dyn Connector>,
    policy: Policy,
    budget: RetryBudget,
}

impl Builder {
    pub(super) fn new(connector: impl Connector) -> Self {
        let policy = Policy {
            backoff: Backoff::default(),
            attempt_timeout: Duration::from_secs(10),
            max_attempts: None,
            max_outage: Some(Duration::from_secs(30)),
            max_repeats: 3,
            deduplicated: false,
            eager: false,
        };
        Builder { connector: Box::new(connector), policy, budget: RetryBudget::default() }
    }

    /// How long is waited between attempts to connect.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// How long one attempt to connect may take. Default: 10 s.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.policy.attempt_timeout = limit;
        self
    }

    /// Gives up after so many attempts that failed, at least one. Default: any number, within
    /// [`max_outage`](Builder::max_outage).
    ///
    /// A connection that ended early, before a call was answered on it, counts as such an attempt.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.max_attempts = Some(attempts);
        self
    }

    /// Gives up when a connection has been wanted for so long, and none could be made. Default: 30 s.
    ///
    /// The time runs while somebody waits for a connection. It is over with the last attempt that can begin within it.
    pub fn max_outage(mut self, limit: Duration) -> Self {
        self.policy.max_outage = Some(limit);
        self
    }

    /// Tries to connect as long as somebody waits: calls end by their own timeouts.
    pub fn never_give_up(mut self) -> Self {
        (self.policy.max_attempts, self.policy.max_outage) = (None, None);
        self
    }

    /// How often one call is made again at most, of those that may have run. Default: 3. Bounds what a call can do that
    /// ends each server that gets it.
    pub fn max_repeats(mut self, repeats: u32) -> Self {
        self.policy.max_repeats = repeats;
        self
    }

    /// How many calls may be repeated among all.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Promises that all methods are served behind [`Deduplicate`](crate::Deduplicate), or what does the same: each
    /// call is marked with a [`Nonce`](crate::Nonce) from the start, and is made again with the same one when its
    /// outcome is not known, idempotent or not.
    ///
    /// The promise must hold from one connection to the next. A server that remembers nonces in its memory, as
    /// `Deduplicate` does, keeps it while its process lives: it survives links that are cut, and not a crash. What
    /// [`cell`](super::cell) starts anew has forgotten all.
    pub fn server_deduplicates(mut self) -> Self {
        self.policy.deduplicated = true;
        self
    }

    /// Connects at once, and again after each loss, though nobody calls: until it gives up, and from the next call on
    /// again. Without this nothing is tried unless a call waits for it.
    pub fn eager(mut self) -> Self {
        self.policy.eager = true;
        self
    }

    /// The client. Nothing has been tried yet, unless it is [eager](Builder::eager).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled: connections are made on it, for calls from wherever.
    #[must_use]
    pub fn build(self) -> Reconnecting {
        let runtime = tokio::runtime::Handle::current();
        let shared = Shared::new(self.connector, self.policy, Tokens::new(self.budget), runtime);
        let shared = Arc::new(shared);
        if self.policy.eager {
            shared.make_eagerly();
        }
        Reconnecting { handle: Arc::new(Handle { shared }) }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("policy", &self.policy)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

//! One series of attempts to connect, for all callers that wait: a task of its own, so that a caller that goes away
//! ends it for nobody else.

use std::{
    pin::pin,
    sync::{Arc, OnceLock, Weak},
};

use tokio::{
    sync::Notify,
    time::{sleep_until, timeout},
};

use super::{
    connector::{Established, Final, Keeper},
    shared::{Current, Shared},
};
use crate::rpc::{errors::CallError, state::ConnectionState};

/// What those who wait for a round look at.
#[derive(Default)]
pub(super) struct Round {
    outcome: OnceLock<Result<Arc<Current>, Unmade>>,
    done: Notify,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) struct Unmade {
    pub(super) attempts: u32,
    pub(super) why: String,
}

impl Unmade {
    pub(super) fn closed() -> Self {
        Unmade { attempts: 0, why: "the client is closed".to_owned() }
    }
}

impl From<Unmade> for CallError {
    fn from(Unmade { attempts, why }: Unmade) -> Self {
        CallError::Unconnected { attempts, why }
    }
}

impl Round {
    /// Waits for the outcome.
    pub(super) async fn outcome(&self) -> Result<Arc<Current>, Unmade> {
        loop {
            let mut done = pin!(self.done.notified());
            done.as_mut().enable(); // from here on nothing is missed
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            done.await;
        }
    }

    /// Tells all who wait, once.
    pub(super) fn finish(&self, outcome: Result<Arc<Current>, Unmade>) {
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
    }
}

/// Tries until there is a connection, or enough was tried, or nobody waits any longer.
pub(super) async fn run(unfinished: Unfinished) {
    let Unfinished { shared, round } = &unfinished;
    while let Some(not_before) = shared.next_attempt(round) {
        if let Some(at) = not_before {
            sleep_until(at.into()).await;
        }
        if !shared.begin_attempt(round) {
            return;
        }
        let limit = shared.policy.attempt_timeout;
        let why = match timeout(limit, shared.connector.connect()).await {
            Ok(Ok(established)) => return keep(shared, round, established),
            Ok(Err(failure)) if failure.is::<Final>() => return shared.refused(round, &failure.to_string()),
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("not connected within {limit:?}"),
        };
        tracing::debug!(why, "an attempt to connect failed");
        if !shared.failed(round, &why) {
            return;
        }
    }
}

/// What a round's task holds. Tells those who wait when the task goes away before it is done, or before it began.
pub(super) struct Unfinished {
    pub(super) shared: Arc<Shared>,
    pub(super) round: Arc<Round>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.shared.broke_off(&self.round); // nothing, if the round is over
    }
}

/// A connection was made: looks after what it needs, and sees its end.
fn keep(shared: &Arc<Shared>, round: &Arc<Round>, established: Established) {
    let Established { connection, keeper, asked } = established;
    // The state alone: it does not keep the connection open.
    let state = Arc::clone(connection.state());
    if shared.made(round, connection, asked) {
        shared.runtime.spawn(look_after(Arc::downgrade(shared), state, keeper));
    }
}

async fn look_after(shared: Weak<Shared>, state: Arc<ConnectionState>, keeper: Keeper) {
    let end = state.wait_for_end().await;
    tracing::debug!(%end, "a reconnecting client has lost its connection");
    if let Some(shared) = shared.upgrade() {
        shared.ended(&state);
    }
    keeper.await;
}

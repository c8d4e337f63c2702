//! The connection that all callers share, and the one task that makes another.
//!
//! ```text
//!   None ──────a caller, or eager──────> Making ──made──> Up
//!    ^  ^                                  │ │            │
//!    │  └─gave up; nobody waits any longer─┘ │            │
//!    └──────────────────lost─────────────────┼────────────┘
//!                                            └──close──> Closed <── from each
//! ```
//!
//! Callers that find no connection join the round of attempts that runs, or begin one; see `round`. They are counted,
//! since a round goes on only while somebody waits. All changes are made, and told to watchers, under one lock.

use std::{
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle, time::timeout_at};

use super::{
    backoff::Backoff,
    budget::Tokens,
    connector::Connector,
    round::{self, Round, Unfinished, Unmade},
    state::State,
};
use crate::rpc::{clock::now, connection::Connection, state::ConnectionState, waiters::lock};

/// What all handles of a client share, and the tasks that work for them.
pub(super) struct Shared {
    pub(super) connector: Box<dyn Connector>,
    pub(super) policy: Policy,
    pub(super) tokens: Tokens,
    pub(super) runtime: Handle,
    pub(super) states: watch::Sender<State>,
    inner: Mutex<Inner>,
}

/// What the builder was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) backoff: Backoff,
    pub(super) attempt_timeout: Duration,
    pub(super) max_attempts: Option<u32>,
    pub(super) max_outage: Option<Duration>,
    pub(super) max_repeats: u32,
    pub(super) deduplicated: bool,
    pub(super) eager: bool,
}

struct Inner {
    link: Link,
    tries: Tries,
    /// There was a connection before.
    reconnects: bool,
}

enum Link {
    None,
    Making {
        round: Arc<Round>,
        /// The callers that wait for it.
        waiting: usize,
        /// It waits for its next attempt, and can be ended there.
        resting: bool,
        task: Option<AbortHandle>,
    },
    Up(Arc<Current>),
    Closed,
}

/// What has been tried since the last connection that was of use.
#[derive(Default)]
struct Tries {
    /// Attempts that failed, and connections that ended before they were of any use.
    failures: u32,
    /// Since when a connection is wanted.
    since: Option<Instant>,
    /// When the next attempt may be made.
    not_before: Option<Instant>,
}

/// A connection that calls go out on.
pub(super) struct Current {
    pub(super) connection: Connection,
    since: Instant,
    /// A call was answered on it.
    proven: AtomicBool,
    /// Set when its end is asked for.
    asked: Option<Arc<AtomicBool>>,
    /// It was lost before it was of any use, and that was once too often.
    last_straw: OnceLock<Unmade>,
}

impl Current {
    /// A call was answered: what follows the loss of this connection is no series of failures.
    pub(super) fn prove(&self) {
        // Relaxed: a hint. Looked at first, since writing takes the line from the other callers.
        if !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    fn is_of_use(&self, backoff: &Backoff) -> bool {
        let lived = now().saturating_duration_since(self.since);
        // Acquire: pairs with the Release store of whoever asks, before it ends the connection.
        let asked = self.asked.as_ref().is_some_and(|asked| asked.load(Ordering::Acquire));
        asked || self.proven.load(Ordering::Relaxed) || lived >= backoff.longest()
    }
}

/// Why a caller has no connection.
pub(super) enum NoConnection {
    TimedOut,
    Unmade(Unmade),
}

impl Shared {
    pub(super) fn new(
        connector: Box<dyn Connector>,
        policy: Policy,
        tokens: Tokens,
        runtime: Handle,
    ) -> Self {
        let inner = Inner { link: Link::None, tries: Tries::default(), reconnects: false };
        let states = watch::Sender::new(State::Idle);
        Shared { connector, policy, tokens, runtime, states, inner: Mutex::new(inner) }
    }

    /// The connection, as soon as there is one, if that is in time.
    pub(super) async fn connection(
        self: &Arc<Self>,
        deadline: Option<Instant>,
    ) -> Result<Arc<Current>, NoConnection> {
        let made = match deadline {
            None => self.any_connection().await,
            Some(at) => {
                // Callers on plain threads have no runtime, which timers need.
                let limited = {
                    let _inside = self.runtime.enter();
                    timeout_at(at.into(), self.any_connection())
                };
                limited.await.map_err(|_| NoConnection::TimedOut)?
            }
        };
        made.map_err(NoConnection::Unmade)
    }

    /// The connection, as soon as there is one.
    pub(super) async fn any_connection(self: &Arc<Self>) -> Result<Arc<Current>, Unmade> {
        loop {
            let waiter = match self.join() {
                Joined::Up(current) => return Ok(current),
                Joined::Closed => return Err(Unmade::closed()),
                Joined::Waits(waiter) => waiter,
            };
            let current = waiter.round.outcome().await?;
            if current.connection.end().is_none() {
                return Ok(current);
            }
            self.lost(&current)?;
        }
    }

    /// The connection, or a place among those who wait for one.
    fn join(self: &Arc<Self>) -> Joined {
        let mut inner = lock(&self.inner);
        if let Link::Up(current) = &inner.link {
            if current.connection.end().is_none() {
                return Joined::Up(Arc::clone(current));
            }
            self.note_loss(&mut inner);
        }
        match &mut inner.link {
            Link::Making { round, waiting, .. } => {
                *waiting += 1;
                Joined::Waits(Waiter { shared: Arc::clone(self), round: Arc::clone(round) })
            }
            Link::Closed => Joined::Closed,
            Link::None | Link::Up(_) => {
                let round = self.begin_round(&mut inner, 1);
                drop(inner);
                self.spawn_round(&round);
                Joined::Waits(Waiter { shared: Arc::clone(self), round })
            }
        }
    }

    /// Begins to make a connection without a caller.
    pub(super) fn make_eagerly(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        if matches!(inner.link, Link::None) {
            let round = self.begin_round(&mut inner, 0);
            drop(inner);
            self.spawn_round(&round);
        }
    }

    fn begin_round(&self, inner: &mut Inner, waiting: usize) -> Arc<Round> {
        let round = Arc::new(Round::default());
        // Whoever has waited since the last failure would have begun before the backoff is over.
        let (now, not_before) = (now(), inner.tries.not_before);
        if inner.tries.since.is_none() || not_before.is_some_and(|at| at < now) {
            inner.tries.since = Some(now);
        }
        inner.link = Link::Making { round: Arc::clone(&round), waiting, resting: false, task: None };
        self.states.send_replace(inner.trying());
        round
    }

    /// Under no lock: a runtime that is shut down drops the task right here.
    fn spawn_round(self: &Arc<Self>, round: &Arc<Round>) {
        let unfinished = Unfinished { shared: Arc::clone(self), round: Arc::clone(round) };
        let running = self.runtime.spawn(round::run(unfinished));
        match &mut lock(&self.inner).link {
            Link::Making { round: current, task, .. } if Arc::ptr_eq(current, round) => {
                *task = Some(running.abort_handle());
            }
            _ => {} // it is over already, or will find that it is
        }
    }

    /// A round is about to make its next attempt: when it may. `None`: it is over.
    pub(super) fn next_attempt(&self, round: &Arc<Round>) -> Option<Option<Instant>> {
        let mut inner = lock(&self.inner);
        let not_before = inner.tries.not_before;
        *inner.running(round)? = true;
        Some(not_before)
    }

    /// A round has waited for its next attempt. `false`: it is over.
    pub(super) fn begin_attempt(&self, round: &Arc<Round>) -> bool {
        lock(&self.inner).running(round).map(|resting| *resting = false).is_some()
    }

    /// A round has made a connection. `false`: nobody wants it any more.
    pub(super) fn made(
        &self,
        round: &Arc<Round>,
        connection: Connection,
        asked: Option<Arc<AtomicBool>>,
    ) -> bool {
        let mut inner = lock(&self.inner);
        if inner.running(round).is_none() {
            return false;
        }
        let current = Arc::new(Current {
            connection,
            since: now(),
            proven: AtomicBool::new(false),
            asked,
            last_straw: OnceLock::new(),
        });
        inner.link = Link::Up(Arc::clone(&current));
        inner.reconnects = true;
        self.states.send_replace(State::Connected);
        drop(inner);
        round.finish(Ok(current));
        true
    }

    /// An attempt of a round has failed. `false`: the round is over.
    pub(super) fn failed(&self, round: &Arc<Round>, why: &str) -> bool {
        let mut inner = lock(&self.inner);
        if inner.running(round).is_none() {
            return false;
        }
        let next = inner.tries.fail(&self.policy.backoff);
        let attempts = inner.tries.failures;
        if inner.tries.are_enough(&self.policy, next) {
            inner.give_up();
            let why = why.to_owned();
            self.states.send_replace(State::Gone { attempts, why: why.clone() });
            drop(inner);
            round.finish(Err(Unmade { attempts, why }));
            return false;
        }
        if !self.policy.eager && matches!(inner.link, Link::Making { waiting: 0, .. }) {
            self.desert(&mut inner); // its task is the caller
            return false;
        }
        self.states.send_replace(inner.trying());
        true
    }

    /// An attempt of a round has failed, and none is to follow.
    pub(super) fn refused(&self, round: &Arc<Round>, why: &str) {
        let mut inner = lock(&self.inner);
        if inner.running(round).is_none() {
            return;
        }
        let attempts = inner.tries.failures;
        inner.give_up();
        let why = why.to_owned();
        self.states.send_replace(State::Gone { attempts, why: why.clone() });
        drop(inner);
        round.finish(Err(Unmade { attempts, why }));
    }

    /// A round has ended without a result: its connector panicked, or its runtime is shut down.
    pub(super) fn broke_off(&self, round: &Arc<Round>) {
        let why =
            "the task that connects was broken off: its connector panicked, or its runtime was shut down";
        let mut inner = lock(&self.inner);
        if inner.running(round).is_none() {
            return;
        }
        inner.tries.fail(&self.policy.backoff);
        let attempts = inner.tries.failures;
        inner.give_up();
        self.states.send_replace(State::Gone { attempts, why: why.to_owned() });
        drop(inner);
        round.finish(Err(Unmade { attempts, why: why.to_owned() }));
    }

    /// A caller waits no longer.
    fn leave(&self, round: &Arc<Round>) {
        let mut inner = lock(&self.inner);
        let Link::Making { round: current, waiting, resting, .. } = &mut inner.link else { return };
        if !Arc::ptr_eq(current, round) {
            return;
        }
        *waiting -= 1;
        // An attempt that runs goes on: it is under way, and the next caller is glad of its result.
        if *waiting > 0 || !*resting || self.policy.eager {
            return;
        }
        let task = self.desert(&mut inner);
        drop(inner); // what the task holds goes with it, and takes other locks
        task.inspect(AbortHandle::abort);
    }

    /// Nobody waits any longer for the round that runs. What has been tried stays known, so that the next round begins
    /// no sooner than this one would have gone on.
    fn desert(&self, inner: &mut Inner) -> Option<AbortHandle> {
        inner.tries.since = None;
        self.states.send_replace(State::Idle);
        match mem::replace(&mut inner.link, Link::None) {
            Link::Making { task, .. } => task,
            _ => None,
        }
    }

    /// A caller has found the connection's end, perhaps before the connection knows it itself. `Err`: the client gives up
    /// with that; who had not sent anything on it has waited in vain.
    pub(super) fn lost(&self, current: &Arc<Current>) -> Result<(), Unmade> {
        let mut inner = lock(&self.inner);
        if matches!(&inner.link, Link::Up(up) if Arc::ptr_eq(up, current)) {
            self.note_loss(&mut inner);
        }
        drop(inner);
        current.last_straw.get().cloned().map_or(Ok(()), Err)
    }

    /// A connection has ended, whether anybody calls or not.
    pub(super) fn ended(self: &Arc<Self>, state: &Arc<ConnectionState>) {
        let mut inner = lock(&self.inner);
        if matches!(&inner.link, Link::Up(up) if Arc::ptr_eq(up.connection.state(), state)) {
            self.note_loss(&mut inner);
        }
        drop(inner);
        let gave_up = matches!(*self.states.borrow(), State::Gone { .. });
        if self.policy.eager && !gave_up {
            self.make_eagerly();
        }
    }

    fn note_loss(&self, inner: &mut Inner) {
        let Link::Up(current) = mem::replace(&mut inner.link, Link::None) else { return };
        let mut state = State::Idle;
        if current.is_of_use(&self.policy.backoff) {
            inner.tries = Tries::default();
        } else {
            let next = inner.tries.fail(&self.policy.backoff);
            let attempts = inner.tries.failures;
            if inner.tries.are_enough(&self.policy, next) {
                inner.give_up();
                // Not known yet if it is a caller that has found the end.
                let last = current.connection.end().map(|end| format!("; the last one: {end}"));
                let why = format!(
                    "connections were made, and ended before they were of any use{}",
                    last.unwrap_or_default()
                );
                let _ = current.last_straw.set(Unmade { attempts, why: why.clone() }); // lost once
                state = State::Gone { attempts, why };
            }
        }
        self.states.send_replace(state);
    }

    /// Ends it for good. The connection that there was is returned.
    pub(super) fn close(&self) -> Option<Connection> {
        let mut inner = lock(&self.inner);
        let link = mem::replace(&mut inner.link, Link::Closed);
        if !matches!(link, Link::Closed) {
            self.states.send_replace(State::Closed);
        }
        drop(inner);
        match link {
            Link::Making { round, task, .. } => {
                task.inspect(AbortHandle::abort);
                round.finish(Err(Unmade::closed()));
                None
            }
            Link::Up(current) => Some(current.connection.clone()),
            Link::None | Link::Closed => None,
        }
    }
}

impl Inner {
    /// Whether the round rests, if it is the one that runs.
    fn running(&mut self, of: &Arc<Round>) -> Option<&mut bool> {
        match &mut self.link {
            Link::Making { round, resting, .. } if Arc::ptr_eq(round, of) => Some(resting),
            _ => None,
        }
    }

    fn trying(&self) -> State {
        let attempt = self.tries.failures.saturating_add(1);
        if self.reconnects { State::Reconnecting { attempt } } else { State::Connecting { attempt } }
    }

    /// The next round counts anew, and begins no sooner than this one would have gone on.
    fn give_up(&mut self) {
        self.tries = Tries { not_before: self.tries.not_before, ..Tries::default() };
        self.link = Link::None;
    }
}

impl Tries {
    /// Counts a failure, and returns when the next attempt may be made.
    fn fail(&mut self, backoff: &Backoff) -> Option<Instant> {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now().checked_add(backoff.delay(self.failures));
        self.not_before
    }

    fn are_enough(&self, policy: &Policy, next: Option<Instant>) -> bool {
        let outage = self.since.zip(next).map(|(since, next)| next.saturating_duration_since(since));
        policy.max_attempts.is_some_and(|max| self.failures >= max)
            || outage.zip(policy.max_outage).is_some_and(|(outage, max)| outage > max)
    }
}

/// What a caller finds.
enum Joined {
    Up(Arc<Current>),
    Waits(Waiter),
    Closed,
}

/// A caller that waits for a round.
struct Waiter {
    shared: Arc<Shared>,
    round: Arc<Round>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.shared.leave(&self.round);
    }
}

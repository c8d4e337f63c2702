//! What is shared by all that work for one supervised cell: which process runs, and how those before it ended.

use std::{
    collections::VecDeque,
    error::Error,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot, watch},
    time::{timeout, timeout_at},
};

use super::{
    gate::{Gate, Use},
    life::{self, Life},
    state::State,
};
use crate::{
    compose::reconnect::{ConnectFailure, Established, Final},
    rpc::{clock::now, connection::WeakConnection, errors::CallError, options::Options, waiters::lock},
    segments::{Manner, race},
};

/// Makes the command of the next start.
pub(super) type MakeCommand = dyn Fn() -> Command + Send + Sync;

/// What the builder was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_restarts: u32,
    pub(super) window: Duration,
    pub(super) stop_grace: Duration,
    pub(super) idle_stop: Option<Duration>,
}

/// One cell. See the module's documentation.
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) runtime: Handle,
    pub(super) states: watch::Sender<State>,
    pub(super) command: Box<MakeCommand>,
    pub(super) options: Options,
    pub(super) manner: Manner,
    pub(super) limits: Limits,
    gate: Arc<Gate>,
    /// One process at a time: held until it is reaped. Those that wait for it have no process.
    alone: Arc<AsyncMutex<()>>,
    /// The process that holds that.
    life: Mutex<Option<Arc<Life>>>,
    ends: Mutex<Ends>,
    starts: AtomicU64,
    closed: AtomicBool,
}

/// What the task of a process has from the start, and drops at its end in this order.
pub(super) struct Begun {
    pub(super) life: Arc<Life>,
    pub(super) _alone: OwnedMutexGuard<()>,
    pub(super) _over: watch::Sender<()>,
}

/// The ends that were not asked for, oldest first; no more than are looked at.
#[derive(Default)]
struct Ends {
    times: VecDeque<Instant>,
    last: Option<Arc<str>>,
}

impl Shared {
    pub(super) fn new(
        command: Box<MakeCommand>,
        options: Options,
        manner: Manner,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Shared {
            name: Arc::clone(&manner.name),
            runtime: Handle::current(),
            states: watch::Sender::new(State::Idle),
            command,
            options,
            manner,
            limits,
            gate: Gate::new(),
            alone: Arc::default(),
            life: Mutex::default(),
            ends: Mutex::default(),
            starts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// As [`enter`](Shared::enter), for a call that has no longer than until then.
    pub(super) async fn enter_by(
        &self,
        deadline: Option<Instant>,
        after: Duration,
    ) -> Result<Use, CallError> {
        let Some(at) = deadline else { return self.enter().await };
        // Callers on plain threads have no runtime, which timers need.
        let limited = {
            let _inside = self.runtime.enter();
            timeout_at(at.into(), self.enter())
        };
        limited.await.unwrap_or_else(|_| Err(CallError::TimedOut { after }))
    }

    /// Begins to use the cell: waits while it is being stopped, and fails at once while it may not be started.
    pub(super) async fn enter(&self) -> Result<Use, CallError> {
        let entered = self.gate.enter().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(self.unconnected(0, "it was closed"));
        }
        if !self.life().is_some_and(|life| life.is_up()) {
            self.check_restarts().map_err(|(times, why)| self.unconnected(times, &why))?;
        }
        Ok(entered)
    }

    fn unconnected(&self, attempts: u32, why: &str) -> CallError {
        CallError::Unconnected { attempts, why: self.tell(why) }
    }

    /// Something of the cell, with its name.
    pub(super) fn tell(&self, what: &str) -> String {
        format!("the cell `{}`: {what}", self.name)
    }

    /// The process that there is, if there is one.
    fn life(&self) -> Option<Arc<Life>> {
        lock(&self.life).clone()
    }

    /// Names the cell in what a call failed with.
    pub(super) fn named(&self, error: CallError) -> CallError {
        match error {
            CallError::OutcomeUnknown { end } => CallError::CellEnded { cell: Arc::clone(&self.name), end },
            CallError::Unconnected { attempts, why }
                if !why.contains(&format!("the cell `{}`", self.name)) =>
            {
                self.unconnected(attempts, &why)
            }
            error => error,
        }
    }

    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed) // a count and nothing else
    }

    pub(super) fn count_start(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// `Err`: it has ended too often lately.
    fn check_restarts(&self) -> Result<(), (u32, String)> {
        let mut ends = lock(&self.ends);
        let (window, limit) = (self.limits.window, self.limits.max_restarts);
        while ends.times.front().is_some_and(|at| now().saturating_duration_since(*at) > window) {
            ends.times.pop_front();
        }
        let times = u32::try_from(ends.times.len()).unwrap_or(u32::MAX);
        if times <= limit {
            return Ok(());
        }
        let last = ends.last.as_deref().unwrap_or_default();
        Err((
            times,
            format!("it ended {times} times within {window:?}, more than {limit}; the last time: {last}"),
        ))
    }

    /// Starts a process, once the one before is gone.
    pub(super) async fn launch(self: Arc<Self>) -> Result<Established, ConnectFailure> {
        let (made, told) = oneshot::channel();
        self.runtime.spawn(life::run(Arc::clone(&self), made));
        let broken_off = |_| self.tell("the task that starts it was broken off: its runtime was shut down");
        told.await.map_err(broken_off)?
    }

    /// Waits until a process may be started: none is there, and none is being stopped.
    pub(super) async fn begin(&self) -> Result<Begun, ConnectFailure> {
        self.gate.unbarred(|| ()).await; // what is being stopped may take long, as its clients want it
        let limit = self.limits.stop_grace.saturating_add(KILLING);
        let alone = timeout(limit, Arc::clone(&self.alone).lock_owned());
        let _alone = alone
            .await
            .map_err(|_| self.tell(&format!("the process before has not ended within {limit:?}")))?;
        self.check_restarts().map_err(|(_, why)| Final::failure(self.tell(&why)))?;
        let (_over, gone) = watch::channel(());
        let life = Life::new(gone);
        // From here on a stop finds it, and one that is at its work is waited for.
        let enter = || {
            let mut current = lock(&self.life);
            let closed = self.closed.load(Ordering::Acquire);
            if !closed {
                *current = Some(Arc::clone(&life));
            }
            closed
        };
        if self.gate.unbarred(enter).await {
            return Err(Final::failure(self.tell("it was closed")));
        }
        Ok(Begun { life, _alone, _over })
    }

    /// The process is gone: with why, if that was not asked for, and counts.
    pub(super) fn ended(&self, unasked: Option<Arc<str>>) {
        lock(&self.life).take();
        let Some(why) = unasked else {
            if !self.closed.load(Ordering::Acquire) {
                self.publish(State::Idle);
            }
            return;
        };
        let mut ends = lock(&self.ends);
        ends.times.push_back(now());
        if ends.times.len() > self.limits.max_restarts as usize + 1 {
            ends.times.pop_front();
        }
        ends.last = Some(Arc::clone(&why));
        drop(ends);
        tracing::warn!(cell = &*self.name, why = &*why, "a cell ended");
        self.publish(State::Ended { why });
    }

    /// Tells those who watch, unless all was said.
    pub(super) fn publish(&self, state: State) {
        self.states.send_if_modified(|last| {
            let news = *last != State::Closed && *last != state;
            if news {
                *last = state;
            }
            news
        });
    }

    /// Waits until the cell is not used, for a cell that is to be stopped then. Nobody comes in from then on.
    ///
    /// Whoever has a connection comes in by no gate, so that what the link is at counts as well: nothing was open on it
    /// at two looks in a row, nor opened between them.
    pub(super) async fn unused(&self, connection: Option<&WeakConnection>) {
        let (Some(time), Some(connection)) = (self.limits.idle_stop, connection) else {
            return std::future::pending().await;
        };
        let time = time.max(SHORTEST_IDLE);
        let (mut wait, mut before) = (time, None);
        loop {
            tokio::time::sleep(wait).await;
            let Some(open) = connection.upgrade() else { return std::future::pending().await };
            let seen = std::mem::replace(&mut before, open.hub().activity());
            wait = time;
            if seen.is_none() || seen != before {
                continue;
            }
            match self.gate.shut_if_unused(time, after(self.limits.stop_grace)) {
                Err(longer) => wait = longer,
                Ok(false) => return std::future::pending().await, // it is being stopped
                Ok(true) if open.hub().activity() == before => return,
                Ok(true) => self.gate.open(),
            }
        }
    }

    /// Stops the process that runs, if one does.
    pub(super) async fn stop(self: &Arc<Self>, patience: Duration) {
        if !self.gate.shut(after(patience)) {
            return self.gate.opened().await; // somebody else stops it, and now no later than we want
        }
        let shared = Arc::clone(self);
        // In a task, so that it is done also if the caller gives up.
        let _ = self.runtime.spawn(async move { shared.finish().await }).await;
    }

    /// Stops the process, behind a gate that is shut already.
    pub(super) fn finish_soon(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        drop(self.runtime.spawn(async move { shared.finish().await }));
    }

    /// Stops the process while nobody comes in, and lets those in that wait.
    async fn finish(&self) {
        let _opens = Opens(&self.gate);
        // Those that are inside may be starting it.
        race(self.gate.empty(), self.gate.time_is_up()).await;
        self.gate.bar();
        let Some(life) = self.life() else { return };
        if let Some(connection) = life.ask() {
            // What is open when the time is up ends with the link.
            race(connection.drain(FOR_EVER), self.gate.time_is_up()).await;
            connection.close().await;
        }
        life.gone().await;
    }

    pub(super) fn kill(&self) {
        self.gate.hurry(now());
        if let Some(life) = self.life() {
            life.kill();
        }
    }

    /// From now on nothing is started, and nobody comes in.
    pub(super) fn close(&self) {
        let _current = lock(&self.life);
        self.closed.store(true, Ordering::Release);
    }
}

/// So much later than now.
fn after(time: Duration) -> Instant {
    let now = now();
    now.checked_add(time).unwrap_or_else(|| now + FOR_EVER)
}

/// Opens the gate, also if the runtime is shut down meanwhile: those who wait at it may be on threads of their own.
struct Opens<'a>(&'a Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// An error with all that it came from.
pub(super) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What a process may take to end once it was killed.
const KILLING: Duration = Duration::from_secs(5);
/// Longer than anybody waits, and no clock overflows.
const FOR_EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);
/// An idle cell is looked at no more often than this, and so not stopped sooner either.
const SHORTEST_IDLE: Duration = Duration::from_millis(10);

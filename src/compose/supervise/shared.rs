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
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};

use super::{
    gate::{Gate, Use},
    state::State,
};
use crate::{
    compose::reconnect::Established,
    rpc::{
        clock::now,
        connection::{Connection, WeakConnection},
        errors::CallError,
        options::Options,
        waiters::lock,
    },
    segments::{Manner, Process, launch},
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
    command: Box<MakeCommand>,
    options: Options,
    manner: Manner,
    limits: Limits,
    gate: Arc<Gate>,
    /// One process at a time: held until the one before was reaped.
    alone: Arc<AsyncMutex<()>>,
    running: Mutex<Option<Running>>,
    ends: Mutex<Ends>,
    starts: AtomicU64,
    closed: AtomicBool,
}

/// The process that serves.
struct Running {
    process: Arc<Process>,
    connection: WeakConnection,
    /// Its end was asked for.
    expected: Arc<AtomicBool>,
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
            running: Mutex::default(),
            ends: Mutex::default(),
            starts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Begins to use the cell: waits while it is being stopped, and fails at once while it may not be started.
    pub(super) async fn enter(&self) -> Result<Use, CallError> {
        let entered = self.gate.enter().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(self.unconnected(0, "it was closed"));
        }
        if lock(&self.running).is_none() {
            self.check_restarts().map_err(|(times, why)| self.unconnected(times, &why))?;
        }
        Ok(entered)
    }

    fn unconnected(&self, attempts: u32, why: &str) -> CallError {
        CallError::Unconnected { attempts, why: format!("the cell `{}`: {why}", self.name) }
    }

    /// Names the cell in what a call failed with.
    pub(super) fn named(&self, error: CallError) -> CallError {
        match error {
            CallError::OutcomeUnknown { end } => CallError::CellEnded { cell: Arc::clone(&self.name), end },
            error => error,
        }
    }

    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed) // a count and nothing else
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
    pub(super) async fn launch(self: Arc<Self>) -> Result<Established, Box<dyn Error + Send + Sync>> {
        let alone = Arc::clone(&self.alone).lock_owned().await;
        self.check_restarts().map_err(|(_, why)| format!("the cell `{}`: {why}", self.name))?;
        self.states.send_replace(State::Starting);
        let launched = launch((self.command)(), &self.options.settings, &self.manner).await;
        let (parts, process) = launched.map_err(|error| {
            let why: Arc<str> = told(&error).into();
            self.note_end(&why);
            format!("{why}")
        })?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        let (connection, process) = (Connection::start(parts, &self.options), Arc::new(process));
        let expected = Arc::new(AtomicBool::new(false));
        let running = Running {
            process: Arc::clone(&process),
            connection: connection.downgrade(),
            expected: Arc::clone(&expected),
        };
        *lock(&self.running) = Some(running);
        self.states.send_replace(State::Serving { process: process.id() });
        if let Some(time) = self.limits.idle_stop {
            let (shared, connection) = (Arc::clone(&self), connection.downgrade());
            drop(tokio::spawn(async move { shared.stop_when_idle(&connection, time).await }));
        }
        let state = Arc::clone(connection.state());
        let keeper = Box::pin(async move {
            // The link is at its end.
            lock(&self.running).take();
            if timeout(self.limits.stop_grace, process.wait()).await.is_err() && process.kill().is_ok() {
                let _ = process.wait().await; // an error is that how it ended is lost, and it has ended then
            }
            if expected.load(Ordering::Acquire) {
                self.states.send_replace(if self.closed.load(Ordering::Acquire) {
                    State::Closed
                } else {
                    State::Idle
                });
            } else {
                self.note_end(&state.end().to_string().into());
            }
            drop((process, alone));
        });
        Ok(Established::kept_by(connection, keeper))
    }

    /// Counts an end that was not asked for.
    fn note_end(&self, why: &Arc<str>) {
        let mut ends = lock(&self.ends);
        ends.times.push_back(now());
        if ends.times.len() > self.limits.max_restarts as usize + 1 {
            ends.times.pop_front();
        }
        ends.last = Some(Arc::clone(why));
        drop(ends);
        tracing::warn!(cell = &*self.name, why = &**why, "a cell ended");
        self.states.send_replace(State::Ended { why: Arc::clone(why) });
    }

    /// Waits until the cell is not used, and stops it.
    async fn stop_when_idle(self: Arc<Self>, connection: &WeakConnection, time: Duration) {
        let mut wait = time;
        loop {
            tokio::time::sleep(wait).await;
            let Some(open) = connection.upgrade().filter(|open| open.end().is_none()) else { return };
            match self.gate.shut_if_unused(time) {
                Err(longer) => wait = longer,
                Ok(false) => return, // it is being stopped
                Ok(true) if open.hub().is_quiet(open.state()) => return self.finish(Duration::ZERO).await,
                Ok(true) => {
                    self.gate.open();
                    wait = time;
                }
            }
        }
    }

    /// Stops the process that runs, if one does.
    pub(super) async fn stop(self: &Arc<Self>, patience: Duration) {
        if !self.gate.shut() {
            return self.gate.opened().await; // somebody else stops it
        }
        let shared = Arc::clone(self);
        // In a task, so that it is done also if the caller gives up.
        let _ = self.runtime.spawn(async move { shared.finish(patience).await }).await;
    }

    /// Stops the process while nobody comes in, and lets those in that wait.
    async fn finish(&self, patience: Duration) {
        let began = now();
        // Those that are inside may be starting it.
        let _ = timeout(patience, self.gate.empty()).await;
        let running = lock(&self.running).take();
        if let Some(Running { process, connection, expected }) = running {
            self.states.send_replace(State::Stopping);
            expected.store(true, Ordering::Release);
            if let Some(connection) = connection.upgrade() {
                let left = patience.saturating_sub(now().saturating_duration_since(began));
                let _ = connection.drain(left).await; // what is left then ends with the link
            }
            if timeout(self.limits.stop_grace, process.wait()).await.is_err() && process.kill().is_ok() {
                let _ = process.wait().await;
            }
            drop(process);
            drop(self.alone.lock().await); // until it is accounted for
        }
        if self.closed.load(Ordering::Acquire) {
            self.states.send_replace(State::Closed);
        }
        self.gate.open();
    }

    pub(super) fn kill(&self) {
        if let Some(running) = &*lock(&self.running) {
            running.expected.store(true, Ordering::Release);
            let _ = running.process.kill(); // it may have ended
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// An error with all that it came from.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

//! One process: a task of its own, from before it is started until it is reaped.
//!
//! ```text
//!   waits for its turn ──> starts ──> serves ──link's end──> exits, or is killed ──> reaped
//!                            └─────────asked to end, nobody wants it, failed──────────^
//! ```
//!
//! The task alone says where the cell stands. Whoever stops or kills the process asks the task to end it, and waits until
//! it has: so it does not matter what of the above the process is at, and nothing is left of it when a caller gives up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitStatus,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::timeout,
};

use super::{
    shared::{Begun, Shared, told},
    state::State,
};
use crate::{
    compose::reconnect::{ConnectFailure, Established, Final},
    error::LinkEnd,
    rpc::{
        connection::{Connection, WeakConnection},
        state::ConnectionState,
        waiters::lock,
    },
    segments::{Either, Process, begin, race},
};

/// Tells the client that wants a connection.
pub(super) type Made = oneshot::Sender<Result<Established, ConnectFailure>>;

/// A process, for those who end it.
pub(super) struct Life {
    /// Its end was asked for.
    asked: Arc<AtomicBool>,
    told: Notify,
    process: Mutex<Seen>,
    /// What is known of its link, once it serves.
    link: OnceLock<Arc<ConnectionState>>,
    /// Its other end goes with the task.
    gone: watch::Receiver<()>,
}

/// As far as the process has come.
#[derive(Default)]
struct Seen {
    process: Option<Arc<Process>>,
    connection: Option<WeakConnection>,
}

/// Why a process does not serve.
enum Unserved {
    /// Its end was asked for, or nobody wants it any more.
    Ended,
    Failed(Arc<str>),
}

impl Life {
    pub(super) fn new(gone: watch::Receiver<()>) -> Arc<Self> {
        Arc::new(Life {
            asked: Arc::default(),
            told: Notify::new(),
            process: Mutex::default(),
            link: OnceLock::new(),
            gone,
        })
    }

    /// Whether calls go out to it.
    pub(super) fn is_up(&self) -> bool {
        self.link.get().is_some_and(|link| link.ended().is_none())
    }

    /// Asks for its end, which counts as asked for from now on. It is killed if it does not serve yet. Otherwise its
    /// connection is returned: the process is to end by that.
    pub(super) fn ask(&self) -> Option<Connection> {
        let seen = lock(&self.process);
        self.asked.store(true, Ordering::Release); // under the lock, which `serves` looks under
        self.told.notify_one();
        seen.connection.as_ref().and_then(WeakConnection::upgrade)
    }

    /// Kills it, whatever it is at.
    pub(super) fn kill(&self) {
        drop(self.ask());
        if let Some(process) = &lock(&self.process).process {
            let _ = process.kill(); // an error is that it runs under another user
        }
    }

    /// Waits until nothing is left of it.
    pub(super) async fn gone(&self) {
        let _ = self.gone.clone().changed().await; // nothing is ever sent: it waits for the other end to go
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// It serves. `false`: its end was asked for meanwhile.
    fn serves(&self, connection: &Connection) -> bool {
        let mut seen = lock(&self.process);
        if self.was_asked() {
            return false;
        }
        seen.connection = Some(connection.downgrade());
        let _ = self.link.set(Arc::clone(connection.state())); // once
        true
    }

    /// Starts the process, and waits until it serves.
    async fn start(&self, shared: &Shared, made: &mut Made) -> Result<Connection, Unserved> {
        let failed = |why: String| Unserved::Failed(why.into());
        let command = catch_unwind(AssertUnwindSafe(|| (shared.command)()))
            .map_err(|_| failed(shared.tell("its command could not be made: the closure panicked")))?;
        let settings = &shared.options.settings;
        let starting = begin(command, settings, &shared.manner).map_err(|error| failed(told(&error)))?;
        let process = starting.process();
        lock(&self.process).process = Some(Arc::clone(&process));
        let unwanted = race(self.told.notified(), made.closed());
        let served = match race(starting.serve(settings), unwanted).await {
            Either::Left(served) => served,
            Either::Right(_) => {
                end(&process).await;
                return Err(Unserved::Ended);
            }
        };
        let (parts, _) = served.map_err(|error| match self.was_asked() {
            true => Unserved::Ended, // killed from outside of this task
            false => failed(told(&error)),
        })?;
        let connection = Connection::start(parts, &shared.options);
        if self.serves(&connection) {
            return Ok(connection);
        }
        drop(connection);
        end(&process).await;
        Err(Unserved::Ended)
    }

    /// Waits for the end of the link.
    async fn serve(&self, shared: &Arc<Shared>, link: &ConnectionState) -> LinkEnd {
        let mut end = std::pin::pin!(link.wait_for_end());
        let weak = lock(&self.process).connection.clone();
        match race(end.as_mut(), race(self.told.notified(), shared.unused(weak.as_ref()))).await {
            Either::Left(end) => return end,
            Either::Right(Either::Left(())) => {}
            Either::Right(Either::Right(())) => shared.finish_soon(),
        }
        shared.publish(State::Stopping);
        end.await
    }

    /// Sees to it that the process ends, now that its link has, and says how.
    async fn reap(&self, shared: &Shared) -> Option<ExitStatus> {
        let process = lock(&self.process).process.clone()?;
        if let Ok(status) = timeout(Duration::ZERO, process.wait()).await {
            return status.ok(); // most often it is the process's end that ends its link
        }
        shared.publish(State::Stopping);
        if let Ok(status) = timeout(shared.limits.stop_grace, process.wait()).await {
            return status.ok();
        }
        end(&process).await
    }
}

/// Lives the life of one process.
pub(super) async fn run(shared: Arc<Shared>, mut made: Made) {
    let Begun { life, _alone, _over } = match race(shared.begin(), made.closed()).await {
        Either::Left(Ok(begun)) => begun,
        Either::Left(Err(failure)) => return drop(made.send(Err(failure))),
        Either::Right(()) => return,
    };
    shared.publish(State::Starting);
    match life.start(&shared, &mut made).await {
        Ok(connection) => {
            shared.count_start();
            let link = Arc::clone(connection.state());
            if let Some(process) = &lock(&life.process).process {
                shared.publish(State::Serving { process: process.id() });
            }
            // If nobody wants it any more, this ends the link.
            drop(made.send(Ok(Established::ending(connection, Arc::clone(&life.asked)))));
            let end = life.serve(&shared, &link).await;
            let status = life.reap(&shared).await;
            // What this side has closed it wanted closed: the last handle is dropped, say.
            let asked = life.was_asked() || matches!(end, LinkEnd::Closed);
            shared.ended((!asked).then(|| how(&end, status)));
        }
        Err(Unserved::Ended) => {
            shared.ended(None);
            drop(made.send(Err(Final::failure(shared.tell("it was stopped while it started")))));
        }
        Err(Unserved::Failed(why)) => {
            shared.ended(Some(Arc::clone(&why)));
            drop(made.send(Err(why.to_string().into())));
        }
    }
}

/// Kills it, and waits until it is reaped.
async fn end(process: &Process) -> Option<ExitStatus> {
    process.kill().ok()?; // one that runs under another user is not waited for
    process.wait().await.ok()
}

/// How a process ended, in words.
fn how(end: &LinkEnd, status: Option<ExitStatus>) -> Arc<str> {
    match (end, status) {
        (LinkEnd::Exited { .. } | LinkEnd::Killed { .. }, _) | (_, None) => end.to_string().into(),
        (end, Some(status)) => format!("{end}, and its process ended: {status}").into(),
    }
}

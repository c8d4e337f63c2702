//! Cells that are kept running: started when they are needed, started again when they crash, stopped when they are idle.
//!
//! A [`Supervised`] cell is what generated clients are made of in place of a [`Connection`](crate::Connection), and they
//! work on it unchanged.
//!
//! ```no_run
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{CellOutput, Options, supervise::Supervised};
//! use std::{process::Command, time::Duration};
//!
//! #[adjoin::service]
//! trait Thumbnails {
//!     async fn render(&self, page: u32) -> Vec<u8>;
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cell = Supervised::builder("thumbnails", || Command::new("./thumbnailer"))
//!     .stderr(CellOutput::Events)
//!     .idle_stop(Duration::from_secs(60))
//!     .build();
//! let thumbnails = ThumbnailsClient::new(&cell);
//! thumbnails.render(1).await?; // starts the process, and waits until it serves
//! cell.stop(Duration::from_secs(5)).await; // the next call would start another
//! # Ok(()) }
//! # }
//! # fn main() {}
//! ```
//!
//! # The states
//!
//! ```text
//!   Idle ──call, start──> Starting ──> Serving ──stop, idle──> Stopping ──> Idle
//!                          ^    │         │
//!                   backoff│    └─failed──┴─crashed─> Ended
//!                          └────────call──────────────┘          each ──close──> Closed
//! ```
//!
//! | what happens | what is done |
//! |---|---|
//! | the first call, of many at once | one start; all wait for it |
//! | the process ends before it serves | it is tried again, [`Builder::start_attempts`] times, with [`Builder::backoff`]; then those that wait fail |
//! | it ends while it serves | calls that were sent fail with [`CallError::CellEnded`](crate::CallError::CellEnded), unless their method is idempotent; the next call starts another, no sooner than the backoff allows |
//! | it ends too often | calls fail at once ([`Builder::max_restarts`]), with how it ended last |
//! | it lets go of its link, and does not end | it is killed after [`Builder::stop_grace`], with its process group; the next one is started then |
//! | nobody has used it for a while | it is stopped ([`Builder::idle_stop`]) |
//! | it is stopped, killed or closed while it starts | the process is killed; those that wait for it fail |
//! | it does not end when it is told to | it is killed after [`Builder::stop_grace`], with its process group |
//! | this process dies | so does the cell, unless [`Builder::outlives_host`] |
//!
//! What counts as a restart is every end that this side has not asked for, and every start that failed.
//!
//! How connections are made, and which calls are made again, is told at [`reconnect`](crate::reconnect), which this is
//! built on.

mod builder;
mod gate;
mod life;
mod shared;
mod state;

use std::{fmt, sync::Arc, time::Duration};

use self::shared::Shared;
pub use self::{builder::Builder, state::State, state::Watch};
use crate::{
    compose::reconnect::Reconnecting,
    rpc::{
        caller::{Caller, Manage, OutgoingCall, Replying},
        clock::now,
        connection::Connection,
        errors::CallError,
    },
};

/// A cell that is kept running. See the [module's documentation](self).
///
/// Cheap to clone; all clones are the same. When the last one is dropped, with all clients and calls that were made from
/// it, the cell's link is closed, and its process is killed if it does not end by itself.
#[derive(Clone)]
pub struct Supervised {
    handle: Arc<Handle>,
}

/// What clones share, and calls hold while they run.
struct Handle {
    shared: Arc<Shared>,
    client: Reconnecting,
}

impl Supervised {
    /// A cell of this name, with a command that is made anew for each start.
    pub fn builder(
        name: impl Into<Arc<str>>,
        command: impl Fn() -> std::process::Command + Send + Sync + 'static,
    ) -> Builder {
        Builder::new(name.into(), Box::new(command))
    }

    /// What errors and events call the cell.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.shared.name
    }

    /// Starts the cell if it does not run, and waits until it serves, as a call does.
    ///
    /// # Errors
    ///
    /// [`CallError::Unconnected`], with why it could not be started.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start(&self) -> Result<(), CallError> {
        self.connection().await.map(drop)
    }

    /// The connection to the process that runs now; starts one if there is none.
    ///
    /// It is a plain one: it ends with that process. To hold it does not keep an idle cell from being stopped; a call or a
    /// stream on it does.
    ///
    /// # Errors
    ///
    /// As [`start`](Supervised::start).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connection(&self) -> Result<Connection, CallError> {
        let _use = self.handle.shared.enter().await?;
        self.handle.client.connection().await.map_err(|error| self.handle.shared.named(error))
    }

    /// Where the cell stands now.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.shared.states.borrow().clone()
    }

    /// Follows where the cell stands, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(self.handle.shared.states.subscribe())
    }

    /// How often it was started so far.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.handle.shared.starts()
    }

    /// Stops the process: lets the calls and streams that are open come to their end for as long as `patience` lasts,
    /// closes the link, which a cell takes as its sign to exit, and kills it with its group after
    /// [`Builder::stop_grace`]. Returns when it has ended; at once if none runs.
    ///
    /// Calls that are made meanwhile wait, and start another one. A process that does not serve yet when `patience` is
    /// over is killed; those that wait for it fail with [`CallError::Unconnected`]. If it is being stopped already,
    /// this waits for that, and shortens its patience to this one: [`kill`](Supervised::kill) makes an end of it at
    /// once.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the rest is done all the same.
    pub async fn stop(&self, patience: Duration) {
        self.handle.shared.stop(patience).await;
    }

    /// Kills the process, with its group, whether it starts, serves or is being stopped. It counts as an end that was
    /// asked for. Those that wait for its start fail with [`CallError::Unconnected`].
    pub fn kill(&self) {
        self.handle.shared.kill();
    }

    /// As [`stop`](Supervised::stop), for good: later calls fail.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the rest is done all the same once it was polled.
    pub async fn close(&self, patience: Duration) {
        let handle = Arc::clone(&self.handle);
        handle.shared.close();
        let runtime = handle.shared.runtime.clone();
        let closing = async move {
            handle.shared.stop(patience).await;
            handle.client.close().await;
            handle.shared.publish(State::Closed);
        };
        // In a task, so that it is done also if the caller gives up.
        let _ = runtime.spawn(closing).await;
    }
}

impl Manage for Handle {
    fn start(self: Arc<Self>, mut call: OutgoingCall) -> Replying {
        Box::pin(async move {
            let deadline = call.options.settle_deadline()?;
            let after = call.options.timeout.unwrap_or_default();
            let _use = self.shared.enter_by(deadline, after).await?;
            if let Some(deadline) = deadline {
                call.options.timeout = Some(deadline.saturating_duration_since(now()));
            }
            let replied = Caller::from(&self.client).start(call).await;
            replied.map_err(|error| match error {
                CallError::TimedOut { .. } => CallError::TimedOut { after }, // not only after what was left
                error => self.shared.named(error),
            })
        })
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        &self.shared.runtime
    }

    fn name(&self) -> &'static str {
        "Supervised"
    }
}

impl From<&Supervised> for Caller {
    fn from(cell: &Supervised) -> Self {
        Caller::managed(Arc::clone(&cell.handle) as Arc<dyn Manage>)
    }
}

impl From<Supervised> for Caller {
    fn from(cell: Supervised) -> Self {
        Caller::managed(cell.handle)
    }
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { name, .. } = &*self.handle.shared;
        f.debug_struct("Supervised").field("name", name).field("state", &self.state()).finish_non_exhaustive()
    }
}

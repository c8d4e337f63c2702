//! How a cell is supervised.

use std::{fmt, process::Command, sync::Arc, time::Duration};

use super::{
    Handle, Supervised,
    shared::{Limits, MakeCommand, Shared},
};
use crate::{
    compose::reconnect::{Backoff, Reconnecting, RetryBudget},
    rpc::options::Options,
    segments::{CellOutput, Manner},
};

/// Sets how a [`Supervised`] cell is started, kept and stopped. Made by [`Supervised::builder`].
#[must_use]
pub struct Builder {
    command: Box<MakeCommand>,
    options: Options,
    manner: Manner,
    limits: Limits,
    backoff: Backoff,
    start_attempts: u32,
    max_repeats: u32,
    budget: RetryBudget,
}

impl Builder {
    pub(super) fn new(name: Arc<str>, command: Box<MakeCommand>) -> Self {
        Builder {
            command,
            options: Options::new(),
            manner: Manner { name, ..Manner::default() },
            limits: Limits {
                max_restarts: 5,
                window: Duration::from_secs(60),
                stop_grace: Duration::from_secs(5),
                idle_stop: None,
            },
            backoff: Backoff::default(),
            start_attempts: 3,
            max_repeats: 3,
            budget: RetryBudget::default(),
        }
    }

    /// What this side brings to the link with each process: settings, and a service that the cell can call. How long a
    /// process may take until it serves is [`Settings::handshake_timeout`](crate::Settings::handshake_timeout).
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// What becomes of its stdout. Default: [`CellOutput::Inherit`].
    pub fn stdout(mut self, output: CellOutput) -> Self {
        self.manner.stdout = output;
        self
    }

    /// What becomes of its stderr. Default: [`CellOutput::Forward`].
    pub fn stderr(mut self, output: CellOutput) -> Self {
        self.manner.stderr = output;
        self
    }

    /// Whether it leads a process group of its own: see [`Launch::own_group`](crate::Launch::own_group). Default: yes.
    pub fn own_group(mut self, own: bool) -> Self {
        self.manner.group = own;
        self
    }

    /// Whether it goes on when this process dies: see [`Launch::outlives_host`](crate::Launch::outlives_host). Default: no.
    pub fn outlives_host(mut self, outlives: bool) -> Self {
        self.manner.outlives_host = outlives;
        self
    }

    /// How long is waited between one start and the next.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often a start is tried for those that wait for it, at least once. Default: 3.
    pub fn start_attempts(mut self, attempts: u32) -> Self {
        self.start_attempts = attempts.max(1);
        self
    }

    /// How often it may end unasked, or fail to start, within a time: beyond that, calls fail at once until the time is
    /// over for the first of them. Default: 5 within 60 s.
    pub fn max_restarts(mut self, restarts: u32, window: Duration) -> Self {
        (self.limits.max_restarts, self.limits.window) = (restarts, window);
        self
    }

    /// How long the process has to exit after its link was closed, before it is killed. Default: 5 s.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.limits.stop_grace = grace;
        self
    }

    /// Stops the process when it was not used for so long: no call from here, and no call or stream on its link, from
    /// either side, also by [`Supervised::connection`]. It is looked at as often as that, and at most every 10 ms, so it
    /// may take up to twice as long. A call that comes by such a connection just then has [`Builder::stop_grace`] to come
    /// to its end. Default: never.
    pub fn idle_stop(mut self, time: Duration) -> Self {
        self.limits.idle_stop = Some(time);
        self
    }

    /// How often one call to an idempotent method is made again at most. Default: 3. See
    /// [`reconnect::Builder::max_repeats`](crate::reconnect::Builder::max_repeats).
    pub fn max_repeats(mut self, repeats: u32) -> Self {
        self.max_repeats = repeats;
        self
    }

    /// How many calls may be repeated among all.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The cell. Nothing is started yet.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled: the cell is kept on it, for calls from wherever.
    #[must_use]
    pub fn build(self) -> Supervised {
        let shared = Shared::new(self.command, self.options, self.manner, self.limits);
        let starting = Arc::clone(&shared);
        let client = Reconnecting::builder(move || Arc::clone(&starting).launch())
            .backoff(self.backoff)
            .never_give_up()
            .max_attempts(self.start_attempts)
            .attempt_timeout(Duration::MAX) // an attempt has bounds of its own, and may wait for a stop
            .max_repeats(self.max_repeats)
            .budget(self.budget)
            .build();
        Supervised { handle: Arc::new(Handle { shared, client }) }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = (self.command)();
        f.debug_struct("Builder")
            .field("name", &self.manner.name)
            .field("program", &Command::get_program(&program))
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

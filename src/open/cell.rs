//! Cells: processes that a host starts and that are attached to it over shared memory.

use std::{
    io,
    path::Path,
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use crate::{
    rpc::{connection::Connection, options::Options},
    segments::{AttachError, CellOutput, Manner, Process, SpawnError, attach, launch},
};

/// Starts a cell, and returns when it serves: when it has called [`cell`], not when it merely runs.
///
/// What the cell writes to its stderr goes to this process's; it leads a process group of its own, and dies with this
/// process. [`Launch`] can change that.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use adjoin::Options;
/// use std::process::Command;
///
/// let cell = adjoin::spawn(Command::new("./thumbnailer"), Options::new()).await?;
/// println!("process {} serves", cell.id());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The moment it is clear that the cell will not serve: [`SpawnError::Exited`] carries its exit status and
/// the tail of its stderr.
///
/// # Cancel safety
///
/// Dropped before it is done, it kills and reaps the cell.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
pub async fn spawn(command: Command, options: Options) -> Result<Cell, SpawnError> {
    Launch::new(command).spawn(options).await
}

/// How a cell is started: [`spawn`] with choices.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use adjoin::{CellOutput, Launch, Options};
/// use std::process::Command;
///
/// let launch = Launch::new(Command::new("./thumbnailer"))
///     .name("thumbnails")
///     .stdout(CellOutput::Null)
///     .stderr(CellOutput::Events); // lines, as events of `tracing` with the cell's name
/// let cell = launch.spawn(Options::new()).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "it starts nothing until it is told to spawn"]
pub struct Launch {
    command: Command,
    manner: Manner,
}

impl Launch {
    /// Starts this program.
    pub fn new(command: Command) -> Self {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        let manner = Manner { name: name.as_ref().into(), ..Manner::default() };
        Launch { command, manner }
    }

    /// What errors and events call the cell. Default: the program's file name.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.manner.name = name.into();
        self
    }

    /// What becomes of what the cell writes to its stdout. Default: [`CellOutput::Inherit`].
    pub fn stdout(mut self, output: CellOutput) -> Self {
        self.manner.stdout = output;
        self
    }

    /// What becomes of what the cell writes to its stderr. Default: [`CellOutput::Forward`].
    pub fn stderr(mut self, output: CellOutput) -> Self {
        self.manner.stderr = output;
        self
    }

    /// Whether the cell leads a process group of its own. Default: yes. Then all of the group is killed with the cell, and
    /// when the cell has ended: what it has started, unless that has made itself a group or a session of its own. Signals
    /// of a terminal (Ctrl-C) go to the host alone.
    ///
    /// What is left of the group when the cell ends by itself is killed only if this process learns of that end before the
    /// system forgets the cell, and with it whose number the group has: not if this process ignores `SIGCHLD`, or if other
    /// code in it reaps all of its children (`waitpid(-1)`).
    pub fn own_group(mut self, own: bool) -> Self {
        self.manner.group = own;
        self
    }

    /// Whether the cell goes on when this process dies, however it dies. Default: no. Then what it has started is killed at
    /// once, as far as it is in the cell's group, and the cell itself, with whatever is left of that, after half a second,
    /// in which it can notice the end of its link and come to its own. The cell sees to that, so it must have attached; one
    /// that has not finds no host to attach to.
    ///
    /// A cell that goes on may: its link is at an end.
    pub fn outlives_host(mut self, outlives: bool) -> Self {
        self.manner.outlives_host = outlives;
        self
    }

    /// Starts the cell, and returns when it serves.
    ///
    /// # Errors
    ///
    /// As [`spawn`].
    ///
    /// # Cancel safety
    ///
    /// As [`spawn`].
    ///
    /// # Panics
    ///
    /// As [`spawn`].
    pub async fn spawn(self, options: Options) -> Result<Cell, SpawnError> {
        let (parts, process) = launch(self.command, &options.settings, &self.manner).await?;
        let connection = Connection::start(parts, &options);
        Ok(Cell { connection, process, name: self.manner.name })
    }
}

/// A cell that was [spawned](spawn): its process, and the connection to it.
///
/// Dropping it kills the process and reaps it, also while clones of its connection live.
/// [`stop`](Cell::stop) is the gentle way.
#[derive(Debug)]
#[must_use = "dropping a cell kills its process"]
pub struct Cell {
    connection: Connection,
    process: Arc<Process>,
    name: Arc<str>,
}

impl Cell {
    /// What errors and events call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection to the cell.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection, and the process, which is killed and reaped when it is dropped.
    pub(crate) fn into_parts(self) -> (Connection, Arc<Process>) {
        (self.connection, self.process)
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the process with SIGKILL, and all of its group. Everything open on its link fails with
    /// [`LinkEnd::Killed`](crate::LinkEnd::Killed).
    ///
    /// # Errors
    ///
    /// The system refused.
    pub fn kill(&self) -> io::Result<()> {
        self.process.kill()
    }

    /// Waits for the process's end and says how it ended.
    ///
    /// # Errors
    ///
    /// The system does not say.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(&self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Closes the link, which a cell takes as its sign to exit, waits for the process's end for at most
    /// `grace`, and kills it then.
    ///
    /// # Errors
    ///
    /// The system refused, or does not say how the process ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, it kills the process.
    pub async fn stop(self, grace: Duration) -> io::Result<ExitStatus> {
        self.connection.close().await;
        match tokio::time::timeout(grace, self.process.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.process.kill()?;
                self.process.wait().await
            }
        }
    }
}

/// Attaches this process to the host that has [spawned](spawn) it, and serves.
///
/// The link is found without the program's help. A cell lives for its link: wait for
/// [`Connection::closed`], and exit then.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use adjoin::Options;
///
/// let host = adjoin::cell(Options::new()).await?;
/// let end = host.closed().await;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`AttachError`], when this process was not started by a host, or they do not agree.
///
/// # Cancel safety
///
/// Not cancel safe: a process can attach once.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
pub async fn cell(options: Options) -> Result<Connection, AttachError> {
    let parts = attach(&options.settings).await?;
    Ok(Connection::start(parts, &options))
}

//! Cells: processes that a host starts and that are attached to it over shared memory.

use std::{
    io,
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::{
    rpc::{connection::Connection, options::Options},
    segments::{AttachError, CellStderr, Process, SpawnError, attach, launch},
};

/// Starts a cell, and returns when it serves: when it has called [`cell`], not when it merely runs.
///
/// What the cell writes to its stderr goes to this process's; [`spawn_with`] can change that.
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
    spawn_with(command, options, CellStderr::default()).await
}

/// [`spawn`], with a choice of what becomes of the cell's stderr.
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
pub async fn spawn_with(command: Command, options: Options, stderr: CellStderr) -> Result<Cell, SpawnError> {
    let (parts, process) = launch(command, &options.settings, stderr).await?;
    Ok(Cell { connection: Connection::start(parts, &options), process })
}

/// A cell that was [spawned](spawn): its process, and the connection to it.
///
/// Dropping it kills the process and reaps it, also while clones of its connection live.
/// [`stop`](Cell::stop) is the gentle way.
#[derive(Debug)]
#[must_use = "dropping a cell kills its process"]
pub struct Cell {
    connection: Connection,
    process: Process,
}

impl Cell {
    /// The connection to the cell.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection, and the process, which is killed and reaped when it is dropped.
    pub(crate) fn into_parts(self) -> (Connection, Process) {
        (self.connection, self.process)
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the process with SIGKILL. Everything open on its link fails with
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

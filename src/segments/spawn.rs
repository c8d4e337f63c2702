//! A host starts a cell.
//!
//! The cell inherits one end of a socketpair; [`LINK_VARIABLE`] tells it which descriptor that is and whose
//! child it has to be. Everything else goes over that socket ([`handshake`]). The descriptor is close-on-exec
//! in the host, so that no other process that the host starts at the same time gets it, and made inheritable
//! in the child alone, between fork and exec.
#![allow(unsafe_code)]

use std::{
    ffi::OsString,
    io,
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use adjoin_shm_layout::{Geometry, GeometryError};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::{PidfdFlags, getpid, pidfd_open},
};
use tokio::time::timeout;

use super::{
    bell::Bell,
    control::Control,
    death::Peer,
    handshake::{self, HandshakeError},
    link,
    output::{CellOutput, Output, Stream},
    process::{Either, Process, race},
};
use crate::{
    link::{Parts, Role, descriptors::End},
    settings::Settings,
};

/// How a cell is started.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// What the host calls it.
    pub(crate) name: Arc<str>,
    pub(crate) stdout: CellOutput,
    pub(crate) stderr: CellOutput,
    /// It leads a process group of its own, which ends with it.
    pub(crate) group: bool,
    /// It goes on when its host dies.
    pub(crate) outlives_host: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            name: "cell".into(),
            stdout: CellOutput::Inherit,
            stderr: CellOutput::Forward,
            group: true,
            outlives_host: false,
        }
    }
}

/// Why a cell could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A limit in the settings is out of bounds.
    #[error("the settings of the cell `{cell}` are impossible")]
    Settings {
        /// What the host calls it.
        cell: Arc<str>,
        /// Which limit, and its bound.
        #[source]
        source: GeometryError,
    },
    /// The program could not be started at all.
    #[error("the cell `{cell}` could not be started: {}", program.display())]
    Start {
        /// What the host calls it.
        cell: Arc<str>,
        /// The program, as the command names it.
        program: OsString,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The cell ended before it served.
    #[error("the cell `{cell}` ended before it served ({status}){}", Quote(stderr))]
    Exited {
        /// What the host calls it.
        cell: Arc<str>,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The cell did not come to serve in time. It was killed.
    #[error("the cell `{cell}` did not serve within {after:?}{}", Quote(stderr))]
    Timeout {
        /// What the host calls it.
        cell: Arc<str>,
        /// How long it was given: [`Settings::handshake_timeout`].
        after: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The cell runs, but the two did not agree. It was killed.
    #[error("the cell `{cell}` did not attach{}", Quote(stderr))]
    Handshake {
        /// What the host calls it.
        cell: Arc<str>,
        /// On what they did not agree.
        #[source]
        source: HandshakeError,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The system refused what starting a cell needs.
    #[error("the system refused what starting the cell `{cell}` needs")]
    Io {
        /// What the host calls it.
        cell: Arc<str>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why there is no process.
#[derive(Debug)]
enum Unstarted {
    Program { program: OsString, source: io::Error },
    Io(io::Error),
}

impl From<io::Error> for Unstarted {
    fn from(error: io::Error) -> Self {
        Unstarted::Io(error)
    }
}

impl Unstarted {
    fn of(self, cell: &Arc<str>) -> SpawnError {
        let cell = Arc::clone(cell);
        match self {
            Unstarted::Program { program, source } => SpawnError::Start { cell, program, source },
            Unstarted::Io(source) => SpawnError::Io { cell, source },
        }
    }
}

/// What a cell wrote, as the end of a sentence.
struct Quote<'a>(&'a str);

impl std::fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let quote = self.0.trim_end();
        if quote.is_empty() { Ok(()) } else { write!(f, "; its stderr ends with:\n{quote}") }
    }
}

/// Starts a cell, and returns when it serves.
///
/// The process belongs to the returned [`Process`]: dropping that kills the cell.
///
/// # Errors
///
/// The moment it is clear that the cell will not serve. It has been killed then, if it ran at all, and
/// reaped.
///
/// # Cancel safety
///
/// Dropped before it is done, it kills and reaps the cell.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled.
pub(crate) async fn launch(
    command: Command,
    settings: &Settings,
    manner: &Manner,
) -> Result<(Parts, Arc<Process>), SpawnError> {
    begin(command, settings, manner)?.serve(settings).await
}

/// A cell whose process runs, and which does not serve yet.
pub(crate) struct Starting {
    cell: Arc<str>,
    geometry: Geometry,
    host: OwnedFd,
    control: Control,
    process: Arc<Process>,
    stderr: Output,
}

/// Starts the process of a cell. The rest is as for [`launch`].
pub(crate) fn begin(command: Command, settings: &Settings, manner: &Manner) -> Result<Starting, SpawnError> {
    let (cell, geometry) = (Arc::clone(&manner.name), geometry(settings));
    if let Err(source) = geometry.validate() {
        return Err(SpawnError::Settings { cell, source });
    }
    start(command, geometry, manner).map_err(|unstarted| unstarted.of(&cell))
}

impl Starting {
    /// The process, for those who end it before it serves. Who holds this keeps it alive.
    pub(crate) fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    /// Waits until it serves.
    pub(crate) async fn serve(self, settings: &Settings) -> Result<(Parts, Arc<Process>), SpawnError> {
        let Starting { cell, geometry, host, control, process, stderr } = self;
        let shared = process.shared();
        let agreed = race(handshake::host(&control, &geometry, host), shared.ended());
        let source = match timeout(settings.handshake_timeout, agreed).await {
            Ok(Either::Left(Ok(halves))) => {
                let bell = Bell::new(control.into_socket());
                match link::parts(halves, bell, Peer::Child(shared), Role::Acceptor, settings.into()) {
                    Ok(parts) => {
                        stderr.served();
                        return Ok((parts, process));
                    }
                    Err(source) => source,
                }
            }
            Ok(Either::Left(Err(source))) => source,
            Ok(Either::Right(status)) => {
                return Err(match status {
                    Ok(status) => SpawnError::Exited { cell, status, stderr: stderr.tail().await },
                    Err(source) => SpawnError::Io { cell, source },
                });
            }
            Err(_) => {
                let after = settings.handshake_timeout;
                return Err(match end(&process).await {
                    Ok(()) => SpawnError::Timeout { cell, after, stderr: stderr.tail().await },
                    Err(source) => SpawnError::Io { cell, source },
                });
            }
        };
        Err(failed(cell, source, &process, stderr).await)
    }
}

/// What to say of a handshake that failed: a cell that ends is said to have ended, since the socket tells of
/// it first.
async fn failed(cell: Arc<str>, source: HandshakeError, process: &Process, stderr: Output) -> SpawnError {
    let ends = matches!(source, HandshakeError::Closed | HandshakeError::Refused(_));
    if ends && let Some(status) = process.shared().ends_soon().await {
        let stderr = stderr.tail().await;
        return match source {
            HandshakeError::Closed => SpawnError::Exited { cell, status, stderr },
            source => SpawnError::Handshake { cell, source, stderr },
        };
    }
    match end(process).await {
        Ok(()) => SpawnError::Handshake { cell, source, stderr: stderr.tail().await },
        Err(source) => SpawnError::Io { cell, source },
    }
}

/// Kills the cell and waits for its end, so that the pump of its stderr ends too.
async fn end(process: &Process) -> io::Result<()> {
    process.kill()?;
    process.wait().await.map(drop)
}

/// Starts the process with its end of the socket. Blocks for as long as the system takes to start a program.
fn start(mut command: Command, geometry: Geometry, manner: &Manner) -> Result<Starting, Unstarted> {
    let host = pidfd_open(getpid(), PidfdFlags::NONBLOCK).map_err(io::Error::from)?;
    let (ours, theirs) = UnixStream::pair()?;
    // The child's own stdio is put at 0 to 2 before it execs; what it inherits must not be there.
    let theirs = fcntl_dupfd_cloexec(&theirs, FIRST_FREE).map_err(io::Error::from)?;
    let stays = if manner.outlives_host { STAYS } else { "" };
    command.env(LINK_VARIABLE, format!("{}:{}{stays}", theirs.as_raw_fd(), std::process::id()));
    if let Some(stdio) = stdio(manner.stdout) {
        command.stdout(stdio);
    }
    if let Some(stdio) = stdio(manner.stderr) {
        command.stderr(stdio);
    }
    if manner.group {
        command.process_group(0);
    }
    let mut child = spawn(&mut command, theirs)?;
    // Not so under `Inherit`, where a pipe is the caller's.
    let pipes = |way| matches!(way, CellOutput::Forward | CellOutput::Events);
    let stdout = child.stdout.take_if(|_| pipes(manner.stdout)).map(OwnedFd::from);
    let stderr = child.stderr.take_if(|_| pipes(manner.stderr)).map(OwnedFd::from);
    let process = Process::new(child, manner.group)?;
    let output = |pipe, stream, way| Output::new(pipe, stream, way, &manner.name, process.shared());
    output(stdout, Stream::Stdout, manner.stdout)?.served(); // only the end of stderr is kept
    let stderr = output(stderr, Stream::Stderr, manner.stderr)?;
    let (cell, control) = (Arc::clone(&manner.name), Control::new(ours, End::Own)?);
    Ok(Starting { cell, geometry, host, control, process: Arc::new(process), stderr })
}

/// What a pipe of the cell is. `None`: what the command says.
fn stdio(way: CellOutput) -> Option<Stdio> {
    match way {
        CellOutput::Forward | CellOutput::Events => Some(Stdio::piped()),
        CellOutput::Inherit => None,
        CellOutput::Null => Some(Stdio::null()),
    }
}

/// Forks and execs, with `theirs` inherited. The host's copy of it is closed, whatever comes of it.
fn spawn(command: &mut Command, theirs: OwnedFd) -> Result<Child, Unstarted> {
    let inherit = move || Ok(fcntl_setfd(&theirs, FdFlags::empty())?);
    // SAFETY: in bounds and aligned, alone: the closure touches no memory but the descriptor's number that it
    // owns. Alive: no mapping is involved. Between fork and exec it makes one system call and neither
    // allocates nor locks, which is what `pre_exec` asks for; a failure is a number.
    unsafe { command.pre_exec(inherit) };
    command.spawn().map_err(|source| Unstarted::Program { program: command.get_program().to_owned(), source })
}

/// The limits of the segment, as the host sets them.
pub(crate) fn geometry(settings: &Settings) -> Geometry {
    Geometry {
        ring_bytes: settings.ring_bytes,
        channel_slots: settings.channel_slots,
        max_payload_size: settings.max_payload_size,
        initial_channel_credit: settings.initial_channel_credit,
        arena_blocks: settings.arena_blocks,
        arena_bytes: settings
            .arena_bytes
            .unwrap_or_else(|| Geometry::usual_arena_bytes(settings.max_payload_size)),
    }
}

/// Tells a cell of its link: the descriptor, a colon, the process id of the host; and [`STAYS`] if it is to outlive it.
pub(super) const LINK_VARIABLE: &str = "ADJOIN_LINK";
/// What stands behind those for a cell that goes on when its host dies.
pub(super) const STAYS: &str = ":stays";
/// The first descriptor behind stdin, stdout and stderr.
const FIRST_FREE: i32 = 3;

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;

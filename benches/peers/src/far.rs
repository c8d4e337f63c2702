//! The server's process, as its client sees it, and what it says to it.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::{Failure, args::Args, case::Case};

/// A process that serves. Killed and reaped when it is dropped.
pub(crate) struct Far {
    process: Child,
    address: String,
    /// Where its socket is.
    _directory: TempDir,
}

impl Far {
    /// Starts it on this CPU, and waits until it serves.
    pub(crate) fn start(case: &Case, cpu: usize) -> Result<Self, Failure> {
        let directory = TempDir::new()?;
        let mut process = Command::new(env::current_exe()?)
            .args(Args::server(case, cpu, directory.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take();
        let mut far = Far { process, address: String::new(), _directory: directory };
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut far.address)?;
        }
        if far.address.pop() != Some('\n') {
            return Err(format!("the server ended before it served ({})", far.process.wait()?).into());
        }
        Ok(far)
    }

    /// What it has announced.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<libc::pid_t, Failure> {
        Ok(self.process.id().try_into()?)
    }

    /// Waits for its end, now that its client is gone.
    pub(crate) fn reap(mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if let Some(status) = self.process.try_wait()? {
                return if status.success() { Ok(()) } else { Err(format!("the server: {status}").into()) };
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err("the server does not end; it is killed".into())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long a server may take to go.
const GRACE: Duration = Duration::from_secs(5);

/// Tells the client that this process serves now, and where.
pub(crate) fn announce(address: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// From now on this process ends with its client at the latest.
pub(crate) fn end_with_client() -> Result<(), Failure> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

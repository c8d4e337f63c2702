//! What a cell writes to its stderr: shown as it comes, and kept for the error if it does not come to serve.
//!
//! One task of the runtime, no thread. It ends with the pipe, or with the cell: a grandchild that keeps the
//! pipe open does not keep the task. Writing to the host's own stderr blocks as it does for everybody who
//! writes there.

use std::{
    io::{self, Write},
    process::ChildStderr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fd::OwnedFd;
use tokio::{net::unix::pipe::Receiver, task::JoinHandle};

use super::process::{Either, Shared, race};

/// The stderr of a cell that is starting.
#[derive(Debug)]
pub(super) struct Stderr {
    /// `None`: the host does not see it.
    pump: Option<JoinHandle<Tail>>,
    served: Arc<AtomicBool>,
}

/// The end of what a cell wrote, at most [`KEPT`] bytes.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Stderr {
    /// Starts to read, if there is a pipe to be read.
    pub(super) fn new(pipe: Option<ChildStderr>, cell: Arc<Shared>) -> io::Result<Self> {
        let served = Arc::new(AtomicBool::new(false));
        let pump = match pipe {
            None => None,
            Some(pipe) => {
                let pipe = Receiver::from_owned_fd(OwnedFd::from(pipe))?;
                Some(tokio::spawn(pump(pipe, cell, served.clone())))
            }
        };
        Ok(Stderr { pump, served })
    }

    /// The cell serves: show what comes, keep nothing.
    pub(super) fn served(self) {
        // Relaxed: a switch that nothing depends on; noticed late, a few bytes more are kept.
        self.served.store(true, Ordering::Relaxed);
    }

    /// The end of what the cell wrote. It must have ended, or this waits for it.
    pub(super) async fn tail(self) -> String {
        let Some(pump) = self.pump else { return String::new() };
        // An error is that the runtime is shutting down.
        let tail = pump.await.unwrap_or_default();
        String::from_utf8_lossy(&tail.0).into_owned()
    }
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }
}

/// Reads until the pipe's end, or the cell's.
async fn pump(pipe: Receiver, cell: Arc<Shared>, served: Arc<AtomicBool>) -> Tail {
    let mut tail = Tail::default();
    loop {
        let waited = race(pipe.readable(), cell.ended()).await;
        let open = forward(&pipe, &mut tail, &served);
        if !open || matches!(waited, Either::Right(_) | Either::Left(Err(_))) {
            return tail;
        }
    }
}

/// Shows what is there; false at the end of the pipe.
fn forward(pipe: &Receiver, tail: &mut Tail, served: &AtomicBool) -> bool {
    let mut bytes = [0; KEPT];
    // Bounded, so that a cell that never stops writing leaves the runtime to others.
    for _ in 0..READS_AT_ONCE {
        let read = match pipe.try_read(&mut bytes) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let read = bytes.get(..read).unwrap_or_default();
        // A host without a stderr still wants its cell to run.
        let _ = io::stderr().lock().write_all(read);
        if served.load(Ordering::Relaxed) {
            *tail = Tail::default();
        } else {
            tail.push(read);
        }
    }
    true
}

/// How much of a cell's stderr an error carries, in bytes.
const KEPT: usize = 4096;
/// How many times the pipe is read before the task yields: more than a pipe holds by default.
const READS_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_what_was_written() {
        let mut tail = Tail::default();
        for byte in 0..=u8::MAX {
            tail.push(&[byte; 100]);
        }
        assert_eq!(tail.0.len(), KEPT);
        assert_eq!((tail.0[KEPT - 1], tail.0[0]), (255, 215));
    }
}

//! Ends a test that hangs, with a word on which one it was.

use std::{
    io::{self, Write as _},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// Aborts the process unless it is dropped in time. A bound on hangs, not an assertion on speed.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub fn seconds(seconds: u64) -> Self {
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let (alive, dropped): (Sender<()>, Receiver<()>) = channel();
        thread::spawn(move || {
            if dropped.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
                // Not by a macro, whose output the test's harness keeps until the test is over.
                let _ = writeln!(io::stderr(), "{name} hangs: no end after {seconds} s");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

//! Ends a world that hangs, with a word on its seed.
//!
//! Who waits for good is found by the world itself, whose clock then runs on to the end. What is left is a thread that
//! waits for itself, a poll without an end, and tasks that wake each other for ever: the clock stands still for those.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::world::World;

/// Aborts the process unless it is dropped in time. A bound on hangs, not an assertion on speed.
pub(super) struct Watchdog {
    _alive: Sender<()>,
}

/// What a world may take, which takes milliseconds.
const LONG: Duration = Duration::from_secs(60);
/// Lines of the trace that are shown.
const LAST: usize = 40;

impl Watchdog {
    pub(super) fn new(seed: u64, world: &Arc<World>) -> Self {
        let (alive, dropped) = channel::<()>();
        let world = Arc::downgrade(world);
        thread::spawn(move || {
            if dropped.recv_timeout(LONG) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let mut text = format!("seed {seed} failed: it hangs, no end after {LONG:?}\n");
            for line in world.upgrade().map(|world| world.last_lines(LAST)).into_iter().flatten() {
                let _ = writeln!(text, "{line}");
            }
            let _ = writeln!(text, "{}", super::how_to_repeat(seed));
            // Not by a macro, whose output the test's harness keeps until the test is over.
            let _ = io::stderr().write_all(text.as_bytes());
            process::abort();
        });
        Watchdog { _alive: alive }
    }
}

//! What a process holds of the system: descriptors, threads, mappings of segments.

use std::{fs, time::Duration};

/// Descriptors, threads and segment mappings of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub descriptors: usize,
    pub threads: usize,
    pub segments: usize,
}

impl Counts {
    pub fn now() -> Self {
        let entries = |folder: &str| fs::read_dir(folder).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Counts {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            segments: maps.lines().filter(|line| line.contains("/memfd:")).count(),
        }
    }

    /// Waits until this process holds no more than these again. What ends a link lets go of it in its own
    /// time; the test's watchdog bounds the wait.
    pub async fn settle(self) {
        let mut shown = 0;
        loop {
            let now = Counts::now();
            if now.descriptors <= self.descriptors
                && now.threads <= self.threads
                && now.segments <= self.segments
            {
                return;
            }
            shown += 1;
            if shown % 1000 == 0 {
                eprintln!("still {now:?}, before {self:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

//! A process that may have few descriptors more.

use std::{fs::File, thread, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have no more descriptors open than it has, and `more`, until it is dropped.
pub struct Limited {
    before: Rlimit,
    /// Fill the gaps: what is limited is the number that a descriptor has.
    _fillers: Vec<File>,
}

impl Limited {
    /// What is open is counted every few milliseconds: that is waited for.
    pub fn to(more: usize) -> Self {
        let null = || File::open("/dev/null");
        let before = getrlimit(Resource::Nofile);
        let spare: Vec<_> = (0..more).map(|_| null().unwrap()).collect();
        let limit = 2048; // above all that is open, and so much that nothing is taken for little because of it alone
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..before }).unwrap();
        let fillers = std::iter::from_fn(|| null().ok()).collect();
        drop(spare);
        thread::sleep(Duration::from_millis(20));
        Limited { before, _fillers: fillers }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).unwrap();
    }
}

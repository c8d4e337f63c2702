//! Who closes what a peer has passed and nobody took.
//!
//! Not the one who receives: the last close of what a stranger has made may wait for as long as he likes, as that of a
//! socket that lingers, or of a file whose file system he serves himself. And not the runtime, whose threads are the
//! application's, and which waits for them when it is dropped. So this process has a few threads for it, while there is
//! something to close: [`MOST_THREADS`] for all links together, of which each link has one at a time, so that a peer that
//! holds one up has held up its own link's. Nobody waits for them: what is held up may outlive its link.
//!
//! What remains: as many links as there are threads can hold up all of them, and what others have to close waits then. And of
//! descriptors that this process may not have, since it has as many as it may, the system lets go in the call that
//! receives them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Fd;
use crate::error::LinkEnd;

/// Closes the descriptors of one link.
#[derive(Debug)]
pub(crate) struct Closer {
    state: Mutex<State>,
    /// How many may wait.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Fd>,
    /// Since when it has a thread for the one at hand, or waits for a thread.
    since: Option<Instant>,
}

/// What takes longer to close is held up by the peer, and not by a machine that has much to do.
const LONG: Duration = Duration::from_secs(1);

impl Closer {
    /// One that lets so many wait.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Closer { state: Mutex::default(), limit })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can fail halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes descriptors, soon.
    pub(crate) fn close(self: &Arc<Self>, descriptors: impl IntoIterator<Item = Fd>) {
        let mut state = self.lock();
        state.waiting.extend(descriptors);
        if state.since.is_some() || state.waiting.is_empty() {
            return;
        }
        state.since = Some(Instant::now());
        drop(state);
        THREADS.serve(Arc::clone(self));
    }

    /// Closes the one that has waited longest. Whether more wait.
    fn close_one(&self) -> bool {
        let mut state = self.lock();
        state.since = Some(Instant::now());
        let next = state.waiting.pop_front();
        drop(state);
        drop(next);
        let mut state = self.lock();
        state.since = (!state.waiting.is_empty()).then(Instant::now);
        state.since.is_some()
    }

    /// Whether no more wait, for one that takes its time, than may.
    ///
    /// # Errors
    ///
    /// More do: the peer is let go.
    pub(crate) fn check(&self) -> Result<(), LinkEnd> {
        let state = self.lock();
        let (waiting, limit) = (state.waiting.len(), self.limit);
        let stuck = waiting > limit && state.since.is_some_and(|since| since.elapsed() > LONG);
        if stuck { Err(LinkEnd::Unclosed { waiting, limit }) } else { Ok(()) }
    }
}

/// The threads of this process.
static THREADS: Threads = Threads(Mutex::new(Work { links: VecDeque::new(), threads: 0 }));

/// How many there are at most, for all links.
const MOST_THREADS: usize = 16;

struct Threads(Mutex<Work>);

struct Work {
    /// Links that have something to close, and no thread at it. Each is here once, or served by one thread.
    links: VecDeque<Arc<Closer>>,
    threads: usize,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // As in `Closer::lock`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a link a thread, or lets it wait for one. Where none can be started, it waits for the next time.
    fn serve(&'static self, link: Arc<Closer>) {
        let mut work = self.lock();
        work.links.push_back(link);
        if work.threads == MOST_THREADS {
            return;
        }
        work.threads += 1;
        drop(work);
        let started = thread::Builder::new().name("adjoin-close".into()).spawn(|| self.run());
        if started.is_err() {
            self.lock().threads -= 1;
        }
    }

    /// Closes one descriptor of each link in turn, until there are none.
    fn run(&self) {
        let mut again = None;
        loop {
            let mut work = self.lock();
            work.links.extend(again.take());
            let Some(link) = work.links.pop_front() else {
                work.threads -= 1;
                return;
            };
            drop(work);
            again = link.close_one().then_some(link);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{Read, Write, pipe},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A socket whose last close waits for two minutes, or until the other one is closed.
    fn lingering() -> (Fd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a loopback");
        let mut socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let reader = listener.accept().expect("somebody connects").0;
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(120))).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        while socket.write(&[7; 64 << 10]).is_ok() {}
        (socket.into(), reader)
    }

    /// Fails (hangs) where a link has more than one thread at a time, and where threads are not bounded.
    #[test]
    fn a_link_that_is_held_up_holds_up_no_other_and_threads_are_few() {
        let held_up = Closer::new(1000);
        let (sockets, readers): (Vec<_>, Vec<_>) = (0..MOST_THREADS + 5).map(|_| lingering()).unzip();
        held_up.close(sockets);
        for _ in 0..3 {
            let links: Vec<_> = (0..100)
                .map(|_| {
                    let (reads, writes) = pipe().expect("the system has pipes");
                    Closer::new(0).close([writes.into()]);
                    reads
                })
                .collect();
            assert!(THREADS.lock().threads <= MOST_THREADS);
            for mut reads in links {
                assert_eq!(reads.read(&mut [0]).expect("a pipe"), 0, "nobody has the other end any more");
            }
        }
        assert!(held_up.lock().waiting.len() >= MOST_THREADS);
        drop(readers);
        while held_up.lock().since.is_some() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

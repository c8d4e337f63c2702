//! Who closes what a peer has passed and nobody took.
//!
//! Not the one who receives: the last close of what a stranger has made may wait for as long as he likes, as that of a
//! socket that lingers, or of a file whose file system he serves himself. And not the runtime, whose threads are the
//! application's, and which waits for them when it is dropped. So this process has a few threads for it, while there is
//! something to close: [`MOST_THREADS`] for all links together, of which each link has one at a time, so that a peer that
//! holds one up has held up its own link's. Nobody waits for them: what is held up may outlive its link.
//!
//! Where more wait than may, the link takes no more descriptors in until some are closed, so that a peer cannot have this
//! process run out of them; and where the one at hand takes its time then, the link is over.
//!
//! What remains: as many links as there are threads can hold up all of them, and what others have to close waits then.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::Fd;
#[cfg(target_os = "linux")]
use crate::error::LinkEnd;

/// Closes the descriptors of one link.
#[derive(Debug)]
pub(crate) struct Closer {
    state: Mutex<State>,
    /// How many may wait.
    limit: usize,
    /// More do: what the state says, for who looks often.
    crowded: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Work>,
    /// What is being discarded, or waits for it.
    discarded: usize,
    /// Whether a thread is there for it, or it waits for one.
    served: bool,
    /// Since when a thread is at the one at hand.
    since: Option<Instant>,
}

/// What there is to do.
enum Work {
    Close(Fd),
    /// Closes what is no descriptor, but has some.
    Discard(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Close(descriptor) => descriptor.fmt(f),
            Work::Discard(_) => f.write_str("Discard"),
        }
    }
}

/// What takes longer to close is held up by the peer, and not by a machine that has much to do.
const LONG: Duration = Duration::from_secs(1);

impl Closer {
    /// One that lets so many wait.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Closer { state: Mutex::default(), limit, crowded: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can fail halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes descriptors, soon.
    pub(crate) fn close(self: &Arc<Self>, descriptors: impl IntoIterator<Item = Fd>) {
        let mut state = self.lock();
        state.waiting.extend(descriptors.into_iter().map(Work::Close));
        self.serve(state);
    }

    /// Does soon what closes what a peer has passed: takes a packet out of a socket, with descriptors that this process may not
    /// have. Until then the link takes in no other.
    pub(crate) fn discard(self: &Arc<Self>, discard: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        state.waiting.push_back(Work::Discard(Box::new(discard)));
        state.discarded += 1;
        self.serve(state);
    }

    /// Asks for a thread, if there is something to do and none comes.
    fn serve(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        self.tell(&state);
        if state.served || state.waiting.is_empty() {
            return;
        }
        state.served = true;
        drop(state);
        THREADS.serve(Arc::clone(self));
    }

    /// Does what has waited longest. Whether more waits.
    fn do_one(&self) -> bool {
        let mut state = self.lock();
        state.since = Some(Instant::now());
        let next = state.waiting.pop_front();
        drop(state);
        let discarded = match next {
            Some(Work::Close(descriptor)) => {
                drop(descriptor);
                false
            }
            Some(Work::Discard(discard)) => {
                discard();
                true
            }
            None => false,
        };
        let mut state = self.lock();
        state.since = None;
        state.discarded -= usize::from(discarded);
        state.served = !state.waiting.is_empty();
        self.tell(&state);
        state.served
    }

    /// To be called when what waits is others.
    fn tell(&self, state: &State) {
        // Relaxed: nothing else is told by it, and who finds it looks at the state.
        self.crowded.store(state.waiting.len() > self.limit || state.discarded > 0, Ordering::Relaxed);
    }

    /// Whether more wait than may, so that nothing with descriptors is to be received. Nobody is woken when that is over: see
    /// [`Pause`](super::Pause).
    ///
    /// # Errors
    ///
    /// It has been so for long: the peer is let go.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn holds_up(&self) -> Result<bool, LinkEnd> {
        // Relaxed: as in `tell`.
        if self.crowded.load(Ordering::Relaxed) { self.holds_up_for_long() } else { Ok(false) }
    }

    #[cfg(target_os = "linux")]
    #[cold]
    fn holds_up_for_long(&self) -> Result<bool, LinkEnd> {
        let state = self.lock();
        let (waiting, limit) = (state.waiting.len(), self.limit);
        if waiting <= limit && state.discarded == 0 {
            return Ok(false);
        }
        match state.since {
            Some(since) if since.elapsed() > LONG => Err(LinkEnd::Unclosed { waiting, limit }),
            Some(_) => Ok(true),
            None => {
                drop(state);
                THREADS.start(THREADS.lock()); // it waits for one, and the system may have one now
                Ok(true)
            }
        }
    }
}

/// The threads of this process.
static THREADS: Threads = Threads(Mutex::new(Served { links: VecDeque::new(), threads: 0 }));

/// How many there are at most, for all links.
const MOST_THREADS: usize = 16;

struct Threads(Mutex<Served>);

struct Served {
    /// Links that have something to close, and no thread at it. Each is here once, or served by one thread.
    links: VecDeque<Arc<Closer>>,
    threads: usize,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Served> {
        // As in `Closer::lock`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a link a thread, or lets it wait for one.
    fn serve(&'static self, link: Arc<Closer>) {
        let mut served = self.lock();
        served.links.push_back(link);
        self.start(served);
    }

    /// Starts one more, if links wait for one and there may be. Where the system starts none, they wait for the next time.
    fn start(&'static self, mut served: MutexGuard<'_, Served>) {
        if served.links.is_empty() || served.threads == MOST_THREADS {
            return;
        }
        served.threads += 1;
        drop(served);
        let started = thread::Builder::new().name("adjoin-close".into()).spawn(|| self.run());
        if started.is_err() {
            self.lock().threads -= 1;
        }
    }

    /// Does one thing for each link in turn, until there is nothing to do.
    fn run(&self) {
        let mut again = None;
        loop {
            let mut served = self.lock();
            served.links.extend(again.take());
            let Some(link) = served.links.pop_front() else {
                served.threads -= 1;
                return;
            };
            drop(served);
            again = link.do_one().then_some(link);
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
        while held_up.lock().served {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

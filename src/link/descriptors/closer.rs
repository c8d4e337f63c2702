//! Who closes what a peer has passed and nobody took.
//!
//! Not the one who receives: the last close of what a stranger has made may wait for as long as he likes, as that of a
//! socket that lingers, or of a file whose file system he serves himself. And not the runtime, whose threads are the
//! application's, and which waits for them when it is dropped. So this process has a few [threads](self::threads) for it, while
//! there is something to close, of which each link has one at a time: a peer that holds one up has held up its own link's.
//! Nobody waits for them: what is held up may outlive its link.
//!
//! Where more wait than may, the link takes no more descriptors in until some are closed, so that a peer cannot have this
//! process run out of them; and where the one at hand takes its time then, the link is over. So it is where no thread comes
//! for [`LONGEST_WAIT`].

mod threads;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use self::threads::THREADS;
use super::Fd;
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
    /// A thread is at the first one.
    at_hand: bool,
    /// For how long the link was seen to be held up, since something was begun or done.
    held_up: Duration,
    /// When it was last.
    seen: Option<Instant>,
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
/// For how long a link that is held up waits for a thread.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// What counts at most between two looks: a process that was stopped meanwhile has closed nothing either.
const LONGEST_LOOK: Duration = Duration::from_millis(20);

impl State {
    /// Something was begun, or done.
    fn moves(&mut self) {
        (self.held_up, self.seen) = (Duration::ZERO, None);
    }
}

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
        if state.served {
            let waits = !state.at_hand;
            drop(state);
            if waits {
                THREADS.start(); // where the system started none, it may now
            }
        } else if !state.waiting.is_empty() {
            state.served = true;
            drop(state);
            THREADS.serve(Arc::clone(self));
        }
    }

    /// Does what has waited longest. Whether more waits.
    fn do_one(&self) -> bool {
        let mut state = self.lock();
        state.at_hand = true;
        state.moves();
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
        state.at_hand = false;
        state.moves();
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
    #[inline]
    pub(crate) fn holds_up(&self) -> Result<bool, LinkEnd> {
        // Relaxed: as in `tell`.
        if self.crowded.load(Ordering::Relaxed) { self.holds_up_for_long() } else { Ok(false) }
    }

    #[cold]
    fn holds_up_for_long(&self) -> Result<bool, LinkEnd> {
        let mut state = self.lock();
        let (waiting, limit) = (state.waiting.len(), self.limit);
        if waiting <= limit && state.discarded == 0 {
            return Ok(false);
        }
        let now = Instant::now();
        if let Some(before) = state.seen.replace(now) {
            state.held_up += now.duration_since(before).min(LONGEST_LOOK);
        }
        if state.held_up > if state.at_hand { LONG } else { LONGEST_WAIT } {
            return Err(LinkEnd::Unclosed { waiting, limit });
        }
        if !state.at_hand {
            drop(state);
            THREADS.start(); // it waits for one, and there may be one now
        }
        Ok(true)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{Read, Write, pipe},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::{threads::FEW_THREADS, *};

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

    /// One test at a time: they count threads.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads() -> usize {
        THREADS.count()
    }

    /// Closes one of each link, and waits until all are.
    fn close_one_each(links: usize) {
        let links: Vec<_> = (0..links)
            .map(|_| {
                let (reads, writes) = pipe().expect("the system has pipes");
                Closer::new(0).close([writes.into()]);
                reads
            })
            .collect();
        for mut reads in links {
            assert_eq!(reads.read(&mut [0]).expect("a pipe"), 0, "nobody has the other end any more");
        }
    }

    /// Fails (hangs) where a link has more than one thread at a time, where threads are not bounded, and where those that are
    /// held up are not replaced.
    #[test]
    fn a_link_that_is_held_up_holds_up_no_other_and_threads_are_few() {
        let _alone = alone();
        let held_up = Closer::new(1000);
        let (sockets, readers): (Vec<_>, Vec<_>) = (0..FEW_THREADS + 5).map(|_| lingering()).unzip();
        held_up.close(sockets);
        for _ in 0..3 {
            close_one_each(100);
            assert!(threads() <= FEW_THREADS);
        }
        assert!(held_up.lock().waiting.len() >= FEW_THREADS);
        // As many links as there are threads.
        let (sockets, others): (Vec<_>, Vec<_>) = (0..FEW_THREADS + 3).map(|_| lingering()).unzip();
        let links = sockets.into_iter().map(|socket| {
            let link = Closer::new(0);
            link.close([socket]);
            link
        });
        let links: Vec<_> = links.collect();
        close_one_each(1); // nothing else asks for a thread
        assert!(threads() > FEW_THREADS);
        drop((readers, others));
        for link in [held_up].iter().chain(&links) {
            while link.lock().served {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Until then `closer` is held up.
    fn end_of(closer: &Closer) -> (LinkEnd, u32) {
        let mut looks = 0;
        loop {
            match closer.holds_up() {
                Ok(held_up) => assert!(held_up),
                Err(end) => return (end, looks),
            }
            looks += 1;
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Fails where the time is the clock's alone: a process that was stopped finds that all has taken long.
    #[test]
    fn a_link_ends_after_a_time_in_which_it_was_looked_at() {
        let _alone = alone();
        let closer = Closer::new(0);
        let (socket, reader) = lingering();
        let (_reads, writes) = pipe().expect("the system has pipes");
        closer.close([socket, writes.into()]);
        while !closer.lock().at_hand {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(closer.holds_up().expect("it was not for long"));
        thread::sleep(LONG + LONG / 10);
        assert!(closer.holds_up().expect("nobody has looked meanwhile"));
        let (end, looks) = end_of(&closer);
        assert!(matches!(end, LinkEnd::Unclosed { waiting: 1, limit: 0 }), "{end}");
        assert!(looks >= 40, "{looks}");
        drop(reader);
        while closer.holds_up().is_ok_and(|held_up| held_up) || closer.lock().served {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

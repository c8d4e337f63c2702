//! Sleeping on two words at once, and waking who sleeps on one.
//!
//! A futex waiter is not woken when its peer dies. So no sleep here is on the peer's word alone: the second
//! word is private to this process, and whoever notices a death, a deadline or a local event bumps it.
//!
//! The peer's word lies in a half that this process can only read. That is enough: the kernel takes a
//! read-only page as a place to wait on, and finds the waiter by the page's file and offset, which are the
//! same for the writer that wakes it.
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    io::{self, Errno},
    thread::futex::{self, ClockId, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags},
    time,
};

/// Wakes every thread, of whatever process, that sleeps on `word`, which lies in a shared mapping. One system
/// call.
///
/// All and not one: which threads of the peer sleep here is the peer's affair, and each looks again anyway.
pub(super) fn wake(word: &AtomicU32) -> io::Result<usize> {
    futex::wake(word, Flags::empty(), i32::MAX.unsigned_abs())
}

/// A word of this process alone, on which it ends its own sleeps.
#[derive(Debug, Default)]
pub(super) struct LocalWord(AtomicU32);

impl LocalWord {
    /// What to give to [`wait_both`]. Read it before the last look at what the sleep waits for.
    pub(super) fn seen(&self) -> u32 {
        // Acquire: pairs with the Release in `bump`; what the bumping thread did before is seen after.
        self.0.load(Ordering::Acquire)
    }

    /// Ends the sleep of every thread on this word, and that of each that read [`seen`](Self::seen) before.
    /// One system call.
    pub(super) fn bump(&self) {
        // Release: pairs with the Acquire in `seen`.
        self.0.fetch_add(1, Ordering::Release);
        // A wake on a word of our own has no way to fail; if it did, the bump alone ends the next sleep.
        let _ = futex::wake(&self.0, Flags::PRIVATE, i32::MAX.unsigned_abs());
    }
}

/// Sleeps until one of the words is woken or no longer has the value seen, or `deadline` is over. May return
/// early. One system call, or two with a deadline.
///
/// The peer's word is an address and no reference: only the kernel looks at it, and answers with an error if
/// nothing is there.
///
/// # Errors
///
/// The system has no `futex_waitv` (Linux before 5.16), or refused it.
pub(super) fn wait_both(
    peer: (*const u32, u32),
    local: (&LocalWord, u32),
    deadline: Option<Instant>,
) -> io::Result<()> {
    let until = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
        None => None,
        Some(None) => return Ok(()),
        Some(Some(left)) => absolute(left),
    };
    let words = [
        entry(peer.0, peer.1, WaitFlags::SIZE_U32),
        entry(local.0.0.as_ptr(), local.1, WaitFlags::SIZE_U32 | WaitFlags::PRIVATE),
    ];
    match futex::waitv(&words, WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic) {
        // AGAIN: a word had changed already. INTR: a signal. All of them mean: look again.
        Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `left` from now, on the clock that `futex_waitv` compares with. `None` for beyond what it can express.
fn absolute(left: Duration) -> Option<Timespec> {
    let now = time::clock_gettime(ClockId::Monotonic);
    now.checked_add(Timespec::try_from(left).ok()?)
}

/// One entry of the vector. The kernel only reads the word, and only during the call.
fn entry(word: *const u32, seen: u32, flags: WaitFlags) -> Wait {
    let mut wait = Wait::new();
    wait.val = u64::from(seen);
    wait.uaddr = WaitPtr::new(word.cast_mut().cast());
    wait.flags = flags;
    wait
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn wait_returns_when_the_peers_word_has_changed() {
        let (peer, local) = (AtomicU32::new(7), LocalWord::default());
        wait_both((peer.as_ptr(), 6), (&local, local.seen()), None).unwrap();
    }

    #[test]
    fn wait_returns_when_the_local_word_was_bumped_before() {
        let (peer, local) = (AtomicU32::new(7), LocalWord::default());
        let seen = local.seen();
        local.bump();
        wait_both((peer.as_ptr(), 7), (&local, seen), None).unwrap();
    }

    #[test]
    fn wait_ends_at_a_deadline_that_is_over_or_comes() {
        let (peer, local) = (AtomicU32::new(0), LocalWord::default());
        let deadline = Instant::now() + Duration::from_millis(3);
        wait_both((peer.as_ptr(), 0), (&local, 0), Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline);
        wait_both((peer.as_ptr(), 0), (&local, 0), Some(deadline)).unwrap();
    }

    #[test]
    fn a_sleeper_is_woken_by_either_word() {
        for wake_the_peers in [true, false] {
            let (peer, local) = (AtomicU32::new(0), LocalWord::default());
            thread::scope(|scope| {
                scope.spawn(|| {
                    if wake_the_peers {
                        peer.fetch_add(1, Ordering::Release);
                        wake(&peer).unwrap();
                    } else {
                        local.bump();
                    }
                });
                while peer.load(Ordering::Acquire) == 0 && local.seen() == 0 {
                    wait_both((peer.as_ptr(), 0), (&local, 0), None).unwrap();
                }
            });
        }
    }
}

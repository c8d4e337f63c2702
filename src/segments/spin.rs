//! How long to spin before sleeping.
//!
//! A wake-up costs tens of microseconds where a CPU has to be woken for it; a message that comes within that
//! time is better waited for by looking. A message that comes later is not, and nothing announces which it
//! will be. So this goes by experience: an **idle stretch** begins with the first look that finds nothing,
//! and ends with the next message.
//!
//! | a stretch that ended | the next one is spun through |
//! |---|---|
//! | while it was spun through | for [`LONGEST`] at most |
//! | in sleep, after it had been spun through in vain | for half as long, and not at all below [`SHORTEST`] |
//! | in sleep, with no spin, but within [`PAYS`]: spinning would have caught it | for [`LONGEST`] at most, if that has happened often enough in a row |
//! | in sleep, after that | for half as long, and not at all below [`SHORTEST`] |
//! | with one more message of ours, and no answer to the last | likewise |
//!
//! "Often enough" is once at first, and twice as often after each time that spinning has been given up, until
//! it succeeds again: two processes that share a CPU answer each other within microseconds of *sleep*, and
//! never while either spins.
//!
//! So a link whose messages are far apart learns within five of them not to spin, and needs no probing to
//! learn the opposite: sleeping tells the time too. Within one stretch the budget is spent once, so that an
//! idle link costs no CPU. A message that this side sends starts a new stretch, since an answer may come
//! soon; one that only ever sends learns that none does.
//!
//! The clock is read once for every [`LOOKS`] looks, and once for each sleep.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::{
    io,
    process::{Pid, getpid},
    thread::{CpuSet, sched_getaffinity},
};

use crate::settings::Waiting;

/// The experience of one side of a link.
#[derive(Debug)]
pub(super) struct Spin {
    waiting: Waiting,
    /// For how long a stretch may be spun through.
    budget: Duration,
    stretch: Stretch,
    /// Whether the stretch began with a message of this side, and no answer to it.
    asked: bool,
    /// Short sleeps in a row, with no spin before them.
    short_sleeps: u32,
    /// How many of those it takes to spin again.
    patience: u32,
}

/// The idle stretch that lasts.
#[derive(Clone, Copy, Debug)]
enum Stretch {
    /// Messages are coming.
    Busy,
    /// Nothing was there at this time, and there has been no sleep since.
    Awake(Instant),
    /// As before, but the budget is spent and there was a sleep.
    Slept { since: Instant, spun: bool },
}

/// What came of spinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spun {
    /// What was waited for is there.
    Arrived,
    /// Not yet. There is time left to spin.
    Again,
    /// Not yet. It is time to sleep.
    Exhausted,
}

impl Spin {
    /// Looks once at where this process and the peer's may run. Four system calls.
    pub(super) fn new(waiting: Waiting, peer: Option<Pid>) -> Self {
        let sleeps = waiting == Waiting::Adaptive && share_one_cpu(peer);
        Spin::with(if sleeps { Waiting::Sleep } else { waiting })
    }

    fn with(waiting: Waiting) -> Self {
        Spin { waiting, budget: LONGEST, stretch: Stretch::Busy, asked: false, short_sleeps: 0, patience: 1 }
    }

    /// Whether this side never sleeps.
    pub(super) fn forever(&self) -> bool {
        self.waiting == Waiting::Spin
    }

    /// Whether the next spin is one.
    pub(super) fn pays(&self) -> bool {
        match self.waiting {
            Waiting::Spin => true,
            Waiting::Sleep => false,
            Waiting::Adaptive => !self.budget.is_zero() && !matches!(self.stretch, Stretch::Slept { .. }),
        }
    }

    /// Ends the stretch: a message is there.
    pub(super) fn busy(&mut self) {
        self.asked = false;
        match std::mem::replace(&mut self.stretch, Stretch::Busy) {
            Stretch::Busy => {}
            Stretch::Awake(_) => {
                self.budget = LONGEST;
                self.patience = 1;
            }
            Stretch::Slept { since, spun: false } if since.elapsed() <= PAYS => {
                self.short_sleeps += 1;
                if self.short_sleeps >= self.patience {
                    self.short_sleeps = 0;
                    self.budget = LONGEST;
                }
            }
            Stretch::Slept { .. } => {
                self.short_sleeps = 0;
                self.disappointed();
            }
        }
    }

    /// Starts a new stretch: this side has sent something that may be answered soon.
    pub(super) fn expect(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            self.disappointed();
        }
        self.stretch = Stretch::Busy;
    }

    fn disappointed(&mut self) {
        if self.budget.is_zero() {
            return;
        }
        let half = self.budget / 2;
        if half < SHORTEST {
            self.budget = Duration::ZERO;
            self.patience = (self.patience * 2).min(MOST_PATIENT);
        } else {
            self.budget = half;
        }
    }

    /// This side goes to sleep.
    pub(super) fn sleeps(&mut self) {
        if let Stretch::Awake(since) = self.stretch {
            self.stretch = Stretch::Slept { since, spun: !self.budget.is_zero() };
        }
    }

    /// Looks for at most [`SLICE`], so that other tasks of the runtime run in between. No system call.
    pub(super) fn slice<E>(&mut self, look: impl FnMut() -> Result<bool, E>) -> Result<Spun, E> {
        self.spin(SLICE, look)
    }

    /// Looks for as long as it pays, on a thread that has nothing else to do. No system call.
    pub(super) fn long<E>(&mut self, look: impl FnMut() -> Result<bool, E>) -> Result<Spun, E> {
        self.spin(LONGEST, look)
    }

    fn spin<E>(&mut self, most: Duration, mut look: impl FnMut() -> Result<bool, E>) -> Result<Spun, E> {
        if self.waiting == Waiting::Sleep {
            return Ok(Spun::Exhausted);
        }
        if matches!(self.stretch, Stretch::Slept { .. }) {
            return Ok(Spun::Exhausted);
        }
        let start = Instant::now();
        let since = if let Stretch::Awake(since) = self.stretch { since } else { start };
        self.stretch = Stretch::Awake(since);
        let over = |now: Instant| !self.forever() && now.duration_since(since) >= self.budget;
        if over(start) {
            return Ok(Spun::Exhausted);
        }
        loop {
            for _ in 0..LOOKS {
                if look()? {
                    return Ok(Spun::Arrived);
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if over(now) {
                return Ok(Spun::Exhausted);
            }
            if now.duration_since(start) >= most {
                return Ok(Spun::Again);
            }
        }
    }
}

/// Whether this process and the peer's have one CPU between them: the peer does not run while this side
/// spins. Neither is enough alone: one that is pinned to a CPU may well have a peer on another.
fn share_one_cpu(peer: Option<Pid>) -> bool {
    match peer.map(places) {
        Some(Ok(places)) => count(&places) == 1,
        // A peer that is not to be seen, or more CPUs than the set holds: are there any others at all?
        Some(Err(_)) | None => fs::read_to_string(ONLINE).is_ok_and(|list| !list.contains(['-', ','])),
    }
}

/// The CPUs on which this thread, this process and the peer's may run. That of a process is that of its first
/// thread, which the others have inherited unless they were told otherwise.
fn places(peer: Pid) -> io::Result<[CpuSet; 3]> {
    Ok([sched_getaffinity(None)?, sched_getaffinity(Some(getpid()))?, sched_getaffinity(Some(peer))?])
}

/// How many CPUs there are in at least one of the sets.
fn count(sets: &[CpuSet]) -> usize {
    (0..CpuSet::MAX_CPU).filter(|cpu| sets.iter().any(|set| set.is_set(*cpu))).count()
}

/// The longest time to spin in one stretch: about two wake-ups of a halted CPU.
const LONGEST: Duration = Duration::from_micros(50);
/// Below this a budget is not worth its cost.
const SHORTEST: Duration = Duration::from_micros(3);
/// A stretch that ends in sleep within this time would have been worth spinning through: [`LONGEST`], and
/// what the wake-up took.
const PAYS: Duration = Duration::from_micros(100);
/// Short sleeps at most before spinning is tried again: a try costs about two [`LONGEST`].
const MOST_PATIENT: u32 = 4096;
/// Which CPUs there are: `0`, or a list like `0-3`.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// The longest time to spin in one poll of a task.
const SLICE: Duration = Duration::from_micros(3);
/// Looks for each look at the clock: about half a microsecond.
const LOOKS: usize = 16;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn two_processes_are_alone_if_they_share_their_only_cpu() {
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu));
            set
        };
        assert_eq!(count(&[set(&[3]), set(&[3])]), 1);
        assert_eq!(count(&[set(&[3]), set(&[4])]), 2, "each pinned, and not to the same");
        assert_eq!(count(&[set(&[3]), set(&[2, 3])]), 2);
        let own = sched_getaffinity(None).unwrap();
        assert!(!share_one_cpu(Some(getpid())) || own.count() == 1);
    }

    fn nothing() -> Result<bool, Infallible> {
        Ok(false)
    }

    /// An idle stretch that ends in sleep, so long ago.
    fn sleep_for(spin: &mut Spin, time: Duration) {
        while spin.slice(nothing) == Ok(Spun::Again) {}
        spin.sleeps();
        if let Stretch::Slept { since, .. } = &mut spin.stretch {
            *since = Instant::now().checked_sub(time).unwrap();
        }
        spin.busy();
    }

    #[test]
    fn a_budget_is_spent_once_in_a_stretch() {
        let mut spin = Spin::with(Waiting::Adaptive);
        while spin.slice(nothing) == Ok(Spun::Again) {}
        spin.sleeps();
        assert_eq!(spin.slice(|| -> Result<bool, Infallible> { panic!("spun twice") }), Ok(Spun::Exhausted));
        spin.expect();
        assert_eq!(spin.slice(|| Ok::<_, Infallible>(true)), Ok(Spun::Arrived));
    }

    #[test]
    fn a_side_that_sends_without_being_answered_stops_to_spin() {
        let mut spin = Spin::with(Waiting::Adaptive);
        for _ in 0..6 {
            assert!(spin.pays());
            spin.expect();
        }
        assert!(!spin.pays());
    }

    #[test]
    fn long_sleeps_end_the_spinning_and_a_short_one_starts_it_again() {
        let mut spin = Spin::with(Waiting::Adaptive);
        for _ in 0..5 {
            sleep_for(&mut spin, Duration::from_millis(1));
        }
        assert_eq!(spin.budget, Duration::ZERO);
        sleep_for(&mut spin, Duration::ZERO);
        sleep_for(&mut spin, Duration::ZERO);
        assert_eq!(spin.budget, LONGEST);
    }

    #[test]
    fn a_peer_that_only_answers_sleepers_is_spun_for_less_and_less_often() {
        let mut spin = Spin::with(Waiting::Adaptive);
        let mut spun = Vec::new();
        for _ in 0..1000 {
            spun.push(!spin.budget.is_zero());
            sleep_for(&mut spin, Duration::ZERO);
        }
        let of = |part: &[bool]| part.iter().filter(|spun| **spun).count();
        assert!(of(&spun[..100]) > 0, "it is tried");
        assert!(of(&spun[500..]) < 20, "and given up: {} of 500", of(&spun[500..]));
    }

    #[test]
    fn a_side_that_sleeps_never_looks_and_one_that_spins_never_stops() {
        let mut sleeper = Spin::with(Waiting::Sleep);
        assert_eq!(sleeper.slice(|| -> Result<bool, Infallible> { panic!("spun") }), Ok(Spun::Exhausted));
        let mut spinner = Spin::with(Waiting::Spin);
        for _ in 0..100 {
            assert_eq!(spinner.slice(nothing), Ok(Spun::Again));
        }
    }
}

//! Sleeping until the peer has something new, and waking it.
//!
//! # Who writes what
//!
//! Side A sleeps, side B publishes; both are both at once.
//!
//! | field                 | where      | written when                                                             |
//! |-----------------------|------------|--------------------------------------------------------------------------|
//! | `parked`, low half    | A's half   | one up by `prepare`, one down by `unpark`: how many may sleep on the futex |
//! | `parked`, high half   | A's half   | one up by `prepare` and one up by `unpark`: odd while one may sleep on the bell |
//! | `starved`             | A's half   | one up by `starve`, one down by `sate`: how many of A's senders wait for room |
//! | `wake`                | B's half   | one up when B has published something and found someone to wake          |
//! | `rung`                | B, private | to the announcement on the bell that B is about to ring for              |
//!
//! Counts and not flags: a driver and a blocked caller of one side sleep at the same time, and the one that
//! is awake first must not hide the other. They are added to by their owner's threads alone; the peer only
//! reads them. On the bell at most one sleeps at a time, whoever holds the receive role; so that half is a
//! sequence, and each sleep has a number of its own.
//!
//! # A sleep
//!
//! 1. `prepare` reads the peer's wake word, counts itself in `parked`, and fences.
//! 2. The caller looks once more at everything it waits for: the ring in, room in the ring out, credit, its
//!    own process.
//! 3. If there is nothing, it sleeps for as long as the peer's wake word is the one that was read
//!    ([`Mode::Futex`]), or until its bell is readable ([`Mode::Bell`]).
//! 4. `unpark`, whatever ended the sleep.
//!
//! Whoever publishes (`RingWriter::publish`, `RingReader::publish_consumed`, `Credit::grant`) stores, fences,
//! and looks at `parked`. For sleepers on the futex, and for an announcement on the bell that it has not rung
//! for yet, it bumps its own wake word, and [`Wake`] says what the caller has to do beyond.
//!
//! # One ring for an announcement
//!
//! A sleeper that was rung takes microseconds to awake, and is announced all the while: each publication
//! would ring once more. So whoever finds an announcement puts its number into `rung`, and rings if another
//! was there. The other side of that bargain: **a ring that was heard ends the announcement**. Whoever sleeps
//! on the bell and has been polled goes back to sleep behind a new one, and a last look of its own; it may
//! keep the old one only if it knows that no ring was heard since.
//!
//! Only equal numbers are the same announcement, and no order of them is asked for: a peer may announce any
//! number of sleeps while this side has nothing to say. A sleeper would have to announce 2^31 of them,
//! between two publications, and stop at that very one, to be taken for the one before.
//!
//! # The races that look possible
//!
//! *Published between 2 and 3.* The two fences are in one order. If the sleeper's is the second, step 2 sees
//! what was published. If it is the first, the publisher sees `parked` and bumps the wake word after step 1
//! read it; then the kernel, which compares the word before it sleeps, does not sleep. A bell keeps what was
//! rung before anybody listens.
//!
//! *The wake word that step 1 reads is one of that bump already.* Then the publisher's fence came before the
//! bump, and the bump before our fence: step 2 sees what was published.
//!
//! *A ring for this announcement was heard already, and what is published now does not ring.* Take the last
//! announcement of a sleeper, and a publication that its last look did not see. By the fences the publisher
//! sees that announcement: there is none later. So it rings, or finds the number in `rung`, and then whoever
//! put it there has rung or is about to. That ring comes behind the announcement. If it is still to be heard,
//! it ends the sleep. If it was heard, there was another announcement behind it, and this is not the last.
//!
//! *Several threads publish at once.* `rung` is exchanged, so for one number it is one of them that finds
//! another there, and rings. One that has read `parked` long ago may put an older number back: its ring and
//! the next one are rings too many, and none is missing. The order in which others see `rung` matters to
//! nothing: the argument above asks of it only that each number that was put there is rung for.
//!
//! *The ring fails.* Then [`Park::not_rung`] forgets the number, and the next publication rings.
//!
//! *Room in the ring.* Like frames, but that a reader does not look at `parked` each time it frees some: only
//! if `starved` is set. `starve` has a fence of its own, since who wants room need not be who sleeps; the
//! caller tries again behind it. Whoever waits keeps its own count in `starved` until it has got its room:
//! another sender's success hides nobody.

use alloc::sync::Arc;

use crate::halves::{Halves, Rung};
#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::sync::{Ordering, fence};

/// How a sleeper is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It waits on the peer's wake word.
    Futex,
    /// It waits, in the poller of a runtime, for its bell: whatever the two sides have agreed on. One at a
    /// time: the holder of the receive role.
    Bell,
}

impl Mode {
    /// What `prepare` adds to `parked`.
    #[inline]
    const fn announced(self) -> u64 {
        match self {
            Self::Futex => 1,
            Self::Bell => 1 << BELL_SHIFT,
        }
    }

    /// What `unpark` adds to `parked`. The sequence wraps at the end of the word, and the count, which is one
    /// at least, borrows nothing from it.
    #[inline]
    const fn withdrawn(self) -> u64 {
        match self {
            Self::Futex => 1_u64.wrapping_neg(),
            Self::Bell => 1 << BELL_SHIFT,
        }
    }
}

/// What is left to do after something was published: the wake word is bumped already.
#[must_use = "the peer may be asleep"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing: nobody sleeps.
    Nobody,
    /// To wake all that wait on our wake word.
    Futex,
    /// To ring the peer's bell.
    Bell,
    /// To do both.
    Both,
}

impl Wake {
    /// Whether the futex has to be woken.
    #[must_use]
    #[inline]
    pub fn futex(self) -> bool {
        matches!(self, Self::Futex | Self::Both)
    }

    /// Whether the bell has to be rung.
    #[must_use]
    #[inline]
    pub fn bell(self) -> bool {
        matches!(self, Self::Bell | Self::Both)
    }

    /// What is left to do after two things were published.
    #[inline]
    pub fn and(self, other: Self) -> Self {
        Self::of(self.futex() || other.futex(), self.bell() || other.bell())
    }

    #[inline]
    fn of(futex: bool, bell: bool) -> Self {
        match (futex, bell) {
            (false, false) => Self::Nobody,
            (true, false) => Self::Futex,
            (false, true) => Self::Bell,
            (true, true) => Self::Both,
        }
    }
}

/// A sleeper, announced in `parked`. It has to be given back to [`Park::unpark`].
#[must_use = "until `unpark`, the peer makes system calls for it"]
#[derive(Debug)]
pub struct Parked {
    mode: Mode,
    seen: u32,
}

impl Parked {
    /// The peer's wake word, as it was before the last look: sleep only while it is still the same.
    #[must_use]
    #[inline]
    pub fn seen(&self) -> u32 {
        self.seen
    }
}

/// A sender that waits for room, counted in `starved`. It has to be given back to [`Park::sate`].
#[must_use = "until `sate`, the peer makes a system call whenever it frees room"]
#[derive(Debug)]
pub struct Starved(());

/// The sleepers of this side.
#[derive(Debug)]
pub struct Park<H> {
    halves: Arc<H>,
}

impl<H> Clone for Park<H> {
    #[inline]
    fn clone(&self) -> Self {
        Self { halves: self.halves.clone() }
    }
}

impl<H: Halves> Park<H> {
    #[inline]
    pub(crate) fn new(halves: Arc<H>) -> Self {
        Self { halves }
    }

    /// Announces a sleep. Look once more at everything that may end it, then sleep, then
    /// [`unpark`](Self::unpark).
    ///
    /// What was consumed has to be published before (`RingReader::publish_consumed`): the peer may wait for
    /// the room.
    ///
    /// On the bell, the peer rings once for each announcement. Whoever has heard a ring and goes back to
    /// sleep announces anew; and at most one sleeps on it at a time.
    #[inline]
    pub fn prepare(&self, mode: Mode) -> Parked {
        // Relaxed: only compared by the kernel with what is there later; read first, so that a later bump
        // ends the sleep.
        let seen = self.halves.peer().endpoint.wake().relaxed();
        // Relaxed: only this side writes it; the fence orders it.
        let before = self.halves.own().endpoint.parked.fetch_add(mode.announced(), Ordering::Relaxed);
        debug_assert!(mode == Mode::Futex || announcement(before).is_none(), "two sleep on one bell");
        // SeqCst fence: store-load, pairs with the fences in `RingWriter::publish`,
        // `RingReader::publish_consumed` and `Credit::wake_if_waiting`; either they see `parked`, or the
        // caller's last look sees what they published.
        fence(Ordering::SeqCst);
        Parked { mode, seen }
    }

    /// Ends a sleep, or gives it up.
    #[inline]
    pub fn unpark(&self, parked: Parked) {
        // Relaxed: only this side writes it; read late, it costs one wake too many.
        self.halves.own().endpoint.parked.fetch_add(parked.mode.withdrawn(), Ordering::Relaxed);
    }

    /// Whether the peer has bumped its wake word since the sleep was announced.
    #[must_use]
    #[inline]
    pub fn woken(&self, parked: &Parked) -> bool {
        // Relaxed: a hint; what there is to see is looked at anew.
        self.halves.peer().endpoint.wake().relaxed() != parked.seen
    }

    /// The bell could not be rung after all: the next that is published rings again.
    #[inline]
    pub fn not_rung(&self) {
        self.halves.rung().forget();
    }

    /// Announces a sender that found no room. Try to reserve once more behind it, before any sleep.
    #[inline]
    pub fn starve(&self) -> Starved {
        // Relaxed: only this side writes it; the fence orders it.
        self.halves.own().endpoint.starved.fetch_add(1, Ordering::Relaxed);
        // SeqCst fence: store-load, pairs with the fence in `RingReader::publish_consumed`; either that sees
        // `starved`, or the next `reserve` sees the room.
        fence(Ordering::SeqCst);
        Starved(())
    }

    /// Ends the waiting of a sender that has got its room, or that has given up.
    #[inline]
    pub fn sate(&self, starved: Starved) {
        let Starved(()) = starved;
        // Relaxed: only this side writes it; read late, it costs one wake too many.
        self.halves.own().endpoint.starved.fetch_sub(1, Ordering::Relaxed);
    }

    /// The word of our own half that the peer sleeps on: what to wake.
    #[cfg(not(loom))]
    #[must_use]
    #[inline]
    pub fn wake_word(&self) -> &AtomicU32 {
        &self.halves.own().endpoint.wake
    }

    /// The word of the peer's half that this side sleeps on: what to wait on. It lies in read-only memory,
    /// and it is mapped for as long as this `Park` lives.
    #[cfg(not(loom))]
    #[must_use]
    #[inline]
    pub fn peer_wake_word(&self) -> *const u32 {
        self.halves.peer().endpoint.wake().address()
    }
}

/// Wakes the peer's sleepers, if there are any: bumps our wake word, and says what is left to do.
///
/// Called behind the SeqCst fence that follows a store of something new.
#[inline]
pub(crate) fn wake_sleepers<H: Halves>(halves: &H) -> Wake {
    // Relaxed: ordered by the fence of the caller.
    let parked = halves.peer().endpoint.parked().relaxed();
    let rings = announcement(parked).is_some_and(|number| halves.rung().claim(number));
    let wake = Wake::of(parked as u32 != 0, rings);
    if wake != Wake::Nobody {
        // Relaxed: pairs with the load in `prepare`, which needs nothing but the change; the fences order the
        // rest. A read-modify-write, because several threads of this side publish.
        halves.own().endpoint.wake.fetch_add(1, Ordering::Relaxed);
    }
    wake
}

/// The number of the sleep on the bell that `parked` announces.
#[inline]
fn announcement(parked: u64) -> Option<u32> {
    let number = (parked >> BELL_SHIFT) as u32;
    (!number.is_multiple_of(2)).then_some(number)
}

impl Rung {
    /// Whether it falls to the caller to ring for this announcement: to one of all that ask.
    #[inline]
    fn claim(&self, number: u32) -> bool {
        // Relaxed, both: nothing is published by it, see the module. Looked at first, so that the line stays
        // where it is while the sleeper takes its time. A read-modify-write, because several threads of this
        // side publish.
        self.0.load(Ordering::Relaxed) != number && self.0.swap(number, Ordering::Relaxed) != number
    }

    #[inline]
    fn forget(&self) {
        // Relaxed: as in `claim`.
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Where the sequence of sleeps on the bell starts in `parked`.
const BELL_SHIFT: u32 = u32::BITS;

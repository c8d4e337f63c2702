//! Sleeping until the peer has something new, and waking it.
//!
//! # Who writes what
//!
//! Side A sleeps, side B publishes; both are both at once.
//!
//! | field     | half | written when                                                                          |
//! |-----------|------|---------------------------------------------------------------------------------------|
//! | `parked`  | A's  | one up by `prepare`, one down by `unpark`: how many of A's threads and tasks may sleep |
//! | `starved` | A's  | one up by `starve`, one down by `sate`: how many of A's senders wait for room          |
//! | `wake`    | B's  | one up when B has published something and found `parked` set                           |
//!
//! Counts and not flags: a driver and a blocked caller of one side sleep at the same time, and the one that
//! is awake first must not hide the other. They are added to by their owner's threads alone; the peer only
//! reads them.
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
//! and looks at `parked`; if it is set it bumps its own wake word, and [`Wake`] says what the caller has to
//! do beyond.
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
//! *Room in the ring.* Like frames, but that a reader does not look at `parked` each time it frees some: only
//! if `starved` is set. `starve` has a fence of its own, since who wants room need not be who sleeps; the
//! caller tries again behind it. Whoever waits keeps its own count in `starved` until it has got its room:
//! another sender's success hides nobody.

use alloc::sync::Arc;

use crate::halves::Halves;
#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::sync::{Ordering, fence};

/// How a sleeper is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It waits on the peer's wake word.
    Futex,
    /// It waits, in the poller of a runtime, for its bell: whatever the two sides have agreed on.
    Bell,
}

impl Mode {
    /// One sleeper of this kind, in `parked`.
    const fn one(self) -> u64 {
        match self {
            Self::Futex => 1,
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
    pub fn futex(self) -> bool {
        matches!(self, Self::Futex | Self::Both)
    }

    /// Whether the bell has to be rung.
    #[must_use]
    pub fn bell(self) -> bool {
        matches!(self, Self::Bell | Self::Both)
    }

    /// What is left to do after two things were published.
    pub fn and(self, other: Self) -> Self {
        Self::of(self.futex() || other.futex(), self.bell() || other.bell())
    }

    fn of(futex: bool, bell: bool) -> Self {
        match (futex, bell) {
            (false, false) => Self::Nobody,
            (true, false) => Self::Futex,
            (false, true) => Self::Bell,
            (true, true) => Self::Both,
        }
    }
}

/// A sleeper, counted in `parked`. It has to be given back to [`Park::unpark`].
#[must_use = "until `unpark`, the peer makes a system call for every batch"]
#[derive(Debug)]
pub struct Parked {
    mode: Mode,
    seen: u32,
}

impl Parked {
    /// The peer's wake word, as it was before the last look: sleep only while it is still the same.
    #[must_use]
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
    fn clone(&self) -> Self {
        Self { halves: self.halves.clone() }
    }
}

impl<H: Halves> Park<H> {
    pub(crate) fn new(halves: Arc<H>) -> Self {
        Self { halves }
    }

    /// Announces a sleep. Look once more at everything that may end it, then sleep, then
    /// [`unpark`](Self::unpark).
    ///
    /// What was consumed has to be published before (`RingReader::publish_consumed`): the peer may wait for
    /// the room.
    pub fn prepare(&self, mode: Mode) -> Parked {
        // Relaxed: only compared by the kernel with what is there later; read first, so that a later bump
        // ends the sleep.
        let seen = self.halves.peer().endpoint.wake().relaxed();
        // Relaxed: only this side writes it; the fence orders it.
        self.halves.own().endpoint.parked.fetch_add(mode.one(), Ordering::Relaxed);
        // SeqCst fence: store-load, pairs with the fences in `RingWriter::publish`,
        // `RingReader::publish_consumed` and `Credit::wake_if_waiting`; either they see `parked`, or the
        // caller's last look sees what they published.
        fence(Ordering::SeqCst);
        Parked { mode, seen }
    }

    /// Ends a sleep, or gives it up.
    pub fn unpark(&self, parked: Parked) {
        // Relaxed: only this side writes it; read late, it costs one wake too many.
        self.halves.own().endpoint.parked.fetch_sub(parked.mode.one(), Ordering::Relaxed);
    }

    /// Whether the peer has bumped its wake word since the sleep was announced.
    #[must_use]
    pub fn woken(&self, parked: &Parked) -> bool {
        // Relaxed: a hint; what there is to see is looked at anew.
        self.halves.peer().endpoint.wake().relaxed() != parked.seen
    }

    /// Announces a sender that found no room. Try to reserve once more behind it, before any sleep.
    pub fn starve(&self) -> Starved {
        // Relaxed: only this side writes it; the fence orders it.
        self.halves.own().endpoint.starved.fetch_add(1, Ordering::Relaxed);
        // SeqCst fence: store-load, pairs with the fence in `RingReader::publish_consumed`; either that sees
        // `starved`, or the next `reserve` sees the room.
        fence(Ordering::SeqCst);
        Starved(())
    }

    /// Ends the waiting of a sender that has got its room, or that has given up.
    pub fn sate(&self, starved: Starved) {
        let Starved(()) = starved;
        // Relaxed: only this side writes it; read late, it costs one wake too many.
        self.halves.own().endpoint.starved.fetch_sub(1, Ordering::Relaxed);
    }

    /// The word of our own half that the peer sleeps on: what to wake.
    #[cfg(not(loom))]
    #[must_use]
    pub fn wake_word(&self) -> &AtomicU32 {
        &self.halves.own().endpoint.wake
    }

    /// The word of the peer's half that this side sleeps on: what to wait on. It lies in read-only memory,
    /// and it is mapped for as long as this `Park` lives.
    #[cfg(not(loom))]
    #[must_use]
    pub fn peer_wake_word(&self) -> *const u32 {
        self.halves.peer().endpoint.wake().address()
    }
}

/// Wakes the peer's sleepers, if there are any: bumps our wake word, and says what is left to do.
///
/// Called behind the SeqCst fence that follows a store of something new.
pub(crate) fn wake_sleepers<H: Halves>(halves: &H) -> Wake {
    // Relaxed: ordered by the fence of the caller.
    let parked = halves.peer().endpoint.parked().relaxed();
    if parked == 0 {
        return Wake::Nobody;
    }
    // Relaxed: pairs with the load in `prepare`, which needs nothing but the change; the fences order the
    // rest. A read-modify-write, because several threads of this side publish.
    halves.own().endpoint.wake.fetch_add(1, Ordering::Relaxed);
    Wake::of(parked as u32 != 0, parked >> BELL_SHIFT != 0)
}

/// Where the count of sleepers on the bell starts in `parked`.
const BELL_SHIFT: u32 = u32::BITS;

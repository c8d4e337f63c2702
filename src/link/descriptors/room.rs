//! Whether what a message may bring has room in this process.
//!
//! What a message brings that this process may not have, the system lets go of in the call that receives the message, where
//! the last close of what a stranger has made may take its time. So unless there is room for the most that one can bring,
//! messages are looked at before they are taken: see [`receive`](super::receive).
//!
//! The system counts what is open: two system calls, made by who receives when [`EVERY`] is over since the last count. What
//! has come since then is counted here, and who is about to receive has room set aside first, so that peers cannot use it up
//! unseen, also not together. What the application opens is seen with the next count; room is left for it: [`SPARE`], and no
//! less than a fourth of what it may have.
//!
//! What remains: an application that opens more than that between two counts, and meets there with descriptors of a peer that
//! are not closed at once; and, in a process that is just about to have no room any more, three or more messages that bring
//! the most that one can at the same time, on a thread each.
//!
//! Where the system does not count (before Linux 6.2, or without `/proc`), there is never room.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs,
    process::{Resource, getrlimit},
};

use super::MOST_DESCRIPTORS;

/// This process's.
static ROOM: Room = Room::new();

/// How often is counted, at most.
const EVERY: Duration = Duration::from_millis(4);

/// Has room set aside for a message that is about to be received. A look at the clock, which is no system call, and five
/// atomic operations until it has come.
pub(super) fn set_aside() -> Aside<'static> {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let time = FIRST.get_or_init(Instant::now).elapsed();
    ROOM.set_aside((time.as_millis() / EVERY.as_millis()) as i64, open_and_limit)
}

#[derive(Debug)]
struct Room {
    /// When was counted last, in times of [`EVERY`].
    counted: AtomicI64,
    /// How many there was room for then, without what is left for the application, and how many had come before.
    level: AtomicI64,
    /// How many have come, ever.
    came: AtomicI64,
    /// How many calls that receive are under way.
    receiving: AtomicI64,
}

/// As a level: for nothing.
const NO_ROOM: i64 = i64::MIN / 2;
/// The most that a message brings.
const MOST: i64 = MOST_DESCRIPTORS as i64;
/// What is left for the application, and for those who look, at least.
const SPARE: i64 = 2 * MOST;

impl Room {
    const fn new() -> Self {
        Room {
            counted: AtomicI64::new(i64::MIN),
            level: AtomicI64::new(NO_ROOM),
            came: AtomicI64::new(0),
            receiving: AtomicI64::new(0),
        }
    }

    fn set_aside(&self, now: i64, open_and_limit: impl FnOnce() -> Option<(i64, i64)>) -> Aside<'_> {
        // Relaxed, here and for the level: who sees an older count has more to subtract from it.
        if self.counted.load(Ordering::Relaxed) != now {
            self.counted.store(now, Ordering::Relaxed);
            self.count(open_and_limit);
        }
        // Acquire: pairs with the Release of who is done, so that either what came to him is seen, or his room is.
        let receiving = self.receiving.fetch_add(1, Ordering::Acquire).saturating_add(1);
        let left = self.level.load(Ordering::Relaxed).saturating_sub(self.came.load(Ordering::Relaxed));
        Aside { room: self, enough: left >= receiving.saturating_mul(MOST) }
    }

    /// Descriptors that come meanwhile may be counted twice, and never not at all.
    #[cold]
    fn count(&self, open_and_limit: impl FnOnce() -> Option<(i64, i64)>) {
        // Acquire: pairs with the Release in `came`: what is counted here is open before the system counts.
        let came = self.came.load(Ordering::Acquire);
        let level = open_and_limit().map_or(NO_ROOM, |(open, limit)| {
            // What may be had are numbers below the limit, so that at least as many are free.
            limit.saturating_sub(open).saturating_sub(SPARE.max(limit / 4)).saturating_add(came)
        });
        self.level.store(level, Ordering::Relaxed);
    }
}

/// Room that is set aside for one message, until this is dropped.
#[derive(Debug)]
pub(super) struct Aside<'r> {
    room: &'r Room,
    /// There is as much as a message can need.
    pub(super) enough: bool,
}

impl Aside<'_> {
    /// The message has come, with so many descriptors.
    pub(super) fn came(self, count: usize) {
        if count > 0 {
            // Release: pairs with the Acquire in `count`. For `set_aside`, the drop publishes it.
            self.room.came.fetch_add(count as i64, Ordering::Release);
        }
    }

    /// The message has come, with some that this process may not have: whatever was counted, there is no room.
    pub(super) fn lost(self) {
        // Relaxed: as in `set_aside`.
        self.room.level.store(NO_ROOM, Ordering::Relaxed);
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `set_aside`.
        self.room.receiving.fetch_sub(1, Ordering::Release);
    }
}

/// How many descriptors this process has open, and how many it may have. `None`: the system does not say.
fn open_and_limit() -> Option<(i64, i64)> {
    let open = fs::stat(c"/proc/thread-self/fd").ok()?.st_size;
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| limit.try_into().ok()).unwrap_or(i64::MAX);
    // There is the one that is received from, at least.
    (open > 0).then_some((open, limit))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Room for so many, as the system counts.
    fn room_for(free: i64) -> Room {
        let room = Room::new();
        drop(room.set_aside(0, || Some((7, 7 + free + SPARE))));
        room
    }

    fn never() -> Option<(i64, i64)> {
        panic!("it was counted at this time already")
    }

    #[test]
    fn messages_that_are_received_at_once_have_room_together() {
        let room = room_for(3 * MOST);
        let all: Vec<_> = (0..4).map(|_| room.set_aside(0, never)).collect();
        assert_eq!(all.iter().map(|aside| aside.enough).collect::<Vec<_>>(), [true, true, true, false]);
        drop(all);
        assert!(room.set_aside(0, never).enough);
    }

    #[test]
    fn what_has_come_has_used_up_room_until_the_system_counts_again() {
        let room = room_for(2 * MOST + 5);
        room.set_aside(0, never).came(MOST_DESCRIPTORS);
        room.set_aside(0, never).came(5);
        let enough = room.set_aside(0, never);
        assert!(enough.enough);
        enough.came(1);
        assert!(!room.set_aside(0, never).enough);
        // All are closed again.
        assert!(room.set_aside(1, || Some((7, 7 + 2 * MOST + SPARE))).enough);
    }

    #[test]
    fn what_comes_while_the_system_counts_is_counted() {
        let room = Room::new();
        let aside = room.set_aside(0, || {
            room.receiving.fetch_add(1, Ordering::Relaxed);
            Aside { room: &room, enough: true }.came(1);
            Some((7, 7 + MOST + SPARE))
        });
        assert!(!aside.enough);
    }

    #[test]
    fn a_process_that_may_have_many_keeps_a_fourth_and_nobody_knows_of_room_that_is_not_counted() {
        let room = Room::new();
        assert!(room.set_aside(0, || Some((750_000 - MOST, 1_000_000))).enough);
        assert!(!room.set_aside(1, || Some((750_001 - MOST, 1_000_000))).enough);
        assert!(!room.set_aside(2, || None).enough);
        assert!(room.set_aside(3, || Some((7, i64::MAX))).enough);
        room.set_aside(3, never).lost();
        assert!(!room.set_aside(3, never).enough);
    }

    /// Of a system that counts: other tests of this process open and close some meanwhile.
    #[test]
    fn the_system_counts_what_is_open() {
        let Some((before, limit)) = open_and_limit() else { return };
        let open: Vec<_> = (0..200).map(|_| File::open("/dev/null").expect("there is one")).collect();
        let (counted, _) = open_and_limit().expect("it has counted before");
        assert!(counted >= before + 100 && counted <= limit, "{before}, {counted}, {limit}");
        drop(open);
    }
}

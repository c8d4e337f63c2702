//! Credit: a grant against a waiting sender, and a slot that is used again.
#![cfg(loom)]

mod common;

use adjoin_shm_layout::model::pair;
use adjoin_shm_layout::{Granted, Mode, Slot};
use common::{Side, Sleepers};
use loom::sync::Arc;
use loom::thread;

/// Whether the sender of a slot may send `total` bytes.
fn has(granted: Granted, total: u64) -> bool {
    granted == Granted::Total(total)
}

/// A slot that `side` has allotted.
fn allot(side: &mut Side) -> Slot {
    side.slots.allot().expect("the table is empty")
}

/// The sender sleeps itself.
///
/// Seen to fail without the fence in `Credit::wake_if_waiting`, and without the one in `Park::prepare`.
#[test]
fn a_sender_that_parks_for_credit_is_woken_by_the_grant() {
    loom::model(|| {
        let (mut here, there) = pair(16, 2);
        let slot = allot(&mut here);
        let _ = there.credit.open(slot, 1);
        let sleepers = Arc::new(Sleepers::new());
        let granting = thread::spawn({
            let sleepers = sleepers.clone();
            move || sleepers.carry_out(there.credit.grant(slot, 2))
        });
        while !has(here.credit.await_credit(slot, 1).unwrap(), 2) {
            let parked = here.park.prepare(Mode::Futex);
            if !has(here.credit.granted(slot, 1).unwrap(), 2) {
                sleepers.sleep_on_futex(&here.park, &parked);
            }
            here.park.unpark(parked);
        }
        here.credit.stop_waiting(slot);
        granting.join().unwrap();
    });
}

/// The driver of a side sleeps on the bell already when a sender of the same side runs out of credit.
///
/// Seen to fail without the fence in `Credit::await_credit`, and without the one in `wake_if_waiting`.
#[test]
fn a_sender_that_waits_beside_a_parked_driver_is_woken_by_the_grant() {
    loom::model(|| {
        let (mut here, there) = pair(16, 2);
        let slot = allot(&mut here);
        let _ = there.credit.open(slot, 1);
        let sleepers = Arc::new(Sleepers::new());
        let parked = here.park.prepare(Mode::Bell);
        let granting = thread::spawn({
            let sleepers = sleepers.clone();
            move || sleepers.carry_out(there.credit.grant(slot, 2))
        });
        while !has(here.credit.await_credit(slot, 1).unwrap(), 2) {
            sleepers.sleep_on_bell();
        }
        here.credit.stop_waiting(slot);
        here.park.unpark(parked);
        granting.join().unwrap();
    });
}

/// The sender is out of its initial credit before the receiver has opened the channel.
///
/// Seen to fail without the fence in `await_credit`, and without the one in `wake_if_waiting`.
#[test]
fn a_sender_that_waits_is_woken_by_the_open() {
    loom::model(|| {
        let (mut here, there) = pair(16, 2);
        let slot = allot(&mut here);
        let sleepers = Arc::new(Sleepers::new());
        let parked = here.park.prepare(Mode::Bell);
        let opening = thread::spawn({
            let sleepers = sleepers.clone();
            move || sleepers.carry_out(there.credit.open(slot, 2))
        });
        while !has(here.credit.await_credit(slot, 0).unwrap(), 2) {
            sleepers.sleep_on_bell();
        }
        here.credit.stop_waiting(slot);
        here.park.unpark(parked);
        opening.join().unwrap();
    });
}

/// A slot whose first incarnation was granted 10 bytes and is over, in its first and in its second
/// incarnation.
fn reopened(here: &mut Side, there: &Side) -> (Slot, Slot) {
    let old = allot(here);
    let _ = there.credit.open(old, 10);
    assert!(here.slots.give_back(old));
    let new = allot(here);
    assert_eq!(old.index(), new.index());
    (old, new)
}

/// The receiver is done with a channel and opens the next one in the same slot, while senders of both
/// incarnations look.
///
/// Seen to fail with Relaxed in place of: either Release store in `Credit::open`, either Acquire load in
/// `Credit::granted`. And without the store of no generation in `open`, and without the second look at the
/// generation in `granted`.
#[test]
fn a_sender_never_reads_the_credit_of_another_incarnation() {
    loom::model(|| {
        let (mut here, there) = pair(16, 2);
        let (old, new) = reopened(&mut here, &there);
        let receiving = thread::spawn(move || {
            let _ = there.credit.open(new, 100);
        });
        let seen = here.credit.granted(old, 10).expect("never less than before");
        assert!(seen == Granted::NotOpened || has(seen, 10), "old: {seen:?}");
        let seen = here.credit.granted(new, 0).expect("never less than before");
        assert!(seen == Granted::NotOpened || has(seen, 100), "new: {seen:?}");
        receiving.join().unwrap();
    });
}

/// As above, and another thread of the receiver grants more: the fence in `open` is not there to order its
/// store.
///
/// Seen to fail with Relaxed in place of the Release store in `Credit::grant`.
#[test]
fn a_sender_never_reads_a_grant_to_another_incarnation() {
    loom::model(|| {
        let (mut here, there) = pair(16, 2);
        let (old, new) = reopened(&mut here, &there);
        let receiving = thread::spawn(move || {
            let _ = there.credit.open(new, 100);
            let _ = thread::spawn(move || there.credit.grant(new, 200)).join().unwrap();
        });
        let seen = here.credit.granted(old, 10).expect("never less than before");
        assert!(seen == Granted::NotOpened || has(seen, 10), "old: {seen:?}");
        receiving.join().unwrap();
    });
}

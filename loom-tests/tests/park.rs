//! Parking and waking: a lost wake-up is a deadlock, which fails the model.
//!
//! Explored whole, but for the two models that say `bounded`.
#![cfg(loom)]

mod common;

use adjoin_shm_layout::model::pair;
use adjoin_shm_layout::{Mode, Wake};
use common::{Side, Sleepers, bounded, take, try_send};
use loom::sync::Arc;
use loom::thread;

/// Receives one frame, asleep on the futex while there is none.
fn receive(side: &mut Side, sleepers: &Sleepers, byte: u8) {
    loop {
        if let Some(frame) = side.reader.next_frame().unwrap() {
            return take(frame, byte, 0);
        }
        let parked = side.park.prepare(Mode::Futex);
        if side.reader.is_empty().unwrap() {
            sleepers.sleep_on_futex(&side.park, &parked);
        }
        side.park.unpark(parked);
    }
}

/// Sends one frame, and wakes the other side.
fn send(side: &mut Side, others: &Sleepers, byte: u8) {
    assert!(try_send(&mut side.writer, byte, 0));
    others.carry_out(side.writer.publish());
}

/// The last look and the sleep against one frame.
///
/// Seen to fail without the fence in `RingWriter::publish`, without the fence in `Park::prepare`, with either
/// of them AcqRel, with the wake word read behind the fence of `prepare`, and without the bump of the wake
/// word.
#[test]
fn a_reader_that_parks_is_woken() {
    loom::model(|| {
        let (mut here, mut there) = pair(32, 2);
        let sleepers = Arc::new(Sleepers::new());
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || send(&mut there, &sleepers, 1)
        });
        receive(&mut here, &sleepers, 1);
        sending.join().unwrap();
    });
}

/// The second sleep meets what the first left behind: a wake word that was bumped, a `parked` that may be
/// read late.
///
/// Seen to fail as the model above.
#[test]
fn a_reader_that_parks_again_is_woken_again() {
    bounded(4, || {
        let (mut here, mut there) = pair(32, 2);
        let sleepers = Arc::new(Sleepers::new());
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                send(&mut there, &sleepers, 1);
                send(&mut there, &sleepers, 2);
            }
        });
        receive(&mut here, &sleepers, 1);
        receive(&mut here, &sleepers, 2);
        sending.join().unwrap();
    });
}

/// Each side answers the other, so that both have to sleep and both have to wake.
///
/// Seen to fail without the fence in `publish` or in `prepare`, with either of them AcqRel, and without the
/// bump.
#[test]
fn two_sides_that_park_wake_each_other() {
    loom::model(|| {
        let (mut here, mut there) = pair(32, 2);
        let (our_sleepers, their_sleepers) = (Arc::new(Sleepers::new()), Arc::new(Sleepers::new()));
        let answering = thread::spawn({
            let (our_sleepers, their_sleepers) = (our_sleepers.clone(), their_sleepers.clone());
            move || {
                receive(&mut there, &their_sleepers, 1);
                send(&mut there, &our_sleepers, 2);
            }
        });
        send(&mut here, &their_sleepers, 1);
        receive(&mut here, &our_sleepers, 2);
        answering.join().unwrap();
    });
}

/// Both send at once, and then both wait.
///
/// Seen to fail as the model above.
#[test]
fn two_sides_that_send_at_once_and_park_wake_each_other() {
    loom::model(|| {
        let (mut here, mut there) = pair(32, 2);
        let (our_sleepers, their_sleepers) = (Arc::new(Sleepers::new()), Arc::new(Sleepers::new()));
        let other = thread::spawn({
            let (our_sleepers, their_sleepers) = (our_sleepers.clone(), their_sleepers.clone());
            move || {
                send(&mut there, &our_sleepers, 2);
                receive(&mut there, &their_sleepers, 1);
            }
        });
        send(&mut here, &their_sleepers, 1);
        receive(&mut here, &our_sleepers, 2);
        other.join().unwrap();
    });
}

/// One thread of a side sleeps on the futex, while a task of the same side announces a sleep on the bell and
/// gives it up. With a flag in place of the count, the task would hide the thread.
///
/// Seen to fail with `parked` as a flag, stored 1 and 0.
#[test]
fn a_sleeper_is_not_hidden_by_another_that_gives_up() {
    loom::model(|| {
        let (mut here, mut there) = pair(32, 2);
        let sleepers = Arc::new(Sleepers::new());
        let task = thread::spawn({
            let park = here.park.clone();
            move || {
                let parked = park.prepare(Mode::Bell);
                park.unpark(parked);
            }
        });
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || send(&mut there, &sleepers, 1)
        });
        receive(&mut here, &sleepers, 1);
        task.join().unwrap();
        sending.join().unwrap();
    });
}

/// A ring of two empty frames, full: the sender waits for room while the reader frees one.
fn full() -> (Side, Side) {
    let (mut here, there) = pair(16, 2);
    assert!(try_send(&mut here.writer, 1, 0) && try_send(&mut here.writer, 2, 0));
    let _ = here.writer.publish();
    assert!(!try_send(&mut here.writer, 3, 0), "full");
    (here, there)
}

/// Frees one frame, and wakes whoever waits for the room.
fn free_one(side: &mut Side, others: &Sleepers) {
    take(side.reader.next_frame().unwrap().expect("the ring is full"), 1, 0);
    others.carry_out(side.reader.publish_consumed());
}

/// The sender sleeps itself.
///
/// Seen to fail without the fence in `RingReader::publish_consumed`, with that fence AcqRel, without the
/// fence in `prepare`, and with Relaxed at either access of `consumed`.
#[test]
fn a_starved_sender_that_parks_is_woken_by_the_reader() {
    loom::model(|| {
        let (mut here, mut there) = full();
        let sleepers = Arc::new(Sleepers::new());
        let reading = thread::spawn({
            let sleepers = sleepers.clone();
            move || free_one(&mut there, &sleepers)
        });
        let starved = here.park.starve();
        while !try_send(&mut here.writer, 3, 0) {
            let parked = here.park.prepare(Mode::Futex);
            if !here.writer.has_room(0).unwrap() {
                sleepers.sleep_on_futex(&here.park, &parked);
            }
            here.park.unpark(parked);
        }
        here.park.sate(starved);
        reading.join().unwrap();
    });
}

/// The driver of a side sleeps on the bell already when a sender of the same side finds the ring full.
///
/// Seen to fail without the fence in `Park::starve`, and without the one in `publish_consumed`.
#[test]
fn a_starved_sender_beside_a_parked_driver_is_woken_by_the_reader() {
    loom::model(|| {
        let (mut here, mut there) = full();
        let sleepers = Arc::new(Sleepers::new());
        let parked = here.park.prepare(Mode::Bell);
        let reading = thread::spawn({
            let sleepers = sleepers.clone();
            move || free_one(&mut there, &sleepers)
        });
        let starved = here.park.starve();
        while !try_send(&mut here.writer, 3, 0) {
            sleepers.sleep_on_bell();
        }
        here.park.sate(starved);
        here.park.unpark(parked);
        reading.join().unwrap();
    });
}

/// Two senders wait for room: the one that is served first does not hide the other.
///
/// Seen to fail with `starved` as a flag, stored 1 and 0.
#[test]
fn a_starved_sender_is_not_hidden_by_another_that_is_sated() {
    loom::model(|| {
        let (mut here, mut there) = full();
        let sleepers = Arc::new(Sleepers::new());
        let parked = here.park.prepare(Mode::Bell);
        let other = thread::spawn({
            let park = here.park.clone();
            move || {
                let starved = park.starve();
                park.sate(starved);
            }
        });
        let reading = thread::spawn({
            let sleepers = sleepers.clone();
            move || free_one(&mut there, &sleepers)
        });
        let starved = here.park.starve();
        while !try_send(&mut here.writer, 3, 0) {
            sleepers.sleep_on_bell();
        }
        here.park.sate(starved);
        here.park.unpark(parked);
        other.join().unwrap();
        reading.join().unwrap();
    });
}

/// Two threads of one side wake at once: a reader that frees room, and a writer that sends twice. If the bump
/// were a load and a store, the reader's could take the word back to what the sleeper has seen, between its
/// look and its sleep.
///
/// Seen to fail with a load and a store in place of the `fetch_add` of the wake word.
#[test]
fn two_threads_that_wake_at_once_lose_no_bump() {
    bounded(3, || {
        let (mut here, there) = full();
        let sleepers = Arc::new(Sleepers::new());
        let (mut reader, mut writer) = (there.reader, there.writer);
        let reading = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                take(reader.next_frame().unwrap().expect("the ring is full"), 1, 0);
                sleepers.carry_out(reader.publish_consumed());
            }
        });
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                for byte in [7, 8] {
                    assert!(try_send(&mut writer, byte, 0));
                    sleepers.carry_out(writer.publish());
                }
            }
        });
        let starved = here.park.starve();
        for byte in [7, 8] {
            receive(&mut here, &sleepers, byte);
        }
        here.park.sate(starved);
        reading.join().unwrap();
        sending.join().unwrap();
    });
}

/// Receives one frame, asleep on the bell while there is none: behind a new announcement each time.
fn hear(side: &mut Side, sleepers: &Sleepers, byte: u8) {
    loop {
        if let Some(frame) = side.reader.next_frame().unwrap() {
            return take(frame, byte, 0);
        }
        let parked = side.park.prepare(Mode::Bell);
        if side.reader.is_empty().unwrap() {
            sleepers.sleep_on_bell();
        }
        side.park.unpark(parked);
    }
}

/// A sleeper on the bell is rung, hears it, finds something or nothing (the ring of what it had found
/// without), announces anew, and is rung again.
///
/// Seen to fail when `hear` keeps its first announcement in place of a new one each time, with a flag in
/// place of the number in `rung` (set when rung, cleared when nobody is seen to be announced), with a count
/// of the sleepers in place of the sequence (one down by `unpark`), without the fence in `publish` or in
/// `prepare`, and with either of them AcqRel.
#[test]
fn a_sleeper_on_the_bell_that_announces_anew_is_rung_again() {
    bounded(4, || {
        let (mut here, mut there) = pair(32, 2);
        let sleepers = Arc::new(Sleepers::new());
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                send(&mut there, &sleepers, 1);
                send(&mut there, &sleepers, 2);
            }
        });
        hear(&mut here, &sleepers, 1);
        hear(&mut here, &sleepers, 2);
        sending.join().unwrap();
    });
}

/// A driver's task is polled while it is announced, and hears a ring or none: it announces anew, and what was
/// published in between is seen by its look or rings.
///
/// Seen to fail without the last look behind the second announcement, without the fence in `publish` or in
/// `prepare`, and with either of them AcqRel.
#[test]
fn a_sleeper_on_the_bell_that_is_polled_in_between_is_rung() {
    loom::model(|| {
        let (mut here, mut there) = pair(32, 2);
        let sleepers = Arc::new(Sleepers::new());
        let parked = here.park.prepare(Mode::Bell);
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || send(&mut there, &sleepers, 1)
        });
        sleepers.silence();
        here.park.unpark(parked);
        hear(&mut here, &sleepers, 1);
        sending.join().unwrap();
    });
}

/// Two publications against one announcement ring once, and one against the next rings again, as does one
/// after a ring that failed. A thread that sleeps on the futex beside it is woken each time.
///
/// Seen to fail without `rung`, and with a count of the sleepers in place of the sequence.
#[test]
fn two_publications_ring_once_for_an_announcement() {
    loom::model(|| {
        let (here, mut there) = pair(64, 2);
        let publish = |there: &mut Side| {
            assert!(try_send(&mut there.writer, 1, 0));
            there.writer.publish()
        };
        assert_eq!(publish(&mut there), Wake::Nobody);
        let parked = here.park.prepare(Mode::Bell);
        assert_eq!(publish(&mut there), Wake::Bell);
        assert_eq!(publish(&mut there), Wake::Nobody);
        let thread = here.park.prepare(Mode::Futex);
        assert_eq!(publish(&mut there), Wake::Futex);
        here.park.unpark(thread);
        here.park.unpark(parked);
        assert_eq!(publish(&mut there), Wake::Nobody);
        let parked = here.park.prepare(Mode::Bell);
        assert_eq!(publish(&mut there), Wake::Bell);
        there.park.not_rung();
        assert_eq!(publish(&mut there), Wake::Bell);
        here.park.unpark(parked);
    });
}

/// Two threads of one side find the same announcement at once, a reader that frees room and a writer: one of
/// them rings.
///
/// Seen to fail with a load and a store in place of the `swap` of `rung`: both ring. That is all there is to
/// weaken; the ordering is Relaxed.
#[test]
fn two_threads_that_wake_at_once_ring_once() {
    loom::model(|| {
        let (here, there) = full();
        let starved = here.park.starve();
        let parked = here.park.prepare(Mode::Bell);
        let (mut reader, mut writer) = (there.reader, there.writer);
        let reading = thread::spawn(move || {
            take(reader.next_frame().unwrap().expect("the ring is full"), 1, 0);
            reader.publish_consumed()
        });
        assert!(try_send(&mut writer, 7, 0));
        let rings = [writer.publish(), reading.join().unwrap()].map(Wake::bell);
        assert!(rings[0] != rings[1], "one of them: {rings:?}");
        here.park.unpark(parked);
        here.park.sate(starved);
    });
}

/// The same two, and a sleeper that waits for both: the frame and the room. Whichever of them left the ring
/// to the other, the sleeper comes to see what both have published.
///
/// Seen to fail when the sleeper keeps its first announcement, with a flag in place of the number in `rung`,
/// with a count in place of the sequence, and without the fence in `publish`, `publish_consumed` or
/// `prepare`.
#[test]
fn a_sleeper_on_the_bell_sees_what_two_threads_publish_at_once() {
    bounded(3, || {
        let (mut here, there) = full();
        let sleepers = Arc::new(Sleepers::new());
        let (mut reader, mut writer) = (there.reader, there.writer);
        let reading = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                take(reader.next_frame().unwrap().expect("the ring is full"), 1, 0);
                sleepers.carry_out(reader.publish_consumed());
            }
        });
        let sending = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                assert!(try_send(&mut writer, 7, 0));
                sleepers.carry_out(writer.publish());
            }
        });
        let starved = here.park.starve();
        loop {
            let parked = here.park.prepare(Mode::Bell);
            let (frame, room) = (!here.reader.is_empty().unwrap(), here.writer.has_room(0).unwrap());
            if !(frame && room) {
                sleepers.sleep_on_bell();
            }
            here.park.unpark(parked);
            if frame && room {
                break;
            }
        }
        here.park.sate(starved);
        reading.join().unwrap();
        sending.join().unwrap();
    });
}

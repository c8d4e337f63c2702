//! Blocks: what is written and read of them, given back and used again, and a sender that waits for one.
#![cfg(loom)]

mod common;

use adjoin_shm_layout::model::{ModelArena, pair_with_arena};
use adjoin_shm_layout::{BlockRef, Mode, Purpose, RingReader};
use common::{Side, Sleepers};
use loom::sync::Arc;
use loom::thread;

/// One page to be lent, one for what passes, and numbers for two blocks.
const ARENA: ModelArena = ModelArena { lending_bytes: 8, passing_bytes: 8, blocks: 2 };

/// Sends a payload of eight times `byte` in a block, if there is one now, and publishes it.
fn try_send(side: &mut Side, byte: u8) -> bool {
    let Ok(mut block) = side.arena.allot(8, Purpose::Message) else {
        return false;
    };
    block.write_at(0, &[byte; 8]);
    let sent = side.arena.pass(block, 0, 8);
    let mut room = side.writer.reserve(BlockRef::BYTES).expect("a ring for all messages of a model");
    room.write_at(0, &sent.to_bytes());
    room.commit(byte.into(), BlockRef::BYTES);
    true
}

fn next(reader: &mut RingReader<adjoin_shm_layout::model::ModelHalves>) -> Option<(u32, BlockRef)> {
    let frame = reader.next_frame().unwrap()?;
    let mut bytes = [0; BlockRef::BYTES];
    frame.copy_to(0, &mut bytes);
    let tag = frame.tag();
    frame.release();
    Some((tag, BlockRef::from_bytes(&bytes)))
}

/// Reads one payload, checks it, and gives its block back.
fn receive(side: &mut Side) -> adjoin_shm_layout::Wake {
    let (tag, block) = loop {
        match next(&mut side.reader) {
            Some(found) => break found,
            None => thread::yield_now(),
        }
    };
    let parcel = side.peer_arena.check(block).unwrap();
    let mut payload = [0; 8];
    side.peer_arena.copy_to(&parcel, &mut payload);
    assert_eq!(payload, [tag as u8; 8]);
    side.returns.give_back(parcel)
}

/// Three payloads through two blocks: the third is written over the first, which was given back.
///
/// Seen to fail with Relaxed in place of: the Release store of `returned` in `Returns::give_back`, its Acquire load in
/// `Arena::collect`.
#[test]
fn a_block_is_not_written_again_while_it_is_read() {
    loom::model(|| {
        let (mut here, mut there) = pair_with_arena(128, 2, ARENA);
        let sending = thread::spawn(move || {
            for byte in 1..=3 {
                while !try_send(&mut there, byte) {
                    thread::yield_now();
                }
                let _ = there.writer.publish();
            }
        });
        for _ in 0..3 {
            let _ = receive(&mut here);
        }
        sending.join().unwrap();
    });
}

/// The sender has no block, waits for one, and sleeps.
///
/// Seen to fail without the fence in `Returns::give_back`, and without the one in `Park::starve` or that in
/// `Park::prepare`, of which either will do here, since the one who waits is the one who sleeps.
#[test]
fn a_sender_that_parks_for_a_block_is_woken_by_its_return() {
    loom::model(|| {
        let (mut here, mut there) = pair_with_arena(128, 2, ARENA);
        assert!(try_send(&mut there, 1) && try_send(&mut there, 2));
        let _ = there.writer.publish();
        let sleepers = Arc::new(Sleepers::new());
        let receiving = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                let wake = receive(&mut here);
                sleepers.carry_out(wake);
                here
            }
        });
        let starved = there.park.starve();
        while !there.arena.has_room(8, Purpose::Message).unwrap() {
            let parked = there.park.prepare(Mode::Futex);
            if !there.arena.has_room(8, Purpose::Message).unwrap() {
                sleepers.sleep_on_futex(&there.park, &parked);
            }
            there.park.unpark(parked);
        }
        there.park.sate(starved);
        assert!(try_send(&mut there, 3));
        receiving.join().unwrap();
    });
}

/// The driver of a side sleeps on the bell already when another of the same side begins to wait for a block.
///
/// Seen to fail without the fence in `Park::starve`.
#[test]
fn a_sender_that_waits_beside_a_parked_driver_is_woken_by_a_return() {
    loom::model(|| {
        let (mut here, mut there) = pair_with_arena(128, 2, ARENA);
        assert!(try_send(&mut there, 1) && try_send(&mut there, 2));
        let _ = there.writer.publish();
        let sleepers = Arc::new(Sleepers::new());
        let parked = there.park.prepare(Mode::Bell);
        let receiving = thread::spawn({
            let sleepers = sleepers.clone();
            move || {
                let wake = receive(&mut here);
                sleepers.carry_out(wake);
                here
            }
        });
        let starved = there.park.starve();
        if !there.arena.has_room(8, Purpose::Message).unwrap() {
            sleepers.sleep_on_bell();
            assert!(there.arena.has_room(8, Purpose::Message).unwrap());
        }
        there.park.sate(starved);
        there.park.unpark(parked);
        receiving.join().unwrap();
    });
}

//! A peer that writes what it likes into its half: an error that names the field, never a panic.
#![cfg(not(loom))]

mod common;

use adjoin_shm_layout::{
    BlockRef, Corrupt, Granted, LayoutError, Mode, PeerHalf, Purpose, Reserve, Rule, Wake,
};
use common::{Heap, Pair, Random, SMALL, pair, rounds};

const HEAD: u64 = 128;
const CONSUMED: u64 = 128 + 128;
const RETURNED: u64 = 128 + 256;
const PARKED: u64 = 128 + 384;
const WAKE: u64 = 128 + 392;
const STARVED: u64 = 128 + 396;
const CHANNELS: u64 = 4096;
const RETURNED_LIST: u64 = 8192;
const RING: u64 = 12288;
const PAD: u64 = u32::MAX as u64;

/// What the host says of its guest's ring when the guest's words are these.
fn read_ring(head: u64, words: &[(u64, u64)]) -> Corrupt {
    let Pair { mut host, guest_half, .. } = pair(SMALL).unwrap();
    guest_half.poke(HEAD, head);
    for (at, word) in words {
        guest_half.poke(RING + at, *word);
    }
    loop {
        match host.reader.next_frame() {
            Ok(frame) => frame.expect("neither a frame nor an error").release(),
            Err(corrupt) => return corrupt,
        }
    }
}

#[test]
fn a_head_that_cannot_be_is_named() {
    let fault = read_ring(4096 + 8, &[]);
    assert_eq!(fault, Corrupt { field: "head", found: 4104, rule: Rule::Within(0, 4096) });
    assert_eq!(read_ring(u64::MAX - 7, &[]).field, "head");
    assert_eq!(read_ring(12, &[]), Corrupt { field: "head", found: 12, rule: Rule::MultipleOf(8) });
    assert_eq!(
        read_ring(12, &[]).to_string(),
        "the peer's half is corrupt: `head` is 12, must be a multiple of 8"
    );
}

#[test]
fn a_head_that_goes_back_is_named() {
    let Pair { mut host, guest_half, .. } = pair(SMALL).unwrap();
    guest_half.poke(HEAD, 16); // two frames without a body
    for _ in 0..2 {
        host.reader.next_frame().unwrap().expect("a frame").release();
    }
    guest_half.poke(HEAD, 8);
    assert_eq!(host.reader.is_empty().unwrap_err().field, "head");
    assert_eq!(host.reader.next_frame().map(|_| ()).unwrap_err().field, "head");
}

#[test]
fn a_frame_that_leaves_what_is_published_is_named() {
    let len = |head, len: u64| read_ring(head, &[(0, len)]);
    assert_eq!(len(16, 9), Corrupt { field: "frame.len", found: 9, rule: Rule::AtMost(8) });
    assert_eq!(len(4096, 2041).rule, Rule::AtMost(2040), "longer than any frame");
    assert_eq!(len(8, PAD - 1).field, "frame.len");
    // The second frame would wrap: 2040 and 2048 bytes are taken, eight are left for it.
    let wrapping = read_ring(4096, &[(0, 2032), (2040, 2040), (4088, 8)]);
    assert_eq!(wrapping, Corrupt { field: "frame.len", found: 8, rule: Rule::AtMost(0) });
}

#[test]
fn a_pad_that_cannot_be_is_named() {
    assert_eq!(read_ring(4096, &[(0, PAD)]).field, "frame.pad", "a pad at the start");
    assert_eq!(read_ring(64, &[(0, 0), (8, PAD)]).field, "frame.pad", "a pad past what is published");
    assert_eq!(read_ring(4096, &[(0, 2040), (2048, PAD)]).field, "frame.pad", "a pad with nothing behind");
    assert_eq!(read_ring(4096, &[(0, 0), (8, PAD | 5 << 32)]).field, "frame.tag", "a pad with a tag");
}

#[test]
fn a_pad_behind_a_pad_is_named() {
    let Pair { mut host, guest_half, .. } = pair(SMALL).unwrap();
    guest_half.poke(HEAD, 8);
    host.reader.next_frame().unwrap().expect("a frame").release();
    guest_half.poke(RING + 8, PAD);
    guest_half.poke(RING, PAD);
    guest_half.poke(HEAD, 4096 + 8);
    assert_eq!(host.reader.next_frame().map(|_| ()).unwrap_err().field, "frame.pad");
}

#[test]
fn a_consumed_that_cannot_be_is_named() {
    let Pair { mut guest, host_half, .. } = pair(SMALL).unwrap();
    guest.writer.reserve(2040).unwrap().commit(1, 2040);
    let _ = guest.writer.publish();
    guest.writer.reserve(1000).unwrap().commit(1, 1000);
    let mut reserve = |consumed| {
        host_half.poke(CONSUMED, consumed);
        match guest.writer.reserve(2040) {
            Err(Reserve::Corrupt(corrupt)) => corrupt,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let rule = Rule::Within(0, 2048);
    assert_eq!(reserve(2056), Corrupt { field: "consumed", found: 2056, rule }, "committed, not published");
    assert_eq!(reserve(u64::MAX).rule, rule);
    assert_eq!(reserve(4), Corrupt { field: "consumed", found: 4, rule: Rule::MultipleOf(8) });
    host_half.poke(CONSUMED, 1024);
    assert!(!guest.writer.has_room(2040).unwrap());
    host_half.poke(CONSUMED, 1016);
    assert_eq!(guest.writer.has_room(2040).unwrap_err().rule, Rule::Within(1024, 2048), "it went back");
}

#[test]
fn credit_that_goes_back_is_named() {
    let Pair { mut guest, host, host_half, .. } = pair(SMALL).unwrap();
    let slot = guest.slots.allot().unwrap();
    assert_eq!(guest.credit.granted(slot, 0), Ok(Granted::NotOpened));
    let _ = host.credit.open(host.partition.accept(slot.index(), slot.generation()).unwrap(), 100);
    assert_eq!(guest.credit.granted(slot, 0), Ok(Granted::Total(100)));
    host_half.poke(CHANNELS, 99);
    let rule = Rule::Within(100, u64::MAX);
    let fault = Corrupt { field: "channel.granted_total", found: 99, rule };
    assert_eq!(guest.credit.granted(slot, 100), Err(fault));
    assert_eq!(guest.credit.await_credit(slot, 100), Err(fault));
    host_half.poke32(CHANNELS + 8, 77);
    assert_eq!(guest.credit.granted(slot, 100), Ok(Granted::NotOpened), "of another incarnation");
}

#[test]
fn a_block_outside_of_the_arena_is_named() {
    let Pair { host, .. } = pair(SMALL).unwrap();
    let fault = |block, len, offset| host.peer_arena.check(BlockRef { block, len, offset }).unwrap_err();
    let named = |field, found, most| Corrupt { field, found, rule: Rule::AtMost(most) };
    assert_eq!(fault(4, 0, 0), named("block.number", 4, 3));
    assert_eq!(fault(0, 0, 12289), named("block.offset", 12289, 12288));
    assert_eq!(fault(0, 0, u64::MAX), named("block.offset", u64::MAX, 12288));
    assert_eq!(fault(0, 2, 12287), named("block.len", 2, 1));
    assert_eq!(fault(0, u32::MAX, 0), named("block.len", u32::MAX.into(), 12288));
    assert_eq!(host.peer_arena.check(BlockRef { block: 3, len: 0, offset: 12288 }).unwrap().len(), 0);
    let lent = |len, offset| host.peer_arena.check(BlockRef { block: 0, len, offset }).unwrap().may_stay();
    assert_eq!([lent(8, 8184), lent(9, 8184), lent(1, 8192)], [true, false, false]);
}

#[test]
fn a_return_that_cannot_be_is_named() {
    let Pair { mut guest, host_half, .. } = pair(SMALL).unwrap();
    let blocks = [0, 1].map(|_| guest.arena.allot(10, Purpose::Message).unwrap());
    let [first, _] = blocks.map(|block| guest.arena.pass(block, 0, 10));
    let mut returned = |total, list: u64| {
        host_half.poke(RETURNED, total);
        host_half.poke(RETURNED_LIST, list);
        guest.arena.in_use()
    };
    let rule = Rule::Within(0, 2);
    assert_eq!(returned(3, 0), Err(Corrupt { field: "returned", found: 3, rule }), "more than are out");
    assert_eq!(returned(u64::MAX, 0).unwrap_err().rule, rule, "it went back");
    let rule = Rule::AtMost(1);
    assert_eq!(returned(1, 7), Err(Corrupt { field: "returned.block", found: 7, rule }), "none of ours");
    assert_eq!(returned(1, first.block.into()), Ok(1));
    let twice = u64::from(first.block) << 32;
    assert_eq!(returned(2, twice).unwrap_err().field, "returned.block", "one that was given back");
}

#[test]
fn flags_of_any_value_cost_no_more_than_a_wake() {
    let Pair { mut guest, host, host_half, .. } = pair(SMALL).unwrap();
    let slot = host.partition.accept(0, 1).unwrap();
    for (parked, wake, again) in [
        (u64::MAX, Wake::Both, Wake::Futex),
        (7, Wake::Futex, Wake::Futex),
        (7 << 32, Wake::Bell, Wake::Nobody),
        (5 << 32, Wake::Bell, Wake::Nobody),
        (8 << 32, Wake::Nobody, Wake::Nobody),
        (1 << 63 | 1 << 31, Wake::Futex, Wake::Futex),
        (0, Wake::Nobody, Wake::Nobody),
    ] {
        host_half.poke(PARKED, parked);
        host_half.poke32(STARVED, u32::MAX);
        host_half.poke32(CHANNELS + 12, u32::MAX);
        guest.writer.reserve(0).unwrap().commit(0, 0);
        assert_eq!(guest.writer.publish(), wake);
        assert_eq!(guest.reader.publish_consumed(), Wake::Nobody, "nothing was consumed");
        assert_eq!(guest.credit.grant(slot, 1), again);
    }
    let parked = guest.park.prepare(Mode::Futex);
    assert!(!guest.park.woken(&parked));
    host_half.poke32(WAKE, parked.seen().wrapping_sub(1));
    assert!(guest.park.woken(&parked));
    guest.park.unpark(parked);
}

#[test]
fn the_sequence_of_sleeps_wraps_beside_the_count_of_sleepers() {
    let Pair { mut guest, host, host_half, .. } = pair(SMALL).unwrap();
    host_half.poke(PARKED, u64::from(u32::MAX - 1) << 32);
    let mut publish = || {
        guest.writer.reserve(0).unwrap().commit(0, 0);
        guest.writer.publish()
    };
    let thread = host.park.prepare(Mode::Futex);
    for _ in 0..3 {
        let task = host.park.prepare(Mode::Bell);
        assert_eq!([publish(), publish()], [Wake::Both, Wake::Futex]);
        host.park.unpark(task);
        assert_eq!(publish(), Wake::Futex);
    }
    host.park.unpark(thread);
    assert_eq!(publish(), Wake::Nobody);
    let task = host.park.prepare(Mode::Bell);
    assert_eq!([publish(), publish()], [Wake::Bell, Wake::Nobody]);
    host.park.unpark(task);
}

#[test]
fn every_word_of_the_header_is_checked_and_named() {
    type Fault = (u64, &'static str, u64, Rule);
    let long: [Fault; 5] = [
        (0, "magic", 5, Rule::Exactly(u64::from_le_bytes(*b"adjoin\r\n"))),
        (16, "half_len", 0, Rule::Exactly(28672)),
        (40, "arena_offset", 0, Rule::Exactly(16384)),
        (48, "arena_bytes", 4096 + 8, Rule::MultipleOf(4096)),
        (120, "reserved", 1, Rule::Exactly(0)),
    ];
    let short: [Fault; 10] = [
        (60, "reserved", 1, Rule::Exactly(0)),
        (56, "arena_blocks", 0, Rule::Within(1, 1 << 20)),
        (8, "version", 1, Rule::Exactly(2)),
        (12, "header_len", 64, Rule::Exactly(128)),
        (24, "ring_bytes", 0, Rule::Within(4096, 1 << 30)),
        (24, "ring_bytes", u32::MAX.into(), Rule::Within(4096, 1 << 30)),
        (28, "channel_slots", 5, Rule::MultipleOf(2)),
        (32, "max_payload_size", 0, Rule::Within(1, u32::MAX.into())),
        (36, "initial_channel_credit", 0, Rule::Within(1, u32::MAX.into())),
        (28, "channel_slots", 0, Rule::Within(2, 1 << 20)),
    ];
    for (index, (offset, field, found, expected)) in long.into_iter().chain(short).enumerate() {
        let (heap, _half) = Heap::half(SMALL);
        if index < long.len() {
            heap.poke(offset, found);
        } else {
            heap.poke32(offset, found as u32);
        }
        let fault = PeerHalf::read(heap).unwrap_err();
        assert_eq!(fault, LayoutError { field, found, expected });
    }
}

#[test]
fn limits_other_than_those_agreed_on_are_named() {
    let mut expected = SMALL;
    expected.max_payload_size = 999;
    let (heap, _half) = Heap::half(SMALL);
    let fault = PeerHalf::check(heap.clone(), &expected).unwrap_err();
    assert_eq!(fault, LayoutError { field: "max_payload_size", found: 1000, expected: Rule::Exactly(999) });
    heap.poke32(24, 8192);
    heap.poke(16, 32768);
    heap.poke(40, 20480);
    let fault = PeerHalf::read(heap).unwrap_err();
    assert_eq!(
        fault,
        LayoutError { field: "mapped_len", found: 28672, expected: Rule::Exactly(32768) },
        "mapped"
    );
    let fault = PeerHalf::read(Heap::zeroed(64)).unwrap_err();
    assert_eq!((fault.field, fault.found), ("mapped_len", 64));
}

/// A word at random, near to what may be there: garbage that is found out at once shows little.
fn garbage(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next(),
        1 => PAD,
        2 => random.below(4096 / 8) as u64 * 8,
        3 => random.below(4096) as u64 | (random.next() << 32),
        4 => random.below(64) as u64,
        _ => 0,
    }
}

#[test]
fn garbage_anywhere_in_the_peers_half_never_panics() {
    let mut random = Random(11);
    for _ in 0..rounds(4000) {
        let Pair { guest, mut host, guest_half, .. } = pair(SMALL).unwrap();
        let slot = guest.partition.accept(2, 1).unwrap(); // the index is in range on both sides
        for _ in 0..100 {
            let at = match random.below(4) {
                0 => random.below(640 / 8) as u64 * 8,
                1 => RETURNED_LIST + random.below(16 / 8) as u64 * 8,
                2 => CHANNELS + random.below(256 / 8) as u64 * 8,
                _ => RING + random.below(4096 / 8) as u64 * 8,
            };
            guest_half.poke(at, garbage(&mut random));
            if let Ok(Some(frame)) = host.reader.next_frame() {
                let mut body = vec![0; frame.len()];
                frame.copy_to(0, &mut body);
                frame.release();
            }
            let _ = host.reader.is_empty();
            let _ = host.reader.publish_consumed();
            let len = random.below(3000);
            if let Ok(mut room) = host.writer.reserve(len) {
                room.bytes().fill(1);
                room.commit(0, len);
            }
            let _ = host.writer.publish();
            match host.arena.allot(random.below(5000), Purpose::Message) {
                Ok(block) if random.below(3) == 0 => host.arena.give_up(block),
                Ok(block) => {
                    let _ = host.arena.pass(block, 0, 100);
                }
                Err(_) => {}
            }
            let block =
                BlockRef { block: random.below(5) as u32, len: garbage(&mut random) as u32, offset: 4096 };
            if let Ok(parcel) = host.peer_arena.check(BlockRef { offset: garbage(&mut random), ..block }) {
                let mut payload = Vec::new();
                host.peer_arena.append_to(&parcel, 0, &mut payload);
                let _ = host.returns.give_back(parcel);
            }
            let _ = host.credit.granted(slot, random.next());
            let _ = host.credit.grant(slot, random.next());
            let parked = host.park.prepare(Mode::Bell);
            let _ = host.park.woken(&parked);
            host.park.unpark(parked);
            let _ = PeerHalf::read(guest_half.clone());
        }
    }
}

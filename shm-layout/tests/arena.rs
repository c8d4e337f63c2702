//! The arena against an oracle, and what a block may be used for.
#![cfg(not(loom))]

mod common;

use adjoin_shm_layout::{Allot, BlockRef, Geometry, Parcel, Purpose, Wake};
use common::{Link, Pair, Random, SMALL, pair, rounds};

/// 16 pages to be lent, eight for what passes, and 12 blocks.
const GEOMETRY: Geometry =
    Geometry { max_payload_size: 8 * 4096, arena_bytes: 24 * 4096, arena_blocks: 12, ..SMALL };

/// A payload that is with the peer, and what it must hold.
struct Sent {
    block: BlockRef,
    payload: Vec<u8>,
}

fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let seed = random.next();
    (0..len).map(|at| (seed >> (at % 8 * 8)) as u8 ^ at as u8).collect()
}

/// Sends a payload of a random length, if there is a block for it.
fn send(side: &mut Link, random: &mut Random, in_use: usize) -> Option<Sent> {
    let longest = if random.below(3) == 0 { 10 * 4096 } else { 5000 };
    let len = random.below(longest);
    let purpose = [Purpose::Message, Purpose::Passing, Purpose::Loan][random.below(3)];
    let has_room = side.arena.has_room(len, purpose).unwrap();
    let limit = side.arena.max_block_len(purpose);
    let mut block = match side.arena.allot(len, purpose) {
        Ok(block) => block,
        Err(Allot::TooLarge { len: asked, limit: most }) => {
            assert!(asked == len && most == limit && len > limit);
            return None;
        }
        Err(Allot::Full) => {
            assert!(!has_room && in_use > 0, "an empty arena has room for {len} bytes as a {purpose:?}");
            return None;
        }
        Err(Allot::Corrupt(corrupt)) => panic!("{corrupt}"),
    };
    assert!(has_room && block.len() >= len && block.len() < len.max(1) + 4096);
    assert!(purpose != Purpose::Loan || block.range().end <= 16 * 4096, "a loan is lent");
    assert!(purpose != Purpose::Passing || block.range().start >= 16 * 4096, "what passes is not");
    let payload = random_bytes(random, len);
    if random.below(8) == 0 {
        block.bytes().fill(0xEE);
        side.arena.give_up(block);
        return None;
    }
    let offset = random.below(block.len() - len + 1);
    block.bytes().fill(0xDD);
    block.write_at(offset, &payload);
    assert_eq!(&block.as_bytes()[offset..][..len], payload);
    Some(Sent { block: side.arena.pass(block, offset, len), payload })
}

/// Reads a payload, and checks it.
fn read(side: &Link, sent: &Sent) -> Parcel {
    let parcel = side.peer_arena.check(sent.block).unwrap();
    let (mut whole, mut appended) = (vec![0; parcel.len()], vec![7]);
    side.peer_arena.copy_to(&parcel, &mut whole);
    appended.extend_from_slice(&whole[..parcel.len() / 2]);
    side.peer_arena.append_to(&parcel, parcel.len() / 2, &mut appended);
    // SAFETY: the owner, this very thread, does not write before it has the block back.
    let in_place = unsafe { side.peer_arena.bytes(&parcel) };
    assert!(whole == sent.payload && appended[1..] == sent.payload && *in_place == sent.payload);
    parcel
}

#[test]
fn random_payloads_arrive_whole_and_leave_the_arena_empty() {
    let Pair { mut guest, mut host, .. } = pair(GEOMETRY).unwrap();
    let mut random = Random(5);
    let mut out: Vec<Sent> = Vec::new();
    for _ in 0..rounds(20_000) {
        if random.below(2) == 0 {
            let sent = send(&mut guest, &mut random, out.len());
            out.extend(sent);
            assert_eq!(guest.arena.in_use(), Ok(out.len()));
        } else if !out.is_empty() {
            let sent = out.swap_remove(random.below(out.len()));
            let parcel = read(&host, &sent);
            assert_eq!(host.returns.give_back(parcel), Wake::Nobody, "nobody waits");
        }
    }
    for sent in out {
        let parcel = read(&host, &sent);
        let _ = host.returns.give_back(parcel);
    }
    assert_eq!(guest.arena.in_use(), Ok(0));
    for purpose in [Purpose::Loan, Purpose::Message, Purpose::Passing] {
        let whole = guest.arena.allot(guest.arena.max_block_len(purpose), purpose);
        guest.arena.give_up(whole.expect("in one piece again"));
    }
}

#[test]
fn what_is_lent_takes_no_room_from_what_passes() {
    let Pair { mut guest, .. } = pair(GEOMETRY).unwrap();
    let mut lent = Vec::new();
    while let Ok(block) = guest.arena.allot(2 * 4096, Purpose::Loan) {
        lent.push(block);
    }
    assert_eq!(lent.len(), 8);
    assert!(!guest.arena.has_lending_room(1));
    let largest = guest.arena.allot(8 * 4096, Purpose::Message).expect("the passing region is free");
    assert_eq!(guest.arena.allot(1, Purpose::Message).map(|_| ()), Err(Allot::Full));
    guest.arena.give_up(largest);
    assert_eq!(
        guest.arena.allot(17 * 4096, Purpose::Loan).map(|_| ()),
        Err(Allot::TooLarge { len: 17 * 4096, limit: 16 * 4096 })
    );
    lent.into_iter().for_each(|block| guest.arena.give_up(block));
}

#[test]
fn no_more_blocks_are_out_than_there_are_numbers() {
    let Pair { mut guest, mut host, .. } = pair(GEOMETRY).unwrap();
    let mut out = Vec::new();
    while let Ok(block) = guest.arena.allot(1, Purpose::Message) {
        out.push(guest.arena.pass(block, 0, 1));
    }
    assert_eq!(out.len(), 12, "of 24 pages");
    assert_eq!(guest.arena.has_room(1, Purpose::Message), Ok(false));
    let parcel = host.peer_arena.check(out[5]).unwrap();
    let _ = host.returns.give_back(parcel);
    let block = guest.arena.allot(1, Purpose::Message).expect("one came back");
    assert_eq!(guest.arena.pass(block, 0, 1).block, out[5].block);
}

/// Loans of a byte, and messages that the peer may keep, leave numbers to what passes.
#[test]
fn a_quarter_of_the_numbers_is_for_what_passes() {
    for (arena_blocks, most_lent) in [(1, 0), (2, 1), (4, 3), (12, 9)] {
        let Pair { mut guest, .. } = pair(Geometry { arena_blocks, ..GEOMETRY }).unwrap();
        assert_eq!(guest.arena.max_block_len(Purpose::Loan) > 0, most_lent > 0);
        let mut lent = Vec::new();
        while guest.arena.has_lending_room(1) {
            assert_eq!(guest.arena.has_room(1, Purpose::Loan), Ok(true));
            let purpose = [Purpose::Loan, Purpose::Message][lent.len() % 2];
            lent.push(guest.arena.allot(1, purpose).unwrap());
        }
        assert_eq!(lent.len(), most_lent);
        assert!(guest.arena.allot(1, Purpose::Loan).is_err());
        let mut passing = Vec::new();
        while let Ok(block) = guest.arena.allot(1, Purpose::Message) {
            assert!(block.range().start >= 16 * 4096);
            passing.push(block);
        }
        assert_eq!(passing.len(), (arena_blocks as usize - most_lent).min(8));
        for block in lent.into_iter().chain(passing) {
            guest.arena.give_up(block);
        }
        let largest = guest.arena.allot(8 * 4096, Purpose::Message).expect("all came back");
        guest.arena.give_up(largest);
    }
}

#[test]
fn a_frozen_block_is_sent_with_what_stands_around_it_once_at_a_time() {
    let Pair { mut guest, mut host, .. } = pair(GEOMETRY).unwrap();
    let mut block = guest.arena.allot(300, Purpose::Loan).unwrap();
    block.write_at(64, b"payload");
    let data = block.range().start + 64..block.range().start + 71;
    let frozen = guest.arena.freeze(block, 64..71);
    assert_eq!(frozen.bytes(), b"payload");

    assert_eq!(guest.arena.pass_frozen(data.clone(), 1, &[0; 65], &[]), Ok(None), "no room in front");
    assert_eq!(guest.arena.pass_frozen(data.clone(), 1, &[], &[0; 4096 - 70]), Ok(None), "no room behind");
    let part = data.start + 1..data.end;
    assert_eq!(guest.arena.pass_frozen(part.clone(), 1, b"<", &[]), Ok(None), "over what others see");
    assert_eq!(
        guest.arena.pass_frozen(data.start..data.end + 1, 1, &[], &[]),
        Ok(None),
        "more than was frozen"
    );
    assert_eq!(guest.arena.pass_frozen(4096..4097, 1, &[], &[]), Ok(None), "of no frozen block");

    let sent = guest.arena.pass_frozen(data.clone(), 1, b"before ", b" behind").unwrap().unwrap();
    assert_eq!(guest.arena.pass_frozen(data.clone(), 1, &[], &[]), Ok(None), "the peer has it");
    let parcel = read(&host, &Sent { block: sent, payload: b"before payload behind".to_vec() });
    let _ = host.returns.give_back(parcel);
    let again = guest.arena.pass_frozen(part, 1, &[], &[]).unwrap().expect("it came back");
    guest.arena.drop_frozen(frozen);
    assert_eq!(guest.arena.in_use(), Ok(1), "the peer still has it");
    let parcel = read(&host, &Sent { block: again, payload: b"ayload".to_vec() });
    let _ = host.returns.give_back(parcel);
    assert_eq!(guest.arena.in_use(), Ok(0));
}

/// Each keeps what it needs and no page more.
#[test]
fn a_block_that_shrinks_frees_the_pages_behind() {
    let Pair { mut guest, mut host, .. } = pair(GEOMETRY).unwrap();
    for purpose in [Purpose::Loan, Purpose::Passing] {
        let most = guest.arena.max_block_len(purpose);
        for (len, pages) in
            [(0, 1), (1, 1), (4096, 1), (4097, 2), (most, most / 4096), (most + 1, most / 4096)]
        {
            let mut block = guest.arena.allot(most, purpose).unwrap();
            block.write_at(0, b"payload");
            guest.arena.shrink(&mut block, len);
            assert_eq!(block.len(), pages * 4096);
            let rest = guest.arena.allot((most - block.len()).max(1), purpose);
            assert_eq!(rest.is_ok(), block.len() < most);
            rest.into_iter().for_each(|rest| guest.arena.give_up(rest));
            let sent = guest.arena.pass(block, 0, 7);
            let parcel = read(&host, &Sent { block: sent, payload: b"payload".to_vec() });
            let _ = host.returns.give_back(parcel);
            assert_eq!(guest.arena.in_use(), Ok(0));
        }
    }
}

/// Bytes are told by where they lie, and another block may lie there by now.
#[test]
fn what_was_frozen_since_is_not_taken_for_what_was_there_before() {
    let Pair { mut guest, .. } = pair(GEOMETRY).unwrap();
    let freeze = |guest: &mut Link, byte| {
        let mut block = guest.arena.allot(300, Purpose::Loan).unwrap();
        block.write_at(0, &[byte; 300]);
        let data = block.range().start..block.range().start + 300;
        (guest.arena.freeze(block, 0..300), data)
    };
    let (first, seen) = freeze(&mut guest, 1);
    let frozen_before = guest.arena.freezes();
    guest.arena.drop_frozen(first);
    assert_eq!(guest.arena.pass_frozen(seen.clone(), frozen_before, &[], &[]), Ok(None), "it is free");
    let (second, there) = freeze(&mut guest, 2);
    assert_eq!(there, seen, "the lowest place");
    assert_eq!(guest.arena.pass_frozen(seen.clone(), frozen_before, &[], &[]), Ok(None));
    let frozen_before = guest.arena.freezes();
    assert!(guest.arena.pass_frozen(seen, frozen_before, &[], &[]).unwrap().is_some());
    guest.arena.drop_frozen(second);
}

#[test]
fn a_sender_that_waits_for_a_block_is_woken_when_one_comes_back() {
    let Pair { mut guest, mut host, .. } = pair(GEOMETRY).unwrap();
    let block = guest.arena.allot(8, Purpose::Message).unwrap();
    let sent = guest.arena.pass(block, 0, 8);
    let parked = guest.park.prepare(adjoin_shm_layout::Mode::Futex);
    let starved = guest.park.starve();
    let parcel = host.peer_arena.check(sent).unwrap();
    assert_eq!(host.returns.give_back(parcel), Wake::Futex);
    guest.park.sate(starved);
    guest.park.unpark(parked);
}

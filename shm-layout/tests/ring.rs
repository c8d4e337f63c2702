//! The ring against an oracle.
#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;

use adjoin_shm_layout::{Reserve, Wake};
use common::{Link, Pair, Random, SMALL, pair, rounds};

/// What was sent and has not been received.
#[derive(Default)]
struct Oracle {
    /// Tag and body, in order, of the published ones.
    published: VecDeque<(u32, Vec<u8>)>,
    /// Of the committed ones that the peer cannot see yet.
    committed: VecDeque<(u32, Vec<u8>)>,
    tag: u32,
}

impl Oracle {
    fn send(&mut self, writer: &mut Link, random: &mut Random) {
        let most = if random.below(4) == 0 { 3000 } else { 200 };
        let len = random.below(most);
        let body: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let limit = writer.writer.max_frame_len();
        match writer.writer.reserve(len) {
            Ok(mut room) => {
                assert!(room.len() >= len && room.len() <= limit);
                match random.below(5) {
                    0 => room.bytes().fill(0xAA), // and give it up
                    1 => {
                        let middle = len / 2;
                        room.write_at(middle, &body[middle..]);
                        room.write_at(0, &body[..middle]);
                        room.commit(self.tag, len);
                        self.commit(body);
                    }
                    _ => {
                        room.bytes().fill(0xBB);
                        room.bytes()[..len].copy_from_slice(&body);
                        room.commit(self.tag, len);
                        self.commit(body);
                    }
                }
            }
            Err(Reserve::TooLarge { len: asked, limit }) => assert!(asked == len && len > limit),
            Err(Reserve::Full) => assert!(self.in_flight() > 0, "an empty ring has room for every frame"),
            Err(other) => panic!("{other}"),
        }
    }

    fn commit(&mut self, body: Vec<u8>) {
        self.committed.push_back((self.tag, body));
        self.tag = self.tag.wrapping_add(0x0101_0101);
    }

    fn receive(&mut self, reader: &mut Link, random: &mut Random) {
        let Some(frame) = reader.reader.next_frame().unwrap() else {
            return assert!(self.published.is_empty());
        };
        let (tag, body) = self.published.front().expect("nothing was published");
        assert_eq!((frame.tag(), frame.len()), (*tag, body.len()));
        let from = random.below(body.len() + 1);
        let mut part = vec![0; random.below(body.len() - from + 1)];
        frame.copy_to(from, &mut part);
        assert_eq!(part, body[from..from + part.len()]);
        let mut appended = vec![7];
        frame.append_to(from, part.len(), &mut appended);
        assert_eq!(appended[1..], part);
        if random.below(4) > 0 {
            frame.release();
            self.published.pop_front();
        }
    }

    fn in_flight(&self) -> usize {
        self.published.len() + self.committed.len()
    }
}

#[test]
fn random_operations_agree_with_a_queue() {
    let Pair { mut guest, mut host, .. } = pair(SMALL).unwrap();
    let (mut random, mut oracle) = (Random(5), Oracle::default());
    for _ in 0..rounds(60_000) {
        match random.below(8) {
            0..3 => oracle.send(&mut guest, &mut random),
            3 => {
                assert_eq!(guest.writer.publish(), Wake::Nobody, "nobody sleeps");
                oracle.published.append(&mut oracle.committed);
            }
            4..7 => oracle.receive(&mut host, &mut random),
            // Given back eagerly when all is released: only then is an empty ring empty for the writer, too.
            _ if host.reader.should_publish() || oracle.in_flight() == 0 => {
                assert_eq!(host.reader.publish_consumed(), Wake::Nobody, "nobody starves");
            }
            _ => assert!(host.reader.unpublished() < 1024),
        }
        if oracle.in_flight() == 0 {
            let _ = host.reader.publish_consumed();
        }
        assert_eq!(host.reader.is_empty().unwrap(), oracle.published.is_empty());
    }
    assert!(oracle.tag != 0);
}

#[test]
fn the_longest_frame_fits_an_empty_ring_at_every_position() {
    let Pair { mut guest, mut host, .. } = pair(SMALL).unwrap();
    let longest = guest.writer.max_frame_len();
    assert_eq!(longest, 4096 / 2 - 8);
    for position in 0..4096 / 8 {
        for len in [0, longest] {
            let room = guest.writer.reserve(len).unwrap_or_else(|full| panic!("{full} at {position}"));
            room.commit(1, len);
            let _ = guest.writer.publish();
            host.reader.next_frame().unwrap().expect("a frame").release();
            let _ = host.reader.publish_consumed();
        }
    }
}

#[test]
fn a_frame_that_is_too_large_is_refused_with_the_limit() {
    let Pair { mut guest, .. } = pair(SMALL).unwrap();
    let refused = guest.writer.reserve(2041).unwrap_err();
    assert_eq!(refused, Reserve::TooLarge { len: 2041, limit: 2040 });
    assert!(!guest.writer.has_room(2041).unwrap());
    assert!(guest.writer.has_room(2040).unwrap());
}

#[test]
fn an_abandoned_room_leaves_no_trace() {
    let Pair { mut guest, mut host, .. } = pair(SMALL).unwrap();
    guest.writer.reserve(100).unwrap().bytes().fill(0xFF);
    let free = guest.writer.free();
    assert_eq!(guest.writer.publish(), Wake::Nobody);
    assert!(host.reader.is_empty().unwrap());
    guest.writer.reserve(8).unwrap().commit(3, 0);
    assert_eq!(guest.writer.free(), free - 8);
}

#[test]
fn room_is_given_back_by_the_quarter_or_when_the_peer_waits_for_it() {
    let Pair { mut guest, mut host, .. } = pair(SMALL).unwrap();
    for len in [1000, 24, 0] {
        guest.writer.reserve(len).unwrap().commit(1, len);
    }
    let _ = guest.writer.publish();
    host.reader.next_frame().unwrap().expect("a frame").release();
    assert_eq!((host.reader.unpublished(), host.reader.should_publish()), (1008, false));
    let starved = guest.park.starve();
    assert!(host.reader.should_publish());
    guest.park.sate(starved);
    assert!(!host.reader.should_publish());
    host.reader.next_frame().unwrap().expect("a frame").release();
    assert_eq!((host.reader.unpublished(), host.reader.should_publish()), (1040, true));
    let _ = host.reader.publish_consumed();
    assert_eq!((host.reader.unpublished(), host.reader.should_publish()), (0, false));
}

#[test]
fn two_threads_pass_a_stream_through_a_small_ring() {
    let Pair { mut guest, mut host, .. } = pair(SMALL).unwrap();
    let count = rounds(100_000) as u32;
    let sending = std::thread::spawn(move || {
        for tag in 0..count {
            let body = tag.to_ne_bytes().repeat(tag as usize % 97);
            let mut room = loop {
                match guest.writer.reserve(body.len()) {
                    // The borrow checker does not see that the other arm is done with the writer.
                    Ok(_) => break guest.writer.reserve(body.len()).unwrap(),
                    Err(Reserve::Full) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            };
            room.bytes()[..body.len()].copy_from_slice(&body);
            room.commit(tag, body.len());
            let _ = guest.writer.publish();
        }
    });
    for tag in 0..count {
        while host.reader.is_empty().unwrap() {
            std::thread::yield_now();
        }
        let frame = host.reader.next_frame().unwrap().expect("not empty");
        let mut body = vec![0; frame.len()];
        frame.copy_to(0, &mut body);
        assert_eq!((frame.tag(), body), (tag, tag.to_ne_bytes().repeat(tag as usize % 97)));
        frame.release();
        let _ = host.reader.publish_consumed();
    }
    sending.join().unwrap();
}

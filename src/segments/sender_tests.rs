//! What a sender says of room, while its peer takes one message after the other, or the system has no memory.
#![allow(unsafe_code)]

use adjoin_shm_layout::Geometry;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::*;
use crate::{
    link::{
        Parts,
        testing::{Collector, DATA},
    },
    segments::pair_for_test,
    settings::Waiting,
};

/// A block of eight pages in either region.
const GEOMETRY: Geometry = Geometry {
    ring_bytes: 4096,
    channel_slots: 16,
    max_payload_size: 8 << 12,
    initial_channel_credit: 1024,
    arena_blocks: 16,
    arena_bytes: 16 << 12,
};

/// Bytes of a payload that travels in the ring.
const SHORT: usize = 500;

/// So many bytes.
struct Long(usize);

impl Body for Long {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(&vec![7; self.0]);
        Ok(())
    }
}

/// Whether there was room.
fn send(parts: &mut Parts, len: usize) -> bool {
    let sent = match parts.sender.send(&DATA, &mut Long(len)) {
        Ok(sent) => sent == len,
        Err(SendFault::Full) => return false,
        Err(fault) => panic!("{fault:?}"),
    };
    let _ = parts.sender.publish();
    sent
}

/// The peer takes so many messages.
fn take(peer: &mut Parts, messages: usize) {
    let mut heard = Collector::all();
    heard.wants = messages;
    while heard.messages.len() < messages {
        assert!(peer.receiver.drain(&mut heard).unwrap() > 0, "so many are there");
    }
}

/// Fails where those that wait for the ring wait with one that waits for a block.
#[tokio::test]
async fn a_message_that_waits_for_a_block_keeps_none_waiting_that_found_the_ring_full() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let lending = host.lending.clone().unwrap();
    let loan = lending.lend(lending.max_len()).unwrap();
    assert!([SHORT, SHORT, SHORT, 5 << 12, 3 << 12].into_iter().all(|len| send(&mut host, len)));
    assert!(!send(&mut host, 8 << 12), "all that passes is out");
    while send(&mut host, SHORT) {}
    assert!(!host.sender.has_room().unwrap());

    take(&mut guest, 3);
    assert!(host.sender.has_room().unwrap(), "for a short one");
    assert!(host.sender.still_waits(), "with the long one");
    assert!(send(&mut host, SHORT));
    assert!(!host.sender.has_room().unwrap(), "for the long one, and nobody else waits");

    take(&mut guest, 2);
    assert!(host.sender.has_room().unwrap() && !host.sender.still_waits());
    assert!(send(&mut host, 8 << 12));
    drop(loan);
}

/// Fails where a message is refused at once for want of pages in the lending region.
#[tokio::test]
async fn a_message_goes_where_there_are_pages() {
    const CHUNK: usize = 64 << 10; // what pages are asked for in
    let geometry = Geometry { max_payload_size: 2 << 16, arena_bytes: 4 << 16, ..GEOMETRY };
    let (mut host, mut guest) = pair_for_test(&geometry, Waiting::Sleep).await;
    let lending = host.lending.clone().unwrap();
    let mut loan = lending.lend(1).unwrap();
    let start = loan.bytes_mut().as_mut_ptr().map_addr(|address| address & !4095);
    let empty = tempfile::tempfile().unwrap();
    // SAFETY: the second chunk of the lending region, of which nothing was touched. What is there now can't be made, so
    // nothing of it will be, and it is unmapped with the rest.
    unsafe {
        let (place, access) = (start.add(CHUNK), ProtFlags::READ | ProtFlags::WRITE);
        mmap(place.cast(), CHUNK, access, MapFlags::SHARED | MapFlags::FIXED, &empty, 0).unwrap();
    }
    assert!(matches!(lending.lend(CHUNK), Err(SendFault::NoMemory { .. })));
    assert!(send(&mut host, CHUNK), "it passes");
    assert!(send(&mut host, CHUNK / 2), "what is lent already is there");
    take(&mut guest, 2);
    drop(loan);
}

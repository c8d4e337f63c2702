//! A peer that writes whatever it likes into its half. The link ends with an error that names the field;
//! nothing else happens.
#![allow(unsafe_code)]

use std::{fs::File, os::unix::net::UnixStream};

use adjoin_shm_layout::{FrameHead, Geometry, OwnHalf, PeerHalf, Tag};
use memmap2::{MmapOptions, MmapRaw};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, FallocateFlags, MemfdFlags},
};

use super::{tests::myself, *};
use crate::{
    error::{LinkEnd, Violation},
    link::{
        Body, Brought, CreditSlot, EncodeFault, Encoder, Head, Message, SendFault, Sink,
        descriptors::{self, Apart, Closer, End},
        testing::{Collector, DATA},
    },
    segments::{
        handshake::{self, DescriptorSockets},
        mailbox::Mailbox,
        seals, segment,
    },
};

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 4096,
    channel_slots: 16,
    max_payload_size: 1024,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

/// Where the fields of the endpoint block are in a half, by the layout's table.
const HEAD: u64 = 128;
const CONSUMED: u64 = 128 + 128;
const PARKED: u64 = 128 + 256;

/// A half that its owner also writes behind the layout's back.
struct Hostile(MmapRaw);

impl Hostile {
    /// The half, and its descriptor as the peer gets it: with all its seals.
    fn new() -> (Self, OwnedFd) {
        let len = GEOMETRY.half_len();
        let half = fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        fs::ftruncate(&half, len).unwrap();
        fs::fallocate(&half, FallocateFlags::empty(), 0, len).unwrap();
        let half = File::from(half);
        let behind = MmapOptions::new().map_raw(&half).unwrap();
        let front = Mapping::writable(&half, len.try_into().unwrap()).unwrap();
        seals::add(&half).unwrap();
        // SAFETY: in bounds and aligned: checked by the callee. Alone: new and zero, and the only `OwnHalf`
        // of it; it is dropped at once, it only writes the header. Alive: it owns the mapping.
        drop(unsafe { OwnHalf::create(front, GEOMETRY) }.unwrap());
        (Hostile(behind), half.into())
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        assert!(offset + bytes.len() <= self.0.len());
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: in bounds: asserted; bytes need no alignment. Alone: the reader is this very thread,
            // and never holds a reference to these bytes that is not to an atomic or a cell. Alive: `self`
            // owns the mapping.
            unsafe { self.0.as_mut_ptr().add(offset + index).write_volatile(*byte) }
        }
    }

    fn word(&self, offset: u64, word: u64) {
        self.write(offset, &word.to_le_bytes());
    }

    /// Puts one frame at the start of the ring, whatever it says, and publishes it.
    fn frame(&self, len: u32, tag: u32, body: &[u8]) {
        let ring = GEOMETRY.ring_offset().get();
        self.write(ring, &len.to_le_bytes());
        self.write(ring + 4, &tag.to_le_bytes());
        self.write(ring + 8, body);
        self.word(HEAD, 8 + u64::from(len.next_multiple_of(8)));
    }
}

/// Our side of a link with such a peer.
fn attached() -> (Hostile, Parts) {
    let (hostile, parts, _) = attached_with_sockets();
    (hostile, parts)
}

/// The peer's ends of the sockets.
struct Sockets {
    /// Sends descriptors.
    passage: OwnedFd,
    /// Receives them.
    passed: Apart,
    _bell: UnixStream,
}

/// As [`attached`], with the peer's ends of the sockets.
fn attached_with_sockets() -> (Hostile, Parts, Sockets) {
    let (hostile, descriptor) = Hostile::new();
    let (own, _) = segment::create(&GEOMETRY).unwrap();
    let peer: PeerHalf<Mapping> = segment::open(&descriptor, &GEOMETRY).unwrap();
    let (socket, bells) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let bell = Bell::new(Mailbox::new(socket.into(), End::Own, Closer::new(0)).unwrap());
    let (incoming, passage) = handshake::descriptor_sockets(&Closer::new(0)).unwrap();
    let (passed, outgoing) = handshake::descriptor_sockets(&Closer::new(0)).unwrap();
    let descriptors = DescriptorSockets { incoming, outgoing: Apart::new(outgoing, None) };
    let peer_process = Peer::other(myself()).unwrap();
    let parts = parts(
        Halves { own, peer, descriptors },
        bell,
        peer_process,
        Role::Acceptor,
        Ways { waiting: Waiting::Sleep, ..Ways::from(&Settings::default()) },
    )
    .unwrap();
    (hostile, parts, Sockets { passage, passed, _bell: bells })
}

/// What draining says, twice the same.
fn end(parts: &mut Parts) -> LinkEnd {
    let first = parts.receiver.drain(&mut Collector::all()).unwrap_err();
    let second = parts.receiver.drain(&mut Collector::all()).unwrap_err();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    first
}

fn corrupt_field(end: &LinkEnd) -> (&'static str, u64) {
    match end {
        LinkEnd::Corrupt { field, value } => (field, *value),
        end => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_ends_the_link_by_its_name() {
    for head in [4096 + 8, u64::MAX, 1 << 63, 4] {
        let (hostile, mut parts) = attached();
        hostile.word(HEAD, head);
        assert_eq!(corrupt_field(&end(&mut parts)), ("head", head));
        assert!(parts.receiver.hand_back(), "the driver has to find it");
        assert!(parts.receiver.sleep(None).is_err());
    }
}

#[tokio::test]
async fn a_frame_that_leaves_what_is_published_ends_the_link_by_its_name() {
    let (hostile, mut parts) = attached();
    hostile.frame(32, Tag { kind: 9, flags: 0, channels: 0 }.to_u32(), &[0; 32]);
    hostile.write(GEOMETRY.ring_offset().get(), &4000_u32.to_le_bytes());
    assert_eq!(corrupt_field(&end(&mut parts)), ("frame.len", 4000));
}

#[tokio::test]
async fn a_message_that_is_none_ends_the_link_after_those_before_it() {
    let (hostile, mut parts) = attached();
    hostile.frame(32, Tag { kind: 99, flags: 0, channels: 0 }.to_u32(), &[0; 32]);
    assert!(matches!(end(&mut parts), LinkEnd::Violation(Violation::UnknownVariant { kind: 99 })));

    let (hostile, mut parts) = attached();
    hostile.frame(8, Tag { kind: 9, flags: 0, channels: 0 }.to_u32(), &[0; 8]);
    assert_eq!(corrupt_field(&end(&mut parts)), ("frame.len", 8));

    let (hostile, mut parts) = attached();
    let head = FrameHead { id: 1, metadata_len: 77, ..FrameHead::default() };
    hostile.frame(32, Tag { kind: 5, flags: 0, channels: 0 }.to_u32(), &head.to_bytes());
    assert_eq!(corrupt_field(&end(&mut parts)), ("frame.metadata_len", 77));

    let (hostile, mut parts) = attached();
    let good = [32_u64 | 9 << 32, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
    hostile.frame(32, Tag { kind: 9, flags: 0, channels: 0 }.to_u32(), &[0; 32]);
    hostile.write(GEOMETRY.ring_offset().get() + 40, &good);
    hostile.write(GEOMETRY.ring_offset().get() + 44, &[200]);
    hostile.word(HEAD, 80);
    assert_eq!(parts.receiver.drain(&mut Collector::all()).unwrap(), 1);
    assert!(matches!(end(&mut parts), LinkEnd::Violation(Violation::UnknownVariant { kind: 200 })));
}

/// A Request that says that so many descriptors come with it.
fn carrying(count: u32) -> [u8; FrameHead::BYTES] {
    FrameHead { id: 1, extra: count, ..FrameHead::default() }.to_bytes()
}

const REQUEST: Tag = Tag { kind: 5, flags: 0, channels: 0 };

/// Fails where what is too long is copied before it is refused: a peer would have this side allocate an arena's length.
#[tokio::test]
async fn a_block_longer_than_any_payload_is_not_looked_at_and_the_session_hears_its_length() {
    let (hostile, mut parts) = attached();
    let block = adjoin_shm_layout::BlockRef { block: 0, len: 8192, offset: 0 };
    let head = FrameHead { id: 1, ..FrameHead::default() };
    let body = [&head.to_bytes()[..], &block.to_bytes()[..]].concat();
    hostile.frame(body.len() as u32, Tag { kind: 8, flags: Tag::BLOCK, channels: 0 }.to_u32(), &body);
    let mut heard = Lengths::default();
    assert_eq!(parts.receiver.drain(&mut heard).unwrap(), 1);
    assert_eq!(heard.0, [8192]);
}

/// How long the payloads are that were not looked at.
#[derive(Default)]
struct Lengths(Vec<usize>);

impl Sink for Lengths {
    fn message(&mut self, message: Message<'_>) -> bool {
        if let Brought::TooLong(len) = message.payload {
            self.0.push(len);
        }
        true
    }
}

#[tokio::test]
async fn descriptors_that_cannot_be_end_the_link_by_their_number() {
    let (hostile, mut parts) = attached();
    hostile.frame(32, REQUEST.to_u32(), &carrying(254));
    assert_eq!(corrupt_field(&end(&mut parts)), ("frame.extra", 254));

    let (hostile, mut parts) = attached();
    hostile.frame(32, Tag { kind: 9, ..REQUEST }.to_u32(), &carrying(1));
    assert_eq!(corrupt_field(&end(&mut parts)), ("frame.extra", 1));
}

#[tokio::test]
async fn descriptors_that_a_frame_announces_and_others_end_the_link() {
    let (reads, writes) = std::io::pipe().unwrap();
    // More, fewer, and none at all; and of those that nobody announces, as many as the system takes.
    for (announced, came) in [(1, 2), (3, 2), (1, 0), (0, 200)] {
        let (hostile, mut parts, Sockets { passage, .. }) = attached_with_sockets();
        let carried = vec![writes.as_fd(); came];
        if came > 0 {
            while descriptors::send(passage.as_fd(), &[0], &carried).is_ok() && announced == 0 {}
        }
        hostile.frame(32, REQUEST.to_u32(), &carrying(announced));
        if announced == 0 {
            assert_eq!(parts.receiver.drain(&mut Collector::all()).unwrap(), 1);
            continue;
        }
        let LinkEnd::Descriptors { announced: found, arrived } = end(&mut parts) else { panic!("no end") };
        assert_eq!((found, arrived), (announced.into(), came));
    }
    drop(writes);
    // To the end: nobody has the other end any more.
    assert_eq!(std::io::Read::read(&mut &reads, &mut [0]).unwrap(), 0);
}

/// A Request with a descriptor.
struct Carrying;

impl Body for Carrying {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.attach([std::io::pipe().unwrap().0.into()].into_iter().collect());
        Ok(())
    }
}

#[tokio::test]
async fn a_peer_that_closes_the_socket_for_descriptors_alone_ends_the_link() {
    let (_hostile, mut parts, Sockets { passage: _passage, passed, _bell }) = attached_with_sockets();
    drop(passed.into_inner());
    let head = Head::Request { conn_id: 0, request_id: 1, method_id: 1, metadata: &[] };
    assert!(matches!(parts.sender.send(&head, &mut Carrying), Err(SendFault::Full)));
    assert!(!parts.sender.has_room().unwrap());
    let mut watcher = parts.watcher.take().unwrap();
    let end = loop {
        if let Err(end) = std::future::poll_fn(|cx| watcher.poll_rung(cx)).await {
            break end;
        }
    };
    assert!(matches!(end, LinkEnd::Gone), "{end:?}");
}

#[tokio::test]
async fn a_consumed_that_cannot_be_ends_the_link_by_its_name() {
    for consumed in [1 << 40, 12] {
        let (hostile, mut parts) = attached();
        let full = loop {
            match parts.say(&DATA, &[0; 400]) {
                Ok(_) => {}
                Err(fault) => break fault,
            }
        };
        assert!(matches!(full, SendFault::Full));
        hostile.word(CONSUMED, consumed);
        let end = parts.sender.has_room().unwrap_err();
        assert_eq!(corrupt_field(&end), ("consumed", consumed));
        let SendFault::Ended(end) = parts.say(&DATA, &[0; 400]).unwrap_err() else { panic!("was sent") };
        assert_eq!(corrupt_field(&end), ("consumed", consumed));
    }
}

#[tokio::test]
async fn a_slot_that_is_not_the_peers_ends_the_link_by_its_name() {
    let (_hostile, parts) = attached();
    let credit = parts.credit.unwrap();
    for (index, generation, field) in
        [(8, 1, "channel.slot"), (u32::MAX, 1, "channel.slot"), (0, 0, "channel.generation")]
    {
        let end = credit.check(CreditSlot { index, generation }).unwrap_err();
        assert_eq!(corrupt_field(&end).0, field);
    }
}

#[tokio::test]
async fn sleepers_that_are_none_cost_system_calls_and_nothing_else() {
    let (hostile, mut parts) = attached();
    hostile.word(PARKED, u64::MAX);
    for _ in 0..3 {
        let _ = parts.say(&DATA, b"").unwrap();
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]
    #[test]
    fn garbage_anywhere_behind_the_header_harms_nobody(seed: u64, head in 0_u64..600) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (hostile, mut parts) = attached();
        let mut random = seed | 1;
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly small, so that lengths and kinds are plausible now and then.
            if random >> 62 == 0 { (random >> 33) as u8 } else { (random >> 60) as u8 & 1 }
        })
        .take(usize::try_from(GEOMETRY.half_len()).unwrap() - 128)
        .collect();
        hostile.write(128, &garbage);
        hostile.word(HEAD, head * 8);
        let mut heard = Collector::all();
        for _ in 0..4 {
            let _ = parts.receiver.drain(&mut heard);
            let _ = parts.say(&DATA, &[0; 400]);
            let _ = parts.sender.has_room();
            let _ = parts.receiver.hand_back();
        }
        proptest::prop_assert!(heard.messages.len() <= 4096 / 8);
    }
}

//! Shared memory alone: the agreement at attach, which stands in place of Hello, and what a peer writes into its half
//! that no peer of ours would.

use std::{
    env,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use serde::Serialize;

use super::{
    cases,
    links::{Ground, settings},
    note::{Hello, Note},
    peer::{
        Heard, Peer,
        puppet::{PuppetPeer, Scribble},
        socket::frame,
    },
    rig::Rig,
    service::{LISTEN, THEIRS},
};
use crate::{
    error::{LinkEnd, Violation},
    link::Role,
    rpc::{
        errors::{CallError, Refusal},
        method::Method,
        rx::Rx,
        tx::channel,
    },
    segments::{
        AttachError, HandshakeError, Manner, PeerRefusal, SegmentLimit, SpawnError, attach, geometry, launch,
    },
    settings::Settings,
};

cases! {
    "Shared memory alone (protocol sections 2 and 3)" on links;
    [] a_limit_that_one_side_cannot_live_with_is_refused_by_its_name: shm;
    [] another_version_of_the_agreement_is_told_apart: shm;
    [] what_is_no_agreement_is_refused: shm;
    [] a_call_that_opens_more_than_the_table_has_waits_until_there_is_a_place: shm;
    [] a_half_that_is_none_is_refused: shm;
    ["message.unknown-variant"] a_frame_of_a_kind_that_does_not_exist_costs_the_link: shm;
    ["message.hello.ordering"] a_frame_that_says_hello_costs_the_link: shm;
    [] a_frame_with_a_part_that_cannot_be_ends_the_link_with_its_name: shm;
    [] a_head_that_cannot_be_ends_the_link_with_its_name: shm;
    [] credit_that_goes_backwards_ends_the_link_with_its_name: shm;
    [] a_slot_that_is_not_the_peers_ends_the_link_with_its_name: shm;
    [] a_request_with_a_slot_that_is_not_the_peers_is_not_served: shm;
}

/// A message of the agreement: magic, version, length, postcard.
fn agreement(version: u32, message: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_extend(message, Vec::new()).expect("it has an encoding");
    let mut bytes = b"adjoin\r\n".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(body);
    bytes
}

const VERSION: u32 = 3;

/// What a peer says that takes the socket for a byte stream of ours, as long as the head of an agreement.
fn no_agreement() -> Vec<u8> {
    let hello = Note::Hello(Hello::V2 { max_payload_size: 1 << 20, initial_channel_credit: 1 << 16 });
    [frame(&hello), vec![0; 16]].concat()
}

/// What a guest says.
#[derive(Serialize)]
enum FromGuest {
    Accept,
    Refuse(PeerRefusal),
}

/// What a host says.
#[derive(Serialize)]
enum FromHost {
    Offer {
        ring_bytes: u32,
        channel_slots: u32,
        max_payload_size: u32,
        initial_channel_credit: u32,
        arena_blocks: u32,
        arena_bytes: u64,
        host: u32,
    },
    #[expect(dead_code, reason = "its place in the order counts")]
    Attached,
    #[expect(dead_code, reason = "its place in the order counts")]
    Refuse(PeerRefusal),
}

const LIMITS: [SegmentLimit; 6] = [
    SegmentLimit::RingBytes,
    SegmentLimit::ChannelSlots,
    SegmentLimit::MaxPayloadSize,
    SegmentLimit::InitialChannelCredit,
    SegmentLimit::ArenaBlocks,
    SegmentLimit::ArenaBytes,
];

/// What a puppet does that does not attach, or is not to.
pub(super) async fn play(role: &str) -> String {
    if role == ATTACHES {
        let attached = attach(&settings()).await;
        return format!("{:?}", attached.map(drop));
    }
    let mut link = link();
    let mut offer = [0; 256];
    let _ = link.read(&mut offer); // descriptors that come with it are closed
    let answer = match role {
        "another version" => agreement(VERSION + 1, &FromGuest::Accept),
        "no agreement" => no_agreement(),
        "no half" => agreement(VERSION, &FromGuest::Accept),
        limit => {
            let limit = LIMITS.into_iter().find(|known| known.to_string() == limit);
            let refusal = PeerRefusal::Limit { limit: limit.expect("roles are of this file"), value: 77 };
            agreement(VERSION, &FromGuest::Refuse(refusal))
        }
    };
    let _ = link.write_all(&answer);
    let _ = link.read(&mut offer); // until the host has had enough
    String::new()
}

/// The role that attaches as any cell does, and tells what came of it.
const ATTACHES: &str = "attaches";

/// The socket that this process was started with, as any program may use it.
fn link() -> UnixStream {
    let link = env::var("ADJOIN_LINK").expect("it was started as a cell");
    let number =
        link.split_once(':').and_then(|(number, _)| number.parse().ok()).expect("as the library says it");
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).expect("the system has pidfds");
    let socket = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()).expect("it is inherited");
    rustix::io::ioctl_fionbio(&socket, false).expect("it is a socket");
    socket.into()
}

/// Our side as the host of a puppet that plays this role.
async fn host_of(role: &str) -> SpawnError {
    let (command, _puppet) = PuppetPeer::command(role);
    launch(command, &settings(), &Manner::default()).await.map(drop).expect_err("they do not agree")
}

/// Our side as the guest, in a process of its own, of a host that says this and nothing more: what our side said
/// to it, and what came of it.
async fn guest_of(says: &[u8], descriptors: &[BorrowedFd<'_>]) -> (Vec<u8>, String) {
    let (ours, theirs) = UnixStream::pair().expect("the system has sockets");
    let (mut command, mut puppet) = PuppetPeer::command(ATTACHES);
    // Its stderr, since stdin has the strings, and the test harness writes to stdout.
    command.env("ADJOIN_LINK", format!("2:{}", std::process::id()));
    command.stderr(Stdio::from(OwnedFd::from(theirs)));
    let mut child = command.spawn().expect("the test binary is there");
    drop(command);
    send(&ours, says, descriptors).expect("the guest's end is open");
    let told = puppet.told().await;
    let mut heard = Vec::new();
    // Its end is closed: with an error, if it has not read everything.
    let _ = (&ours).read_to_end(&mut heard);
    child.wait().expect("it is a child");
    (heard, told)
}

fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// An offer of these limits, with descriptors that are no half and no socket, by this process.
async fn guest_of_offer(limits: &Settings) -> (Vec<u8>, String) {
    let geometry = geometry(limits);
    let offer = FromHost::Offer {
        ring_bytes: geometry.ring_bytes,
        channel_slots: geometry.channel_slots,
        max_payload_size: geometry.max_payload_size,
        initial_channel_credit: geometry.initial_channel_credit,
        arena_blocks: geometry.arena_blocks,
        arena_bytes: geometry.arena_bytes,
        host: std::process::id(),
    };
    let no_half = memfd_create("no half", MemfdFlags::CLOEXEC).expect("the system has memfds");
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).expect("the system has pidfds");
    guest_of(&agreement(VERSION, &offer), &[no_half.as_fd(), myself.as_fd(), no_half.as_fd()]).await
}

async fn a_limit_that_one_side_cannot_live_with_is_refused_by_its_name(ground: Ground) {
    for limit in LIMITS {
        if ground.role == Role::Acceptor {
            let error = host_of(&limit.to_string()).await;
            let expected = PeerRefusal::Limit { limit, value: 77 };
            let SpawnError::Handshake { source: HandshakeError::Refused(refusal), .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(refusal, expected);
            continue;
        }
        let (offered, value) = match limit {
            SegmentLimit::RingBytes => (settings().ring_bytes(5000), 5000),
            SegmentLimit::ChannelSlots => (settings().channel_slots(3), 3),
            SegmentLimit::MaxPayloadSize => (settings().max_payload_size(0), 0),
            SegmentLimit::InitialChannelCredit => (settings().initial_channel_credit(0), 0),
            SegmentLimit::ArenaBlocks => (settings().arena_blocks(0), 0),
            SegmentLimit::ArenaBytes => (settings().arena_bytes(7), 7),
        };
        let (heard, told) = guest_of_offer(&offered).await;
        assert_eq!(heard, agreement(VERSION, &FromGuest::Refuse(PeerRefusal::Limit { limit, value })));
        let fault = geometry(&offered).validate().expect_err("it is impossible");
        assert!(told.contains("Limit") && told.contains(fault.field), "{told}");
    }
}

async fn another_version_of_the_agreement_is_told_apart(ground: Ground) {
    if ground.role == Role::Acceptor {
        let error = host_of("another version").await;
        let SpawnError::Handshake { source: HandshakeError::Version { found, expected }, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((found, expected), (VERSION + 1, VERSION));
        return;
    }
    let offer = agreement(VERSION + 1, &FromGuest::Accept);
    let (heard, told) = guest_of(&offer, &[]).await;
    assert_eq!(heard, agreement(VERSION, &FromGuest::Refuse(PeerRefusal::Message)));
    let error = AttachError::Handshake(HandshakeError::Version { found: VERSION + 1, expected: VERSION });
    assert_eq!(told, format!("{:?}", Err::<(), _>(error)));
}

async fn what_is_no_agreement_is_refused(ground: Ground) {
    if ground.role == Role::Acceptor {
        let error = host_of("no agreement").await;
        assert!(
            matches!(error, SpawnError::Handshake { source: HandshakeError::NotAdjoin, .. }),
            "{error:?}"
        );
        return;
    }
    let (heard, told) = guest_of(&no_agreement(), &[]).await;
    assert_eq!(heard, agreement(VERSION, &FromGuest::Refuse(PeerRefusal::Message)));
    assert_eq!(told, format!("{:?}", Err::<(), _>(AttachError::Handshake(HandshakeError::NotAdjoin))));
}

async fn a_half_that_is_none_is_refused(ground: Ground) {
    if ground.role == Role::Acceptor {
        let error = host_of("no half").await;
        let SpawnError::Handshake { source: HandshakeError::Descriptors { found, expected }, .. } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((found, expected), (0, 2));
        return;
    }
    let (heard, told) = guest_of_offer(&settings()).await;
    assert_eq!(heard, agreement(VERSION, &FromGuest::Refuse(PeerRefusal::Half)));
    assert!(told.contains("Segment"), "{told}");
}

/// "A full table makes an open wait; it is not an error."
async fn a_call_that_opens_more_than_the_table_has_waits_until_there_is_a_place(ground: Ground) {
    let mut rig = ground.rig_with(settings().channel_slots(4)).await; // two for each side
    let sending = rig.calling_to_send().await;
    let receiving = rig.calling_to_receive().await;
    let (tx, rx) = channel::<Vec<u8>>();
    let _waits = tokio::spawn(rig.ours.call::<(Rx<Vec<u8>>,), (), u8>(&THEIRS, (rx,)));
    rig.goes_on().await;
    drop(sending.half);
    rig.hears(Note::Close { conn_id: 0, channel_id: sending.channel_id }).await;
    let (_, channels) = rig.hears_call().await;
    assert_eq!(channels, [receiving.channel_id + 2]);
    drop(tx);
    rig.hears(Note::Close { conn_id: 0, channel_id: channels[0] }).await;
    // More than could ever be open at once is refused.
    let [one, two, three] = [(); 3].map(|()| channel::<Vec<u8>>().1);
    type Three = (Rx<Vec<u8>>, Rx<Vec<u8>>, Rx<Vec<u8>>);
    let refused = rig.ours.call::<Three, (), u8>(&THEIRS, (one, two, three)).await;
    let refusal = Refusal::TooManyStreams { count: 3, limit: 2 };
    assert!(matches!(&refused, Err(CallError::Refused(found)) if *found == refusal), "{refused:?}");
    rig.goes_on().await;
}

/// Has the peer's process write what no peer of ours would. As a guest, our side has its host in this very
/// process, whose memory nobody is to scribble in: these cases take place where it is the host.
async fn scribbles(rig: &mut Rig, scribble: Scribble) {
    let Peer::Puppet(puppet) = &mut rig.peer else { panic!("the peer is in this process") };
    puppet.scribble(scribble).await;
}

fn is_host(ground: Ground) -> bool {
    ground.role == Role::Acceptor
}

/// Over the frame of a Cancel.
fn over_cancel(offset: u64, bytes: &[u8]) -> Scribble {
    let note = Note::Cancel { conn_id: 0, request_id: 77 };
    Scribble::Frame { note, offset, bytes: bytes.to_vec() }
}

/// Where the parts of a frame are, in bytes from its start.
const LEN: u64 = 0;
const KIND: u64 = 4;
const FLAGS: u64 = 5;
const CHANNELS: u64 = 6;
const METHOD_ID: u64 = 24;
const METADATA_LEN: u64 = 32;
const EXTRA: u64 = 36;

async fn a_frame_of_a_kind_that_does_not_exist_costs_the_link(ground: Ground) {
    for kind in [12, 13, 255].into_iter().filter(|_| is_host(ground)) {
        ground
            .costs_the_link(async |rig| {
                scribbles(rig, over_cancel(KIND, &[kind])).await;
                Violation::UnknownVariant { kind: kind.into() }
            })
            .await;
    }
}

async fn a_frame_that_says_hello_costs_the_link(ground: Ground) {
    if is_host(ground) {
        ground
            .costs_the_link(async |rig| {
                scribbles(rig, over_cancel(KIND, &[0])).await;
                Violation::HelloOrdering
            })
            .await;
    }
}

/// The peer hears no Goodbye: what it would read it in is not to be trusted any more.
async fn a_frame_with_a_part_that_cannot_be_ends_the_link_with_its_name(ground: Ground) {
    for (offset, bytes, field, value) in [
        (FLAGS, &[3][..], "frame.flags", 3),
        (CHANNELS, &[1, 0], "frame.channels", 1),
        (METHOD_ID, &[6], "frame.method_id", 6),
        (METADATA_LEN, &[9], "frame.metadata_len", 9),
        (EXTRA, &[7], "frame.extra", 7),
        (LEN, &[8], "frame.len", 8),
        (LEN, &[0, 0, 1], "frame.len", 1 << 16),
    ]
    .into_iter()
    .filter(|_| is_host(ground))
    {
        ground
            .ends_the_link(async |rig| {
                scribbles(rig, over_cancel(offset, bytes)).await;
                rig.hears_the_end().await;
                LinkEnd::Corrupt { field, value }
            })
            .await;
    }
}

async fn a_head_that_cannot_be_ends_the_link_with_its_name(ground: Ground) {
    for head in [u64::MAX, 1 << 40, 4].into_iter().filter(|_| is_host(ground)) {
        ground
            .ends_the_link(async |rig| {
                scribbles(rig, Scribble::Head(head)).await;
                rig.peer = Peer::Gone;
                LinkEnd::Corrupt { field: "head", value: head }
            })
            .await;
    }
}

/// The busy connection's sender waits for it.
async fn credit_that_goes_backwards_ends_the_link_with_its_name(ground: Ground) {
    if is_host(ground) {
        ground
            .ends_the_link(async |rig| {
                let channel_id = rig.our_first_channel();
                scribbles(rig, Scribble::Granted { conn_id: 0, channel_id, total: 1000 }).await;
                rig.hears_the_end().await;
                LinkEnd::Corrupt { field: "channel.granted_total", value: 1000 }
            })
            .await;
    }
}

/// A request whose one channel has a slot that is our side's to give, or nobody's.
async fn opens_with_slot(rig: &mut Rig, method: &Method, index: u32) -> LinkEnd {
    // Behind the frame's word, its head, and one byte of payload: the channel's id, and then its slot.
    const SLOT: u64 = 8 + 32 + 1 + 8;
    let (request_id, channel_id) = (rig.fresh_request(), rig.fresh_channel());
    let note = rig.opening(request_id, method, channel_id, &[]);
    let bytes = index.to_le_bytes().to_vec();
    scribbles(rig, Scribble::Frame { note, offset: SLOT, bytes }).await;
    LinkEnd::Corrupt { field: "channel.slot", value: index.into() }
}

async fn a_slot_that_is_not_the_peers_ends_the_link_with_its_name(ground: Ground) {
    for index in [32, u32::MAX].into_iter().filter(|_| is_host(ground)) {
        ground
            .ends_the_link(async |rig| {
                let end = opens_with_slot(rig, &LISTEN, index).await;
                while rig.peer.hear().await != Heard::End {}
                end
            })
            .await;
    }
}

async fn a_request_with_a_slot_that_is_not_the_peers_is_not_served(ground: Ground) {
    if is_host(ground) {
        ground
            .ends_the_link(async |rig| {
                let end = opens_with_slot(rig, &LISTEN, 32).await;
                rig.hears_the_end().await;
                end
            })
            .await;
    }
}

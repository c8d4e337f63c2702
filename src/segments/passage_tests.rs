#![allow(unsafe_code)]

use std::{
    future::poll_fn,
    io::{PipeReader, PipeWriter, Read, pipe},
    os::fd::{AsFd, AsRawFd},
    task::Poll,
};

use adjoin_shm_layout::Geometry;

use crate::{
    link::{
        Body, EncodeFault, Encoder, Head, Message, Parts, SendFault, Sink,
        descriptors::{Closer, Descriptors, End, Look},
        testing::DATA,
    },
    segments::{handshake::descriptor_sockets, mailbox::Mailbox, pair_for_test},
    settings::Waiting,
};

/// A ring that takes more messages than the socket takes descriptors.
const GEOMETRY: Geometry = Geometry {
    ring_bytes: 1 << 20,
    channel_slots: 16,
    max_payload_size: 1024,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

/// The default of `Settings::max_descriptors`.
const MOST: usize = 64;

const REQUEST: Head<'static> = Head::Request { conn_id: 0, request_id: 1, method_id: 1, metadata: &[] };

/// A payload that goes with so many duplicates of a descriptor, counts how often it was encoded, and has so many bytes.
struct Carrying<'a>(&'a PipeWriter, usize, u32, usize);

impl Body for Carrying<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(&vec![7; self.3]);
        let Carrying(writer, count, encoded, _) = self;
        out.attach((0..*count).map(|_| writer.try_clone().unwrap().into()).collect());
        *encoded += 1;
        Ok(())
    }
}

/// Nobody has the other end any more.
fn is_over(mut reads: PipeReader) -> bool {
    reads.read(&mut [0]).unwrap() == 0
}

/// Sends with one descriptor each until there is no room for more.
fn fill(parts: &mut Parts, writes: &PipeWriter) -> usize {
    let mut sent = 0;
    loop {
        match parts.sender.send(&REQUEST, &mut Carrying(writes, 1, 0, 100)) {
            Ok(_) => sent += 1,
            Err(fault) => {
                assert!(matches!(fault, SendFault::Full), "{fault:?}");
                let _ = parts.sender.publish();
                return sent;
            }
        }
    }
}

/// Counts messages, and those of them that carry one descriptor.
#[derive(Default)]
struct Counter {
    messages: usize,
    carrying: usize,
    most: usize,
}

impl Sink for Counter {
    fn descriptors(&mut self, descriptors: Option<Descriptors>) {
        self.carrying += usize::from(descriptors.is_some_and(|descriptors| descriptors.len() == 1));
    }

    fn message(&mut self, _: Message<'_>) -> bool {
        self.messages += 1;
        self.messages < self.most
    }
}

#[tokio::test]
async fn a_full_socket_leaves_no_room_until_the_peer_has_read_and_then_the_driver_is_woken() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let (reads, writes) = pipe().unwrap();
    let sent = fill(&mut host, &writes);
    assert_eq!(sent, MOST, "as many as one message may have");
    assert!(!host.sender.has_room().unwrap());
    // What carries none finds the ring as it is.
    let _ = host.say(&DATA, b"x").unwrap();
    let polled = poll_fn(|cx| {
        let flushed = host.sender.poll_flush(cx);
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
        Poll::Ready(host.sender.has_room().unwrap())
    });
    assert!(!polled.await);

    let mut counter = Counter { most: sent, ..Counter::default() };
    while counter.messages < sent {
        assert!(guest.receiver.drain(&mut counter).unwrap() > 0);
    }
    assert_eq!(counter.carrying, sent);
    // Its waker is with the socket: nothing else wakes this task.
    poll_fn(|cx| {
        let _ = host.sender.poll_flush(cx);
        if host.sender.has_room().unwrap() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert_eq!(fill(&mut host, &writes), MOST);
    drop((host, guest, writes));
    assert!(is_over(reads), "leaked");
}

#[tokio::test]
async fn a_second_encoding_neither_loses_nor_doubles_descriptors() {
    let small = Geometry { ring_bytes: 4096, ..GEOMETRY };
    let (mut host, mut guest) = pair_for_test(&small, Waiting::Sleep).await;
    let (reads, writes) = pipe().unwrap();
    let (mut again, mut sent) = (0, 0);
    // Past the ring's end, where a body is encoded anew; and into blocks.
    for len in [100, 700].into_iter().flat_map(|len| [len; 200]) {
        let mut body = Carrying(&writes, 1, 0, len);
        host.sender.send(&REQUEST, &mut body).unwrap();
        let _ = host.sender.publish();
        again += body.2 - 1;
        sent += 1;
        let mut counter = Counter { most: usize::MAX, ..Counter::default() };
        guest.receiver.drain(&mut counter).unwrap();
        assert_eq!((counter.messages, counter.carrying), (1, 1), "{sent}");
    }
    assert!(again > 0, "no body was encoded twice");
    drop((host, guest, writes));
    assert!(is_over(reads), "leaked");
}

/// The system tells of the packet that was lost first, and once. Fails where that is taken for the end of all packets.
#[tokio::test]
async fn what_a_peer_has_sent_arrives_also_if_it_ends_without_having_read() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let (reads, writes) = pipe().unwrap();
    host.sender.send(&REQUEST, &mut Carrying(&writes, 1, 0, 100)).unwrap();
    for _ in 0..3 {
        guest.sender.send(&REQUEST, &mut Carrying(&writes, 1, 0, 100)).unwrap();
    }
    let _ = (host.sender.publish(), guest.sender.publish());
    drop(guest);
    let mut counter = Counter { most: usize::MAX, ..Counter::default() };
    host.receiver.drain(&mut counter).unwrap();
    assert_eq!((counter.messages, counter.carrying), (3, 3));
    drop((host, writes));
    assert!(is_over(reads), "leaked");
}

/// A peer's process is not handed over by a peer that has the system add handles on it to what arrives. Fails where what
/// nobody has asked for is not owned: a descriptor is left for each message.
#[tokio::test]
async fn handles_on_a_process_that_a_peer_has_the_system_add_are_closed() {
    let closer = Closer::new(64);
    let (ours, theirs) = descriptor_sockets(&closer).unwrap();
    let on: libc::c_int = 1;
    // SAFETY: in bounds, aligned, alone, alive: the option is an `int`, which `on` is.
    let set = unsafe {
        let (on, len) = (std::ptr::from_ref(&on).cast(), size_of_val(&on) as libc::socklen_t);
        libc::setsockopt(ours.as_raw_fd(), libc::SOL_SOCKET, SO_PASSPIDFD, on, len)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    let mailbox = Mailbox::new(ours.into_inner(), End::Shared, closer).unwrap();
    let (reads, writes) = pipe().unwrap();
    for count in [1, 2, 3, 64].into_iter().cycle().take(1000) {
        let carried = vec![writes.as_fd(); count];
        crate::link::descriptors::send(theirs.as_fd(), &[0], &carried).unwrap();
        let received = mailbox.receive(Look::Always, &mut [0]).unwrap();
        assert_eq!((received.lost, received.descriptors.len()), (None, count));
    }
    let left = handles_on_this_process();
    assert!(left < 500, "{left}, and other tests of this process have few");
    drop((mailbox, writes));
    assert!(is_over(reads), "leaked");
}

/// Newer than the headers of some systems.
const SO_PASSPIDFD: libc::c_int = 76;

/// The pidfds of this process for itself.
fn handles_on_this_process() -> usize {
    let own = format!("Pid:\t{}", std::process::id());
    let descriptors = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = descriptors.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    infos.filter(|info| info.lines().any(|line| line == own)).count()
}

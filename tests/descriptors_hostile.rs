//! Peers on a Unix socket that send other descriptors than they announce, and a process that may not have more open.
//! One test at a time, alone in their process: they count what it holds, and one changes its limits.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    collections::VecDeque,
    fs::File,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use adjoin::{CallError, Connection, LinkEnd, Options, Refusal, Rx, channel, shm, stream, uds};
use common::{
    counts::Counts,
    limited::Limited,
    watchdog::Watchdog,
    wire::{Message, MetadataValue, Request},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::{io::AsyncReadExt, net::UnixStream};

const TAKE: u64 = 7;
const HOLD: u64 = 8;

#[adjoin::service]
trait Files {
    #[adjoin(id = 7)]
    async fn take(&self, all: Vec<OwnedFd>) -> u32;
    async fn numbers(&self, numbers: Rx<u32>, to: OwnedFd) -> u32;
    #[adjoin(id = 8)]
    async fn hold(&self, all: Vec<OwnedFd>) -> u32;
}

struct Plain;

impl Files for Plain {
    async fn take(&self, all: Vec<OwnedFd>) -> u32 {
        all.len() as u32
    }

    async fn numbers(&self, mut numbers: Rx<u32>, _to: OwnedFd) -> u32 {
        let mut sum = 0;
        while let Ok(Some(number)) = numbers.recv().await {
            sum += number;
        }
        sum
    }

    async fn hold(&self, _all: Vec<OwnedFd>) -> u32 {
        std::future::pending().await
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// A peer that writes what it wants.
struct Raw {
    socket: UnixStream,
    unread: Vec<u8>,
    heard: VecDeque<Message>,
}

impl Raw {
    /// One that has greeted, and the link that it has with the service.
    async fn connected() -> (Self, Connection) {
        Raw::connected_with(adjoin::Settings::default()).await
    }

    async fn connected_with(settings: adjoin::Settings) -> (Self, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut raw = Raw { socket: theirs, unread: Vec::new(), heard: VecDeque::new() };
        raw.write(&Message::hello().frame(), &[]).await;
        let serving = Options::new().settings(settings).serve(FilesDispatcher::new(Plain));
        let link = stream::accept(ours, serving).await.unwrap();
        assert!(matches!(raw.hear().await, Some(Message::Hello(_))));
        (raw, link)
    }

    /// Writes bytes, the first of them with descriptors.
    async fn write(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let (mut rest, mut descriptors) = (bytes, descriptors);
        while !rest.is_empty() {
            self.socket.writable().await.unwrap();
            let sent = self.socket.try_io(tokio::io::Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                assert!(
                    descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
                );
                Ok(sendmsg(&self.socket, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(sent) => (rest, descriptors) = (&rest[sent..], &[]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return, // the other side has hung up, and what it says is asked for
            }
        }
    }

    /// Calls `take` with so many descriptors in its payload and in its metadata, and with those of `carried`.
    async fn take(&self, request_id: u64, stand: u8, announced: Option<u64>, carried: &[OwnedFd]) {
        let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        self.write(&take(request_id, stand, announced).frame(), &carried).await;
    }

    /// Takes what is there, and says how many descriptors came with it. The link does not run meanwhile.
    fn drain(&self) -> usize {
        let (mut bytes, mut count) = ([0; 64 << 10], 0);
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let read = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
            if !read.is_ok_and(|read| read.bytes > 0) {
                return count;
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    count += rights.count();
                }
            }
        }
    }

    /// The next message; `None` at the end.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Some(message);
            }
            let mut buffer = [0; 4096];
            let len = self.socket.read(&mut buffer).await.unwrap_or(0);
            if len == 0 {
                return None;
            }
            self.unread.extend_from_slice(&buffer[..len]);
            while let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let mut frame: Vec<_> = self.unread.drain(..=end).collect();
                self.heard.push_back(Message::of_frame(&mut frame[..end]));
            }
        }
    }

    /// The payload and the metadata of the answer to a request.
    async fn answer(&mut self, id: u64) -> (Vec<u8>, String) {
        match self.hear().await {
            Some(Message::Response { request_id, payload, metadata, .. }) if request_id == id => {
                (payload, format!("{metadata:?}"))
            }
            other => panic!("{other:?} is no answer to {id}"),
        }
    }
}

fn take(request_id: u64, stand: u8, announced: Option<u64>) -> Message {
    call(TAKE, request_id, stand, announced)
}

fn call(method_id: u64, request_id: u64, stand: u8, announced: Option<u64>) -> Message {
    let metadata = announced.map(|count| ("adjoin-descriptors".to_owned(), MetadataValue::U64(count)));
    let mut payload = vec![stand];
    payload.extend(0..stand);
    let metadata = metadata.into_iter().collect();
    Message::Request(Request { request_id, method_id, metadata, payload, ..Request::default() })
}

/// Runs a test alone in its process, and looks that nothing is left open.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _hang = Watchdog::seconds(60);
    // The link runs only while the test waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let before = Counts::now();
        test.await;
        Counts { threads: usize::MAX, ..before }.settle().await;
    });
}

const OK: u8 = 0;
const INVALID_PAYLOAD: &[u8] = &[1, 2];
const CANCELLED: &[u8] = &[1, 3];

#[test]
fn what_is_announced_and_comes_is_taken_however_its_bytes_come() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        for count in [0, 1, 3, 64] {
            let carried: Vec<_> = (0..count).map(|_| null()).collect();
            raw.take(u64::from(count) + 1, count, (count > 0).then_some(count.into()), &carried).await;
            assert_eq!(raw.answer(u64::from(count) + 1).await.0, [OK, count]);
        }
        // Byte by byte, and two in one piece with one behind them.
        let one = take(100, 1, Some(1)).frame();
        raw.write(&one[..1], &[null().as_fd()]).await;
        for byte in &one[1..] {
            raw.write(&[*byte], &[]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.answer(100).await.0, [OK, 1]);
        raw.write(&[take(101, 0, None).frame(), one[..5].to_vec()].concat(), &[null().as_fd()]).await;
        raw.write(&one[5..], &[]).await;
        assert_eq!(raw.answer(101).await.0, [OK, 0]);
        assert_eq!(raw.answer(100).await.0, [OK, 1]);
    });
}

#[test]
fn other_descriptors_than_announced_end_the_link_and_are_closed() {
    for (expected, came) in [(1, 2), (2, 1), (0, 1), (200, 1)] {
        alone(async {
            let (raw, link) = Raw::connected().await;
            let carried: Vec<_> = (0..came).map(|_| null()).collect();
            raw.take(1, 1, Some(expected), &carried).await;
            let LinkEnd::Descriptors { announced, arrived } = link.closed().await else {
                panic!("{:?}", link.end())
            };
            assert_eq!((announced, arrived), (expected, came));
        });
    }
}

#[test]
fn descriptors_that_do_not_come_cost_the_call_alone() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        raw.take(1, 2, Some(2), &[]).await;
        assert_eq!(raw.answer(1).await.0, INVALID_PAYLOAD);
        // And those that no value stands for.
        raw.take(2, 1, Some(2), &[null(), null()]).await;
        assert_eq!(raw.answer(2).await.0, INVALID_PAYLOAD);
        raw.take(3, 1, Some(1), &[null()]).await;
        assert_eq!(raw.answer(3).await.0, [OK, 1]);
    });
}

#[test]
fn descriptors_that_nobody_announces_end_the_link() {
    alone(async {
        let (mut raw, link) = Raw::connected().await;
        let carried: Vec<_> = (0..253).map(|_| null()).collect();
        raw.take(1, 0, None, &carried).await;
        let end = link.closed().await;
        assert!(matches!(end, LinkEnd::Descriptors { announced: 0, arrived: 253 }), "{end:?}");
        while raw.hear().await.is_some() {}
        // Two frames that are cut in the middle of the second: its own packet may wait for the rest of it, and no other.
        let (mut raw, link) = Raw::connected().await;
        let one = take(1, 1, Some(1)).frame();
        for cut in 0..2 {
            raw.write(&one[cut..=cut], &[null().as_fd()]).await;
            tokio::task::yield_now().await;
        }
        raw.write(&one[2..3], &[null().as_fd()]).await;
        let end = link.closed().await;
        assert!(matches!(end, LinkEnd::Descriptors { announced: 0, arrived: 1 }), "{end:?}");
        while raw.hear().await.is_some() {}
    });
}

/// Fails where what nobody has announced is kept: it holds the socket open whose end is waited for.
#[test]
fn a_peer_that_hands_over_its_own_socket_and_goes_leaves_no_link() {
    alone(async {
        let (raw, link) = Raw::connected().await;
        raw.write(&take(1, 0, None).frame(), &[raw.socket.as_fd()]).await;
        drop(raw);
        link.closed().await;
    });
}

#[test]
fn more_descriptors_than_this_side_takes_are_closed_and_their_call_is_rejected() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        let carried: Vec<_> = (0..65).map(|_| null()).collect();
        raw.take(1, 65, Some(65), &carried).await;
        let (payload, metadata) = raw.answer(1).await;
        assert_eq!(payload, CANCELLED);
        assert!(metadata.contains("at most 64"), "{metadata}");
        raw.take(2, 64, Some(64), &carried[..64]).await;
        assert_eq!(raw.answer(2).await.0, [OK, 64]);
    });
}

#[test]
fn a_process_that_may_not_open_more_rejects_the_call_and_goes_on() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        let carried: Vec<_> = (0..10).map(|_| null()).collect();
        raw.take(1, 10, Some(10), &carried).await;
        drop(carried);
        let limited = Limited::to(3);
        let (payload, metadata) = raw.answer(1).await;
        drop(limited);
        assert_eq!(payload, CANCELLED);
        assert!(metadata.contains("RLIMIT_NOFILE"), "{metadata}");
        raw.take(2, 10, Some(10), &(0..10).map(|_| null()).collect::<Vec<_>>()).await;
        assert_eq!(raw.answer(2).await.0, [OK, 10]);
    });
}

#[test]
fn a_process_that_may_not_open_more_is_refused_what_it_passes() {
    alone(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = Options::new().serve(FilesDispatcher::new(Plain));
        let (near, _far) =
            tokio::try_join!(stream::connect(ours, Options::new()), stream::accept(theirs, serving)).unwrap();
        let files = FilesClient::new(&near);
        let all: Vec<_> = (0..10).map(|_| null()).collect();
        let limited = Limited::to(3);
        let refused = files.take(all).await.unwrap_err();
        drop(limited);
        let CallError::Refused(refusal @ Refusal::DescriptorUnpassed { .. }) = refused else {
            panic!("{refused}")
        };
        assert!(refusal.to_string().contains("Too many open files"), "{refusal}");
        // The stream of such a call has not become the peer's, and ends with the call.
        let ((tx, rx), to) = (channel(), null());
        let limited = Limited::to(0);
        assert!(matches!(files.numbers(rx, to).await, Err(CallError::Refused(_))));
        drop(limited);
        assert!(tx.is_closed());
        assert_eq!(files.take((0..10).map(|_| null()).collect()).await.unwrap(), 10);
    });
}

#[test]
fn what_goes_out_announces_what_goes_with_it_and_nothing_else() {
    alone(async {
        let (mut raw, link) = Raw::connected().await;
        let files = FilesClient::new(&link);
        for carried in [0, 2] {
            let mut claim = adjoin::Metadata::new();
            claim.push("adjoin-descriptors", 3u64);
            claim.push("mine", "stays");
            let all = (0..carried).map(|_| null()).collect();
            let call = tokio::spawn(files.take(all).with_metadata(claim));
            let Some(Message::Request(Request { metadata, payload, .. })) = raw.hear().await else {
                panic!("no request")
            };
            call.abort();
            assert!(matches!(raw.hear().await, Some(Message::Cancel { .. })));
            let mine = ("mine".to_owned(), MetadataValue::String("stays".to_owned()));
            let announced = ("adjoin-descriptors".to_owned(), MetadataValue::U64(carried));
            let expected = if carried == 0 { vec![mine] } else { vec![mine, announced] };
            assert_eq!(metadata, expected);
            assert_eq!(payload.first(), Some(&(carried as u8)));
        }
    });
}

/// Fails where calls are sent for as long as the socket has room: all three hundred are under way then.
#[test]
fn no_more_are_under_way_to_a_peer_that_does_not_read_than_one_message_may_have() {
    alone(async {
        let (raw, link) = Raw::connected().await;
        let files = FilesClient::new(&link);
        let calls: Vec<_> = (0..10)
            .map(|_| tokio::spawn(files.take((0..30).map(|_| null()).collect()).into_future()))
            .collect();
        let (mut came, mut rounds) = (0, 0);
        while came < 300 {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let count = raw.drain();
            assert!(count <= 64, "{count}");
            came += count;
            rounds += usize::from(count > 0);
        }
        assert!((5..=10).contains(&rounds), "{rounds}: two messages are under way at once");
        drop(raw);
        for call in calls {
            assert!(matches!(call.await.unwrap(), Err(CallError::Ended(_))));
        }
    });
}

#[test]
fn descriptors_of_requests_that_run_are_bounded_together() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        let carried: Vec<_> = (0..64).map(|_| null()).collect();
        let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        for request in 1..=4 {
            raw.write(&call(HOLD, request, 64, Some(64)).frame(), &carried).await;
        }
        raw.write(&take(5, 1, Some(1)).frame(), &carried[..1]).await;
        let (payload, metadata) = raw.answer(5).await;
        assert_eq!(payload, CANCELLED);
        assert!(metadata.contains("256") && metadata.contains("max_held_descriptors"), "{metadata}");
        raw.write(&take(6, 0, None).frame(), &[]).await;
        assert_eq!(raw.answer(6).await.0, [OK, 0], "what has none is taken");
        // One is over: as many find room again.
        raw.write(&Message::Cancel { conn_id: 0, request_id: 1 }.frame(), &[]).await;
        assert_eq!(raw.answer(1).await.0, CANCELLED);
        for request in 7..20 {
            raw.write(&take(request, 64, Some(64)).frame(), &carried).await;
            assert_eq!(raw.answer(request).await.0, [OK, 64]);
        }
    });
}

/// Fails where what the system refuses is found out behind the commit: the link ends with it.
#[test]
fn what_the_peers_socket_does_not_take_is_refused_to_the_call_alone() {
    alone(async {
        let (mut raw, link) = Raw::connected().await;
        let off: libc::c_int = 0;
        // SAFETY: in bounds, aligned, alone, alive: the option is an `int`, which `off` is.
        let set = unsafe {
            let (off, len) = (std::ptr::from_ref(&off).cast(), size_of_val(&off) as libc::socklen_t);
            libc::setsockopt(raw.socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, off, len)
        };
        if set != 0 {
            return; // before Linux 6.16
        }
        let files = FilesClient::new(&link);
        let refused = files.take(vec![null()]).await.unwrap_err();
        let CallError::Refused(Refusal::DescriptorUnpassed { code: libc::EPERM }) = refused else {
            panic!("{refused}")
        };
        let call = tokio::spawn(files.take(Vec::new()).into_future());
        assert!(matches!(raw.hear().await, Some(Message::Request(_))));
        call.abort();
    });
}

/// Newer than the headers of some systems.
const SO_PASSRIGHTS: libc::c_int = 83;

/// A socket whose last close waits for two minutes, or until the other one is closed: what it has to send, nobody takes.
fn lingering() -> (OwnedFd, std::net::TcpStream) {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reader = listener.accept().unwrap().0;
    let long = std::time::Duration::from_secs(120);
    rustix::net::sockopt::set_socket_linger(&socket, Some(long)).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[7; 64 << 10]).is_ok() {}
    (socket.into(), reader)
}

/// Fails (hangs) where the system closes what is left in a socket together with the socket, or what is refused is closed by
/// the task that refuses it.
#[test]
fn what_takes_its_time_to_close_holds_up_neither_a_link_nor_its_end() {
    for announced in [Some(2), None] {
        alone(async {
            let (raw, link) = Raw::connected().await;
            let (socket, reader) = lingering();
            raw.take(1, 2, announced, &[socket]).await;
            link.closed().await;
            // The runtime has one thread, and goes on.
            let (mut other, _link) = Raw::connected().await;
            other.take(1, 0, None, &[]).await;
            assert_eq!(other.answer(1).await.0, [OK, 0]);
            drop(reader);
        });
    }
    alone(async {
        let (raw, link) = Raw::connected().await;
        let (socket, reader) = lingering();
        // Nobody reads this before the link is over: the first packet ends it.
        raw.take(1, 0, None, &[null()]).await;
        raw.take(1, 1, Some(1), &[socket]).await;
        link.closed().await;
        drop(link);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let (mut other, _link) = Raw::connected().await;
        other.take(1, 0, None, &[]).await;
        assert_eq!(other.answer(1).await.0, [OK, 0]);
        drop(reader);
    });
}

/// Sends a byte with a descriptor, in band or out of it.
fn send_one(socket: impl AsFd, descriptor: OwnedFd, flags: SendFlags) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [descriptor.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(socket, &[IoSlice::new(b"x")], &mut ancillary, flags | SendFlags::NOSIGNAL).unwrap();
}

/// A stranger that has connected to a listener of shared memory, and as what it arrived there.
async fn half_open() -> (std::os::unix::net::UnixStream, shm::Incoming) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shm");
    let listener = shm::listen(&path).unwrap();
    let stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
    (stranger, listener.accept().await.unwrap())
}

/// Fails (hangs) where the system skips what is out of band, and lets go of its descriptors in the call that reads on.
#[test]
fn what_comes_out_of_band_comes_with_everything_else() {
    alone(async {
        let (raw, link) = Raw::connected().await;
        let (socket, reader) = lingering();
        send_one(&raw.socket, socket, SendFlags::OOB);
        raw.write(&take(1, 0, None).frame(), &[]).await;
        let end = link.closed().await; // the byte is none of a frame's
        assert!(matches!(end, LinkEnd::Violation(_) | LinkEnd::Descriptors { .. }), "{end:?}");
        drop(reader);
    });
    alone(async {
        let (stranger, incoming) = half_open().await;
        let (socket, reader) = lingering();
        send_one(&stranger, socket, SendFlags::OOB);
        std::io::Write::write_all(&mut &stranger, &[0; 100]).unwrap();
        incoming.establish(Options::new()).await.unwrap_err();
        drop(reader);
    });
}

/// Fails (hangs) where what was taken by a value that is not whole is closed by the task that reads it.
#[test]
fn what_was_taken_and_is_refused_after_all_holds_up_nobody() {
    for (stand, came) in [(2, 1), (1, 2)] {
        alone(async {
            let (mut raw, _link) = Raw::connected().await;
            let (sockets, readers): (Vec<_>, Vec<_>) = (0..came).map(|_| lingering()).unzip();
            raw.take(1, stand, Some(came), &sockets).await;
            drop(sockets);
            assert_eq!(raw.answer(1).await.0, INVALID_PAYLOAD);
            drop(readers);
        });
    }
}

/// Fails (hangs) where a socket that was not established yet is closed by whoever drops it.
#[test]
fn those_that_have_connected_and_are_not_wanted_hold_up_nobody() {
    alone(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut readers = Vec::new();
        let mut connect = || {
            let stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
            let (socket, reader) = lingering();
            send_one(&stranger, socket, SendFlags::empty());
            readers.push(reader);
        };
        let listener = uds::listen(&path).unwrap();
        connect();
        drop(listener.accept().await.unwrap());
        connect();
        connect();
        drop(listener);
        let listener = shm::listen(&path).unwrap();
        connect();
        drop(listener.accept().await.unwrap());
        connect();
        drop(listener);
        // The name is free at once.
        let _listener = uds::listen(&path).unwrap();
        drop(readers);
    });
}

/// Fails (hangs) where the host's end of the socket for descriptors is closed with what a guest has put into it.
#[test]
fn a_guest_that_fills_the_socket_for_descriptors_and_goes_holds_up_nobody() {
    alone(async {
        let (stranger, incoming) = half_open().await;
        let (socket, reader) = lingering();
        let guest = std::thread::spawn(move || {
            let mut offered = Vec::new();
            while offered.is_empty() {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [0; 256];
                let into = &mut [IoSliceMut::new(&mut bytes)];
                recvmsg(&stranger, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        offered.extend(rights);
                    }
                }
            }
            assert_eq!(offered.len(), 3);
            send_one(&offered[2], socket, SendFlags::empty());
        });
        incoming.establish(Options::new()).await.unwrap_err();
        drop(reader);
        guest.join().unwrap();
    });
}

/// Fails (hangs) where what waits in the queue is closed with the link.
#[test]
fn what_waits_within_the_process_holds_up_nobody_at_the_end() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (socket, reader) = lingering();
    runtime.block_on(async {
        let serving = Options::new().serve(FilesDispatcher::new(Plain));
        let (near, _far) = adjoin::local::pair(Options::new(), serving);
        let mut call = Box::pin(FilesClient::new(&near).take(vec![socket]).into_future());
        std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
    });
    drop(runtime);
    drop(reader);
}

#[test]
fn a_peer_whose_descriptors_take_their_time_and_are_many_is_let_go() {
    alone(async {
        let settings = adjoin::Settings::default().max_held_descriptors(2);
        let (mut raw, link) = Raw::connected_with(settings).await;
        let (socket, reader) = lingering();
        // A method that nobody has: nobody takes what comes.
        raw.write(&call(99, 1, 1, Some(1)).frame(), &[socket.as_fd()]).await;
        drop(socket); // while it is under way: not the last one
        raw.answer(1).await;
        let mut request = 2;
        let end = loop {
            raw.write(&call(99, request, 1, Some(1)).frame(), &[null().as_fd()]).await;
            request += 1;
            let wait = tokio::time::timeout(std::time::Duration::from_millis(20), link.closed());
            if let Ok(end) = wait.await {
                break end;
            }
        };
        assert!(matches!(end, LinkEnd::Unclosed { waiting: 3.., limit: 2 }), "{end:?}");
        while raw.hear().await.is_some() {}
        drop(reader);
    });
}

/// Fails (hangs) where the system lets go, in the call that reads, of what this process may not have.
#[test]
fn what_may_not_be_had_and_takes_its_time_to_close_holds_up_its_own_link_alone() {
    alone(what_may_not_be_had(0));
    alone(what_may_not_be_had(1));
}

/// In a process that may have so many more.
async fn what_may_not_be_had(more: usize) {
    let (mut raw, link) = Raw::connected().await;
    let (mut other, _other) = Raw::connected().await;
    let (plain, (socket, reader)) = (null(), lingering());
    let limited = Limited::to(more);
    if more > 0 {
        // It gets a low number, which says nothing of how many are left.
        raw.write(&take(1, 1, Some(1)).frame(), &[plain.as_fd()]).await;
        assert_eq!(raw.answer(1).await.0, [OK, 1]);
    }
    raw.write(&take(2, 5, Some(5)).frame(), &[socket.as_fd(); 5]).await;
    drop(socket); // while it is under way: not the last one
    assert_eq!(raw.answer(2).await.0, CANCELLED);
    drop(limited);
    // The runtime has one thread, and goes on.
    other.take(1, 0, None, &[]).await;
    assert_eq!(other.answer(1).await.0, [OK, 0]);
    // Nothing is read before what was left in the socket is taken out of it.
    raw.take(3, 0, None, &[]).await;
    let end = link.closed().await;
    assert!(matches!(end, LinkEnd::Unclosed { .. }), "{end:?}");
    drop(reader);
}

/// Fails where what was looked at is not taken, or is taken twice.
#[test]
fn a_process_that_is_short_of_descriptors_reads_on() {
    alone(async {
        let (mut raw, _link) = Raw::connected().await;
        let plain = null();
        let limited = Limited::to(3);
        for request in 1..100 {
            let stand = request as u8 % 6; // more than three cannot be had
            let announced = (stand > 0).then_some(stand.into());
            raw.write(&take(request, stand, announced).frame(), &vec![plain.as_fd(); stand.into()]).await;
            let (payload, metadata) = raw.answer(request).await;
            if stand <= 3 {
                assert_eq!(payload, [OK, stand], "{request}");
            } else {
                assert!(payload == CANCELLED && metadata.contains("RLIMIT_NOFILE"), "{request}: {metadata}");
            }
        }
        drop(limited);
    });
}

/// Fails where descriptors are taken in while others wait to be closed.
#[test]
fn a_peer_cannot_have_this_process_run_out_of_descriptors() {
    alone(async {
        let settings = adjoin::Settings::default().max_held_descriptors(8);
        let (raw, link) = Raw::connected_with(settings).await;
        let (socket, reader) = lingering();
        raw.write(&call(99, 1, 1, Some(1)).frame(), &[socket.as_fd()]).await;
        drop(socket);
        let plain = null();
        let before = Counts::now().descriptors;
        for request in 2..100 {
            raw.write(&call(99, request, 1, Some(1)).frame(), &[plain.as_fd()]).await;
        }
        let mut most = 0;
        let end = loop {
            most = most.max(Counts::now().descriptors);
            let wait = tokio::time::timeout(std::time::Duration::from_millis(1), link.closed());
            if let Ok(end) = wait.await {
                break end;
            }
        };
        assert!(matches!(end, LinkEnd::Unclosed { waiting: 9.., limit: 8 }), "{end:?}");
        assert!((before + 9..before + 13).contains(&most), "{most} were open, {before} before");
        drop(reader);
    });
}

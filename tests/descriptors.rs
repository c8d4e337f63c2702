//! Descriptors in arguments and results, over every link that carries them, and refused by those that do not.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{PipeReader, Read, Write, pipe},
    os::fd::OwnedFd,
    time::Duration,
};

use adjoin::intercept::{InterceptedCall, Intercepting, Interceptor, Next};
use adjoin::{CallError, Descriptor, Options, Refusal, Rx, Schema, SendError, Settings, channel};
use common::{
    links::{Far, Kind, link},
    watchdog::Watchdog,
};
use serde::{Deserialize, Serialize};

/// Descriptors at every depth and in every kind of container.
#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
struct Nested {
    one: Descriptor,
    none: Option<Descriptor>,
    many: Vec<Descriptor>,
    by_name: BTreeMap<String, Descriptor>,
    either: Either,
    numbers: Rx<u32>,
}

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
enum Either {
    Empty,
    Full { to: Descriptor, text: String },
}

#[adjoin::service]
trait Files {
    async fn open(&self, path: String) -> Result<OwnedFd, String>;
    async fn log(&self, to: OwnedFd, spare: Option<OwnedFd>, all: Vec<OwnedFd>) -> u32;
    async fn maybe(&self, some: bool) -> Option<OwnedFd>;
    async fn nested(&self, nested: Nested) -> Vec<Descriptor>;
    async fn back(&self, all: Vec<OwnedFd>) -> Vec<OwnedFd>;
    async fn refuse(&self, to: OwnedFd) -> Result<(), String>;
    async fn panics(&self, to: OwnedFd);
    async fn hang(&self, to: OwnedFd, begun: OwnedFd);
    async fn stream(&self) -> Rx<Descriptor>;
    async fn add(&self, a: u32, b: u32) -> u32;
    async fn three(&self) -> Vec<OwnedFd>;
}

/// Another service of the same name: what this one calls the other does not know, or cannot read.
mod other {
    use super::*;

    #[adjoin::service(name = "Files")]
    pub(super) trait Other {
        #[adjoin(id = 0x1234)]
        async fn unknown(&self, to: OwnedFd);
    }
}

struct Plain;

/// Writes into what it gets, and lets go of it.
fn write(to: impl Into<Descriptor>, text: &str) {
    let mut file = File::from(to.into());
    file.write_all(text.as_bytes()).unwrap();
}

impl Files for Plain {
    async fn three(&self) -> Vec<OwnedFd> {
        (0..3).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    async fn open(&self, path: String) -> Result<OwnedFd, String> {
        Ok(File::open(path).map_err(|error| error.to_string())?.into())
    }

    async fn log(&self, to: OwnedFd, spare: Option<OwnedFd>, all: Vec<OwnedFd>) -> u32 {
        let all: Vec<_> = [to].into_iter().chain(spare).chain(all).collect();
        let count = all.len() as u32;
        all.into_iter().enumerate().for_each(|(place, to)| write(to, &place.to_string()));
        count
    }

    async fn maybe(&self, some: bool) -> Option<OwnedFd> {
        some.then(|| File::open("/dev/null").unwrap().into())
    }

    async fn nested(&self, nested: Nested) -> Vec<Descriptor> {
        let Nested { one, none, many, by_name, either, mut numbers } = nested;
        assert!(none.is_none());
        let mut sum = 0;
        while let Ok(Some(number)) = numbers.recv().await {
            sum += number;
        }
        if sum > 0 {
            write(one, &format!("one {sum}"));
        }
        many.into_iter().enumerate().for_each(|(place, to)| write(to, &format!("many {place}")));
        let mut left = Vec::new();
        for (name, to) in by_name {
            write(to, &name);
        }
        if let Either::Full { to, text } = either {
            assert_eq!(text, "full");
            left.push(to);
        }
        left
    }

    async fn back(&self, all: Vec<OwnedFd>) -> Vec<OwnedFd> {
        all
    }

    async fn refuse(&self, to: OwnedFd) -> Result<(), String> {
        drop(to);
        Err("no".into())
    }

    async fn panics(&self, _to: OwnedFd) {
        panic!("on purpose: a handler that panics");
    }

    async fn hang(&self, _to: OwnedFd, begun: OwnedFd) {
        write(begun, "begun");
        std::future::pending().await
    }

    async fn stream(&self) -> Rx<Descriptor> {
        let (tx, rx) = channel();
        tokio::spawn(async move {
            let file = File::open("/dev/null").unwrap();
            let refused = tx.send(file.into()).await;
            assert!(matches!(refused, Err(SendError::Refused(Refusal::DescriptorMisplaced))));
        });
        rx
    }

    async fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
}

/// An interceptor that does nothing: calls through it go another way.
struct Unseen;

impl Interceptor for Unseen {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(next.run(call))
    }
}

fn serving() -> Options {
    Options::new().settings(common::links::settings()).serve(FilesDispatcher::new(Plain))
}

#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// The links that carry descriptors.
const CARRYING: [Kind; 6] = [
    Kind::Local,
    Kind::Uds,
    Kind::Shm,
    Kind::ShmPath,
    Kind::Proxied(&[Kind::Uds, Kind::Shm]),
    Kind::Proxied(&[Kind::ShmPath, Kind::Local]),
];

async fn connect(kind: Kind) -> (FilesClient, Far) {
    let (near, far) = link(kind, Options::new().settings(common::links::settings()), serving()).await;
    (FilesClient::new(&near), far)
}

/// Whether the link is as good as before.
async fn works(files: &FilesClient) -> bool {
    files.add(1, 2).await.unwrap() == 3
}

/// A pipe: the end that is read, and the one that is passed.
fn passed() -> (PipeReader, OwnedFd) {
    let (reads, writes) = pipe().unwrap();
    (reads, writes.into())
}

/// All that was written, when nobody has the other end any more. What is leaked is a test that hangs.
async fn all(mut reads: PipeReader) -> String {
    tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reads.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_in_arguments_arrive_in_their_order_and_are_nobodys_afterwards() {
    let _hang = Watchdog::seconds(60);
    for kind in CARRYING {
        let (files, _far) = connect(kind).await;
        for rest in [0, 1, 5, 40] {
            let (one, first) = passed();
            let (two, second) = passed();
            let (reads, others): (Vec<_>, Vec<_>) = (0..rest).map(|_| passed()).unzip();
            let count = files.log(first, (rest > 0).then_some(second), others).await.unwrap();
            assert_eq!(count, if rest > 0 { rest + 2 } else { 1 }, "{kind:?}");
            assert_eq!(all(one).await, "0", "{kind:?}");
            assert_eq!(all(two).await, if rest > 0 { "1" } else { "" }, "{kind:?}");
            for (place, reads) in reads.into_iter().enumerate() {
                assert_eq!(all(reads).await, (place + 2).to_string(), "{kind:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_in_results_arrive() {
    let _hang = Watchdog::seconds(60);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "what is in the file").unwrap();
    let path = path.to_str().unwrap().to_owned();
    for kind in CARRYING {
        let (files, _far) = connect(kind).await;
        let opened: OwnedFd = files.open(path.clone()).await.unwrap();
        let flags = rustix::io::fcntl_getfd(&opened).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{kind:?}");
        let mut text = String::new();
        File::from(opened).read_to_string(&mut text).unwrap();
        assert_eq!(text, "what is in the file", "{kind:?}");
        assert!(matches!(files.open("/no such file".into()).await, Err(CallError::User(_))), "{kind:?}");
        assert!(files.maybe(true).await.unwrap().is_some(), "{kind:?}");
        assert!(files.maybe(false).await.unwrap().is_none(), "{kind:?}");
        let (reads, writes) = passed();
        let back = files.back(vec![writes]).await.unwrap();
        back.into_iter().for_each(|to| write(to, "back"));
        assert_eq!(all(reads).await, "back", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_may_stand_at_every_depth_beside_streams() {
    let _hang = Watchdog::seconds(60);
    for kind in CARRYING {
        let (files, _far) = connect(kind).await;
        let (reads, mut writes): (Vec<_>, Vec<_>) =
            (0..6).map(|_| passed()).map(|(reads, writes)| (reads, Descriptor::from(writes))).unzip();
        let mut next = || writes.remove(0);
        let (tx, numbers) = channel();
        let nested = Nested {
            one: next(),
            none: None,
            many: vec![next(), next()],
            by_name: [("a".to_owned(), next()), ("b".to_owned(), next())].into(),
            either: Either::Full { to: next(), text: "full".into() },
            numbers,
        };
        let send = async {
            tx.send(3).await.unwrap();
            tx.send(4).await.unwrap();
            drop(tx);
        };
        let (left, ()) = tokio::join!(files.nested(nested), send);
        left.unwrap().into_iter().for_each(|to| write(to, "left"));
        for (reads, expected) in reads.into_iter().zip(["one 7", "many 0", "many 1", "a", "b", "left"]) {
            assert_eq!(all(reads).await, expected, "{kind:?}");
        }
        let empty = Nested {
            one: File::open("/dev/null").unwrap().into(),
            none: None,
            many: Vec::new(),
            by_name: BTreeMap::new(),
            either: Either::Empty,
            numbers: channel().1,
        };
        assert!(files.nested(empty).await.unwrap().is_empty(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_get_their_own_descriptors() {
    let _hang = Watchdog::seconds(120);
    for kind in CARRYING {
        let (files, _far) = connect(kind).await;
        // More than fit a socket at once; and calls without descriptors in between.
        let calls = (0..400).map(|number| {
            let files = files.clone();
            tokio::spawn(async move {
                if number % 3 == 0 {
                    assert_eq!(files.add(number, 1).await.unwrap(), number + 1);
                    return;
                }
                let (reads, writes) = passed();
                let mut back = files.back(vec![writes]).await.unwrap();
                write(back.remove(0), &number.to_string());
                assert_eq!(all(reads).await, number.to_string(), "{kind:?}");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_of_calls_that_fail_are_closed() {
    let _hang = Watchdog::seconds(60);
    for kind in CARRYING {
        let (files, _far) = connect(kind).await;
        let (reads, writes) = passed();
        assert!(matches!(files.refuse(writes).await, Err(CallError::User(_))), "{kind:?}");
        assert_eq!(all(reads).await, "", "{kind:?}");

        let (reads, writes) = passed();
        assert!(matches!(files.panics(writes).await, Err(CallError::Cancelled)), "{kind:?}");
        assert_eq!(all(reads).await, "", "{kind:?}");

        let (reads, writes) = passed();
        let unknown = other::OtherClient::new(files.caller()).unknown(writes).await;
        assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{kind:?}: {unknown:?}");
        assert_eq!(all(reads).await, "", "{kind:?}");

        // Dropped before it was polled, cancelled while it runs, out of time.
        let (reads, writes) = passed();
        drop(files.refuse(writes));
        assert_eq!(all(reads).await, "", "{kind:?}");

        let ((reads, writes), (begun, begins)) = (passed(), passed());
        let call = tokio::spawn({
            let files = files.clone();
            async move { files.hang(writes, begins).await }
        });
        assert_eq!(all(begun).await, "begun", "{kind:?}");
        call.abort();
        assert_eq!(all(reads).await, "", "{kind:?}");

        let ((reads, writes), (begun, begins)) = (passed(), passed());
        let timed = files.hang(writes, begins).with_timeout(Duration::from_millis(100)).await;
        assert!(matches!(timed, Err(CallError::TimedOut { .. })), "{kind:?}: {timed:?}");
        assert_eq!((all(reads).await.as_str(), all(begun).await.as_str()), ("", "begun"), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_descriptors_than_a_message_may_carry_are_refused_here() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Local, Kind::Uds, Kind::Shm] {
        let (files, _far) = connect(kind).await;
        let (reads, writes): (Vec<_>, Vec<_>) = (0..65).map(|_| passed()).unzip();
        let refused = files.back(writes).await.unwrap_err();
        let CallError::Refused(Refusal::TooManyDescriptors { count: 65, limit: 64 }) = refused else {
            panic!("{kind:?}: {refused}")
        };
        for reads in reads {
            assert_eq!(all(reads).await, "", "{kind:?}");
        }
        assert!(works(&files).await, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_descriptors_than_the_peer_takes_are_rejected_there() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Local, Kind::Uds, Kind::Shm, Kind::ShmPath] {
        // The most that the system passes at once, and the peer takes 64.
        let near = Options::new().settings(Settings::default().max_descriptors(1000));
        let (near, _far) = link(kind, near, serving()).await;
        let files = FilesClient::new(&near);
        let (reads, writes): (Vec<_>, Vec<_>) = (0..253).map(|_| passed()).unzip();
        let rejected = files.back(writes).await.unwrap_err();
        let CallError::Rejected { reason } = rejected else { panic!("{kind:?}: {rejected}") };
        assert!(reason.contains("253") && reason.contains("Settings::max_descriptors"), "{kind:?}: {reason}");
        for reads in reads {
            assert_eq!(all(reads).await, "", "{kind:?}");
        }
        assert!(works(&files).await, "{kind:?}");
        let (_, writes): (Vec<_>, Vec<_>) = (0..254).map(|_| passed()).unzip();
        let refused = files.back(writes).await.unwrap_err();
        let CallError::Refused(Refusal::TooManyDescriptors { count: 254, limit: 253 }) = refused else {
            panic!("{kind:?}: {refused}")
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_carries_none_refuses_the_call_here() {
    let _hang = Watchdog::seconds(60);
    let (files, _far) = connect(Kind::Tcp).await;
    let (reads, writes) = passed();
    let refused = files.log(writes, None, Vec::new()).await.unwrap_err();
    let CallError::Refused(Refusal::DescriptorsNotCarried { count: 1 }) = refused else {
        panic!("{refused}")
    };
    assert_eq!(all(reads).await, "");
    // A result that always has one, by all kinds of callers.
    let seen = files.caller().clone().with_interceptor(Unseen);
    for caller in [files.caller(), &seen] {
        let refused = FilesClient::new(caller).open("/dev/null".into()).await.unwrap_err();
        assert!(matches!(refused, CallError::Refused(Refusal::DescriptorNotReturned)), "{refused}");
    }
    // And one that only may.
    assert!(files.maybe(false).await.unwrap().is_none());
    let unanswered = files.maybe(true).await.unwrap_err();
    let CallError::Unanswered { reason } = unanswered else { panic!("{unanswered}") };
    assert!(reason.contains("carries none"), "{reason}");
    assert!(works(&files).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_wants_none_refuses_those_of_both() {
    let _hang = Watchdog::seconds(60);
    let none = || Settings::default().max_descriptors(0);
    for kind in [Kind::Local, Kind::Uds, Kind::Shm] {
        let (near, _far) = link(kind, Options::new().settings(none()), serving()).await;
        let files = FilesClient::new(&near);
        let (reads, writes) = passed();
        let refused = files.log(writes, None, Vec::new()).await.unwrap_err();
        assert!(
            matches!(refused, CallError::Refused(Refusal::DescriptorsNotCarried { count: 1 })),
            "{kind:?}"
        );
        assert_eq!(all(reads).await, "", "{kind:?}");
        // What comes back nevertheless is closed, and its call has no result.
        let unread = files.maybe(true).await.unwrap_err();
        let told = matches!(unread, CallError::InvalidResponse(_) | CallError::Unanswered { .. });
        assert!(told, "{kind:?}: {unread}");
        assert!(works(&files).await, "{kind:?}");
    }
    for kind in [Kind::Local, Kind::Uds, Kind::ShmPath] {
        let far = Options::new().settings(none()).serve(FilesDispatcher::new(Plain));
        let (near, _far) = link(kind, Options::new(), far).await;
        let files = FilesClient::new(&near);
        let (reads, writes) = passed();
        let refused = files.log(writes, None, Vec::new()).await.unwrap_err();
        assert!(
            matches!(refused, CallError::Rejected { .. } | CallError::InvalidPayload),
            "{kind:?}: {refused}"
        );
        assert_eq!(all(reads).await, "", "{kind:?}");
        assert!(works(&files).await, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_to_a_link_that_carries_none_rejects_the_call() {
    let _hang = Watchdog::seconds(60);
    let (files, _far) = connect(Kind::Proxied(&[Kind::Uds, Kind::Tcp])).await;
    let (reads, writes) = passed();
    let rejected = files.log(writes, None, Vec::new()).await.unwrap_err();
    let CallError::Rejected { reason } = rejected else { panic!("{rejected}") };
    assert!(reason.contains("carries none"), "{reason}");
    assert_eq!(all(reads).await, "");
    assert!(works(&files).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_of_a_stream_cannot_be_a_descriptor() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Local, Kind::Uds, Kind::Shm] {
        let (files, _far) = connect(kind).await;
        let mut stream = files.stream().await.unwrap();
        assert!(matches!(stream.recv().await, Ok(None)), "{kind:?}");
        let (reads, writes) = passed();
        let (tx, _rx) = channel::<Descriptor>();
        let refused = tx.send(writes.into()).await;
        assert!(matches!(refused, Err(SendError::Refused(Refusal::DescriptorMisplaced))), "{kind:?}");
        assert_eq!(all(reads).await, "", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_claims_descriptors_is_not_taken_for_an_announcement() {
    let _hang = Watchdog::seconds(60);
    // Through a proxy, too: what a caller claims must not take another's descriptors.
    for kind in [Kind::Uds, Kind::Proxied(&[Kind::Tcp, Kind::Uds])] {
        let (files, _far) = connect(kind).await;
        let mut claim = adjoin::Metadata::new();
        claim.push("adjoin-descriptors", 3u64);
        claim.push("mine", "stays");
        let calls = (0..50).map(|number| {
            let (files, claim) = (files.clone(), claim.clone());
            tokio::spawn(async move {
                assert_eq!(files.add(number, 1).with_metadata(claim).await.unwrap(), number + 1);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        if kind == Kind::Uds {
            let (reads, writes) = passed();
            assert_eq!(files.log(writes, None, Vec::new()).with_metadata(claim).await.unwrap(), 1);
            assert_eq!(all(reads).await, "0");
        }
    }
}

#[test]
fn a_plain_thread_passes_and_gets_descriptors() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for kind in [Kind::Local, Kind::Uds, Kind::Shm] {
        let (files, _far) = runtime.block_on(connect(kind));
        for _ in 0..20 {
            let (mut reads, writes) = passed();
            let mut back = files.back(vec![writes]).block().unwrap();
            write(back.remove(0), "back");
            let mut text = String::new();
            reads.read_to_string(&mut text).unwrap();
            assert_eq!(text, "back", "{kind:?}");
            assert!(files.open("/dev/null".into()).block().is_ok(), "{kind:?}");
        }
        let _inside = runtime.enter();
        drop((files, _far));
    }
}

/// A socket whose last close waits for two minutes: what it has to send, nobody takes.
fn lingering() -> (OwnedFd, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reader = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(120))).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[7; 64 << 10]).is_ok() {}
    (socket.into(), reader)
}

/// Fails (hangs) where the driver closes itself what nobody takes.
#[test]
fn a_peers_socket_that_takes_its_time_to_close_holds_nobody_up() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Uds, Kind::ShmPath, Kind::Local] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let serving = Options::new().serve(FilesDispatcher::new(Plain));
            let (near, _far) = link(kind, Options::new(), serving).await;
            let (files, other) = (FilesClient::new(&near), other::OtherClient::new(&near));
            let (socket, _reader) = lingering();
            let unknown = other.unknown(socket).await;
            assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{unknown:?}");
            for number in 0..10 {
                assert_eq!(files.add(number, 1).await.unwrap(), number + 1);
            }
        });
        drop(runtime); // which does not wait for it either
    }
}

/// What the answer carried cannot be had: the caller is told which limit it is, and not that the peer is at fault.
#[test]
fn an_answer_with_more_descriptors_than_this_side_takes_names_the_limit() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Uds, Kind::ShmPath, Kind::Local] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let serving = Options::new().serve(FilesDispatcher::new(Plain));
            let near = Options::new().settings(Settings::default().max_descriptors(1));
            let (near, _far) = link(kind, near, serving).await;
            let files = FilesClient::new(&near);
            match files.three().await {
                Err(CallError::Unanswered { reason }) => {
                    let named = reason.contains('3') && reason.contains("Settings::max_descriptors");
                    assert!(named, "{kind:?}: {reason}");
                }
                other => panic!("{kind:?}: {other:?}"),
            }
            assert_eq!(files.add(1, 1).await.unwrap(), 2);
        });
    }
}

/// Fails where what another serializer has met is taken for what this one has.
#[test]
fn what_fails_by_itself_is_not_blamed_on_a_descriptor_that_failed_elsewhere() {
    #[derive(Deserialize, Schema)]
    #[postcard(crate = adjoin::postcard_schema)]
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("stubborn"))
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let descriptor = Descriptor::from(OwnedFd::from(File::open("/dev/null").unwrap()));
        assert!(postcard::to_extend(&descriptor, Vec::new()).is_err());
        let (tx, _rx) = channel::<Stubborn>();
        let refused = tx.send(Stubborn).await.unwrap_err();
        assert!(matches!(refused, SendError::Refused(Refusal::Serialize(_))), "{refused:?}");
    });
}

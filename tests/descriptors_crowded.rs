//! What a user's processes have passed to each other and nobody has received, the system counts together: when it takes no
//! more, messages with descriptors wait, and nothing else does.
//!
//! One test at a time: they use up what the user may have under way.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use adjoin::{CallError, Options, Refusal, Settings};
use common::{
    links::{Kind, link},
    watchdog::Watchdog,
};
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
        sendmsg,
    },
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

#[adjoin::service]
trait Files {
    async fn take(&self, all: Vec<OwnedFd>) -> u32;
    async fn give(&self) -> OwnedFd;
    async fn add(&self, a: u32, b: u32) -> u32;
}

struct Plain;

impl Files for Plain {
    async fn take(&self, all: Vec<OwnedFd>) -> u32 {
        all.len() as u32
    }

    async fn give(&self) -> OwnedFd {
        null()
    }

    async fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// As many descriptors as this user may have under way, in a socket that nobody reads.
struct Crowd {
    near: UnixStream,
    far: UnixStream,
}

impl Crowd {
    fn new() -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        Crowd { near, far }
    }

    /// Passes more descriptors than may be under way: what others of this user receive meanwhile makes no room.
    fn fill(&self) {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }).unwrap();
        let passed = null();
        let rights = [passed.as_fd(); 250];
        for _ in 0..4 {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            sendmsg(&self.near, &[IoSlice::new(&[0])], &mut ancillary, flags).unwrap();
        }
        setrlimit(Resource::Nofile, before).unwrap();
    }

    /// Receives them.
    fn clear(&self) {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let read = recvmsg(&self.far, &mut [IoSliceMut::new(&mut [0; 64])], &mut ancillary, flags);
            if read.is_err() {
                return; // what came is closed with the buffer
            }
        }
    }
}

/// Runs a test alone, on a thread that has no privileges and may have few descriptors open, for each kind of link.
fn alone(settings: &Settings, test: impl AsyncFn(FilesClient, Crowd) + Copy + Send + Sync) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _hang = Watchdog::seconds(60);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..before }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
                .unwrap();
            for kind in [Kind::Uds, Kind::ShmPath] {
                println!("{kind:?}");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let options = || Options::new().settings(settings.clone());
                    let serving = options().serve(FilesDispatcher::new(Plain));
                    let (near, _far) = link(kind, options(), serving).await;
                    test(FilesClient::new(&near), Crowd::new()).await;
                });
            }
        });
    });
    setrlimit(Resource::Nofile, before).unwrap();
}

/// Patient beyond the watchdog.
fn patient() -> Settings {
    Settings::default().descriptor_timeout(Duration::from_secs(1000))
}

fn impatient() -> Settings {
    Settings::default().descriptor_timeout(Duration::from_millis(50))
}

#[test]
fn a_call_waits_until_descriptors_are_passed_again_and_the_others_do_not() {
    alone(&patient(), async |files, crowd| {
        crowd.fill();
        let waits = tokio::spawn(files.take(vec![null(), null()]).into_future());
        for number in 0..100 {
            assert_eq!(files.add(number, 1).await.unwrap(), number + 1);
        }
        assert!(!waits.is_finished());
        crowd.clear();
        assert_eq!(waits.await.unwrap().unwrap(), 2);
    });
}

#[test]
fn an_answer_waits_until_descriptors_are_passed_again_and_the_others_do_not() {
    alone(&patient(), async |files, crowd| {
        crowd.fill();
        let waits = tokio::spawn(files.give().into_future());
        for number in 0..100 {
            assert_eq!(files.add(number, 1).await.unwrap(), number + 1);
        }
        assert!(!waits.is_finished());
        crowd.clear();
        waits.await.unwrap().unwrap();
    });
}

#[test]
fn a_call_and_an_answer_that_have_waited_for_long_enough_are_refused_by_the_limit() {
    alone(&impatient(), async |files, crowd| {
        crowd.fill();
        let refused = files.take(vec![null()]).await.unwrap_err();
        let CallError::Refused(refusal @ Refusal::DescriptorsCrowded { limit: 200, .. }) = refused else {
            panic!("{refused}")
        };
        let says = refusal.to_string();
        assert!(says.contains("RLIMIT_NOFILE") && says.contains("Settings::descriptor_timeout"), "{says}");
        let Err(CallError::Unanswered { reason }) = files.give().await else { panic!("an answer") };
        assert_eq!(reason, says);
        assert_eq!(files.add(1, 2).await.unwrap(), 3);
        crowd.clear();
        assert_eq!(files.take(vec![null()]).await.unwrap(), 1);
        files.give().await.unwrap();
    });
}

#[test]
fn a_call_that_waits_is_over_with_its_own_time_or_when_it_is_dropped() {
    alone(&patient(), async |files, crowd| {
        crowd.fill();
        let timed = files.take(vec![null()]).with_timeout(Duration::from_millis(30)).await;
        assert!(matches!(timed, Err(CallError::TimedOut { .. })), "{timed:?}");
        let dropped = tokio::spawn(files.take(vec![null()]).into_future());
        tokio::time::sleep(Duration::from_millis(20)).await;
        dropped.abort();
        crowd.clear();
        assert_eq!(files.take(vec![null()]).await.unwrap(), 1);
    });
}

//! Thousands of descriptors cross, in calls that succeed and in calls that fail at every point, and neither side has one
//! more open afterwards. Alone in its process, which counts.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env,
    fs::File,
    future::Future,
    os::fd::OwnedFd,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use adjoin::{CallError, Options};
use common::{
    counts::Counts,
    links::{Kind, cell_command, link},
    watchdog::Watchdog,
};

#[adjoin::service]
trait Files {
    async fn take(&self, all: Vec<OwnedFd>) -> u32;
    async fn back(&self, to: OwnedFd) -> OwnedFd;
    async fn open(&self, count: u32) -> Result<Vec<OwnedFd>, String>;
    async fn refuse(&self, to: OwnedFd) -> Result<OwnedFd, String>;
    async fn panics(&self, to: OwnedFd);
    async fn hang(&self, to: OwnedFd);
    #[adjoin(id = 0x1001)]
    async fn misread(&self, to: OwnedFd) -> OwnedFd;
    /// How many descriptors this process has open.
    async fn holds(&self) -> u64;
}

/// What the service does not know, or knows otherwise.
mod other {
    use super::*;

    #[adjoin::service]
    pub(super) trait Other {
        /// More descriptors than the service looks for.
        #[adjoin(id = 0x1001)]
        async fn misread(&self, one: OwnedFd, two: OwnedFd, three: OwnedFd) -> OwnedFd;
        #[adjoin(id = 0x1002)]
        async fn unknown(&self, to: OwnedFd);
    }
}

struct Plain;

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

impl Files for Plain {
    async fn take(&self, all: Vec<OwnedFd>) -> u32 {
        all.len() as u32
    }

    async fn back(&self, to: OwnedFd) -> OwnedFd {
        to
    }

    async fn open(&self, count: u32) -> Result<Vec<OwnedFd>, String> {
        Ok((0..count).map(|_| null()).collect())
    }

    async fn refuse(&self, to: OwnedFd) -> Result<OwnedFd, String> {
        drop(to);
        Err("no".into())
    }

    async fn panics(&self, _to: OwnedFd) {
        panic!("on purpose: a handler that panics");
    }

    async fn hang(&self, _to: OwnedFd) {
        std::future::pending().await
    }

    async fn misread(&self, to: OwnedFd) -> OwnedFd {
        to
    }

    async fn holds(&self) -> u64 {
        Counts::now().descriptors as u64
    }
}

fn serving() -> Options {
    // Panics are on purpose: their backtraces would take most of the time.
    std::panic::set_hook(Box::new(|_| {}));
    Options::new().serve(FilesDispatcher::new(Plain))
}

#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// Set to the number of transfers on each link, where it is to be more.
const TRANSFERS: &str = "ADJOIN_DESCRIPTOR_TRANSFERS";

/// Transfers on each link: enough that one leak in a hundred is seen.
const FEW: usize = 3000;

fn transfers() -> usize {
    env::var(TRANSFERS).ok().and_then(|transfers| transfers.parse().ok()).unwrap_or(FEW)
}

/// Polls a call once, and drops it: its request is sent, or waits for room.
fn begin_and_drop<F: Future>(call: F) {
    let polled = pin!(call).poll(&mut Context::from_waker(Waker::noop()));
    drop(polled);
}

/// One call of each kind. Returns how many descriptors crossed, or would have.
async fn one_of_each(files: &FilesClient, round: usize) -> usize {
    let other = other::OtherClient::new(files.caller());
    assert_eq!(files.take((0..5).map(|_| null()).collect()).await.unwrap(), 5);
    drop(files.back(null()).await.unwrap());
    assert_eq!(files.open(4).await.unwrap().len(), 4);
    assert!(matches!(files.refuse(null()).await, Err(CallError::User(_))));
    assert!(matches!(other.unknown(null()).await, Err(CallError::UnknownMethod)));
    assert!(matches!(other.misread(null(), null(), null()).await, Err(CallError::InvalidPayload)));
    // Dropped before it began; as it began; while its answer, which carries one, is on its way.
    drop(files.back(null()));
    begin_and_drop(files.hang(null()));
    begin_and_drop(files.back(null()));
    begin_and_drop(files.open(3));
    // Refused here.
    assert!(matches!(files.take((0..65).map(|_| null()).collect()).await, Err(CallError::Refused(_))));
    if round.is_multiple_of(16) {
        assert!(matches!(files.panics(null()).await, Err(CallError::Cancelled)));
        let timed = files.hang(null()).with_timeout(Duration::from_millis(3)).await;
        assert!(matches!(timed, Err(CallError::TimedOut { .. })));
        let running = tokio::spawn(files.hang(null()));
        tokio::task::yield_now().await;
        running.abort();
    }
    5 + 2 + 4 + 1 + 1 + 3 + 1 + 2 + 3
}

/// Waits until the far side has no more open than it had. The watchdog bounds the wait.
async fn far_settles(files: &FilesClient, before: u64) {
    while files.holds().await.unwrap() > before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn descriptors_that_cross_leave_nothing_behind(kind: Kind) {
    let _hang = Watchdog::seconds(600);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, _far) = link(kind, Options::new(), serving()).await;
        let files = FilesClient::new(&connection);
        let (before, far_before) = (Counts::now(), files.holds().await.unwrap());
        let (mut crossed, mut round) = (0, 0);
        while crossed < transfers() {
            round += 1;
            crossed += one_of_each(&files, round).await;
        }
        Counts { threads: usize::MAX, ..before }.settle().await;
        far_settles(&files, far_before).await;
        println!("{kind:?}: {crossed} descriptors in {round} rounds");
    });
}

/// Cells that are killed with descriptors in their hands and on their way. Counted here: what they had went with them.
#[test]
fn cells_that_are_killed_leave_no_descriptors_here() {
    let _alone = alone();
    let _hang = Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut before = None;
        for round in 0..transfers().div_ceil(500) + 1 {
            let cell = adjoin::spawn(cell_command(), Options::new()).await.unwrap();
            let files = FilesClient::new(cell.connection());
            let mut calls = Vec::new();
            for _ in 0..100 {
                let (hangs, comes_back) = (files.clone(), files.clone());
                calls.push(tokio::spawn(async move { hangs.hang(null()).await }));
                // Until the end of the link, which is in the middle of one.
                calls.push(tokio::spawn(async move {
                    loop {
                        drop(comes_back.back(null()).await?);
                    }
                }));
            }
            files.holds().await.unwrap();
            let pid = rustix::process::Pid::from_raw(i32::try_from(cell.id()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            for call in calls {
                let ended: Result<(), _> = call.await.unwrap();
                assert!(matches!(ended, Err(CallError::Ended(_))), "{ended:?}");
            }
            drop((files, cell));
            match before {
                None => before = Some(Counts::now()),
                Some(before) => Counts { threads: usize::MAX, ..before }.settle().await,
            }
            println!("round {round}");
        }
    });
}

macro_rules! on_links {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { let _alone = super::alone(); super::$name(super::Kind::Local); })* }
        mod uds { $(#[test] fn $name() { let _alone = super::alone(); super::$name(super::Kind::Uds); })* }
        mod shm { $(#[test] fn $name() { let _alone = super::alone(); super::$name(super::Kind::Shm); })* }
        mod proxied {
            $(#[test] fn $name() {
                let _alone = super::alone();
                super::$name(super::Kind::Proxied(&[super::Kind::Uds, super::Kind::Shm]));
            })*
        }
    };
}

on_links! { descriptors_that_cross_leave_nothing_behind }

/// One test at a time: they count what the process holds.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

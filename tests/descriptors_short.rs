//! A host that is short of descriptors, and cells whose own take their time to close: what a cell passes is bounded here, and
//! no thread of the host's runtime waits for it.
//!
//! One test at a time, alone in their process: they count what it holds, and change its limits.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use adjoin::{CallError, Connection, Context, Descriptor, LinkEnd, Options, Settings};
use common::{
    counts::Counts,
    limited::Limited,
    links::{Far, Kind, link},
    watchdog::Watchdog,
};

/// What the cell serves.
#[adjoin::service]
trait Files {
    /// So many that are closed at once.
    async fn give(&self, plain: u32) -> Vec<OwnedFd>;
    /// One of those, and one that is not, unless it is closed here after some time.
    async fn give_lingering(&self) -> Vec<OwnedFd>;
    /// Has the host close one that is not closed at once. Then calls what it does not serve, so often, with one that is.
    async fn flood(&self, calls: u32);
    async fn add(&self, a: u32, b: u32) -> u32;
    /// As `flood`. Then says goodbye; the process is gone some time after it.
    async fn flood_and_leave(&self, calls: u32);
}

/// What the host serves.
#[adjoin::service]
trait Back {
    /// Keeps one.
    async fn keep(&self, one: Descriptor);
    /// Drops it.
    async fn let_go(&self);
}

#[derive(Default)]
struct Host(Mutex<Option<Descriptor>>);

impl Back for Host {
    async fn keep(&self, one: Descriptor) {
        *self.0.lock().unwrap() = Some(one);
    }

    async fn let_go(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// What nobody serves.
mod missing {
    use std::os::fd::OwnedFd;

    #[adjoin::service]
    pub trait Missing {
        async fn take(&self, one: OwnedFd);
    }
}

struct Cell;

impl Files for Cell {
    async fn give(&self, plain: u32) -> Vec<OwnedFd> {
        (0..plain).map(|_| null()).collect()
    }

    async fn give_lingering(&self) -> Vec<OwnedFd> {
        let socket = lingering();
        let kept = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(kept); // if the host was faster, it is this that takes its time
        });
        vec![null(), socket]
    }

    async fn flood(&self, calls: u32) {
        flood(Context::current().unwrap().connection(), calls).await;
    }

    async fn flood_and_leave(&self, calls: u32) {
        let context = Context::current().unwrap();
        flood(context.connection(), calls).await;
        context.connection().close().await;
    }

    async fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
}

async fn flood(connection: &Connection, calls: u32) {
    let host = BackClient::new(connection);
    host.keep(lingering().into()).await.unwrap();
    host.let_go().await.unwrap();
    let missing = missing::MissingClient::new(connection);
    for _ in 0..calls {
        let mut call = Box::pin(missing.take(null()).into_future());
        // Sent when it is polled first.
        std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        tokio::spawn(call);
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// A socket whose last close waits for two minutes, or until this process is gone: what it has to send, nobody takes.
fn lingering() -> OwnedFd {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::mem::forget(listener.accept().unwrap().0);
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(120))).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[7; 64 << 10]).is_ok() {}
    socket.into()
}

#[test]
fn cell_entry() {
    if std::env::var_os("ADJOIN_LINK").is_none() {
        return;
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(
        async {
            let host = adjoin::cell(Options::new().serve(FilesDispatcher::new(Cell))).await.unwrap();
            host.closed().await;
        },
    );
    std::thread::sleep(Duration::from_millis(200)); // what lingers ends with the process
    std::process::exit(0);
}

async fn cell(settings: Settings) -> (FilesClient, Connection, Far) {
    let far = Options::new(); // the cell has options of its own
    let (near, far) =
        link(Kind::Shm, Options::new().settings(settings).serve(BackDispatcher::new(Host::default())), far)
            .await;
    (FilesClient::new(&near), near, far)
}

/// Runs a test on a runtime of one thread, and waits until nothing of it is open.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _hang = Watchdog::seconds(60);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let before = Counts::now();
        test.await;
        Counts { threads: usize::MAX, ..before }.settle().await;
    });
}

/// Fails (hangs) where the system lets go, in the call that receives, of what this process may not have.
#[test]
fn what_a_host_may_not_have_and_takes_its_time_to_close_holds_up_nobody() {
    alone(async {
        let (held_up, _, _far) = cell(Settings::default()).await;
        let (other, _, _other) = cell(Settings::default()).await;
        let limited = Limited::to(1);
        let given = tokio::spawn(held_up.give_lingering().into_future());
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(200)); // nothing is received before the cell has closed what is its own
        let why = given.await.unwrap().map(std::mem::forget).unwrap_err();
        drop(limited);
        assert!(matches!(why, CallError::Unanswered { .. }), "{why:?}");
        assert!(why.to_string().contains("RLIMIT_NOFILE"), "{why}");
        for number in 0..10 {
            assert_eq!(held_up.add(number, 1).await.unwrap(), number + 1);
            assert_eq!(other.add(number, 1).await.unwrap(), number + 1);
        }
    });
}

/// What a host may not have is taken out of the way, and what comes behind it is taken.
#[test]
fn a_host_that_was_short_of_descriptors_gets_the_next_ones() {
    alone(async {
        let (files, _, _far) = cell(Settings::default()).await;
        for _ in 0..3 {
            let limited = Limited::to(0);
            let given = files.give(3).await;
            drop(limited);
            assert!(given.is_err());
            assert_eq!(files.give(3).await.unwrap().len(), 3);
        }
    });
}

/// Fails where descriptors are taken in while others wait to be closed.
#[test]
fn a_cell_cannot_have_its_host_run_out_of_descriptors() {
    alone(async {
        let (files, link, _far) = cell(Settings::default().max_held_descriptors(8)).await;
        let (other, _, _other) = cell(Settings::default()).await;
        let before = Counts::now().descriptors;
        tokio::spawn(files.flood(200).into_future()); // whose answer may come behind what is held up
        let mut most = 0;
        let end = loop {
            most = most.max(Counts::now().descriptors);
            assert_eq!(other.add(1, 1).await.unwrap(), 2);
            if let Ok(end) = tokio::time::timeout(Duration::from_millis(1), link.closed()).await {
                break end;
            }
        };
        assert!(matches!(end, LinkEnd::Unclosed { waiting: 9, limit: 8 }), "{end:?}");
        assert!((before + 9..before + 13).contains(&most), "{most} were open, {before} before");
    });
}

/// Fails where what is held up is taken for nothing when the peer is gone: what it has said last is lost.
#[test]
fn what_a_cell_says_last_arrives_also_behind_what_is_held_up() {
    alone(async {
        let (files, link, _far) = cell(Settings::default().max_held_descriptors(8)).await;
        let leaves = tokio::spawn(files.flood_and_leave(12).into_future());
        let end = link.closed().await;
        assert!(matches!(end, LinkEnd::Goodbye { .. }), "{end:?}");
        assert!(leaves.await.unwrap().is_err());
    });
}

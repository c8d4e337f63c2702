//! Cells that are kept running: started once for all, again after a crash, stopped when idle, and gone with their host.
//!
//! `ADJOIN_CELLS` is how many cells a host has at once; 20 in debug, 200 with `--release`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod idle;
mod many;
mod output;
mod starting;
mod stopping;

use std::{
    env, fs,
    future::Future,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use adjoin::{
    Options,
    reconnect::Backoff,
    supervise::{Builder, State, Supervised},
};
use common::{links::cell_command, watchdog::Watchdog};
use tempfile::TempDir;

#[adjoin::service]
trait Worker {
    #[adjoin(idempotent)]
    async fn id(&self) -> u32;
    async fn exit(&self, code: i32);
    async fn hang(&self);
    #[adjoin(idempotent)]
    async fn hang_again(&self);
    /// Closes the link from its side, and goes on all the same.
    async fn leave(&self);
    /// Does not come to its end when it is told to.
    async fn be_stubborn(&self);
    async fn write(&self, to_stderr: bool, bytes: Vec<u8>);
    /// Starts a process that knows nothing of adjoin.
    async fn have_child(&self) -> u32;
    /// Writes to its stderr from now on, as fast as that is read.
    async fn flood(&self);
    /// Calls its host from now on, so many times, while no call of the host's is open.
    async fn call_back(&self, times: u32);
    async fn double(&self, number: u32) -> u32;
}

/// What a host serves to its cell.
#[adjoin::service]
trait Host {
    async fn count(&self);
}

struct Works;

impl Worker for Works {
    async fn id(&self) -> u32 {
        std::process::id()
    }

    async fn exit(&self, code: i32) {
        std::process::exit(code);
    }

    async fn hang(&self) {
        std::future::pending::<()>().await;
    }

    async fn hang_again(&self) {
        std::future::pending::<()>().await;
    }

    async fn leave(&self) {
        self.be_stubborn().await;
        let connection = adjoin::Context::current().unwrap().connection().clone();
        tokio::spawn(async move { connection.close().await });
    }

    async fn be_stubborn(&self) {
        STUBBORN.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    async fn write(&self, to_stderr: bool, bytes: Vec<u8>) {
        use std::io::Write;
        if to_stderr {
            std::io::stderr().write_all(&bytes).unwrap();
        } else {
            std::io::stdout().write_all(&bytes).unwrap();
            std::io::stdout().flush().unwrap();
        }
    }

    async fn have_child(&self) -> u32 {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap().id()
    }

    async fn flood(&self) {
        for _ in 0..4 {
            // Each by a file of its own, since a standard stream is locked while it waits.
            let mut pipe = fs::OpenOptions::new().write(true).open("/proc/self/fd/2").unwrap();
            std::thread::spawn(move || {
                use std::io::Write;
                while pipe.write_all(&[b'x'; 64 << 10]).is_ok() {}
            });
        }
    }

    async fn call_back(&self, times: u32) {
        let host = HostClient::new(adjoin::Context::current().unwrap().connection());
        tokio::spawn(async move {
            for _ in 0..times {
                tokio::time::sleep(Duration::from_millis(2)).await;
                host.count().await.unwrap();
            }
        });
    }

    async fn double(&self, number: u32) -> u32 {
        2 * number
    }
}

static STUBBORN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[test]
fn cell_entry() {
    if let Some(log) = env::var_os("ADJOIN_TEST_STARTS") {
        // What is appended at once is not mixed with what others write.
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        file.write_all(b"started\n").unwrap();
    }
    if env::var_os("ADJOIN_TEST_CRASHES").is_some() {
        eprintln!("no way");
        std::process::exit(7);
    }
    if env::var_os("ADJOIN_TEST_STUCK").is_some() {
        loop {
            std::thread::park();
        }
    }
    if env::var_os("ADJOIN_LINK").is_none() {
        return;
    }
    let leaves = env::var_os("ADJOIN_TEST_LEAVES").is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = adjoin::cell(Options::new().serve(WorkerDispatcher::new(Works))).await.unwrap();
        if leaves {
            host.close().await;
        }
        host.closed().await;
    });
    if leaves {
        std::process::exit(9);
    }
    while STUBBORN.load(std::sync::atomic::Ordering::Relaxed) {
        std::thread::park();
    }
    std::process::exit(0);
}

fn run<F: Future<Output = ()>>(case: F) {
    let _hang = Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case);
}

fn quick() -> Backoff {
    Backoff::default().initial(Duration::from_millis(1)).max(Duration::from_millis(5))
}

struct Rig {
    folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        Rig { folder: TempDir::new().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    fn builder(&self) -> Builder {
        self.builder_with(|_| ())
    }

    fn builder_with(&self, change: impl Fn(&mut Command) + Send + Sync + 'static) -> Builder {
        let log = self.log();
        let command = move || {
            let mut command = cell_command();
            command.env("ADJOIN_TEST_STARTS", &log);
            change(&mut command);
            command
        };
        Supervised::builder("worker", command).backoff(quick())
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.log()).unwrap_or_default().lines().count()
    }
}

fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with(['Z', 'X']))
}

async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_cell_is_started_once_for_all_that_call_first() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().build();
        assert_eq!((cell.state(), rig.starts()), (State::Idle, 0), "nobody has called");
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let worker = WorkerClient::new(&cell);
                tokio::spawn(async move { worker.id().await.unwrap() })
            })
            .collect();
        for call in calls {
            let process = call.await.unwrap();
            assert_eq!(cell.state(), State::Serving { process });
        }
        assert_eq!((rig.starts(), cell.starts()), (1, 1));
    });
}

#[test]
fn a_cell_that_crashes_is_started_again_and_errors_name_it() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().build();
        let worker = WorkerClient::new(&cell);
        let first = worker.id().await.unwrap();
        let error = worker.exit(3).await.unwrap_err();
        let told = "the cell `worker` ended, and whether the call ran is unknown: the peer's process exited with code 3";
        assert_eq!(error.to_string(), told);
        until(|| matches!(cell.state(), State::Ended { .. })).await;
        let second = worker.id().await.unwrap();
        assert_ne!(first, second);
        until(|| !is_alive(first)).await;
        assert_eq!(cell.starts(), 2);
    });
}

#[test]
fn a_cell_that_cannot_start_fails_its_callers_with_its_last_words() {
    run(async {
        let rig = Rig::new();
        let crashes = |command: &mut Command| {
            command.env("ADJOIN_TEST_CRASHES", "1");
        };
        let cell =
            rig.builder_with(crashes).start_attempts(2).max_restarts(3, Duration::from_secs(600)).build();
        let worker = WorkerClient::new(&cell);
        let error = worker.double(1).await.unwrap_err().to_string();
        assert!(
            error.contains("the cell `worker` ended before it served") && error.contains("no way"),
            "{error}"
        );
        assert_eq!(rig.starts(), 2);
        let State::Ended { why } = cell.state() else { panic!("{:?}", cell.state()) };
        assert!(why.contains("exit status: 7"), "{why}");
        // Four ends are one too many.
        worker.double(1).await.unwrap_err();
        let error = worker.double(1).await.unwrap_err().to_string();
        assert!(
            error.contains("the cell `worker`: it ended 4 times within 600s, more than 3; the last time"),
            "{error}"
        );
        assert_eq!(rig.starts(), 4, "it is not even tried");
    });
}

#[test]
fn an_idle_cell_is_stopped_and_started_again_and_a_busy_one_is_not() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().idle_stop(Duration::from_millis(100)).build();
        let worker = WorkerClient::new(&cell);
        let first = worker.id().await.unwrap();
        let hanging = {
            let worker = worker.clone();
            tokio::spawn(async move { worker.hang().await })
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(cell.state(), State::Serving { process: first }, "a call is open");
        hanging.abort();
        until(|| cell.state() == State::Idle).await;
        until(|| !is_alive(first)).await;
        // Calls that come just when it is stopped are neither lost nor failed.
        for round in 0..30 {
            assert_eq!(worker.double(round).await.unwrap(), 2 * round);
            tokio::time::sleep(Duration::from_millis(80 + u64::from(round))).await;
        }
        assert!(rig.starts() > 1);
    });
}

#[test]
fn a_cell_is_stopped_gently_and_a_stubborn_one_is_killed() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().stop_grace(Duration::from_millis(200)).build();
        let worker = WorkerClient::new(&cell);
        for stubborn in [false, true] {
            let process = worker.id().await.unwrap();
            if stubborn {
                worker.be_stubborn().await.unwrap();
            }
            cell.stop(Duration::from_secs(10)).await;
            assert!(!is_alive(process), "it has ended by then");
            assert_eq!(cell.state(), State::Idle);
        }
        // A stop waits for the calls that are open; who calls meanwhile gets another process.
        let process = worker.id().await.unwrap();
        let hanging = {
            let worker = worker.clone();
            tokio::spawn(async move { worker.hang().await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (stopping, later) = (cell.clone(), worker.clone());
        let stop = tokio::spawn(async move { stopping.stop(Duration::from_millis(200)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_ne!(later.id().await.unwrap(), process);
        stop.await.unwrap();
        assert!(hanging.await.unwrap().is_err());
        cell.close(Duration::ZERO).await;
        assert_eq!(cell.state(), State::Closed);
        let error = worker.id().await.unwrap_err().to_string();
        assert!(error.contains("the cell `worker`: it was closed"), "{error}");
    });
}

#[test]
fn what_a_cell_has_started_ends_with_it_however_it_ends() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().build();
        let worker = WorkerClient::new(&cell);
        for way in ["exit", "kill", "stop", "drop"] {
            let (process, child) = (worker.id().await.unwrap(), worker.have_child().await.unwrap());
            assert!(is_alive(child));
            match way {
                "exit" => drop(worker.exit(0).await),
                "kill" => cell.kill(),
                "stop" => cell.stop(Duration::ZERO).await,
                _ => cell.close(Duration::ZERO).await,
            }
            until(|| !is_alive(process) && !is_alive(child)).await;
        }
    });
}

#[test]
fn a_cell_dropped_while_it_starts_leaves_no_process() {
    run(async {
        let rig = Rig::new();
        let stuck = || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo $$ >> \"$ADJOIN_TEST_STARTS\"; sleep 1000 & wait"]);
            command
        };
        let log = rig.log();
        let cell = Supervised::builder("stuck", move || {
            let mut command = stuck();
            command.env("ADJOIN_TEST_STARTS", &log);
            command
        })
        .build();
        let worker = WorkerClient::new(&cell);
        let calling = tokio::spawn(async move { worker.id().await });
        until(|| rig.starts() == 1).await;
        let process: u32 = fs::read_to_string(rig.log()).unwrap().trim().parse().unwrap();
        calling.abort();
        cell.close(Duration::ZERO).await;
        drop(cell);
        until(|| !is_alive(process)).await;
    });
}

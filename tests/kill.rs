//! A peer that dies by SIGKILL, with calls and streams of every kind in flight.
//!
//! The times are printed, not asserted: run with `--nocapture` to see them.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use adjoin::{CallError, Connection, LinkEnd, Options, RecvError, SendError};
use common::{
    counts::Counts,
    links::{cell_command, serve_if_cell, settings},
    suite::{SuiteClient, SuiteDispatcher, SuiteService, until_passed},
    watchdog::Watchdog,
};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 200;
const ROLE: &str = "ADJOIN_TEST_ROLE";

#[test]
fn cell_entry() {
    if env::var_os(ROLE).is_none() {
        serve_if_cell();
    }
}

/// A clock that all processes of the machine share, in nanoseconds.
fn clock() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// One test at a time: they count what the process holds.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Everything that can wait on a link, waiting.
struct InFlight {
    calls: Vec<tokio::task::JoinHandle<(LinkEnd, i64)>>,
    blocked: thread::JoinHandle<(LinkEnd, i64)>,
}

fn end_of<T: std::fmt::Debug>(result: Result<T, CallError>) -> (LinkEnd, i64) {
    match result {
        Err(CallError::Ended(end)) => (end, clock()),
        other => panic!("the call ended otherwise: {other:?}"),
    }
}

impl InFlight {
    async fn start(connection: &Connection) -> Self {
        let suite = SuiteClient::new(connection);
        let mut calls = Vec::new();
        for _ in 0..3 {
            let suite = suite.clone();
            calls.push(tokio::spawn(async move { end_of(suite.hang().await) }));
        }
        // A stream that we read, one that we write as fast as it goes, and one that waits for credit.
        let mut poured = suite.pour(1000, u32::MAX).await.unwrap();
        poured.recv().await.unwrap();
        calls.push(tokio::spawn(async move {
            loop {
                match poured.recv().await {
                    Ok(Some(_)) => {}
                    Err(RecvError::Ended(end)) => return (end, clock()),
                    other => panic!("the stream ended otherwise: {other:?}"),
                }
            }
        }));
        for greedy in [true, false] {
            let (tx, rx) = adjoin::channel();
            let call = suite.clone();
            calls.push(tokio::spawn(async move {
                let result = if greedy { call.swallow(rx).await.map(drop) } else { call.ignore(rx).await };
                end_of(result)
            }));
            until_passed(&tx).await;
            calls.push(tokio::spawn(async move {
                loop {
                    match tx.send(vec![1; 1000]).await {
                        Ok(()) => {}
                        Err(SendError::Ended(end)) => return (end, clock()),
                        Err(other) => panic!("the stream ended otherwise: {other:?}"),
                    }
                }
            }));
        }
        let blocked = thread::spawn({
            let suite = suite.clone();
            move || end_of(suite.hang().block())
        });
        for number in 0..20 {
            assert_eq!(suite.add(number, 1).await.unwrap(), number + 1);
        }
        InFlight { calls, blocked }
    }

    /// How each ended, and when the last one did.
    async fn ended(self) -> (Vec<LinkEnd>, i64) {
        let (mut ends, mut last) = (Vec::new(), 0);
        for call in self.calls {
            let (end, at) = call.await.unwrap();
            ends.push(end);
            last = last.max(at);
        }
        let (end, at) = tokio::task::spawn_blocking(|| self.blocked.join().unwrap()).await.unwrap();
        ends.push(end);
        (ends, last.max(at))
    }
}

fn report(what: &str, mut nanos: Vec<i64>) {
    nanos.sort_unstable();
    let ms = |nanos: i64| nanos as f64 / 1e6;
    println!(
        "{what}: all calls and streams failed after {:.2} ms (median), {:.2} ms (slowest of {})",
        ms(nanos[nanos.len() / 2]),
        ms(nanos[nanos.len() - 1]),
        nanos.len()
    );
}

#[test]
fn a_killed_cell_fails_all_that_its_host_has_in_flight() {
    let _hang = Watchdog::seconds(300);
    let _alone = ALONE.blocking_lock();
    runtime().block_on(async {
        // The runtime's own descriptors and threads exist after a first round.
        round_with_a_killed_cell().await;
        let before = Counts::now();
        let mut nanos = Vec::new();
        for _ in 0..ROUNDS {
            nanos.push(round_with_a_killed_cell().await);
            before.settle().await;
        }
        report("cell killed", nanos);
    });
}

async fn round_with_a_killed_cell() -> i64 {
    let options = Options::new().settings(settings());
    let cell = adjoin::spawn(cell_command(), options).await.unwrap();
    let in_flight = InFlight::start(cell.connection()).await;
    let killed = clock();
    cell.kill().unwrap();
    let (ends, last) = in_flight.ended().await;
    for end in ends {
        assert!(matches!(end, LinkEnd::Killed { signal: 9 }), "{end:?}");
    }
    assert!(matches!(cell.connection().closed().await, LinkEnd::Killed { signal: 9 }));
    assert!(cell.wait().await.is_ok_and(|status| !status.success()));
    last - killed
}

#[test]
fn a_killed_host_fails_all_that_its_cell_has_in_flight() {
    let _hang = Watchdog::seconds(300);
    let _alone = ALONE.blocking_lock();
    let mut nanos = Vec::new();
    for _ in 0..ROUNDS {
        nanos.push(round_with_a_killed_host());
    }
    report("host killed", nanos);
}

/// Starts a host, which starts a cell; kills the host; the cell says on the pipe that it inherited how it
/// went for it.
fn round_with_a_killed_host() -> i64 {
    let mut host = Command::new(env::current_exe().unwrap())
        .args(["--exact", "host_entry", "--nocapture", "--test-threads=1", "--quiet"])
        .env(ROLE, "host")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line == "in flight").expect("the cell gets going");
    let killed = clock();
    host.kill().unwrap();
    host.wait().unwrap();
    let last = lines.find_map(|line| line.strip_prefix("failed at ")?.parse::<i64>().ok()).unwrap();
    let clean = lines.find(|line| line == "clean");
    assert!(clean.is_some(), "the cell holds nothing of the link any more");
    // The cell has exited when the pipe ends.
    assert_eq!(lines.count(), 0);
    last - killed
}

/// Handles that are kept after the end hold nothing of the system: no segment, no descriptor.
#[test]
fn handles_that_outlive_their_link_hold_nothing() {
    let _hang = Watchdog::seconds(180);
    let _alone = ALONE.blocking_lock();
    runtime().block_on(async {
        round_with_a_killed_cell().await;
        let before = Counts::now();
        let cell = adjoin::spawn(cell_command(), Options::new().settings(settings())).await.unwrap();
        let suite = SuiteClient::new(cell.connection());
        let stream = suite.pour(10, 10).await.unwrap();
        let blocking = suite.clone();
        tokio::task::spawn_blocking(move || blocking.add(1, 2).block().unwrap()).await.unwrap();
        let connection = cell.connection().clone();
        cell.stop(Duration::from_secs(10)).await.unwrap();
        let threads = Counts::now().threads; // of the pool for blocking calls
        Counts { threads, ..before }.settle().await;
        drop((connection, suite, stream));
    });
}

#[test]
fn host_entry() {
    if env::var(ROLE).as_deref() != Ok("host") {
        return;
    }
    runtime().block_on(async {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "orphan_entry", "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(ROLE, "orphan");
        let options =
            Options::new().settings(settings()).serve(SuiteDispatcher::new(SuiteService::default()));
        // It looks, when its host is gone, at what it still has.
        let launch = adjoin::Launch::new(command).outlives_host(true);
        let cell = launch.spawn(options).await.unwrap();
        cell.connection().closed().await;
    });
}

#[test]
fn orphan_entry() {
    if env::var(ROLE).as_deref() != Ok("orphan") {
        return;
    }
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        tokio::task::spawn_blocking(|| ()).await.unwrap(); // its thread is there before we count
        let mut before = Counts::now();
        before.descriptors -= 1; // the link's socket, which was inherited
        let host = adjoin::cell(Options::new().settings(settings())).await.unwrap();
        let in_flight = InFlight::start(&host).await;
        println!("\nin flight");
        let (ends, last) = in_flight.ended().await;
        for end in ends {
            assert!(matches!(end, LinkEnd::Killed { signal: 9 }), "{end:?}");
        }
        println!("\nfailed at {last}");
        drop(host);
        tokio::time::timeout(Duration::from_secs(20), before.settle()).await.unwrap();
        println!("\nclean");
    });
    std::process::exit(0);
}

//! Peers that are stopped by SIGSTOP: bounded memory here, timeouts that work, and a keep-alive that decides.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env, fs,
    future::Future,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use adjoin::{CallError, Connection, LinkEnd, Options, Settings, TrySendError, channel, uds};
use common::{
    links::{calling, cell_command, serve_if_cell, settings},
    suite::{SuiteClient, SuiteDispatcher, SuiteService, resident_kib},
    watchdog::Watchdog,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[test]
fn cell_entry() {
    serve_if_cell();
}

const UDS: &str = "ADJOIN_TEST_UDS";
const HOST: &str = "ADJOIN_TEST_HOST";

/// Serves at a Unix socket.
#[test]
fn server_entry() {
    let Some(path) = env::var_os(UDS) else { return };
    run(async move {
        let listener = uds::listen(Path::new(&path)).unwrap();
        println!("listening");
        listener
            .serve(Options::new().settings(settings()).serve(SuiteDispatcher::new(SuiteService::default())))
            .await;
    });
}

fn run<F: Future<Output = ()>>(case: F) {
    let _hang = Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case);
}

fn signal(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal).unwrap();
}

enum Far {
    Cell(adjoin::Cell),
    Server { child: Child, connection: Connection, _folder: TempDir },
}

impl Far {
    async fn cell(settings: Settings) -> Far {
        Far::Cell(adjoin::spawn(cell_command(), calling().settings(settings)).await.unwrap())
    }

    async fn server(settings: Settings) -> Far {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.sock");
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "server_entry", "--nocapture", "--test-threads=1", "--quiet"])
            .env(UDS, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line == "listening"));
        std::thread::spawn(move || lines.count());
        let connection = uds::connect(&path, calling().settings(settings)).await.unwrap();
        Far::Server { child, connection, _folder: folder }
    }

    fn connection(&self) -> &Connection {
        match self {
            Far::Cell(cell) => cell.connection(),
            Far::Server { connection, .. } => connection,
        }
    }

    fn id(&self) -> u32 {
        match self {
            Far::Cell(cell) => cell.id(),
            Far::Server { child, .. } => child.id(),
        }
    }

    /// Stops it, all of its threads.
    fn freeze(&self) {
        signal(self.id(), Signal::STOP);
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with('T'))
        };
        let tasks = || fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().map(Result::unwrap);
        while !tasks().all(is_stopped) {
            std::thread::yield_now();
        }
    }

    fn thaw(&self) {
        signal(self.id(), Signal::CONT);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Far::Server { child, .. } = self {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Without a keep-alive the link waits, and goes on.
#[test]
fn a_frozen_peer_costs_bounded_memory_and_calls_time_out_and_it_goes_on() {
    run(async {
        for far in [Far::cell(settings()).await, Far::server(settings()).await] {
            let suite = SuiteClient::new(far.connection());
            assert_eq!(suite.add(1, 2).await.unwrap(), 3);
            far.freeze();
            let before = resident_kib();
            // More than any link holds, from many tasks, and a stream beside them.
            let (tx, rx) = channel::<Vec<u8>>();
            let streaming = suite.clone();
            let count = tokio::spawn(async move { streaming.swallow(rx).await });
            let mut calls = Vec::new();
            for _ in 0..200 {
                let suite = suite.clone();
                calls.push(tokio::spawn(async move {
                    suite.echo(vec![1; 100 << 10]).with_timeout(Duration::from_millis(300)).await
                }));
            }
            let mut sent = 0_u64;
            while sent < 100 << 20 {
                match tx.try_send(vec![2; 1000]) {
                    Ok(()) => sent += 1000,
                    Err(TrySendError::Full(_)) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            for call in calls {
                assert!(matches!(call.await.unwrap(), Err(CallError::TimedOut { .. })));
            }
            let grown = resident_kib().saturating_sub(before);
            assert!(grown < 100 << 10, "{grown} KiB");
            assert!(far.connection().end().is_none());
            far.thaw();
            assert_eq!(suite.add(3, 4).await.unwrap(), 7);
            drop(tx);
            assert_eq!(count.await.unwrap().unwrap(), sent);
        }
    });
}

#[test]
fn a_keep_alive_ends_the_link_of_a_frozen_peer_and_of_no_other() {
    run(async {
        let watchful = || settings().keep_alive(Duration::from_millis(50), Duration::from_millis(400));
        for far in [Far::cell(watchful()).await, Far::server(watchful()).await] {
            let suite = SuiteClient::new(far.connection());
            // Idle for long, and frozen for a little.
            tokio::time::sleep(Duration::from_millis(600)).await;
            far.freeze();
            tokio::time::sleep(Duration::from_millis(100)).await;
            far.thaw();
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(suite.add(1, 2).await.unwrap(), 3, "it lives");
            far.freeze();
            // With its ring full: nothing more can be asked.
            let calls: Vec<_> = (0..100)
                .map(|_| {
                    let suite = suite.clone();
                    tokio::spawn(async move { suite.echo(vec![1; 100 << 10]).await })
                })
                .collect();
            let end = far.connection().closed().await;
            assert!(matches!(end, LinkEnd::Silent { after } if after.as_millis() == 450), "{end:?}");
            let told = "the peer gave no sign of life for 450ms (Settings::keep_alive)";
            for call in calls {
                let failed = call.await.unwrap().map(|bytes| bytes.len());
                assert_eq!(failed.unwrap_err().to_string(), told);
            }
            far.thaw();
        }
    });
}

/// A host in a process of its own, which is stopped itself.
#[test]
fn host_entry() {
    if env::var_os(HOST).is_none() {
        return;
    }
    run(async {
        let watchful = settings().keep_alive(Duration::from_millis(20), Duration::from_millis(100));
        let cell = adjoin::spawn(cell_command(), calling().settings(watchful)).await.unwrap();
        let suite = SuiteClient::new(cell.connection());
        println!("runs");
        let stdin = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
        stdin.await.unwrap();
        assert_eq!(suite.add(1, 2).await.unwrap(), 3);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(cell.connection().end().is_none());
        println!("lives");
        cell.stop(Duration::from_secs(5)).await.unwrap();
    });
}

/// Fails where a step that took too long is counted.
#[test]
fn a_side_that_was_suspended_itself_does_not_blame_its_peer() {
    let _hang = Watchdog::seconds(60);
    let mut host = Command::new(env::current_exe().unwrap())
        .args(["--exact", "host_entry", "--nocapture", "--test-threads=1", "--quiet"])
        .env(HOST, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "runs"));
    for _ in 0..20 {
        signal(host.id(), Signal::STOP);
        std::thread::sleep(Duration::from_millis(150));
        signal(host.id(), Signal::CONT);
        std::thread::sleep(Duration::from_millis(7));
    }
    drop(host.stdin.take());
    assert!(lines.any(|line| line == "lives"));
    assert!(host.wait().unwrap().success());
}

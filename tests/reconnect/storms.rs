//! Servers that are restarted again and again, at random moments, under callers that go on.

use std::{
    fs,
    path::Path,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adjoin::{
    CallError, Deduplicate, Options,
    reconnect::{self, Builder, Reconnecting, RetryBudget},
};

use crate::{
    calls::on_two_threads,
    common::{links::Kind, watchdog::Watchdog},
    rig::{Server, State, TillClient, quick, server_command},
};

const CALLERS: usize = 6;

/// What callers were told.
#[derive(Default, Debug)]
struct Told {
    done: Vec<u64>,
    unknown: u64,
}

/// Calls that go on until they are told to stop.
struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Told>>,
}

impl Callers {
    fn start(client: &Reconnecting) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (till, stop) = (TillClient::new(client), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut told = Told::default();
                while !stop.load(Ordering::SeqCst) {
                    match till.once().await {
                        Ok(count) => told.done.push(count),
                        Err(CallError::OutcomeUnknown { .. }) => told.unknown += 1,
                        Err(other) => panic!("a caller was told something else: {other:?}"),
                    }
                }
                told
            })
        };
        let tasks = (0..CALLERS).map(call).collect();
        Callers { stop, tasks }
    }

    async fn told(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for task in self.tasks {
            let told = task.await.unwrap();
            all.done.extend(told.done);
            all.unknown += told.unknown;
        }
        all.done.sort_unstable();
        all
    }
}

impl Told {
    /// "The counter never exceeds what callers were told was sent, and no call reported as done is missing."
    fn check(&self, what: &str, count: u64) {
        let (done, unknown) = (self.done.len() as u64, self.unknown);
        println!("{what}: {done} done, {unknown} unknown, {count} counted");
        assert!(done <= count, "{} calls that were reported as done are missing", done - count);
        assert!(count <= done + unknown, "{} ran of which no caller knows", count - done - unknown);
    }

    /// There were calls that ended either way.
    fn check_stake(&self, calls: usize) {
        let unknown = usize::try_from(self.unknown).unwrap();
        assert!(unknown > 0 && !self.done.is_empty() && unknown + self.done.len() > calls);
    }

    /// No count was given to two callers, and none that was not reached.
    fn check_counts(&self, count: u64) {
        let mut distinct = self.done.clone();
        distinct.dedup();
        assert_eq!(distinct.len(), self.done.len());
        assert!(self.done.last().is_none_or(|last| *last <= count));
    }
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..4000))).await;
}

/// Half of the restarts come while connections are made, perhaps; the others when at least one call has run.
async fn restart(server: &mut Server) {
    if fastrand::bool() {
        let counted = server.state.count();
        while server.state.count() == counted {
            tokio::task::yield_now().await;
        }
    }
    a_moment().await;
    server.stop().await;
    if fastrand::bool() {
        a_moment().await;
    }
    server.restart().await;
}

#[test]
fn a_server_restarted_a_thousand_times_counts_no_call_that_its_caller_does_not_know_of() {
    let _hang = Watchdog::seconds(300);
    on_two_threads(async {
        for (kind, restarts) in [(Kind::Uds, 1000), (Kind::Tcp, 200)] {
            let mut server = Server::start(kind, State::dawdling()).await;
            let client = server.builder().build();
            let callers = Callers::start(&client);
            for _ in 0..restarts {
                restart(&mut server).await;
            }
            let told = callers.told().await;
            server.stop().await;
            server.quiet().await;
            told.check(&format!("{kind:?}, {restarts} restarts"), server.state.count());
            told.check_counts(server.state.count());
            told.check_stake(restarts / 4);
        }
    });
}

#[test]
fn a_server_restarted_a_thousand_times_that_deduplicates_runs_each_call_exactly_once() {
    let _hang = Watchdog::seconds(300);
    on_two_threads(async {
        let state = State::dawdling();
        let dispatcher = Deduplicate::new(state.dispatcher());
        let mut server = Server::start_with(Kind::Uds, state, dispatcher).await;
        let builder = server.builder().server_deduplicates().max_repeats(u32::MAX);
        let client = builder.budget(RetryBudget::default().ratio(100.0).capacity(100_000)).build();
        let callers = Callers::start(&client);
        for _ in 0..1000 {
            restart(&mut server).await;
        }
        let told = callers.told().await;
        server.stop().await;
        server.quiet().await;
        told.check("deduplicated", server.state.count());
        assert_eq!(told.unknown, 0);
        let all: Vec<_> = (1..=server.state.count()).collect();
        assert_eq!(told.done, all);
    });
}

/// Processes, killed by SIGKILL, that can be reached over a Unix socket, or find each other there. They count in a file.
#[test]
fn a_process_killed_again_and_again_counts_no_call_that_its_caller_does_not_know_of() {
    let _hang = Watchdog::seconds(300);
    on_two_threads(async {
        kill_a_process("uds", |path| Reconnecting::builder(reconnect::uds(path, Options::new())), &[]).await;
        #[cfg(target_os = "linux")]
        {
            let connect = |path: &Path| Reconnecting::builder(reconnect::shm(path, Options::new()));
            kill_a_process("shm by path", connect, &[crate::rig::SHARES]).await;
        }
    });
}

async fn kill_a_process(what: &str, connect: impl FnOnce(&Path) -> Builder, flags: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("till.sock"), folder.path().join("count"));
    let start = || {
        let mut command = server_command(Some(&socket), Some(&file));
        Reaped(command.envs(flags.iter().map(|flag| (flag, "yes"))).spawn().unwrap())
    };
    let mut server = start();
    let client = connect(&socket).backoff(quick()).build();
    let callers = Callers::start(&client);
    for _ in 0..40 {
        client.connection().await.unwrap();
        a_moment().await;
        drop(server);
        server = start();
    }
    client.connection().await.unwrap();
    let told = callers.told().await;
    drop(server);
    told.check(&format!("{what}, 40 kills"), counted(&file));
    told.check_stake(1);
}

/// A cell over shared memory, respawned by its connector. It counts in a file.
#[cfg(target_os = "linux")]
#[test]
fn a_cell_killed_again_and_again_counts_no_call_that_its_caller_does_not_know_of() {
    use adjoin::reconnect::State as Stand;
    use rustix::process::{Pid, Signal, kill_process};

    let _hang = Watchdog::seconds(300);
    on_two_threads(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("count");
        let command = {
            let file = file.clone();
            move || server_command(None, Some(&file))
        };
        let client = Reconnecting::builder(reconnect::cell(command, Options::new())).backoff(quick()).build();
        let callers = Callers::start(&client);
        let till = TillClient::new(&client);
        let mut pids = Vec::new();
        for _ in 0..40 {
            let pid = till.pid().await.unwrap();
            a_moment().await;
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
            pids.push(pid);
        }
        let told = callers.told().await;
        pids.push(till.pid().await.unwrap());
        let mut watch = client.watch();
        drop((client, till));
        assert_eq!(watch.changed().await, Some(Stand::Closed));
        // All are gone, and reaped.
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        told.check("cell, 40 kills", counted(&file));
        told.check_stake(1);
    });
}

fn counted(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}

/// A process that is killed and reaped when it is dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

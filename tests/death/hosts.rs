//! A host that is killed while its guests wait, each for something else.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use adjoin::{CallError, Connection, Launch, Options, Rx, SendError, Settings, Tx, channel};

use super::{Watchdog, cell_command, kills, run};

/// Tells a cell what to wait for.
pub(super) const WAITS: &str = "ADJOIN_TEST_WAITS";
const HOST: &str = "ADJOIN_TEST_HOST";

/// What guests wait for.
const KINDS: [&str; 3] = ["answers", "room", "credit"];

#[adjoin::service]
trait Host {
    async fn hang(&self);
    async fn never_reads(&self, input: Rx<Vec<u8>>);
    async fn swallow(&self, bytes: Vec<u8>);
    /// Stops this side from reading anything: the thread of its runtime sleeps.
    #[adjoin(inline)]
    async fn freeze(&self);
}

struct Hangs;

impl Host for Hangs {
    async fn hang(&self) {
        std::future::pending::<()>().await;
    }

    async fn never_reads(&self, input: Rx<Vec<u8>>) {
        let _kept = input;
        std::future::pending::<()>().await;
    }

    async fn swallow(&self, bytes: Vec<u8>) {
        drop(bytes);
    }

    async fn freeze(&self) {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Starts a guest for each kind of wait, and hangs.
pub(super) fn be_a_host() {
    if env::var_os(HOST).is_none() {
        return;
    }
    let threads: Vec<_> = KINDS
        .into_iter()
        .map(|kind| {
            // A runtime for each, since one of them is to stop.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut command = cell_command();
                    command.env(WAITS, kind).stdout(Stdio::inherit());
                    let settings = Settings::default().channel_slots(8);
                    let options = Options::new().settings(settings).serve(HostDispatcher::new(Hangs));
                    // They say how it went for them, however long that takes on a busy machine.
                    let launch = Launch::new(command).outlives_host(true);
                    let _cell = launch.spawn(options).await.unwrap();
                    std::future::pending::<()>().await;
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Says a line that is not mixed with what others say.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("says {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// A cell that waits, on plain threads and in tasks, and says how it went.
pub(super) fn wait_in_a_cell() {
    let kind = env::var(WAITS).unwrap();
    // Its stderr goes through the host, which is gone by then.
    std::panic::set_hook(Box::new(|panic| say(&panic.to_string().replace('\n', " "))));
    run(60, async move {
        let host = adjoin::cell(Options::new()).await.unwrap();
        match kind.as_str() {
            "answers" => for_answers(&host).await,
            "room" => for_room(&host).await,
            _ => for_credit(&host).await,
        }
        say("gone");
    });
}

fn told<T: std::fmt::Debug>(what: &str, ended: Result<T, impl std::fmt::Display>) {
    let error = ended.map_err(|error| error.to_string()).unwrap_err();
    assert_eq!(error, "the peer's process was killed by signal 9", "{what}");
}

async fn for_answers(host: &Connection) {
    let client = HostClient::new(host);
    let blocking = client.clone();
    let thread = std::thread::spawn(move || blocking.hang().block());
    let task = tokio::spawn(async move { client.hang().await });
    let closed = host.closed();
    say("waits");
    assert_eq!(closed.await.to_string(), "the peer's process was killed by signal 9");
    told("a blocked thread", thread.join().unwrap());
    told("a task", task.await.unwrap());
}

/// For room in the ring, and for a block of the arena.
async fn for_room(host: &Connection) {
    let client = HostClient::new(host);
    let frozen = tokio::spawn({
        let client = client.clone();
        async move { client.freeze().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let sizes = [100, 50 << 10, 3 << 20].into_iter().cycle().take(300);
    let calls: Vec<_> = sizes
        .map(|size| {
            let client = client.clone();
            tokio::spawn(async move { client.swallow(vec![1; size]).await })
        })
        .collect();
    let (blocking, connection) = (client.clone(), host.clone());
    let thread = std::thread::spawn(move || blocking.swallow(vec![1; 3 << 20]).block());
    // Loans until there is none, and one more.
    let lending = tokio::spawn(async move {
        let mut lent = Vec::new();
        loop {
            match connection.loan(20 << 20).await {
                Ok(loan) => lent.push(loan),
                Err(error) => return error.to_string(),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    say("waits");
    for call in calls {
        told("a call", call.await.unwrap());
    }
    told("a blocked thread", thread.join().unwrap());
    told("the frozen one", frozen.await.unwrap());
    assert_eq!(lending.await.unwrap(), "the peer's process was killed by signal 9", "a loan");
}

/// For credit, and for an entry of the table of channels.
async fn for_credit(host: &Connection) {
    let client = HostClient::new(host);
    let mut calls = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..8 {
        let (tx, rx) = channel::<Vec<u8>>();
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.never_reads(rx).await }));
        senders.push(tokio::spawn(async move { fill(tx).await }));
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    say("waits");
    for call in calls {
        let ended: Result<(), CallError> = call.await.unwrap();
        told("a call, or one that waits for a channel", ended);
    }
    for sender in senders {
        match sender.await.unwrap() {
            SendError::Ended(end) => assert_eq!(end.to_string(), "the peer's process was killed by signal 9"),
            SendError::Closed => {} // of a call that never had a channel
            error => panic!("{error:?}"),
        }
    }
}

async fn fill(tx: Tx<Vec<u8>>) -> SendError {
    loop {
        if let Err(error) = tx.send(vec![0; 1000]).await {
            return error;
        }
    }
}

#[test]
fn a_host_that_is_killed_wakes_all_that_its_guests_wait_for() {
    let kills = (kills() / 5).max(1);
    let _hang = Watchdog::seconds(60 + kills);
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        let mut host = Command::new(env::current_exe().unwrap())
            .args(["--exact", "host_entry", "--nocapture", "--test-threads=1", "--quiet"])
            .env(HOST, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut wait_for = |what: &str| {
            for _ in KINDS {
                let said = lines.find(|line| line.contains("says "));
                assert!(said.as_ref().is_some_and(|line| line.ends_with(what)), "a guest says {said:?}");
            }
        };
        wait_for("says waits");
        host.kill().unwrap();
        let killed = Instant::now();
        host.wait().unwrap();
        wait_for("says gone");
        slowest = slowest.max(killed.elapsed());
    }
    println!("{kills} hosts killed; all waits of three guests were over {slowest:?} after it at the latest");
}

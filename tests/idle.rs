//! A link on which nothing happens costs nothing: no thread wakes up for it, on either side.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{fs, time::Duration};

use adjoin::{Rx, Settings, Tx, channel};
use common::{
    links::{Kind, Peer, calling, connect_with, serve_if_cell, settings},
    watchdog::Watchdog,
};

#[test]
fn cell_entry() {
    serve_if_cell();
}

/// How often threads of a process have gone to sleep: each time somebody has woken them before. Without this thread, which
/// looks.
fn sleeps(process: u32) -> u64 {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
    let others = tasks.filter(|task| task.file_name().to_str() != Some(&own));
    let sleeps = |task: fs::DirEntry| -> u64 {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse().unwrap()
    };
    others.map(sleeps).sum()
}

/// A link that was used: calls, and a stream that is open, with a reader that waits for it.
struct Used {
    peer: Peer,
    _numbers: Tx<u64>,
    _doubled: Rx<u64>,
}

async fn used(kind: Kind, settings: Settings) -> Used {
    let peer = connect_with(kind, calling().settings(settings.clone()), settings).await;
    for number in 0..100 {
        assert_eq!(peer.suite.add(number, 1).await.unwrap(), number + 1);
        assert_eq!(peer.suite.call_back(number, 1).await.unwrap(), number + 1);
    }
    let ((numbers, input), (output, mut doubled)) = (channel(), channel());
    let suite = peer.suite.clone();
    drop(tokio::spawn(async move { suite.pipe(input, output).await }));
    for number in 0..100 {
        numbers.send(number).await.unwrap();
        assert_eq!(doubled.recv().await.unwrap(), Some(2 * number));
    }
    Used { peer, _numbers: numbers, _doubled: doubled }
}

/// Ten seconds with `--release`.
#[test]
fn an_idle_link_wakes_nobody() {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut links = Vec::new();
    for kind in [Kind::Local, Kind::Uds, Kind::Tcp, Kind::Shm, Kind::ShmPath] {
        links.push(runtime.block_on(used(kind, settings())));
    }
    let cells = links.iter().filter_map(|used| used.peer.process());
    let processes: Vec<u32> = cells.chain([std::process::id()]).collect();
    assert_eq!(processes.len(), 2);
    let sum = || processes.iter().map(|process| sleeps(*process)).sum::<u64>();
    settle(sum);
    let before = sum();
    std::thread::sleep(Duration::from_secs(if cfg!(debug_assertions) { 2 } else { 10 }));
    assert_eq!(sum() - before, 0, "threads were woken");
    // Who asks for signs of life is woken for them, and this way of counting sees it.
    let often = settings().keep_alive(Duration::from_millis(20), Duration::from_secs(60));
    links.push(runtime.block_on(used(Kind::Uds, often)));
    let before = sum();
    while sum() < before + 20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(links);
}

/// Waits until what was begun has come to its end.
fn settle(sum: impl Fn() -> u64) {
    let mut quiet = (sum(), 0);
    while quiet.1 < 100 {
        std::thread::sleep(Duration::from_millis(10));
        let now = sum();
        quiet = if now == quiet.0 { (now, quiet.1 + 1) } else { (now, 0) };
    }
}

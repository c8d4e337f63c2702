//! Many cells of one host: what is left when it dies, and what they cost while nothing happens.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use adjoin::{Launch, Options};

use super::{
    WorkerClient,
    common::{links::cell_command, watchdog::Watchdog},
    is_alive, run,
};

/// A host in a process of its own, which starts as many cells as it is told.
#[test]
fn host_entry() {
    let Some(cells) = env::var("ADJOIN_TEST_HOSTS").ok().and_then(|cells| cells.parse::<usize>().ok()) else {
        return;
    };
    run(async {
        let mut running = Vec::new();
        for _ in 0..cells {
            let cell = Launch::new(cell_command()).spawn(Options::new()).await.unwrap();
            let child = WorkerClient::new(cell.connection()).have_child().await.unwrap();
            println!("process {}", cell.id());
            println!("process {child}");
            running.push(cell);
        }
        println!("all run");
        std::future::pending::<()>().await;
    });
}

/// Each cell has forked a child that knows nothing of adjoin.
#[test]
fn a_host_that_is_killed_leaves_no_process() {
    let _hang = Watchdog::seconds(120);
    let cells = if cfg!(debug_assertions) { 10 } else { 50 };
    let mut host = Command::new(env::current_exe().unwrap())
        .args(["--exact", "many::host_entry", "--nocapture", "--test-threads=1", "--quiet"])
        .env("ADJOIN_TEST_HOSTS", cells.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    let lines: Vec<_> = lines.take_while(|line| line != "all run").collect();
    let number = |line: &String| line.rsplit_once("process ")?.1.parse().ok();
    let processes: Vec<u32> = lines.iter().filter_map(number).collect();
    assert_eq!(processes.len(), 2 * cells);
    assert!(processes.iter().all(|process| is_alive(*process)));
    host.kill().unwrap();
    host.wait().unwrap();
    let killed = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{} processes were gone after {:?}", processes.len(), killed.elapsed());
}

/// Wake-ups of a process, of all of its threads.
fn switches(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let switches = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.filter_map(Result::ok).map(switches).sum()
}

/// Many cells of one host: few threads, no wake-up while idle. Fails (hangs) where a cell has a thread of its own.
#[test]
fn many_idle_cells_wake_nobody() {
    run(async {
        let cells: usize = env::var("ADJOIN_CELLS")
            .map_or(if cfg!(debug_assertions) { 20 } else { 200 }, |cells| cells.parse().unwrap());
        let began = Instant::now();
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let starting: Vec<_> = (0..cells)
            .map(|_| tokio::spawn(async { Launch::new(cell_command()).spawn(Options::new()).await.unwrap() }))
            .collect();
        let mut running = Vec::new();
        for start in starting {
            running.push(start.await.unwrap());
        }
        println!("{cells} cells after {:?}", began.elapsed());
        while threads() > before {
            // Those that close what is left of the handshakes end by themselves. One that a cell has does not.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for cell in &running {
            assert_eq!(WorkerClient::new(cell.connection()).double(4).await.unwrap(), 8);
        }
        tokio::time::sleep(Duration::from_millis(500)).await; // what was begun comes to its end
        let woken = || running.iter().map(|cell| switches(cell.id())).sum::<u64>();
        let (before, seconds) = (woken(), if cfg!(debug_assertions) { 1 } else { 10 });
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let woken = woken() - before;
        assert!(woken <= cells as u64 / 10, "{woken} wake-ups of {cells} cells in {seconds} s");
    });
}

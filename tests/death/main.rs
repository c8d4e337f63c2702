//! Deaths at random moments, under load: what is in flight on the dead link fails at once, and nobody else notices.
//!
//! `ADJOIN_KILLS` is how many guests are killed; 30 in debug, 200 with `--release`. A fifth as many hosts are.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod hosts;
mod load;

use std::{
    env, fs,
    future::Future,
    time::{Duration, Instant},
};

use adjoin::{Launch, LinkEnd, Options, Settings};
use common::{
    counts::Counts,
    links::{cell_command, serve_if_cell_with},
    watchdog::Watchdog,
};
use load::{Load, LoadDispatcher, Service};

#[test]
fn cell_entry() {
    if env::var_os(hosts::WAITS).is_some() {
        return hosts::wait_in_a_cell();
    }
    serve_if_cell_with(|| Options::new().settings(settings()).serve(LoadDispatcher::new(Service)));
}

#[test]
fn host_entry() {
    hosts::be_a_host();
}

fn settings() -> Settings {
    Settings::default().initial_channel_credit(256 << 10)
}

fn serving() -> Options {
    Options::new().settings(settings()).serve(LoadDispatcher::new(Service))
}

fn run<F: Future<Output = ()>>(seconds: u64, case: F) {
    let _hang = Watchdog::seconds(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case);
}

/// How many guests are killed.
fn kills() -> u64 {
    let usually = if cfg!(debug_assertions) { 30 } else { 200 };
    env::var("ADJOIN_KILLS").map_or(usually, |kills| kills.parse().expect("a number"))
}

/// What is in the folders where shared memory and sockets could be left.
fn left_behind() -> usize {
    let of_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains("adjoin");
    let count = |folder| fs::read_dir(folder).map_or(0, |all| all.flatten().filter(of_ours).count());
    ["/dev/shm", "/run"].into_iter().map(count).sum()
}

#[test]
fn a_guest_that_is_killed_at_any_moment_takes_nothing_and_nobody_along() {
    let kills = kills();
    run(120 + kills, async move {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let survivor = Launch::new(cell_command()).name("survivor").spawn(serving()).await.unwrap();
        let mut checks = Load::start(survivor.connection(), random.u64(..));
        round(&mut random, 5).await; // what the runtime and the load have once, they have from here on
        let (before, files) = (Counts::now(), left_behind());
        let mut slowest = Duration::ZERO;
        for _ in 0..kills {
            let within = random.u64(0..40);
            slowest = slowest.max(round(&mut random, within).await);
            assert!(!checks.has_failed(), "the other guest is unharmed");
        }
        before.settle().await;
        assert_eq!(left_behind(), files);
        println!("{kills} guests killed; all calls had ended {slowest:?} after it at the latest");
        let done = checks.stop().await.expect("nothing was lost, doubled or sent astray");
        println!("the other one: {done:?}");
        while survivor.connection().blocks_in_use().unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        survivor.stop(Duration::from_secs(10)).await.unwrap();
    });
}

/// Starts a guest, puts it under load, kills it so many milliseconds later, and has a successor before a millisecond is
/// over. Returns how long the last call took to fail.
async fn round(random: &mut fastrand::Rng, within: u64) -> Duration {
    let victim = Launch::new(cell_command()).name("victim").spawn(serving()).await.unwrap();
    if random.bool() {
        // One of its own keeps its descriptors open.
        load::LoadClient::new(victim.connection()).leave_a_child().await.unwrap();
    }
    let load = Load::start(victim.connection(), random.u64(..));
    tokio::time::sleep(Duration::from_millis(within) + Duration::from_micros(random.u64(0..1000))).await;
    victim.kill().unwrap();
    let killed = Instant::now();
    let successor = tokio::spawn(Launch::new(cell_command()).name("successor").spawn(serving()));
    let ends = load.ended().await;
    let took = killed.elapsed();
    for end in ends {
        assert!(matches!(end, LinkEnd::Killed { signal: 9 }), "{end:?}");
    }
    assert!(matches!(victim.connection().closed().await, LinkEnd::Killed { signal: 9 }));
    let successor = successor.await.unwrap().unwrap();
    assert_eq!(load::LoadClient::new(successor.connection()).small(5).await.unwrap(), 15);
    drop((victim, successor));
    took
}

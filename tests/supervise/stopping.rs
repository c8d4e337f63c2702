//! Cells that are stopped, killed and closed, whatever they are at.

use std::{fs, process::Command, time::Duration};

use adjoin::supervise::{State, Supervised};

use super::{Rig, WorkerClient, is_alive, run, until};

/// Longer than the watchdog waits.
const LONG: Duration = Duration::from_secs(1000);

fn stuck(command: &mut Command) {
    command.env("ADJOIN_TEST_STUCK", "1");
}

/// A call that is made again when its process ends, and has arrived.
async fn hanging(cell: &Supervised) -> tokio::task::JoinHandle<Result<(), adjoin::CallError>> {
    let worker = WorkerClient::new(cell);
    let hanging = tokio::spawn(async move { worker.hang_again().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    hanging
}

/// The process that serves.
fn process(cell: &Supervised) -> u32 {
    match cell.state() {
        State::Serving { process } => process,
        state => panic!("{state:?}"),
    }
}

#[test]
fn a_call_that_outlasts_a_stop_is_made_again_on_the_next_process() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().build();
        let worker = WorkerClient::new(&cell);
        let first = worker.id().await.unwrap();
        let hanging = hanging(&cell).await;
        cell.stop(Duration::from_millis(50)).await;
        assert!(!is_alive(first));
        let second = worker.id().await.unwrap();
        assert!(first != second && !hanging.is_finished());
        cell.close(Duration::ZERO).await;
        assert_eq!(cell.state(), State::Closed);
        assert!(!is_alive(second));
        let error = hanging.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("worker"), "{error}");
        assert_eq!((rig.starts(), cell.starts()), (2, 2));
    });
}

#[test]
fn a_process_whose_link_is_gone_is_stopped_and_killed_like_any_other() {
    run(async {
        let rig = Rig::new();
        for way in ["kill", "stop", "close"] {
            let grace = if way == "kill" { LONG } else { Duration::from_millis(100) };
            let cell = rig.builder().stop_grace(grace).build();
            let worker = WorkerClient::new(&cell);
            let process = worker.id().await.unwrap();
            let _ = worker.leave().await; // its answer may be too late
            until(|| cell.state() == State::Stopping).await;
            assert!(is_alive(process));
            match way {
                "kill" => {
                    cell.kill();
                    until(|| cell.state() == State::Idle).await;
                }
                "stop" => cell.stop(LONG).await,
                _ => cell.close(LONG).await,
            }
            assert!(!is_alive(process), "{way}");
            let state = if way == "close" { State::Closed } else { State::Idle };
            assert_eq!(cell.state(), state);
        }
    });
}

#[test]
fn a_cell_that_starts_is_stopped_and_those_that_wait_for_it_are_told() {
    run(async {
        for way in ["kill", "stop", "close", "close dropped"] {
            let rig = Rig::new();
            let cell = rig.builder_with(stuck).build();
            let starting = {
                let cell = cell.clone();
                tokio::spawn(async move { cell.start().await })
            };
            until(|| rig.starts() == 1).await;
            assert_eq!(children(&rig), 1);
            match way {
                "kill" => cell.kill(),
                "stop" => cell.stop(Duration::from_millis(10)).await,
                "close" => cell.close(Duration::from_millis(10)).await,
                _ => {
                    // Polled once, and dropped.
                    let _ = tokio::time::timeout(Duration::ZERO, cell.close(Duration::ZERO)).await;
                }
            }
            let error = starting.await.unwrap().unwrap_err().to_string();
            assert!(error.contains("worker") || way.starts_with("close"), "{way}: {error}");
            let state = if way.starts_with("close") { State::Closed } else { State::Idle };
            until(|| cell.state() == state).await;
            assert_eq!((rig.starts(), children(&rig)), (1, 0), "{way}");
        }
    });
}

/// The processes that a rig has started and that run.
fn children(rig: &Rig) -> usize {
    let log = rig.log();
    let is_ours = |process: &fs::DirEntry| {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        let started_with = fs::read(process.path().join("environ")).unwrap_or_default();
        parent == Some(std::process::id())
            && String::from_utf8_lossy(&started_with).contains(log.to_string_lossy().as_ref())
    };
    fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(is_ours).count()
}

#[test]
fn a_stop_that_is_under_way_is_hurried_by_a_kill_and_by_a_shorter_one() {
    run(async {
        let rig = Rig::new();
        for way in ["kill", "stop", "close"] {
            let cell = rig.builder().build();
            let first = WorkerClient::new(&cell).id().await.unwrap();
            let hanging = hanging(&cell).await;
            let stop = {
                let cell = cell.clone();
                tokio::spawn(async move { cell.stop(LONG).await })
            };
            tokio::time::sleep(Duration::from_millis(50)).await;
            match way {
                "kill" => cell.kill(),
                "stop" => cell.stop(Duration::ZERO).await,
                _ => cell.close(Duration::ZERO).await,
            }
            stop.await.unwrap();
            assert!(!is_alive(first), "{way}");
            hanging.abort();
        }
        // Also one whose process takes long to exit.
        let cell = rig.builder().stop_grace(LONG).build();
        let worker = WorkerClient::new(&cell);
        worker.be_stubborn().await.unwrap();
        let first = process(&cell);
        let stop = {
            let cell = cell.clone();
            tokio::spawn(async move { cell.stop(Duration::ZERO).await })
        };
        until(|| cell.state() == State::Stopping).await;
        assert!(is_alive(first));
        cell.kill();
        stop.await.unwrap();
        assert!(!is_alive(first));
    });
}

#[test]
fn a_cell_that_is_dropped_did_not_crash_and_nothing_of_it_waits_on() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().idle_stop(LONG).build();
        cell.start().await.unwrap();
        let process = process(&cell);
        let mut watch = cell.watch();
        drop(cell);
        while let Some(state) = watch.changed().await {
            assert!(matches!(state, State::Stopping | State::Idle), "{state:?}");
        }
        assert!(!is_alive(process));
    });
}

#[test]
fn a_call_that_waits_for_a_stop_has_no_longer_than_its_timeout() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().stop_grace(LONG).build();
        let worker = WorkerClient::new(&cell);
        worker.be_stubborn().await.unwrap();
        let stop = {
            let cell = cell.clone();
            tokio::spawn(async move { cell.stop(Duration::ZERO).await })
        };
        until(|| cell.state() == State::Stopping).await;
        let timeout = Duration::from_millis(20);
        let told = adjoin::CallError::<adjoin::Never>::TimedOut { after: timeout }.to_string();
        let error = worker.double(1).with_timeout(timeout).await.unwrap_err();
        assert_eq!(error.to_string(), told);
        let blocking = worker.clone();
        let error = std::thread::spawn(move || blocking.double(1).with_timeout(timeout).block().unwrap_err());
        let error = tokio::task::spawn_blocking(|| error.join().unwrap()).await.unwrap();
        assert_eq!(error.to_string(), told);
        cell.kill();
        stop.await.unwrap();
        // What is left of it is good for the next process.
        assert_eq!(worker.double(1).with_timeout(LONG).await.unwrap(), 2);
    });
}

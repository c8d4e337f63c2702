//! How often, and how soon, a cell is started; and what is said if it is not.

use std::{process::Command, time::Duration};

use adjoin::{
    Options, Settings,
    reconnect::Backoff,
    supervise::{State, Supervised},
};

use super::{Rig, WorkerClient, quick, run, until};

/// Longer than what a client waits for a connection if nobody says how often it is to try, and than the watchdog waits.
const LONG: Duration = Duration::from_secs(200);

fn crashes(command: &mut Command) {
    command.env("ADJOIN_TEST_CRASHES", "1");
}

#[test]
fn a_start_is_tried_as_often_as_was_said_however_long_that_takes() {
    run(async {
        let rig = Rig::new();
        let slow = Backoff::default().initial(LONG).max(LONG).jitter(false);
        let cell = rig.builder_with(crashes).start_attempts(2).backoff(slow).build();
        // It waits for its second attempt, and has not given up after the first.
        let starting = {
            let cell = cell.clone();
            tokio::spawn(async move { cell.start().await })
        };
        until(|| matches!(cell.state(), State::Ended { .. })).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!starting.is_finished());
        assert_eq!(rig.starts(), 1);
        cell.close(Duration::ZERO).await;
        starting.await.unwrap().unwrap_err();
    });
}

#[test]
fn a_stop_that_was_asked_for_is_no_failed_start() {
    run(async {
        let rig = Rig::new();
        let slow = Backoff::default().initial(LONG).max(LONG).jitter(false);
        let cell = rig.builder().start_attempts(2).backoff(slow).build();
        // Of no use yet: nothing was called. One too many of these would be an error, and each one waited for.
        for way in ["stop", "kill", "stop", "kill"] {
            cell.start().await.unwrap();
            match way {
                "stop" => cell.stop(Duration::ZERO).await,
                _ => {
                    cell.kill();
                    until(|| cell.state() == State::Idle).await;
                }
            }
        }
        assert_eq!(rig.starts(), 4);
        let cell = rig.builder().idle_stop(Duration::ZERO).backoff(slow).build();
        for _ in 0..3 {
            cell.start().await.unwrap();
            until(|| cell.state() == State::Idle).await;
        }
    });
}

#[test]
fn whatever_keeps_a_cell_from_serving_is_told_with_its_name() {
    run(async {
        let named = |cell: Supervised| async move {
            let error = WorkerClient::new(&cell).double(1).await.unwrap_err().to_string();
            assert!(error.contains("the cell `worker`"), "{error}");
            let State::Ended { why } = cell.state() else { panic!("{:?}", cell.state()) };
            assert!(why.contains("the cell `worker`"), "{why}");
            error
        };
        let builder = |command: fn() -> Command| Supervised::builder("worker", command).backoff(quick());
        let error = named(builder(|| Command::new("/nonexistent/program")).build()).await;
        assert!(error.contains("/nonexistent/program") && error.contains("No such file"), "{error}");
        let tiny = Options::new().settings(Settings::default().ring_bytes(5000));
        named(builder(|| Command::new("/bin/true")).options(tiny).build()).await;
        let error = named(builder(|| panic!("it makes no command")).build()).await;
        assert!(error.contains("panicked"), "{error}");
    });
}

#[test]
fn a_cell_that_leaves_before_it_is_of_use_is_told_of_with_how_it_ended() {
    run(async {
        let rig = Rig::new();
        let leaves = |command: &mut Command| {
            command.env("ADJOIN_TEST_LEAVES", "1");
        };
        let cell = rig.builder_with(leaves).start_attempts(2).max_restarts(1_000_000, LONG).build();
        let worker = WorkerClient::new(&cell);
        // Some calls are sent in time, and end with the cell; those that are not are what this looks at.
        let error = loop {
            if let Err(adjoin::CallError::Unconnected { why, .. }) = worker.double(1).await {
                break why;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(error.starts_with("the cell `worker`: connections were made"), "{error}");
        assert!(error.contains("; the last one: "), "{error}");
        until(|| matches!(cell.state(), State::Ended { .. })).await;
        let State::Ended { why } = cell.state() else { return };
        assert!(why.contains("exit status: 9") || why.contains("code 9"), "{why}");
    });
}

#[test]
fn those_that_wait_for_a_cell_that_is_closed_are_told_its_name() {
    run(async {
        let rig = Rig::new();
        let stuck = |command: &mut Command| {
            command.env("ADJOIN_TEST_STUCK", "1");
        };
        let cell = rig.builder_with(stuck).build();
        let starting = {
            let cell = cell.clone();
            tokio::spawn(async move { cell.start().await })
        };
        until(|| rig.starts() == 1).await;
        cell.close(Duration::ZERO).await;
        let error = starting.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("the cell `worker`"), "{error}");
    });
}

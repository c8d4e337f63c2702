//! How often, and how soon, a cell is started; and what is said if it is not.

use std::{process::Command, time::Duration};

use adjoin::{reconnect::Backoff, supervise::State};

use super::{Rig, run, until};

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

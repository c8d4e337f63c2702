//! Cells that are started again when they are gone.

use std::time::Duration;

use adjoin::{
    Options, channel,
    reconnect::{self, Reconnecting},
};

use crate::{
    calls::{kill, on_two_threads},
    common::{links::Kind, watchdog::Watchdog},
    rig::{FAREWELL, STAYS, Server, State, TillClient, server_command},
};

#[test]
fn a_cell_that_stays_after_its_link_is_killed_and_reaped_before_the_next_one_is_started() {
    let _hang = Watchdog::seconds(60);
    let is_there = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    on_two_threads(async {
        let command = || {
            let mut command = server_command(None, None);
            command.env(STAYS, "yes");
            command
        };
        let client = Reconnecting::new(reconnect::cell(command, Options::new()));
        let till = TillClient::new(&client);
        let first = till.pid().await.unwrap();
        client.connection().await.unwrap().close().await;
        assert!(is_there(first)); // it has a second to go
        let second = till.pid().await.unwrap();
        assert!(first != second && !is_there(first) && is_there(second));
        client.close().await;
        while is_there(second) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_cell_whose_link_has_ended_has_time_to_go_before_the_next_one_is_started() {
    let _hang = Watchdog::seconds(60);
    on_two_threads(async {
        let folder = tempfile::tempdir().unwrap();
        let farewell = folder.path().join("farewell");
        let command = {
            let farewell = farewell.clone();
            move || {
                let mut command = server_command(None, None);
                command.env(FAREWELL, &farewell);
                command
            }
        };
        let client = Reconnecting::new(reconnect::cell(command, Options::new()));
        let till = TillClient::new(&client);
        till.pid().await.unwrap();
        client.connection().await.unwrap().close().await;
        till.pid().await.unwrap();
        assert_eq!(std::fs::read(&farewell).unwrap(), b"bye");
    });
}

/// A socket on one side, a respawned cell's shared memory on the other.
#[test]
fn a_proxy_goes_on_when_the_cell_behind_it_is_killed() {
    let _hang = Watchdog::seconds(60);
    on_two_threads(async {
        let cells = Server::start(Kind::Shm, State::new()).await;
        let upstream = cells.builder().build();
        let proxy = adjoin::proxy::Forward::to(&upstream);
        let front = Server::start_with(Kind::Uds, State::new(), proxy).await;
        let till = TillClient::new(front.builder().build());
        let mut pids = Vec::new();
        for _ in 0..3 {
            pids.push(till.pid().await.unwrap());
            let (tx, rx) = channel();
            tx.send(7).await.unwrap();
            drop(tx);
            assert_eq!(till.taking(rx).await.unwrap(), 7);
            let mut numbers = till.giving(u64::MAX).await.unwrap();
            assert_eq!(numbers.recv().await.unwrap(), Some(1));
            kill(Kind::Shm, &cells, &till).await;
            while let Ok(Some(_)) = numbers.recv().await {}
        }
        pids.dedup();
        assert_eq!(pids.len(), 3);
    });
}

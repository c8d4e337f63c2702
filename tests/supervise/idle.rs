//! Cells that are stopped when nobody uses them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use adjoin::{Options, supervise::State};

use super::{Host, HostDispatcher, Rig, WorkerClient, run, until};

/// One call after the other, none open when the cell is looked at, most often, and none through the gate.
#[test]
fn a_cell_that_is_called_by_its_connection_is_in_use() {
    run(async {
        let rig = Rig::new();
        let cell = rig.builder().idle_stop(Duration::from_millis(50)).build();
        let connection = cell.connection().await.unwrap();
        let worker = WorkerClient::new(&connection);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            assert_eq!(worker.double(1).await.unwrap(), 2);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        until(|| cell.state() == State::Idle).await;
        assert_eq!(rig.starts(), 1);
    });
}

/// Counts the calls of its cell.
#[derive(Clone, Default)]
struct Counts(Arc<AtomicU32>);

impl Host for Counts {
    async fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_cell_that_calls_its_host_is_in_use() {
    run(async {
        let rig = Rig::new();
        let counts = Counts::default();
        let options = Options::new().serve(HostDispatcher::new(counts.clone()));
        let cell = rig.builder().options(options).idle_stop(Duration::from_millis(50)).build();
        WorkerClient::new(&cell).call_back(500).await.unwrap();
        until(|| cell.state() == State::Idle).await;
        assert_eq!(counts.0.load(Ordering::Relaxed), 500);
    });
}

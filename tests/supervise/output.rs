//! What cells write, and where it goes.

use std::{
    env,
    io::Read,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use adjoin::{CellOutput, Launch, Options};

use super::{
    Rig, WorkerClient,
    common::{links::cell_command, watchdog::Watchdog},
    run, until,
};

/// Collects what is logged of cells.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl std::io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_that_a_cell_writes_are_events_with_its_name() {
    let events = Events::default();
    let writer = events.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    // The only test here that looks at events.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    run(async {
        let rig = Rig::new();
        let cell = rig.builder();
        let cell = cell.stdout(CellOutput::Events).stderr(CellOutput::Events).build();
        let worker = WorkerClient::new(&cell);
        worker.write(false, b"one\ntwo\r\nbad \xff\nlast without end".to_vec()).await.unwrap();
        worker.write(true, b"complains\n".to_vec()).await.unwrap();
        let long = vec![b'x'; 20_000];
        worker.write(true, [&long[..], b"\n"].concat()).await.unwrap();
        // A flood does not keep the cell waiting, since it is always read.
        worker.write(false, vec![b'\n'; 1 << 20]).await.unwrap();
        cell.stop(Duration::ZERO).await;
        let has = |what: &str| events.0.lock().unwrap().iter().any(|event| event.contains(what));
        for what in ["two cell=", "bad \u{fffd}", "complains", &"x".repeat(8192)] {
            until(|| has(what)).await;
        }
        until(|| has("cell=\"worker\"") && has("stream=\"stdout\"") && has("adjoin::cell")).await;
    });
}

#[test]
fn a_cell_that_never_stops_writing_keeps_nobody_waiting() {
    let _hang = Watchdog::seconds(60);
    // One thread, so that whoever does not leave it stops all others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cells = Vec::new();
        for _ in 0..4 {
            let launch = Launch::new(cell_command()).stderr(CellOutput::Events);
            cells.push(launch.spawn(Options::new()).await.unwrap());
        }
        let flood = cells.iter().map(|cell| WorkerClient::new(cell.connection()));
        let flood: Vec<_> = flood.map(|worker| tokio::spawn(async move { worker.flood().await })).collect();
        for flood in flood {
            flood.await.unwrap().unwrap();
        }
        for round in 0..600 {
            let worker = WorkerClient::new(cells[0].connection());
            assert_eq!(worker.double(round).await.unwrap(), 2 * round);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// A host in a process of its own, which forwards what its cell writes.
#[test]
fn host_entry() {
    if env::var_os("ADJOIN_TEST_FORWARDS").is_none() {
        return;
    }
    run(async {
        let launch = Launch::new(cell_command()).stdout(CellOutput::Forward);
        let cell = launch.spawn(Options::new()).await.unwrap();
        WorkerClient::new(cell.connection()).write(false, b"a prompt> ".to_vec()).await.unwrap();
        std::future::pending::<()>().await;
    });
}

#[test]
fn what_is_forwarded_does_not_wait_for_the_end_of_its_line() {
    let _hang = Watchdog::seconds(60);
    let mut host = Command::new(env::current_exe().unwrap())
        .args(["--exact", "output::host_entry", "--nocapture", "--test-threads=1", "--quiet"])
        .env("ADJOIN_TEST_FORWARDS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = host.stdout.take().unwrap();
    let (mut told, mut bytes) = (String::new(), [0; 1024]);
    while !told.contains("a prompt> ") {
        let read = stdout.read(&mut bytes).unwrap();
        assert_ne!(read, 0, "{told}");
        told += &String::from_utf8_lossy(&bytes[..read]);
    }
    host.kill().unwrap();
    host.wait().unwrap();
}

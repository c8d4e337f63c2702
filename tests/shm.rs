//! Shared memory between processes that find each other by a path.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod common;

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use adjoin::{
    CallError, Connection, LinkEnd, Options, Settings,
    handshake::{HandshakeError, PeerRefusal, SegmentLimit},
    reconnect::{self, Reconnecting},
    shm::{self, OpenError},
};
use common::{
    links::{calling, settings},
    suite::{SuiteClient, SuiteDispatcher, SuiteService},
    watchdog::Watchdog,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tells the other process where to connect, or where to listen.
const CONNECT: &str = "TEST_SHM_CONNECT";
const LISTEN: &str = "TEST_SHM_LISTEN";

/// The test binary itself, as another process.
struct Other(Child);

impl Other {
    fn command(variable: &str, path: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "other_process", "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(variable, path).stdout(Stdio::null());
        command
    }

    fn start(variable: &str, path: &Path) -> Self {
        Other(Other::command(variable, path).spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn serving() -> Options {
    Options::new().settings(settings()).serve(SuiteDispatcher::new(SuiteService::default()))
}

#[test]
fn other_process() {
    let connect = std::env::var_os(CONNECT);
    let Some(path) = connect.clone().or_else(|| std::env::var_os(LISTEN)) else { return };
    run(async {
        let connection = if connect.is_some() {
            shm::connect(&path, serving()).await.unwrap()
        } else {
            let listener = shm::listen(&path).unwrap();
            listener.accept().await.unwrap().establish(serving()).await.unwrap()
        };
        connection.closed().await;
    });
    std::process::exit(0);
}

fn run<F: Future>(test: F) -> F::Output {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Connects to a process that is about to listen.
async fn connect_when_there(path: &Path) -> Connection {
    loop {
        match shm::connect(path, calling()).await {
            Ok(connection) => return connection,
            Err(OpenError::Io(error))
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn works(connection: &Connection) {
    let suite = SuiteClient::new(connection);
    assert_eq!(suite.add(1, 2).await.unwrap(), 3);
    assert_eq!(suite.call_back(3, 4).await.unwrap(), 7);
    let mut numbers = suite.count(10_000).await.unwrap();
    for expected in 0..10_000 {
        assert_eq!(numbers.recv().await.unwrap(), Some(expected));
    }
    assert_eq!(numbers.recv().await.unwrap(), None);
}

#[test]
fn processes_that_did_not_start_each_other_share_memory_whoever_listens() {
    run(async {
        let folder = folder();
        let listener = shm::listen(folder.path().join("here.sock")).unwrap();
        let _other = Other::start(CONNECT, listener.path());
        works(&listener.accept().await.unwrap().establish(calling()).await.unwrap()).await;

        let there = folder.path().join("there.sock");
        let _other = Other::start(LISTEN, &there);
        works(&connect_when_there(&there).await).await;
    });
}

#[test]
fn a_peer_that_is_killed_ends_the_link_on_either_side() {
    run(async {
        let folder = folder();
        let listener = shm::listen(folder.path().join("here.sock")).unwrap();
        let there = folder.path().join("there.sock");
        for listens in [false, true] {
            let (mut other, connection) = if listens {
                (Other::start(LISTEN, &there), connect_when_there(&there).await)
            } else {
                let other = Other::start(CONNECT, listener.path());
                (other, listener.accept().await.unwrap().establish(calling()).await.unwrap())
            };
            let suite = SuiteClient::new(&connection);
            assert_eq!(suite.add(1, 2).await.unwrap(), 3);
            let hanging = tokio::spawn(suite.hang());
            suite.nothing().await.unwrap();
            other.0.kill().unwrap();
            other.0.wait().unwrap();
            assert!(matches!(hanging.await.unwrap(), Err(CallError::Ended(_))));
            assert!(matches!(connection.closed().await, LinkEnd::Killed { signal: 9 } | LinkEnd::Gone));
        }
    });
}

#[test]
fn a_path_is_taken_while_somebody_listens_and_free_afterwards() {
    run(async {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let listener = shm::listen(&path).unwrap();
        assert_eq!(shm::listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists(), "its file went with it");
        // Of a process that was killed the file stays.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = shm::listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = shm::listen(&path).unwrap();
        drop(listener);
        assert!(path.exists(), "that is another one's");
        drop(other);
        // What is no socket is not touched.
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(shm::listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(matches!(shm::connect(folder.path().join("none"), calling()).await, Err(OpenError::Io(_))));
    });
}

#[test]
fn whoever_says_nothing_or_nonsense_is_turned_away_and_holds_nobody_up() {
    run(async {
        let folder = folder();
        let listener = shm::listen(folder.path().join("a.sock")).unwrap();
        let options = serving().settings(settings().handshake_timeout(Duration::from_millis(300)));
        // Says nothing: meanwhile others are served.
        let mut silent = tokio::net::UnixStream::connect(listener.path()).await.unwrap();
        let waiting = tokio::spawn(listener.accept().await.unwrap().establish(options.clone()));
        let accept = async { listener.accept().await?.establish(serving()).await };
        let (near, _far) = tokio::try_join!(shm::connect(listener.path(), calling()), accept).unwrap();
        works(&near).await;
        assert!(
            matches!(waiting.await.unwrap(), Err(OpenError::Timeout { after }) if after.as_millis() == 300)
        );
        let mut rest = Vec::new();
        // The offer is there, and then the end.
        assert!(silent.read_to_end(&mut rest).await.is_ok());

        let mut nonsense = tokio::net::UnixStream::connect(listener.path()).await.unwrap();
        nonsense.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let refused = listener.accept().await.unwrap().establish(options.clone()).await;
        assert!(matches!(refused, Err(OpenError::Handshake(HandshakeError::NotAdjoin))), "{refused:?}");

        drop(tokio::net::UnixStream::connect(listener.path()).await.unwrap());
        let gone = listener.accept().await.unwrap().establish(options).await;
        assert!(matches!(gone, Err(OpenError::Handshake(HandshakeError::Closed))), "{gone:?}");
    });
}

#[test]
fn limits_that_no_segment_can_have_are_refused_by_name() {
    run(async {
        let folder = folder();
        let listener = shm::listen(folder.path().join("a.sock")).unwrap();
        let odd = Options::new().settings(Settings::default().ring_bytes(1000));
        let connecting = shm::connect(listener.path(), calling());
        let accept = async { listener.accept().await.unwrap().establish(odd).await };
        let (refused, impossible) = tokio::join!(connecting, accept);
        assert!(matches!(impossible, Err(OpenError::Settings(_))), "{impossible:?}");
        assert!(matches!(refused, Err(OpenError::Handshake(HandshakeError::Closed))), "{refused:?}");
        // The names are the settings'.
        let refusal = PeerRefusal::Limit { limit: SegmentLimit::RingBytes, value: 1000 };
        assert_eq!(refusal.to_string(), "it cannot live with ring_bytes = 1000");
    });
}

/// Only root can become somebody else.
#[test]
fn a_process_of_another_user_is_a_stranger() {
    use std::os::unix::fs::PermissionsExt;
    const NOBODY: u32 = 65534;
    run(async {
        let folder = folder();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open.clone()).unwrap();
        let listener = shm::listen(folder.path().join("a.sock")).unwrap();
        std::fs::set_permissions(listener.path(), open).unwrap();
        // Where this is not root, or the other user cannot run this program, there is nothing to be seen.
        let program = folder.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(&program);
        command.args(["--exact", "other_process", "--test-threads=1", "--quiet"]);
        command.env(CONNECT, listener.path()).stdout(Stdio::null()).stderr(Stdio::null()).uid(NOBODY);
        let Ok(child) = command.spawn() else { return };
        let _other = Other(child);
        let refused = listener.accept().await.unwrap().establish(calling()).await;
        assert!(matches!(refused, Err(OpenError::NotAllowed(peer)) if peer.uid == NOBODY), "{refused:?}");
    });
}

#[test]
fn a_reconnecting_client_finds_the_next_process_that_listens() {
    run(async {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let client = Reconnecting::new(reconnect::shm(&path, calling()));
        let suite = SuiteClient::new(&client);
        for round in 0..5 {
            let _other = Other::start(LISTEN, &path); // and is killed at the end of the round
            // The one before may be found dead only by this.
            while suite.add(round, 1).await.ok() != Some(round + 1) {}
        }
    });
}

#[test]
fn a_listener_whose_queue_is_full_is_in_use_and_not_waited_for() {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    };
    run(async {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("link.sock");
        let address = SocketAddrUnix::new(&path).unwrap();
        let socket =
            || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let busy = socket();
        bind(&busy, &address).unwrap();
        listen(&busy, 0).unwrap();
        let mut queued = vec![socket()];
        while connect(queued.last().unwrap(), &address).is_ok() {
            queued.push(socket());
        }
        assert_eq!(shm::listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    });
}

//! Listeners of every kind: by address, by policy, with many that come and say nothing, and where descriptors run out.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env, fs,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use adjoin::{
    Address, Connection, Options, Policy, Settings, address,
    handshake::{HandshakeError, PeerRefusal},
    reconnect::{self, Connector, Reconnecting},
    shm, uds,
};
use common::{counts::Counts, watchdog::Watchdog};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tracing_subscriber::layer::SubscriberExt;

#[adjoin::service]
trait Numbers {
    async fn double(&self, number: u32) -> u32;
}

struct Plain;

impl Numbers for Plain {
    async fn double(&self, number: u32) -> u32 {
        2 * number
    }
}

fn serving() -> Options {
    Options::new().serve(NumbersDispatcher::new(Plain))
}

async fn doubles(connection: &Connection) {
    assert_eq!(NumbersClient::new(connection).double(21).await.unwrap(), 42);
}

fn run<F: Future<Output = ()>>(case: F) {
    let _hang = Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case);
}

#[test]
fn the_same_service_is_reached_by_every_address() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        let name = format!("adjoin-test-{}", std::process::id());
        for text in [
            format!("shm:{path}/a.sock"),
            format!("uds:{path}/b.sock"),
            format!("shm:@{name}-shm"),
            format!("uds:@{name}-uds"),
            "tcp:127.0.0.1:0".into(),
            "tcp:localhost:0".into(),
        ] {
            let listener = address::listen(&text.parse().unwrap()).await.unwrap();
            let address = listener.address().clone();
            let serving = tokio::spawn(listener.serve(serving()));
            let mut connections = Vec::new();
            for _ in 0..3 {
                connections.push(address::connect(&address, Options::new()).await.unwrap());
            }
            for connection in &connections {
                doubles(connection).await;
            }
            serving.abort();
            let _ = serving.await;
            doubles(&connections[0]).await; // a link outlives its listener
            let error = address::connect(&address, Options::new()).await.expect_err("nobody listens");
            assert!(error.to_string().starts_with(&address.to_string()), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left");
    });
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    run(async {
        let folder = TempDir::new().unwrap();
        let address: Address = format!("uds:{}/a.sock", folder.path().display()).parse().unwrap();
        let _first = address::listen(&address).await.unwrap();
        let error = address::listen(&address).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("{address}: Address already in use")), "{error}");
    });
}

#[test]
fn a_policy_refuses_on_both_sides_and_both_are_told() {
    run(async {
        let folder = TempDir::new().unwrap();
        let nobody = || Policy::custom(|peer| peer.pid != Some(std::process::id()));
        let listener = shm::listen(folder.path().join("a.sock")).unwrap();
        for (near, far) in [(nobody(), Policy::any_user()), (Policy::same_user(), nobody())] {
            let accept = async { listener.accept().await.unwrap().establish(serving().policy(far)).await };
            let connect = shm::connect(listener.path(), Options::new().policy(near.clone()));
            let (near, far) = tokio::join!(connect, accept);
            let (refuses, told) = match (near.unwrap_err(), far.unwrap_err()) {
                (refuses @ shm::OpenError::NotAllowed(_), told) => (refuses, told),
                (told, refuses) => (refuses, told),
            };
            let shm::OpenError::NotAllowed(peer) = refuses else { panic!("{refuses:?}") };
            assert_eq!(peer.pid, Some(std::process::id()));
            let refused = HandshakeError::Refused(PeerRefusal::NotAllowed);
            assert!(
                matches!(&told, shm::OpenError::Handshake(told) if told.to_string() == refused.to_string())
            );
        }
        let listener = uds::listen(folder.path().join("b.sock")).unwrap();
        let accept =
            async { listener.accept().await.unwrap().establish(serving().policy(Policy::users([]))).await };
        let (near, far) = tokio::join!(uds::connect(listener.path(), Options::new()), accept);
        assert!(matches!(far, Err(uds::OpenError::NotAllowed(_))), "{far:?}");
        assert!(is_told(&near.unwrap_err()));
        let accept = async { listener.accept().await.unwrap().establish(serving()).await };
        let (near, far) =
            tokio::join!(uds::connect(listener.path(), Options::new().policy(Policy::users([]))), accept);
        assert!(matches!(near, Err(uds::OpenError::NotAllowed(_))), "{near:?}");
        assert!(is_told(&far.unwrap_err()));
    });
}

fn is_told(error: &uds::OpenError) -> bool {
    let uds::OpenError::Handshake(error) = error else { return false };
    error.to_string().contains("this process is not allowed here (Options::policy)")
}

/// Fails where the folder is not locked: then two find the same file stale, and one removes what the other has made.
#[test]
fn of_many_that_find_a_stale_file_one_listens() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.sock");
        for _ in 0..200 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
            let start = Arc::new(std::sync::Barrier::new(4));
            let racing: Vec<_> = (0..4)
                .map(|_| {
                    let (start, path, runtime) =
                        (start.clone(), path.clone(), tokio::runtime::Handle::current());
                    std::thread::spawn(move || {
                        let _inside = runtime.enter();
                        start.wait();
                        uds::listen(path)
                    })
                })
                .collect();
            let listening: Vec<_> =
                racing.into_iter().filter_map(|racer| racer.join().unwrap().ok()).collect();
            assert_eq!(listening.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    });
}

#[test]
fn a_reconnecting_client_has_the_policy_and_the_names_of_a_plain_one() {
    run(async {
        let name = format!("@adjoin-test-{}-reconnect", std::process::id());
        let listener = uds::listen(&name).unwrap();
        let serving = tokio::spawn(listener.serve(serving()));
        doubles_again(reconnect::uds(&name, Options::new())).await.unwrap();
        let refused = doubles_again(reconnect::uds(&name, Options::new().policy(Policy::users([])))).await;
        let error = refused.unwrap_err();
        assert!(error.contains("is not allowed here"), "{error}");
        serving.abort();
    });
}

async fn doubles_again(connector: impl Connector) -> Result<u32, String> {
    let client = Reconnecting::builder(connector).max_attempts(1).build();
    NumbersClient::new(&client).double(21).await.map_err(|error| format!("{error:?}"))
}

/// Fails, by its count of descriptors, where `accept` takes no place.
#[test]
fn a_thousand_that_connect_and_say_nothing_take_no_more_places_than_there_are() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.sock");
        let before = Counts::now();
        let listener = shm::listen(&path).unwrap().max_handshakes(4);
        let settings = Settings::default().handshake_timeout(Duration::from_secs(60));
        let serving = tokio::spawn(listener.serve(serving().settings(settings.clone())));
        let silent: Vec<_> = (0..1000).map(|_| UnixStream::connect(&path).unwrap()).collect();
        // Four are let in. What each takes here: its socket, a handle on its process and on ours, and a half.
        let most = 1000 + 4 * 4;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let sockets = Counts::now().descriptors;
            assert!(sockets < most + 50, "{sockets} descriptors");
        }
        drop(silent);
        let connection = shm::connect(&path, Options::new().settings(settings)).await.unwrap();
        doubles(&connection).await;
        connection.close().await;
        serving.abort();
        let _ = serving.await;
        drop(connection);
        before.settle().await;
    });
}

/// What the other process is to do, and where.
const ROLE: &str = "ADJOIN_TEST_ROLE";
const PLACE: &str = "ADJOIN_TEST_PLACE";

struct Other {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Other {
    fn start(role: &str, path: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "other_process", "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(ROLE, role).env(PLACE, path).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Other { child, output }
    }

    /// The next line that it says to us.
    fn says(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some((_, said)) = line.split_once("says ") {
                return Some(said.trim().to_owned());
            }
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

fn say(what: &str) {
    println!("says {what}");
    io::stdout().flush().unwrap();
}

#[test]
fn other_process() {
    let (Some(role), Some(path)) = (env::var_os(ROLE), env::var_os(PLACE)) else { return };
    let path = Path::new(&path);
    let _hang = Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.to_str() {
            Some("serves") => serves_with_few_descriptors(path.to_str().unwrap()).await,
            Some("connects") => connects_with_too_few_descriptors(path).await,
            _ => accepts_with_too_few_descriptors(path).await,
        }
    });
}

/// Allows this process no more descriptors than there are in `most`, and returns the limit.
fn limit_descriptors(most: u64) -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
    most
}

/// Takes all descriptors that there are, but so many.
fn take_all_but(left: usize) -> Vec<OwnedFd> {
    let mut taken: Vec<OwnedFd> = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file.into());
    }
    taken.truncate(taken.len() - left);
    taken
}

async fn serves_with_few_descriptors(address: &str) {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Attempts::default()))
        .unwrap();
    let listener = address::listen(&address.parse().unwrap()).await.unwrap();
    let address = listener.address().clone();
    let settings = Settings::default().handshake_timeout(Duration::from_millis(300));
    let serving = tokio::spawn(listener.serve(serving().settings(settings)));
    tokio::task::yield_now().await;
    limit_descriptors(Counts::now().descriptors as u64 + 12);
    say(&address.to_string());
    serving.await.unwrap();
}

/// Counts how often nobody could be accepted, says so the second time, and aborts where that is oftener than by one who waits
/// a second between two attempts, for as long as this test may take.
#[derive(Default)]
struct Attempts(AtomicU32);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Attempts {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().fields().field("address").is_none() {
            return;
        }
        match self.0.fetch_add(1, Ordering::Relaxed) {
            5 => say("nobody can be accepted"),
            count if count > 300 => std::process::abort(),
            _ => {}
        }
    }
}

/// With how many descriptors an attempt is made: none, up to as many as it takes.
const LEFT: std::ops::RangeInclusive<usize> = 0..=9;

async fn connects_with_too_few_descriptors(path: &Path) {
    drop(shm::connect(path, Options::new()).await.unwrap()); // what is there once stays
    let limit = limit_descriptors(100);
    let before = Counts::now().descriptors;
    for left in LEFT {
        let taken = take_all_but(left);
        let attempt = shm::connect(path, Options::new()).await;
        let said = match &attempt {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        drop((attempt, taken));
        // What a link has is let go of by its driver.
        while Counts::now().descriptors > before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        say(&format!("{said} limit {limit}"));
    }
}

async fn accepts_with_too_few_descriptors(path: &Path) {
    let listener = shm::listen(path).unwrap();
    let limit = limit_descriptors(100);
    let before = Counts::now().descriptors;
    say("ready");
    for left in LEFT {
        let taken = take_all_but(left);
        let accepted = async { listener.accept().await?.establish(serving()).await };
        let told = match accepted.await {
            Ok(connection) => {
                drop(taken);
                connection.closed().await;
                "done".to_owned()
            }
            Err(error) => {
                drop(taken);
                format!("{error:?}")
            }
        };
        if left == 0 {
            drop(listener.accept().await.unwrap()); // it still waits to be accepted
        }
        while Counts::now().descriptors > before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        say(&format!("{told} limit {limit}"));
    }
}

/// Every attempt fails by what it lacks, or succeeds; the one that could not take what it was sent says so, and by its
/// limit; nothing stays open.
fn check_attempts(attempts: &[String]) {
    let (first, others) = attempts.split_first().unwrap();
    // No descriptor for the socket itself.
    assert!(first.contains("Io(Os { code: 24"), "{first}");
    for attempt in others {
        assert!(
            attempt.starts_with("done") || attempt.contains("DescriptorLimit { limit: 100 }"),
            "{attempts:#?}"
        );
    }
    assert!(others.first().unwrap().contains("DescriptorLimit"), "{attempts:#?}");
    assert!(others.last().unwrap().starts_with("done"), "{attempts:#?}");
}

/// Whoever was reached was told what the other lacked.
fn check_told(told: &[String], attempts: &[String]) {
    let lacked = attempts.iter().filter(|attempt| attempt.contains("DescriptorLimit")).count();
    let refused = told.iter().filter(|told| told.contains("Refused(Descriptors)")).count();
    assert_eq!(refused, lacked, "{told:#?} {attempts:#?}");
}

#[test]
fn a_process_that_connects_with_too_few_descriptors_is_told_so_and_tells_the_other() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.sock");
        let listener = shm::listen(&path).unwrap();
        let mut other = Other::start("connects", &path);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = told.clone();
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await.unwrap().establish(serving()).await {
                    Ok(connection) => drop(tokio::spawn(async move { connection.closed().await })),
                    Err(error) => tells.lock().unwrap().push(format!("{error:?}")),
                }
            }
        });
        let attempts = tokio::task::spawn_blocking(move || {
            let mut attempts = Vec::new();
            while let Some(said) = other.says() {
                attempts.push(said);
            }
            attempts
        })
        .await
        .unwrap();
        check_attempts(&attempts);
        check_told(&told.lock().unwrap(), &attempts);
        accepting.abort();
    });
}

#[test]
fn a_process_that_accepts_with_too_few_descriptors_is_told_so_and_tells_the_other() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.sock");
        let mut other = Other::start("accepts", &path);
        assert_eq!(other.says().as_deref(), Some("ready"));
        let (mut attempts, mut told) = (Vec::new(), Vec::new());
        for _ in LEFT {
            match shm::connect(&path, Options::new()).await {
                Ok(connection) => connection.close().await,
                Err(error) => told.push(format!("{error:?}")),
            }
            let said = tokio::task::block_in_place(|| other.says());
            attempts.push(said.unwrap());
        }
        check_attempts(&attempts);
        check_told(&told, &attempts);
    });
}

#[test]
fn a_listener_without_descriptors_goes_on_when_there_are_some_again_and_does_not_spin() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        for text in [format!("shm:{path}/a.sock"), format!("uds:{path}/b.sock"), "tcp:127.0.0.1:0".into()] {
            let mut other = Other::start("serves", Path::new(&text));
            let address: Address = other.says().unwrap().parse().unwrap();
            let settings = || Settings::default().handshake_timeout(Duration::from_millis(300));
            let mut connections = Vec::new();
            let refused = loop {
                match address::connect(&address, Options::new().settings(settings())).await {
                    Ok(connection) => connections.push(connection),
                    Err(error) => break error,
                }
            };
            println!("after {} links: {refused:?}", connections.len());
            assert!(connections.len() >= 2);
            // It waits for descriptors again and again; the process is gone by then if it spins.
            let asked = std::thread::spawn(move || (other.says(), other));
            let mut waiting: Vec<OwnedFd> = Vec::new();
            // No more in all than the socket's queue has places for: those that are gone have theirs still.
            let mut knocks = 0..500;
            while !asked.is_finished() {
                if !knocks.is_empty() {
                    waiting.clear();
                    waiting.extend(knocks.by_ref().take(20).map(|_| knock(&address)));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let (tried, _other) = asked.join().unwrap();
            assert_eq!(tried.as_deref(), Some("nobody can be accepted"));
            for connection in &connections {
                doubles(connection).await;
            }
            connections.clear();
            drop(waiting);
            let again = loop {
                if let Ok(connection) = address::connect(&address, Options::new().settings(settings())).await
                {
                    break connection;
                }
            };
            doubles(&again).await;
        }
    });
}

/// Fails where the system decides how long a host is asked for that does not answer: two minutes.
#[test]
fn a_host_that_does_not_answer_is_given_up_in_time() {
    use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket};
    run(async {
        // One place in its queue, which is taken: what comes then is not answered.
        let full = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&full, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&full, 0).unwrap();
        let there = std::net::SocketAddr::try_from(getsockname(&full).unwrap()).unwrap();
        let first = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        connect(&first, &there).unwrap();
        let settings = Settings::default().handshake_timeout(Duration::from_millis(100));
        let address = Address::Tcp(there.to_string());
        let error = address::connect(&address, Options::new().settings(settings)).await.unwrap_err();
        let told = format!("{address}: nobody has answered within 100ms (Settings::handshake_timeout)");
        assert_eq!(error.to_string(), told);
    });
}

/// Connects, and says nothing.
fn knock(address: &Address) -> OwnedFd {
    match address {
        Address::Shm(path) | Address::Uds(path) => UnixStream::connect(path).unwrap().into(),
        Address::Tcp(host) => std::net::TcpStream::connect(host).unwrap().into(),
        _ => unreachable!("there are no others"),
    }
}

//! Calls, large and small, streams both ways and calls back, each of which is checked.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use adjoin::{CallError, Connection, Context, LinkEnd, RecvError, Rx, SendError, Tx, channel};
use tokio::task::JoinHandle;

/// The longest payload of a call, in bytes.
const LONGEST: usize = 4 << 20;
/// The longest element of a stream, in bytes.
const LONGEST_ELEMENT: usize = 200 << 10;

type Item = (u64, Vec<u8>, u64);

#[adjoin::service]
pub(crate) trait Loads {
    async fn small(&self, number: u64) -> u64;
    async fn large(&self, number: u64, bytes: Vec<u8>) -> (u64, Vec<u8>);
    /// Sends back what comes.
    async fn pipe(&self, input: Rx<Item>, output: Tx<Item>);
    /// Calls `small` of the caller.
    async fn call_back(&self, number: u64) -> u64;
    /// Starts a process that inherits all that it can.
    async fn leave_a_child(&self);
}

pub(crate) use LoadsClient as LoadClient;
pub(crate) use LoadsDispatcher as LoadDispatcher;

#[derive(Clone)]
pub(crate) struct Service;

impl Loads for Service {
    async fn small(&self, number: u64) -> u64 {
        number * 3
    }

    async fn large(&self, number: u64, bytes: Vec<u8>) -> (u64, Vec<u8>) {
        (number, bytes)
    }

    async fn pipe(&self, mut input: Rx<Item>, output: Tx<Item>) {
        while let Ok(Some(item)) = input.recv().await {
            if output.send(item).await.is_err() {
                return;
            }
        }
    }

    async fn call_back(&self, number: u64) -> u64 {
        let caller = LoadClient::new(Context::current().unwrap().connection());
        caller.small(number).await.unwrap_or(0)
    }

    #[allow(clippy::zombie_processes, reason = "it outlives this process, or is reaped with it")]
    async fn leave_a_child(&self) {
        // In a group of its own, so that it outlives the one that is killed.
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sleep");
        command.arg("1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().unwrap();
    }
}

/// What was done without a fault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) small: u64,
    pub(crate) large: u64,
    pub(crate) elements: u64,
    pub(crate) back: u64,
}

/// A load on one connection.
pub(crate) struct Load {
    tasks: Vec<JoinHandle<Result<Done, LinkEnd>>>,
    stopped: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(connection: &Connection, seed: u64) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let client = LoadClient::new(connection);
        let mut tasks = Vec::new();
        for task in 0..2 {
            let (client, stopped, seed) = (client.clone(), stopped.clone(), seed ^ task);
            tasks.push(tokio::spawn(small(client.clone(), stopped.clone())));
            tasks.push(tokio::spawn(large(client.clone(), stopped.clone(), seed)));
            tasks.push(tokio::spawn(stream(client.clone(), stopped.clone(), seed)));
            tasks.push(tokio::spawn(back(client, stopped)));
        }
        let blocking = client.clone();
        tasks.push(tokio::task::spawn_blocking({
            let stopped = stopped.clone();
            move || blocked(&blocking, &stopped)
        }));
        Load { tasks, stopped }
    }

    /// Whether anything of it is over.
    pub(crate) fn has_failed(&mut self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Ends it, and says what was done.
    pub(crate) async fn stop(self) -> Result<Done, LinkEnd> {
        self.stopped.store(true, Ordering::Relaxed); // a flag and nothing else
        let mut all = Done::default();
        for task in self.tasks {
            let done = task.await.unwrap()?;
            all.small += done.small;
            all.large += done.large;
            all.elements += done.elements;
            all.back += done.back;
        }
        Ok(all)
    }

    /// Waits for the end that its link makes of it.
    pub(crate) async fn ended(self) -> Vec<LinkEnd> {
        let mut ends = Vec::new();
        for task in self.tasks {
            ends.push(task.await.unwrap().expect_err("it was not stopped"));
        }
        ends
    }
}

fn ended<E: std::fmt::Debug>(error: CallError<E>) -> LinkEnd {
    match error {
        CallError::Ended(end) => end,
        error => panic!("{error:?}"),
    }
}

fn goes_on(stopped: &AtomicBool) -> bool {
    !stopped.load(Ordering::Relaxed)
}

async fn small(client: LoadClient, stopped: Arc<AtomicBool>) -> Result<Done, LinkEnd> {
    let mut done = Done::default();
    while goes_on(&stopped) {
        done.small += 1;
        assert_eq!(client.small(done.small).await.map_err(ended)?, 3 * done.small);
    }
    Ok(done)
}

fn blocked(client: &LoadClient, stopped: &AtomicBool) -> Result<Done, LinkEnd> {
    let mut done = Done::default();
    while goes_on(stopped) {
        done.small += 1;
        assert_eq!(client.small(done.small).block().map_err(ended)?, 3 * done.small);
    }
    Ok(done)
}

async fn back(client: LoadClient, stopped: Arc<AtomicBool>) -> Result<Done, LinkEnd> {
    let mut done = Done::default();
    while goes_on(&stopped) {
        done.back += 1;
        assert_eq!(client.call_back(done.back).await.map_err(ended)?, 3 * done.back);
    }
    Ok(done)
}

fn checksum(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}

/// Random bytes of a random length: mostly short ones.
fn noise(random: &mut fastrand::Rng, longest: usize) -> Vec<u8> {
    let most = longest >> random.u32(0..14);
    let mut bytes = vec![0; random.usize(0..=most)];
    random.fill(&mut bytes);
    bytes
}

async fn large(client: LoadClient, stopped: Arc<AtomicBool>, seed: u64) -> Result<Done, LinkEnd> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = Done::default();
    while goes_on(&stopped) {
        let bytes = noise(&mut random, LONGEST);
        let sum = checksum(&bytes);
        done.large += 1;
        let (number, back) = client.large(done.large, bytes).await.map_err(ended)?;
        assert_eq!((number, checksum(&back)), (done.large, sum));
    }
    Ok(done)
}

async fn stream(client: LoadClient, stopped: Arc<AtomicBool>, seed: u64) -> Result<Done, LinkEnd> {
    let (input, theirs) = channel::<Item>();
    let (out, mut output) = channel::<Item>();
    let call = tokio::spawn(async move { client.pipe(theirs, out).await });
    let sending = tokio::spawn(async move {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut number = 0;
        while goes_on(&stopped) {
            number += 1;
            let bytes = noise(&mut random, LONGEST_ELEMENT);
            let sum = checksum(&bytes);
            match input.send((number, bytes, sum)).await {
                Ok(()) => {}
                // The end of the call takes its streams along, as the link's does.
                Err(SendError::Ended(_) | SendError::Closed) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    let mut done = Done::default();
    let received = loop {
        match output.recv().await {
            Ok(Some((number, bytes, sum))) => {
                done.elements += 1;
                assert_eq!((number, checksum(&bytes)), (done.elements, sum));
            }
            Ok(None) => break Ok(done),
            Err(RecvError::Ended(end)) => break Err(end),
            Err(error) => panic!("{error:?}"),
        }
    };
    sending.await.unwrap();
    let called = call.await.unwrap().map_err(ended);
    received.and_then(|done| called.map(|()| done))
}

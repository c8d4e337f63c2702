//! Payloads of every size over shared memory, copied, loaned and borrowed, between two processes.
//!
//! | variable | of | usually |
//! |---|---|---|
//! | `ADJOIN_SECONDS` | random sizes from eight tasks each way | 3 |
//! | `ADJOIN_GIB` | a payload of as many GiB passes; 0 for none | 0 in debug, 1 with `--release` |
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    env,
    future::Future,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adjoin::{Bytes, CallError, Connection, Context, LoanError, Options, Refusal, Rx, Settings, Tx, channel};
use common::{
    links::{cell_command, serve_if_cell_with},
    watchdog::Watchdog,
};

/// What both sides can be asked for.
#[adjoin::service]
trait Payloads {
    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8>;
    async fn pass(&self, key: String, bytes: Bytes, behind: u16) -> (u16, Bytes);
    /// Keeps a handle on what comes, until it is told to let go.
    async fn keep(&self, bytes: Bytes) -> u64;
    async fn let_go(&self) -> u64;
    /// Whether what comes lies in shared memory.
    async fn lies_in_shared_memory(&self, bytes: Bytes) -> bool;
    /// Sends all that comes back.
    async fn stream(&self, input: Rx<Bytes>, output: Tx<Bytes>);
    /// Calls the caller's `echo` with as many bytes, and says whether they came back.
    async fn call_back(&self, len: u64) -> bool;
    /// Does so with random sizes up to a limit, from so many tasks, until it is told to stop.
    async fn call_back_at_random(&self, tasks: u32, limit: u64, seed: u64) -> u64;
    /// Reads nothing before it is told to, and then everything; how many bytes, and the checksums one after the other.
    async fn read_later(&self, elements: Rx<Vec<u8>>, go: Rx<bool>) -> (u64, Vec<u64>);
    async fn stop(&self);
    async fn blocks_in_use(&self) -> u64;
}

#[derive(Clone, Default)]
struct Both {
    kept: Arc<Mutex<Vec<Bytes>>>,
    stopped: Arc<AtomicBool>,
}

impl Payloads for Both {
    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    async fn pass(&self, key: String, bytes: Bytes, behind: u16) -> (u16, Bytes) {
        assert_eq!(key.len(), usize::from(behind));
        (behind, bytes)
    }

    async fn keep(&self, bytes: Bytes) -> u64 {
        let sum = checksum(&bytes);
        self.kept.lock().unwrap().push(bytes);
        sum
    }

    async fn let_go(&self) -> u64 {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        kept.iter().map(|bytes| checksum(bytes)).fold(0, u64::wrapping_add)
    }

    async fn lies_in_shared_memory(&self, bytes: Bytes) -> bool {
        in_shared_memory(&bytes)
    }

    async fn stream(&self, mut input: Rx<Bytes>, output: Tx<Bytes>) {
        while let Ok(Some(bytes)) = input.recv().await {
            output.send(bytes).await.unwrap();
        }
    }

    async fn call_back(&self, len: u64) -> bool {
        let caller = PayloadsClient::new(Context::current().unwrap().connection());
        echoes(&caller, usize::try_from(len).unwrap()).await;
        true
    }

    async fn call_back_at_random(&self, tasks: u32, limit: u64, seed: u64) -> u64 {
        let caller = PayloadsClient::new(Context::current().unwrap().connection());
        at_random(&caller, tasks, limit, seed, self.stopped.clone()).await
    }

    async fn read_later(&self, mut elements: Rx<Vec<u8>>, mut go: Rx<bool>) -> (u64, Vec<u64>) {
        let (mut bytes, mut sums) = (0, Vec::new());
        if go.recv().await.unwrap() == Some(true) {
            while let Some(element) = elements.recv().await.unwrap() {
                bytes += element.len() as u64;
                sums.push(checksum(&element));
            }
        }
        (bytes, sums)
    }

    async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed); // Relaxed: a flag and nothing else
    }

    async fn blocks_in_use(&self) -> u64 {
        Context::current().unwrap().connection().blocks_in_use().unwrap() as u64
    }
}

/// Serves in the cell. Which limits hold is the host's to say; whether the cell trusts it, the environment's.
#[test]
fn cell_entry() {
    serve_if_cell_with(|| {
        let settings = Settings::default();
        let trusts = env::var_os("ADJOIN_TEST_TRUSTS").is_some();
        // SAFETY: the host is this very program, which writes to no block that it has sent.
        let settings = if trusts { unsafe { settings.trust_peer() } } else { settings };
        Options::new().settings(settings).serve(PayloadsDispatcher::new(Both::default()))
    });
}

struct Rig {
    cell: adjoin::Cell,
    far: PayloadsClient,
    near: Both,
}

impl Rig {
    fn connection(&self) -> &Connection {
        self.cell.connection()
    }

    /// Waits until no block of either side is in use.
    async fn settles(&self) {
        // The call that asks is not in a block.
        while self.connection().blocks_in_use().unwrap() > 0 || self.far.blocks_in_use().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    None,
    Both,
}

async fn rig(settings: Settings, trust: Trust) -> Rig {
    let mut command = cell_command();
    let mut settings = settings;
    if trust == Trust::Both {
        command.env("ADJOIN_TEST_TRUSTS", "1");
        // SAFETY: the cell is this very program, which writes to no block that it has sent.
        settings = unsafe { settings.trust_peer() };
    }
    let near = Both::default();
    let options = Options::new().settings(settings).serve(PayloadsDispatcher::new(near.clone()));
    let cell = adjoin::spawn(command, options).await.unwrap();
    let far = PayloadsClient::new(cell.connection());
    Rig { cell, far, near }
}

fn run<F: Future<Output = ()>>(seconds: u64, case: F) {
    let _hang = Watchdog::seconds(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(case);
}

fn number(name: &str, usually: u64) -> u64 {
    env::var(name).map_or(usually, |value| value.parse().expect("a number"))
}

fn checksum(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    bytes
}

/// A payload of random bytes goes there and comes back.
async fn echoes(client: &PayloadsClient, len: usize) {
    let bytes = noise(len);
    let sum = checksum(&bytes);
    let back = client.echo(bytes).await.unwrap();
    assert_eq!((back.len(), checksum(&back)), (len, sum));
}

async fn at_random(
    client: &PayloadsClient,
    tasks: u32,
    limit: u64,
    seed: u64,
    stopped: Arc<AtomicBool>,
) -> u64 {
    let tasks: Vec<_> = (0..u64::from(tasks))
        .map(|task| {
            let (client, stopped) = (client.clone(), stopped.clone());
            let mut random = fastrand::Rng::with_seed(seed + task);
            tokio::spawn(async move {
                let mut calls = 0;
                // Relaxed: as where it is stored.
                while !stopped.load(Ordering::Relaxed) {
                    let limit = limit >> random.u32(0..12);
                    let len = random.u64(0..=limit);
                    echoes(&client, usize::try_from(len).unwrap()).await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await.unwrap();
    }
    calls
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn every_size_around_every_boundary_passes_a_hundred_times_both_ways() {
    run(300, async {
        let settings = Settings::default().ring_bytes(64 << 10).max_payload_size(300 << 10);
        let rig = rig(settings, Trust::None).await;
        let around = |len: usize| len.saturating_sub(2)..=len + 2;
        // The head of a vector takes up to three bytes of the payload, the verdict of an answer one more.
        let inline = 8 * KIB;
        let longest = 300 * KIB - 3 - 1;
        let mut sizes: Vec<usize> = vec![0, 1, 127, 128];
        sizes
            .extend(around(inline - 2).chain(around(inline)).chain(around(32 * KIB)).chain(around(64 * KIB)));
        sizes.extend([4095, 4096, 4097, 100 * KIB, longest - 1, longest]);
        for round in 0..100 {
            for len in &sizes {
                echoes(&rig.far, *len).await;
                if round % 10 == 0 {
                    assert!(rig.far.call_back(*len as u64).await.unwrap());
                }
            }
        }
        match rig.far.echo(vec![0; longest + 2]).await {
            Err(CallError::Refused(Refusal::PayloadTooLarge { len, limit })) => {
                assert_eq!((len, limit), (300 * KIB + 1, 300 * KIB));
            }
            other => panic!("{other:?}"),
        }
        rig.settles().await;
    });
}

#[test]
fn random_sizes_from_many_tasks_both_ways_leave_the_arenas_empty() {
    let seconds = number("ADJOIN_SECONDS", 3);
    run(seconds + 120, async {
        let rig = rig(Settings::default().max_payload_size(4 * MIB as u32 + 64), Trust::None).await;
        let stopped = Arc::new(AtomicBool::new(false));
        let seed = fastrand::u64(..);
        let (far, stop) = (rig.far.clone(), stopped.clone());
        let there = tokio::spawn(async move { at_random(&far, 8, 4 * MIB as u64, seed, stop).await });
        let far = rig.far.clone();
        let back = tokio::spawn(async move { far.call_back_at_random(8, 4 * MIB as u64, !seed).await });
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        stopped.store(true, Ordering::Relaxed); // Relaxed: a flag and nothing else
        rig.far.stop().await.unwrap();
        let (there, back) = (there.await.unwrap(), back.await.unwrap().unwrap());
        println!("{there} calls there, {back} back");
        assert!(there > 0 && back > 0);
        rig.settles().await;
    });
}

#[test]
fn a_payload_of_a_gigabyte_passes_where_the_maximum_allows() {
    let gib = number("ADJOIN_GIB", if cfg!(debug_assertions) { 0 } else { 1 });
    run(300, async move {
        let len = if gib == 0 { 80 * MIB } else { usize::try_from(gib).unwrap() << 30 };
        let most = u32::try_from(len + 16).unwrap();
        let rig = rig(Settings::default().max_payload_size(most), Trust::None).await;
        echoes(&rig.far, len).await;
        rig.settles().await;
    });
}

/// Each side has room for one payload, and each needs an answer of the other, which is as long. Fails, as a hang, where
/// what waits for a block keeps this side from receiving.
#[test]
fn two_sides_that_are_out_of_blocks_and_need_each_other_go_on() {
    run(120, async {
        let longest = 256 * KIB;
        let settings = Settings::default()
            .ring_bytes(64 << 10)
            .max_payload_size(longest as u32)
            .arena_bytes(longest as u64)
            .arena_blocks(1);
        let rig = rig(settings, Trust::None).await;
        let calls: Vec<_> = (0..16)
            .map(|task| {
                let far = rig.far.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        if task % 2 == 0 {
                            echoes(&far, 200 * KIB).await;
                        } else {
                            assert!(far.call_back(200 * KIB as u64).await.unwrap());
                        }
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        rig.settles().await;
    });
}

/// What is held does not keep messages waiting, nor what is lent; only who needs a loan waits.
#[test]
fn a_thousand_payloads_that_are_held_block_nobody() {
    for trust in [Trust::None, Trust::Both] {
        run(120, async move {
            let settings = Settings::default()
                .max_payload_size(MIB as u32)
                .arena_bytes(64 << 20)
                .initial_channel_credit(MIB as u32);
            let rig = rig(settings, trust).await;
            let mut sum = 0_u64;
            for _ in 0..1000 {
                let bytes = noise(200 * KIB);
                let one = checksum(&bytes);
                assert_eq!(rig.far.keep(bytes.into()).await.unwrap(), one);
                sum = sum.wrapping_add(one);
            }
            let in_use = rig.connection().blocks_in_use().unwrap();
            assert_eq!(in_use > 100, trust == Trust::Both, "{in_use} blocks");
            echoes(&rig.far, MIB - 16).await;
            if trust == Trust::Both {
                assert!(rig.connection().try_loan(200 * KIB).unwrap().is_none(), "all is lent");
            }
            let connection = rig.connection().clone();
            let waiting = tokio::spawn(async move { connection.loan(300 * KIB).await.unwrap().len() });
            assert_eq!(rig.far.let_go().await.unwrap(), sum);
            assert_eq!(waiting.await.unwrap(), 300 * KIB, "who waited for a loan has one");
            rig.settles().await;
        });
    }
}

/// Fills a loan, and shrinks it.
async fn filled(connection: &Connection, len: usize) -> (Bytes, u64) {
    let mut loan = connection.loan(len + 100).await.unwrap();
    loan[..len].copy_from_slice(&noise(len));
    loan.truncate(len);
    let sum = checksum(&loan);
    (loan.freeze(), sum)
}

#[test]
fn a_loan_arrives_whole_whatever_stands_around_it() {
    for trust in [Trust::None, Trust::Both] {
        run(120, async move {
            let rig = rig(Settings::default(), trust).await;
            for len in [0, 1, 255, 256, 1000, 4096, 64 * KIB, 200 * KIB, 3 * MIB] {
                for key in [0_u16, 1, 200, 300, 5000] {
                    let (bytes, sum) = filled(rig.connection(), len).await;
                    let before = bytes.clone();
                    let call = rig.far.pass("k".repeat(key.into()), bytes.clone(), key);
                    let again = rig.far.pass("k".repeat(key.into()), bytes, key); // which is with the peer already
                    let (one, two) = tokio::join!(call, again);
                    for (behind, back) in [one.unwrap(), two.unwrap()] {
                        assert_eq!((behind, back.len(), checksum(&back)), (key, len, sum));
                    }
                    assert_eq!(checksum(&before), sum);
                    let part = before.slice(len / 3..);
                    let (_, back) = rig.far.pass(String::new(), part.clone(), 0).await.unwrap();
                    assert_eq!(back, part);
                }
            }
            rig.settles().await;
        });
    }
}

fn in_shared_memory(bytes: &[u8]) -> bool {
    let address = bytes.as_ptr().addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/memfd:adjoin")).any(|line| {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let number = |hex| usize::from_str_radix(hex, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    })
}

/// Fails where the sender copies what was lent, or the receiver what it may borrow.
#[test]
fn what_is_loaned_and_borrowed_is_never_copied() {
    run(60, async {
        let trusting = rig(Settings::default(), Trust::Both).await;
        let (bytes, sum) = filled(trusting.connection(), 5000).await;
        assert!(in_shared_memory(&bytes));
        assert!(trusting.far.lies_in_shared_memory(bytes.clone()).await.unwrap());
        assert_eq!(trusting.far.keep(bytes.clone()).await.unwrap(), sum);
        assert_eq!(trusting.connection().blocks_in_use().unwrap(), 1, "it is one block on both sides");
        let (_, back) = trusting.far.pass(String::new(), noise(200 * KIB).into(), 0).await.unwrap();
        assert!(in_shared_memory(&back), "a result is borrowed, too");
        drop(bytes);
        // What was passed, and lies in a block of this side's, the peer drops when its answer is on its way.
        while trusting.connection().blocks_in_use().unwrap() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(trusting.connection().blocks_in_use().unwrap(), 1, "the peer has it");
        trusting.far.let_go().await.unwrap();
        drop(back);
        trusting.settles().await;

        let others = rig(Settings::default(), Trust::None).await;
        let (bytes, _) = filled(others.connection(), 5000).await;
        assert!(!others.far.lies_in_shared_memory(bytes).await.unwrap(), "nobody has promised anything");
    });
}

#[test]
fn loans_travel_as_elements_both_ways() {
    for trust in [Trust::None, Trust::Both] {
        run(120, async move {
            let settings = Settings::default().initial_channel_credit(8 << 20);
            let rig = rig(settings, trust).await;
            let (input, theirs) = channel();
            let (out, mut output) = channel();
            let far = rig.far.clone();
            let streaming = tokio::spawn(async move { far.stream(theirs, out).await });
            let connection = rig.connection().clone();
            let (told, mut sums) = tokio::sync::mpsc::unbounded_channel();
            let sending = tokio::spawn(async move {
                for round in 0..200 {
                    let len = [0, 10, 300, 5000, 64 * KIB, MIB][round % 6];
                    let (bytes, sum) = filled(&connection, len).await;
                    told.send((len, sum)).unwrap();
                    input.send(bytes).await.unwrap();
                }
            });
            while let Some((len, sum)) = sums.recv().await {
                let bytes = output.recv().await.unwrap().expect("one for each");
                assert_eq!((bytes.len(), checksum(&bytes)), (len, sum));
            }
            assert!(output.recv().await.unwrap().is_none());
            sending.await.unwrap();
            streaming.await.unwrap().unwrap();
            rig.settles().await;
        });
    }
}

/// Long vectors of a stream stay in their blocks until they are read, up to a quarter of the memory that can be lent; what
/// comes beyond that is copied out. Their blocks go back when they are read, and when they never will be. Fails where a
/// dropped element keeps its block, and where there is no bound: then no loan is left.
#[test]
fn elements_that_nobody_reads_yet_lie_in_their_blocks_and_leave_room_for_loans() {
    run(120, async {
        let settings = Settings::default().initial_channel_credit(64 << 20).max_payload_size(32 << 20);
        let rig = rig(settings, Trust::None).await; // 32 MiB can be lent
        for reads in [true, false] {
            let ((elements, input), (go, told)) = (channel(), channel());
            let far = rig.far.clone();
            let reading = tokio::spawn(async move { far.read_later(input, told).await.unwrap() });
            let mut sums = Vec::new();
            for _ in 0..40 {
                let element = noise(MIB);
                sums.push(checksum(&element));
                elements.send(element).await.unwrap();
            }
            assert_eq!(rig.far.echo(vec![7; 100]).await.unwrap().len(), 100); // all of them have arrived
            let unread = rig.connection().blocks_in_use().unwrap();
            assert!((1..=8).contains(&unread), "{unread} blocks hold elements");
            drop(rig.connection().loan(16 << 20).await.unwrap());
            drop(elements);
            go.send(reads).await.unwrap();
            let (bytes, read) = reading.await.unwrap();
            let expected = if reads { (40 * MIB as u64, sums) } else { (0, Vec::new()) };
            assert!((bytes, read) == expected);
            rig.settles().await;
        }
    });
}

#[test]
fn loans_that_can_never_be_are_refused_with_the_limit() {
    run(60, async {
        let settings = Settings::default().max_payload_size(MIB as u32).arena_bytes(MIB as u64 + 8192);
        let rig = rig(settings, Trust::None).await;
        match rig.connection().loan(2 * MIB).await {
            Err(LoanError::Refused(Refusal::PayloadTooLarge { len, limit })) => {
                assert_eq!((len, limit), (2 * MIB, MIB));
            }
            other => panic!("{other:?}"),
        }
        match rig.connection().loan(8000).await {
            Err(LoanError::Refused(Refusal::LoanTooLarge { len: 8000, limit: 7680 })) => {}
            other => panic!("{other:?}"),
        }
        let first = rig.connection().try_loan(7680).unwrap().expect("nothing is lent");
        assert!(rig.connection().try_loan(1).unwrap().is_none());
        let connection = rig.connection().clone();
        let waiting = std::thread::spawn(move || connection.blocking_loan(1).map(|loan| loan.len()));
        drop(first);
        assert_eq!(waiting.join().unwrap().unwrap(), 1);
        rig.cell.kill().unwrap();
        rig.connection().closed().await;
        assert!(matches!(rig.connection().loan(1).await, Err(LoanError::Ended(_))));
    });
}

/// What was received stays readable after the link's end, and so does what was lent.
#[test]
fn payloads_outlive_their_link() {
    run(60, async {
        let rig = rig(Settings::default(), Trust::Both).await;
        let (bytes, sum) = filled(rig.connection(), 300 * KIB).await;
        let (_, back) = rig.far.pass(String::new(), bytes.clone(), 0).await.unwrap();
        let mut loan = rig.connection().loan(100).await.unwrap();
        rig.cell.kill().unwrap();
        rig.connection().closed().await;
        loan.fill(7);
        assert_eq!((checksum(&bytes), checksum(&back)), (sum, sum));
        assert_eq!(&loan.freeze()[..], [7; 100]);
        drop(rig.near);
    });
}

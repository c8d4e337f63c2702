//! What calls and elements allocate once a link is in its stride: nothing at all, but for what the user's own types need,
//! and the future of a handler and its task.
//!
//! The allocator of each process counts; the cell tells its counts by a call. A few allocations in a thousand are
//! let pass: queues that grow, and the runtime's own.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::{
    alloc::System,
    future::Future,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use adjoin::{Options, Rx, Tx, channel};
use common::{links::cell_command, watchdog::Watchdog};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// From the start of the process.
static SINCE: LazyLock<Region<'static, System>> = LazyLock::new(|| Region::new(ALLOCATOR));

/// What a process has allocated: how often, and how many bytes.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, adjoin::Schema)]
struct Allocated {
    times: u64,
    bytes: u64,
}

impl Allocated {
    fn by_now() -> Self {
        let stats = SINCE.change();
        Allocated {
            times: (stats.allocations + stats.reallocations) as u64,
            bytes: stats.bytes_allocated as u64,
        }
    }

    fn since(self, before: Self) -> Self {
        Allocated { times: self.times - before.times, bytes: self.bytes - before.bytes }
    }
}

#[adjoin::service]
trait Counted {
    async fn allocated(&self) -> Allocated;
    async fn add(&self, a: u64, b: u64) -> u64;
    #[adjoin(inline)]
    async fn add_inline(&self, a: u64, b: u64) -> u64;
    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8>;
    async fn sum(&self, numbers: Rx<u64>, sums: Tx<u64>);
}

struct Counter;

impl Counted for Counter {
    async fn allocated(&self) -> Allocated {
        Allocated::by_now()
    }

    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn add_inline(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    async fn sum(&self, mut numbers: Rx<u64>, sums: Tx<u64>) {
        let mut sum = 0;
        while let Ok(Some(number)) = numbers.recv().await {
            sum += number;
            if sums.send(sum).await.is_err() {
                return;
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn options() -> Options {
    Options::new().serve(CountedDispatcher::new(Counter))
}

#[test]
fn cell_entry() {
    if std::env::var_os("ADJOIN_LINK").is_none() {
        return;
    }
    runtime().block_on(async {
        let host = adjoin::cell(options()).await.unwrap();
        host.closed().await;
    });
    std::process::exit(0);
}

const TIMES: u64 = 2_000;

/// What one side allocates in a round.
#[derive(Clone, Copy, Debug)]
struct Each {
    times: f64,
    bytes: f64,
}

impl Each {
    #[track_caller]
    fn at_most(self, times: u64, bytes: u64) {
        // What is rare, and not of the rounds.
        let within = self.times <= times as f64 + 0.02 && self.bytes <= bytes as f64 + 64.0;
        assert!(within, "{self:?} a round, and not at most {times} times, {bytes} bytes");
    }
}

/// What this side and the cell allocate in each of [`TIMES`] rounds of `work`, behind as many that warm up.
async fn each_round(cell: &CountedClient, work: impl AsyncFn()) -> (Each, Each) {
    for _ in 0..TIMES {
        work().await;
    }
    let (far, near) = (cell.allocated().await.unwrap(), Allocated::by_now());
    for _ in 0..TIMES {
        work().await;
    }
    let (near, far) = (Allocated::by_now().since(near), cell.allocated().await.unwrap().since(far));
    let each = |of: u64| of as f64 / TIMES as f64;
    let [near, far] = [near, far].map(|side| Each { times: each(side.times), bytes: each(side.bytes) });
    (near, far)
}

/// The bytes of a handler's future, with what is around it.
const HANDLER: u64 = 512;
/// The bytes of its task.
const TASK: u64 = 512;

fn in_a_link<F: Future<Output = ()>>(case: impl FnOnce(CountedClient) -> F) {
    // One link after the other: the counts are of the process.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _hang = Watchdog::seconds(120);
    runtime().block_on(async {
        let process = adjoin::spawn(cell_command(), options()).await.unwrap();
        case(CountedClient::new(process.connection())).await;
        process.stop(Duration::from_secs(10)).await.unwrap();
    });
}

#[test]
fn a_small_call_allocates_its_handler_and_nothing_else() {
    in_a_link(async |cell| {
        let (caller, callee) = each_round(&cell, async || assert_eq!(cell.add(1, 2).await.unwrap(), 3)).await;
        caller.at_most(0, 0);
        callee.at_most(2, HANDLER + TASK);
        let (caller, callee) =
            each_round(&cell, async || assert_eq!(cell.add_inline(1, 2).await.unwrap(), 3)).await;
        caller.at_most(0, 0);
        callee.at_most(1, HANDLER);
    });
}

#[test]
fn a_small_element_allocates_nothing() {
    in_a_link(async |cell| {
        let (numbers, far) = channel();
        let (far_sums, sums) = channel();
        let going = tokio::spawn({
            let cell = cell.clone();
            async move { cell.sum(far, far_sums).await }
        });
        let sums = tokio::sync::Mutex::new(sums);
        let (near, far) = each_round(&cell, async || {
            numbers.send(1).await.unwrap();
            assert!(sums.lock().await.recv().await.unwrap().is_some());
        })
        .await;
        near.at_most(0, 0);
        far.at_most(0, 0);
        drop(numbers);
        going.await.unwrap().unwrap();
    });
}

#[test]
fn a_long_vector_is_copied_into_the_memory_that_the_user_gets() {
    for len in [4 << 10, 64 << 10, 1 << 20] {
        a_long_vector_is_copied_once(len);
    }
}

/// Both lie in the ring, or both in blocks.
fn a_long_vector_is_copied_once(len: u64) {
    in_a_link(async |cell| {
        let long = vec![7; len as usize];
        let (caller, callee) = each_round(&cell, async || {
            assert_eq!(cell.echo(long.clone()).await.unwrap().len(), long.len());
        })
        .await;
        // What is the user's: the argument, and the answer.
        caller.at_most(2, 2 * len);
        // The argument; the result is the same.
        callee.at_most(3, len + HANDLER + TASK);
    });
}

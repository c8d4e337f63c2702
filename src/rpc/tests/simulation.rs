//! A simulation: two and three sessions over links on which everything is left to chance, from one seed.
//!
//! Each seed is a world of its own: one or two links, three sessions at most, each serving and calling; calls that
//! are dropped, that time out, that call back and on; streams both ways whose ends stop reading, or go; virtual
//! connections; and a link that is cut, closed, drained or left. Everything runs as it ships, from `Connection` to the
//! codec, on one thread with a clock that jumps. What must hold is in `ledger` (each call has one outcome, and a legal
//! one; streams are in order and whole), `notary` (the rules of the protocol on the wire, credit among them) and
//! `world` (everything comes to rest, and nothing is left).
//!
//! | file | is |
//! |---|---|
//! | `link`, `table` | the links: full, slow, cut at any moment; credit by messages or by a table |
//! | `notary` | who sees each message, and knows the rules |
//! | `load`, `service`, `streams` | what is done: calls, handlers, streams |
//! | `ledger` | what was done and seen, and which of it is legal |
//! | `world` | one seed from its beginning to its end |
//! | `chance` | what is left to chance |
//! | `watchdog` | says which seed it is that hangs |
//!
//! A seed that fails is printed. `ADJOIN_SEED=n cargo test --lib simulation -- --nocapture` runs it again, with a
//! trace of all that happens; `ADJOIN_SEEDS=n` says how many are run, from 0 on.

mod chance;
mod ledger;
mod link;
mod load;
mod notary;
mod service;
mod streams;
mod table;
mod watchdog;
mod world;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use self::{watchdog::Watchdog, world::World};
use crate::rpc::waiters::lock;

/// Seeds that are run where nobody says how many.
const SEEDS: u64 = 2000;

/// What one seed brought.
struct Run {
    failure: Option<String>,
    trace: Vec<String>,
    /// See `Ledger::happened`.
    happened: Vec<String>,
}

/// Runs one world, on this thread.
fn run(seed: u64, traced: bool) -> Run {
    report_panics();
    fastrand::seed(seed);
    PANICKED.set(Some(None));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets asks for nothing");
    let world = {
        let _inside = runtime.enter();
        World::new(traced)
    };
    let watchdog = Watchdog::new(seed, &world);
    let ran = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run())));
    let trace = world.take_trace(); // what is left is dropped in no certain order
    drop(runtime);
    world.close();
    drop(watchdog);
    let panicked = PANICKED.take().flatten();
    // What panicked is why the rest went wrong.
    let failure = panicked.or(world.failure()).or(ran.is_err().then(|| "the world panicked".to_owned()));
    let happened = lock(&world.ledger).happened().collect();
    Run { failure, trace, happened }
}

thread_local! {
    /// On a thread that runs a world: what panicked first.
    static PANICKED: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Sees to it that a panic in any task of a world is noticed, and says nothing of it beside.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let simulated = PANICKED.with_borrow_mut(|panicked| match panicked {
                Some(first) => {
                    first.get_or_insert(info.to_string());
                    true
                }
                None => false,
            });
            if !simulated {
                others(info);
            }
        }));
    });
}

/// What to do about a seed that failed.
fn how_to_repeat(seed: u64) -> String {
    format!("again, with a trace: ADJOIN_SEED={seed} cargo test --lib simulation -- --nocapture")
}

/// How many seeds are to be run, or which one, by the environment.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value}, and is to be a number")))
}

/// Runs seeds from 0 on, on all cores, until one of them fails.
fn run_seeds(seeds: u64) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None::<(u64, String)>);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed); // Relaxed: each number is given once
            if seed >= seeds || lock(&failed).is_some() {
                return;
            }
            if let Some(failure) = run(seed, false).failure {
                let mut failed = lock(&failed);
                if failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                    *failed = Some((seed, failure));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    failed.into_inner().ok().flatten()
}

#[test]
fn with_any_order_delay_cut_and_cancel_each_call_has_one_outcome_and_nothing_is_left() {
    if let Some(seed) = number("ADJOIN_SEED") {
        let Run { failure, trace, .. } = run(seed, true);
        println!("{}", trace.join("\n"));
        assert!(failure.is_none(), "seed {seed} failed: {}", failure.unwrap_or_default());
        return;
    }
    if let Some((seed, failure)) = run_seeds(number("ADJOIN_SEEDS").unwrap_or(SEEDS)) {
        panic!("seed {seed} failed: {failure}\n{}", how_to_repeat(seed));
    }
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..40 {
        let (once, again) = (run(seed, true).trace, run(seed, true).trace);
        assert!(!once.is_empty());
        if let Some(at) = (0..once.len().max(again.len())).find(|at| once.get(*at) != again.get(*at)) {
            panic!("seed {seed}, line {at}: {:?}, and then {:?}", once.get(at), again.get(at));
        }
    }
}

/// A simulation in which nothing happens finds nothing.
#[test]
fn what_is_to_be_simulated_happens() {
    let happened: BTreeSet<_> = (0..300).flat_map(|seed| run(seed, false).happened).collect();
    let calls = [
        "Echo", "Slow", "Take", "Units", "Many", "Give", "Stream", "Open", "Both", "Back", "On", "Through",
        "Within", "Marked",
    ];
    let outcomes =
        ["User", "UnknownMethod", "InvalidPayload", "Cancelled", "TimedOut", "Ended", "Refused", "Dropped"];
    let others = ["stream Closed", "stream Reset", "stream Ended", "Accepted", "Rejected"];
    let expected = [&calls[..], &outcomes, &others].concat();
    let missing: Vec<_> = expected.into_iter().filter(|name| !happened.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

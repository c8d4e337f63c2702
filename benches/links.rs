//! What a link carries, and what that costs: calls and streams over shared memory, Unix sockets, TCP, and
//! within one process, side by side in one run.
//!
//! ```text
//! cargo bench --bench links -- [--link shm|uds|tcp|local|limits] [--workload unary|stream|...] [--size BYTES]
//!     [--inflight N] [--mode park|sleep|spin] [--secs S] [--pin split|same|none] [--json]
//! ```
//!
//! Without arguments: a table over all links, and beside them what the machine gives without any session: see
//! [`limits`]. `--link`, `--size` and `--inflight` take lists (`64,4096`). The last column is a link's figure in shares
//! of the best of those raw programs; `local`'s, of the one that has no second process either.
//!
//! | word | is |
//! |---|---|
//! | `unary` | `--inflight` tasks that each call a method in a loop; it is `inline` and echoes a `Vec<u8>` of `--size` |
//! | `stream` | `--inflight` streams of `Vec<u8>`s of `--size` from the client to the server, under credit |
//! | `stream-bytes` | as `stream`, with `Bytes`: the sender has a few payloads, and sends handles on them; the receiver lets go of each that it gets, and its memory is used again |
//! | `block` | as `unary`, with a plain thread in place of each task |
//! | `paced` | as `unary`, one call each millisecond |
//! | `unary-loaned` | as `unary`, over shared memory, with `Bytes`: each side writes what it sends once, into memory of the link, and reads what it gets where it lies |
//! | `stream-loaned` | as `stream`, in the same way; nobody but the sender writes the elements, or copies them |
//! | `stream-untouched` | as `stream-loaned`, with one byte of each element written: what passing memory on costs |
//! | `park` | [`Waiting::Adaptive`](adjoin::Waiting::Adaptive), the default of the library |
//! | `sleep` | [`Waiting::Sleep`](adjoin::Waiting::Sleep): no spinning; shared memory alone |
//! | `spin` | both sides busy-poll: see [`pair`] for what that is on a socket |
//!
//! The server is a process of its own (this program again) on every link but `local`, and a fresh one for
//! each line. Each side has a current-thread runtime. After a warm-up of a tenth of `--secs`, work goes on
//! until the time is over and everything is answered; all of it counts, and nothing may be missing: the
//! echo is compared, and the receiver's count of elements and bytes with the sender's. Elements of `stream` are each a
//! vector of their own on both sides, made and filled as an application would.
//!
//! | column, key | is |
//! |---|---|
//! | `per_sec` | calls answered, or elements received, in a second |
//! | `bytes_per_sec` | `per_sec` times the size: a payload that is echoed counts once |
//! | `p50_ns` … `max_ns` | unary: one call, every 7th where more than one is in flight. stream: one `send().await`, credit included: every 61st below 4 KiB, so that reading the clock is not what is measured, and each one from there on |
//! | `cpu_ns_per_op` | user and system time of both processes in that time, by operation |
//!
//! Under `cargo test`, which passes no `--bench`, everything runs for a moment, to see that it works.

#[path = "links/args.rs"]
mod args;
#[cfg(target_os = "linux")]
#[path = "links/limits/mod.rs"]
mod limits;
#[path = "links/machine.rs"]
mod machine;
#[path = "links/measure.rs"]
mod measure;
#[path = "links/pair.rs"]
mod pair;
#[path = "links/report.rs"]
mod report;
#[path = "links/service.rs"]
mod service;

use std::{future::Future, process::ExitCode, time::Duration};

use args::{Args, Case, Link, Mode};
use clap::Parser;
use machine::Placement;
use measure::{Figures, measure};
use pair::{Pair, busy_while, spins};
use report::Report;

/// Whatever ends the benchmark, or a line of it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = if std::env::args().any(|arg| arg == "--bench") { Args::parse() } else { Args::smoke() };
    let done = match &args.serve {
        Some(address) => block_on(pair::serve(&args, address)),
        None => block_on(run(&args)),
    };
    match done.and_then(|done| done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("links: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a future on a runtime of this thread alone.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// Measures everything that was asked for. A line that fails does not end the others.
async fn run(args: &Args) -> Result<(), Failure> {
    let placed = Placement::choose(args.pin)?;
    if let Some(cpu) = placed.client {
        machine::pin(cpu)?;
    }
    let mut report = Report::new(args, placed);
    let mut failed = 0;
    for case in args.cases() {
        for link in args.links().into_iter().filter(|link| applies(*link, &case)) {
            match line(args, placed.server, link, &case).await {
                Ok(figures) => report.add(link, case, figures),
                Err(failure) => {
                    failed += 1;
                    eprintln!("links: {link} {case}: {failure}");
                }
            }
        }
        report.print();
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} lines failed").into()) }
}

/// Whether a link can do what a case asks for, in a way of its own.
fn applies(link: Link, case: &Case) -> bool {
    #[cfg(target_os = "linux")]
    if link.is_limit() {
        return limits::has(link, case);
    }
    let own = link.to_string() == "shm";
    own || !(case.mode == Mode::Sleep || case.workload.is_loaned())
}

/// Measures one line, with a server of its own.
async fn line(args: &Args, cpu: Option<usize>, link: Link, case: &Case) -> Result<Figures, Failure> {
    let time = Duration::from_secs_f64(args.secs);
    #[cfg(target_os = "linux")]
    if link.is_limit() {
        return limits::measure(link, cpu, case, time).await;
    }
    let pair = Pair::open(link, cpu, case).await?;
    let measured = busy_while(spins(link, case.mode), measure(&pair, case, time));
    let figures = tokio::time::timeout(time * 2 + PATIENCE, measured).await.map_err(|_| "it hangs")??;
    pair.close().await?;
    Ok(figures)
}

/// How much longer than planned a line may take.
const PATIENCE: Duration = Duration::from_secs(10);

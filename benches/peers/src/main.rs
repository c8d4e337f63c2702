//! The same work over adjoin and over other libraries, in one run, on the same two CPUs: what a call and a stream cost
//! where, in time and in CPU.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- [--peer NAME,...] [--work NAME,...] [--size BYTES,...]
//!     [--rounds N] [--secs S] [--trim] [--smoke]
//! ```
//!
//! # What is measured
//!
//! | peer | is |
//! |---|---|
//! | `shm` | adjoin over shared memory, its default settings |
//! | `shm-spin` | the same with [`Waiting::Spin`](::adjoin::Waiting::Spin): both sides busy-poll |
//! | `uds` | adjoin over a Unix socket |
//! | `uds-wide` | the same, with windows of 16 MiB, which tonic has here: streams alone |
//! | `iceoryx2` | shared memory, both sides polled in a busy loop: request-response for calls, publish-subscribe for streams |
//! | `tarpc` | a Unix socket, length-delimited bincode |
//! | `tonic` | HTTP/2 and prost over a Unix socket, no compression, large windows |
//! | `ipc-channel` | channels of bytes both ways, of its shared memory where payloads are lent |
//!
//! | work | is |
//! |---|---|
//! | `call` | so many callers at once that each call in a loop; the callee reads the payload and returns it |
//! | `call-lent` | one caller; each side writes what it sends once, into memory that the other reads where it lies |
//! | `stream` | elements from the client to the server, which reads them; no element may be lost |
//! | `stream-lent` | as `stream`, each element written once, into memory that the server reads where it lies |
//! | `stream-untouched` | as `stream-lent`, with eight bytes of each element written and read |
//!
//! Every figure is of two processes: this program, which is the client, pinned to one CPU, and a fresh server (this program
//! again) on another. Both are single-threaded, and the libraries that are asynchronous have a current-thread tokio runtime. After a
//! warm-up of a tenth of `--secs` work goes on until the time is over and everything is answered. A round measures every line
//! once, all peers of a row after one another; the table has the medians of the rounds.
//!
//! - `p50`, `p99`: one call, out of a full histogram; every 7th is timed where 64 are in flight.
//! - `cpu/op`: user and system time of both processes in that time (the scheduler's clocks of the two, which add up what
//!   `getrusage` reports), by operation. Who polls takes two CPUs for as long as the work goes on.
//! - "Reads" is one word of each cache line, on either side; both sides add them up, and a line fails where the sums differ
//!   (see [`payload`]). With `--smoke` it is every word.
//! - Copied payloads are a `Vec<u8>` on both sides, and of a stream's elements each is one of its own, as an application would have made
//!   it. iceoryx2 and ipc-channel take slices: their sender sends the same vector again and again, and the receiver of iceoryx2 copies
//!   into one that is used again. That saves them a copy and up to two allocations for each element.
//! - The allocator of both processes keeps what it once got from the system ([`machine::keep_memory`]); with `--trim` it does what
//!   glibc does by default. Then vectors of 64 KiB and more meet page faults or do not, by what else lies in the heap; adjoin over shared
//!   memory loses the most by that, so the default here is in its favour.
//! - A round in which somebody else had one of the CPUs for more than a twentieth of the line's time does not count, unless all were like
//!   that. `calm` is how many count.
//!
//! # What is not
//!
//! - The libraries do different things. iceoryx2 has no session and encodes nothing: bytes go into memory and a number into a queue;
//!   no peer is suspected, nothing is cancelled, and who waits has to poll or to add an event and its system calls. It is polled here,
//!   which is its fastest, and takes both CPUs also where nothing comes: compare it with `shm-spin`. The default of adjoin polls only
//!   while that pays. ipc-channel has no calls: numbers in the payload are compared instead.
//! - Loans of adjoin are those of a peer that is trusted ([`Settings::trust_peer`](::adjoin::Settings::trust_peer)), as iceoryx2
//!   trusts everyone: without that, adjoin copies what it received.
//! - Buffers and windows of tarpc and tonic are larger than their defaults, those of adjoin are its defaults but in `uds-wide`. For no
//!   library the best values were searched for.
//! - tarpc has no streams: its rows are calls with an empty answer, as many at once as fill a window (see [`Case::window`]).
//! - tarpc runs its handlers one by one where it reads, tonic each in its own task, adjoin those of `call` inline.
//! - HTTP/2, prost and bincode are part of tonic and tarpc here; with other codecs they cost something else. gRPC reaches
//!   other languages and machines, which no figure here shows.
//! - One client, one server, nothing else running, two CPUs. How it is with more processes than CPUs, with idle links and with payloads that no cache
//!   holds, this does not tell. Nor does it tell memory: iceoryx2 sets all samples aside beforehand.

mod args;
mod calls;
mod case;
mod far;
mod machine;
mod measure;
mod payload;
mod peer;
mod peers;
mod report;

use std::{process::ExitCode, time::Duration};

use args::Args;
use case::{Case, Who};
use clap::Parser;
use machine::Placement;
use measure::Figures;
use peer::{Peer, with_peer};
use report::Report;

/// Whatever ends the benchmark, or a line of it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.served() {
        Some((case, directory)) => with_peer!(case.who, serve(&args, &case, directory)),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("peers: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The server's process.
fn serve<P: Peer>(args: &Args, case: &Case, directory: &std::path::Path) -> Result<(), Failure> {
    far::end_with_client()?;
    if let Some(cpu) = args.cpu {
        machine::pin(cpu)?;
    }
    if !case.trim {
        machine::keep_memory();
    }
    P::serve(case, directory)
}

/// Measures everything that was asked for. A line that fails does not end the others.
fn run(args: &Args) -> Result<(), Failure> {
    let placed = Placement::choose()?;
    machine::pin(placed.client)?;
    if !args.trim {
        machine::keep_memory();
    }
    let mut report = Report::default();
    let mut failed = 0;
    for round in 0..args.rounds() {
        for row in args.rows() {
            for who in args.peers() {
                let case = Case { who, ..row };
                eprint!("\r{:<60}\r", format!("round {round}: {case}")); // what hangs, if it does
                match with_peer!(who, line(&case, placed.server, args.time())) {
                    Ok(Some(figures)) => report.add(case, figures),
                    Ok(None) => {}
                    Err(failure) => {
                        failed += 1;
                        eprintln!("peers: {case}, round {round}: {failure}");
                    }
                }
            }
        }
    }
    eprint!("\r{:<60}\r", "");
    println!("{placed}; medians of {} rounds, {:?} a line\n", args.rounds(), args.time());
    report.print();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} lines failed").into()) }
}

/// Measures one line, if this peer can do it.
fn line<P: Peer>(case: &Case, cpu: usize, time: Duration) -> Result<Option<Figures>, Failure> {
    P::can(case).then(|| measure::measure::<P>(case, cpu, time)).transpose()
}

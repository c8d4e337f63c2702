//! What the machine gives, with no session at all: raw programs, for the same cases as the links. They are of two
//! processes, but for `tasks`.
//!
//! | limit | what it does |
//! |---|---|
//! | `line` | both sides write into a cache line of their own, and look at the other's without a rest |
//! | `ring` | the layout crate's rings: payloads copied in and out, both sides look without a rest |
//! | `futex` | two words, and a futex for each: both sides sleep |
//! | `socket` | a Unix socket and blocking calls; streams in writes of 64 KiB |
//! | `tasks` | within this process: two tasks of one runtime, and its channels, which vectors are moved through |
//!
//! Nothing is encoded, no runtime runs, no credit is kept, nothing is allocated, but in `tasks`. The payload is written
//! and read once on either side. What arrives is counted and compared as everywhere.

mod memory;
mod ring;
mod socket;
mod tasks;
mod words;

use std::{
    env,
    io::{self, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    Failure,
    args::{Args, Case, Link, Mode, Workload},
    machine,
    measure::{Figures, LONGEST, TIMED_CALLS},
};

/// Whether there is such a program for a case.
pub(crate) fn has(limit: Link, case: &Case) -> bool {
    let unary = case.workload == Workload::Unary;
    let stream = matches!(case.workload, Workload::Stream | Workload::StreamBytes);
    match limit {
        Link::Line => unary && case.inflight == 1 && case.size <= words::ROOM && case.mode == Mode::Spin,
        Link::Ring => case.mode != Mode::Sleep && (unary || stream && case.inflight == 1),
        Link::Futex => unary && case.inflight == 1 && case.size <= words::ROOM && case.mode == Mode::Sleep,
        Link::Socket => case.mode == Mode::Park && case.inflight == 1 && (unary || stream),
        Link::Tasks => {
            case.mode == Mode::Park && (unary || case.workload == Workload::Stream && case.inflight == 1)
        }
        _ => false,
    }
}

/// Measures a limit.
pub(crate) async fn measure(
    limit: Link,
    cpu: Option<usize>,
    case: &Case,
    time: Duration,
) -> Result<Figures, Failure> {
    match limit {
        Link::Line => words::measure(false, cpu, case, time),
        Link::Futex => words::measure(true, cpu, case, time),
        Link::Ring => ring::measure(cpu, case, time),
        Link::Tasks => tasks::measure(case, time).await,
        _ => socket::measure(cpu, case, time),
    }
}

/// The other process: serves until it is told to stop.
pub(crate) fn serve(limit: Link, case: &Case, address: &str) -> Result<(), Failure> {
    match limit {
        Link::Line => words::serve(false, case, address),
        Link::Futex => words::serve(true, case, address),
        Link::Ring => ring::serve(case, address),
        _ => socket::serve(case),
    }
}

/// The process at the far end, which ends with its input.
struct Server {
    child: Child,
    /// Closed before it is waited for.
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Server {
    /// Starts it; what it is to be told goes into `address`.
    fn start(
        limit: Link,
        cpu: Option<usize>,
        case: &Case,
        address: &str,
        stdin: Stdio,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.args(Args::server(limit, cpu, case, address)).stdin(stdin).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        Ok(Server { input: child.stdin.take(), output: child.stdout.take(), child })
    }

    /// Waits for the byte that says that it is there.
    fn is_ready(&mut self) -> io::Result<()> {
        self.output.as_mut().map_or(Ok(()), |output| output.read_exact(&mut [0]))
    }

    /// The CPU time of its only thread so far.
    fn cpu_ns(&self) -> io::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let first = stat.split_whitespace().next().and_then(|first| first.parse().ok());
        first.ok_or_else(|| io::Error::other("the system does not say how long a process has run"))
    }

    /// Waits for its end.
    fn reap(mut self) -> Result<(), Failure> {
        drop(self.input.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended: {status}").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says that the server is there.
fn say_ready() -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(b".")?;
    output.flush()
}

/// Runs `work` to warm up and then for what is measured: it works until the time that it is given, and says how often.
fn timed(
    time: Duration,
    server: &Server,
    mut work: impl FnMut(Instant, &mut Histogram<u64>) -> Result<u64, Failure>,
) -> Result<Figures, Failure> {
    let mut latency = Histogram::new_with_bounds(1, LONGEST, 3)?;
    work(Instant::now() + time / 10, &mut latency)?;
    latency.reset();
    let (near, far, start) = (machine::cpu_ns(), server.cpu_ns()?, Instant::now());
    let n = work(start + time, &mut latency)?;
    let secs = start.elapsed().as_secs_f64();
    let cpu_ns = machine::cpu_ns() - near + server.cpu_ns()?.saturating_sub(far);
    Ok(Figures { n, secs, latency, cpu_ns })
}

/// Does `call` until the time is over, and records how long it takes: each time, or each seventh where it is cheap.
fn repeat(
    until: Instant,
    each: bool,
    latency: &mut Histogram<u64>,
    mut call: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    for n in 0.. {
        let then = (each || n % TIMED_CALLS == 0).then(Instant::now);
        if then.is_some_and(|then| then >= until) {
            return Ok(n);
        }
        call(n)?;
        if let Some(then) = then {
            latency.saturating_record(then.elapsed().as_nanos() as u64);
        }
    }
    Ok(0)
}

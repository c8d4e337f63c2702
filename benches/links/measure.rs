//! The workloads, and what is counted while they run.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use adjoin::{Bytes, Rx, Tx};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::{
    Failure,
    args::{Case, Workload},
    pair::Pair,
    service::WorkClient,
};

/// What one line says.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Calls answered, or elements received.
    pub(crate) n: u64,
    /// From the first until everything was answered.
    pub(crate) secs: f64,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Of both processes, in all.
    pub(crate) cpu_ns: u64,
}

/// Warms up, and then measures for this time.
pub(crate) async fn measure(pair: &Pair, case: &Case, time: Duration) -> Result<Figures, Failure> {
    work(&pair.client, case, time / 10).await?;
    let cpu = pair.cpu_ns().await?;
    let mut figures = work(&pair.client, case, time).await?;
    figures.cpu_ns = pair.cpu_ns().await? - cpu;
    Ok(figures)
}

/// Works for this time.
async fn work(client: &WorkClient, case: &Case, time: Duration) -> Result<Figures, Failure> {
    let latency = Latency::new()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for seed in 0..case.inflight {
        let task = Task {
            client: client.clone(),
            size: case.size,
            seed,
            alone: case.inflight == 1,
            until: start + time,
            latency: latency.clone(),
        };
        match case.workload {
            Workload::Unary => tasks.spawn(task.unary(None)),
            Workload::Paced => tasks.spawn(task.unary(Some(PACE))),
            Workload::Block => tasks.spawn_blocking(|| task.block()),
            Workload::UnaryLoaned => tasks.spawn(task.unary_loaned()),
            Workload::Stream => tasks.spawn(task.stream()),
            Workload::StreamBytes => tasks.spawn(task.stream_bytes()),
            Workload::StreamLoaned => tasks.spawn(task.stream_loaned(true)),
            Workload::StreamUntouched => tasks.spawn(task.stream_loaned(false)),
        };
    }
    let mut n = 0;
    while let Some(done) = tasks.join_next().await {
        n += done??;
    }
    let secs = start.elapsed().as_secs_f64();
    Ok(Figures { n, secs, latency: latency.take(), cpu_ns: 0 })
}

/// Every so many calls one is timed, where many are in flight.
pub(crate) const TIMED_CALLS: u64 = 7;
/// Every so many elements one is timed, where they are short.
pub(crate) const TIMED_ELEMENTS: u64 = 61;
/// The time between two calls where they come one by one.
const PACE: Duration = Duration::from_millis(1);

/// One of the tasks that are in flight.
struct Task {
    client: WorkClient,
    size: u32,
    seed: u32,
    /// No other call is in flight.
    alone: bool,
    until: Instant,
    latency: Latency,
}

impl Task {
    /// Calls until the time is over; how often. The vector that comes back is the next that is sent, with another number
    /// in front.
    async fn unary(self, pace: Option<Duration>) -> Result<u64, Failure> {
        let mut data = payload(self.size, self.seed);
        let mut n = 0_u64;
        loop {
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
            // With many calls in flight, reading the clock for each would be a good part of what is measured.
            let then = (self.alone || n.is_multiple_of(TIMED_CALLS)).then(Instant::now);
            if then.is_some_and(|then| then >= self.until) {
                break;
            }
            let number = n.to_le_bytes();
            let stamp = &number[..data.len().min(number.len())];
            data[..stamp.len()].copy_from_slice(stamp);
            data = self.client.echo(data).await?;
            if data.len() != self.size as usize || !data.starts_with(stamp) {
                return Err("an echo is not what was sent".into());
            }
            if let Some(then) = then {
                self.latency.record(then.elapsed());
            }
            n += 1;
        }
        let rest = data.len().min(size_of::<u64>())..;
        if data[rest.clone()] != payload(self.size, self.seed)[rest] {
            return Err("the last echo is not what was sent".into());
        }
        Ok(n)
    }

    /// As [`unary`](Task::unary), on this thread.
    fn block(self) -> Result<u64, Failure> {
        let mut data = payload(self.size, self.seed);
        let mut n = 0_u64;
        loop {
            let then = (self.alone || n.is_multiple_of(TIMED_CALLS)).then(Instant::now);
            if then.is_some_and(|then| then >= self.until) {
                break Ok(n);
            }
            data[0] = n.to_le_bytes()[0];
            data = self.client.echo(data).block()?;
            if data.len() != self.size as usize || data[0] != n.to_le_bytes()[0] {
                return Err("an echo is not what was sent".into());
            }
            if let Some(then) = then {
                self.latency.record(then.elapsed());
            }
            n += 1;
        }
    }

    /// As [`unary`](Task::unary), with payloads that each side writes once, and does not copy.
    async fn unary_loaned(self) -> Result<u64, Failure> {
        let connection = self.client.caller().connection().ok_or("there is no connection")?.clone();
        let mut n = 0_u64;
        loop {
            let then = Instant::now();
            if then >= self.until {
                break Ok(n);
            }
            let byte = n.to_le_bytes()[0];
            let mut data = connection.loan(self.size as usize).await?;
            data.fill(byte);
            let back = self.client.echo_loaned(data.freeze()).await?;
            if back.len() != self.size as usize || back.first() != Some(&byte) || back.last() != Some(&byte) {
                return Err("an echo is not what was sent".into());
            }
            drop(back);
            self.latency.record(then.elapsed());
            n += 1;
        }
    }

    /// As [`stream`](Task::stream), with elements that are written once, or not at all, and not copied.
    async fn stream_loaned(self, written: bool) -> Result<u64, Failure> {
        let connection = self.client.caller().connection().ok_or("there is no connection")?.clone();
        let (tx, rx) = adjoin::channel();
        let (ready, mut is_ready) = adjoin::channel();
        let sending = async {
            is_ready.recv().await?;
            let (mut n, mut sum) = (0_u64, 0);
            loop {
                let then = Instant::now();
                if then >= self.until {
                    break;
                }
                let byte = n.to_le_bytes()[0];
                let mut next = connection.loan(self.size as usize).await?;
                if written {
                    next.fill(byte);
                } else {
                    next[0] = byte;
                }
                tx.send(next.freeze()).await?;
                self.latency.record(then.elapsed());
                sum += u64::from(byte);
                n += 1;
            }
            drop(tx);
            Ok::<_, Failure>((n, n * u64::from(self.size), sum))
        };
        let (received, sent) = tokio::join!(self.client.ingest_loaned(rx, ready), sending);
        all_arrived(received?, sent?)
    }

    /// As [`stream`](Task::stream), with elements that are handles on the same few payloads.
    async fn stream_bytes(self) -> Result<u64, Failure> {
        let (tx, rx) = adjoin::channel();
        let (ready, mut is_ready) = adjoin::channel();
        let elements: Vec<_> = (1..=3).map(|seed| Bytes::from(payload(self.size, seed))).collect();
        let sending = async {
            is_ready.recv().await?;
            let (mut n, mut sum) = (0_u64, 0);
            for element in elements.iter().cycle() {
                let then = Instant::now();
                if then >= self.until {
                    break;
                }
                tx.send(element.clone()).await?;
                self.latency.record(then.elapsed());
                sum += u64::from(element[0]);
                n += 1;
            }
            drop(tx);
            Ok::<_, Failure>((n, n * u64::from(self.size), sum))
        };
        let (received, sent) = tokio::join!(self.client.ingest_loaned(rx, ready), sending);
        all_arrived(received?, sent?)
    }

    /// Sends a stream until the time is over; how many elements arrived.
    async fn stream(self) -> Result<u64, Failure> {
        let (tx, rx) = adjoin::channel();
        let (ready, is_ready) = adjoin::channel();
        let (received, sent) = tokio::join!(self.client.ingest(rx, ready), self.feed(tx, is_ready));
        let (received, (n, sum)) = (received?, sent?);
        all_arrived(received, (n, n * u64::from(self.size), sum))
    }

    /// Sends elements; how many, and the sum of their first bytes. Before the receiver is there, they would wait in a
    /// window of this process, which is smaller than the link's.
    async fn feed(&self, tx: Tx<Vec<u8>>, mut is_ready: Rx<bool>) -> Result<(u64, u64), Failure> {
        is_ready.recv().await?;
        let element = payload(self.size, self.seed);
        let timed_every = if self.size < 4 << 10 { TIMED_ELEMENTS } else { 1 };
        let (mut n, mut sum) = (0_u64, 0);
        loop {
            let mut next = element.clone();
            next[0] = n.to_le_bytes()[0];
            sum += u64::from(next[0]);
            if n.is_multiple_of(timed_every) {
                let then = Instant::now();
                tx.send(next).await?;
                let now = Instant::now();
                self.latency.record(now - then);
                if now >= self.until {
                    return Ok((n + 1, sum));
                }
            } else {
                tx.send(next).await?;
            }
            n += 1;
        }
    }
}

/// How many elements there were, if as many arrived, with as many bytes and the same sum of their first ones, as were sent.
fn all_arrived(received: (u64, u64, u64), sent: (u64, u64, u64)) -> Result<u64, Failure> {
    if received == sent {
        Ok(sent.0)
    } else {
        Err(format!("{sent:?} were sent, {received:?} arrived").into())
    }
}

/// Bytes that differ from one another, and from those of another seed.
pub(crate) fn payload(size: u32, seed: u32) -> Vec<u8> {
    (0..size).map(|at| (at ^ at >> 8).wrapping_mul(31).wrapping_add(seed * 7).to_le_bytes()[0]).collect()
}

/// One histogram for all tasks, with its memory taken beforehand. They run on one thread: its lock is always free.
#[derive(Clone)]
struct Latency(Arc<Mutex<Histogram<u64>>>);

impl Latency {
    fn new() -> Result<Self, Failure> {
        Ok(Latency(Arc::new(Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?))))
    }

    fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
    }

    fn take(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The longest time that is told apart, in nanoseconds: a minute.
pub(crate) const LONGEST: u64 = 60_000_000_000;

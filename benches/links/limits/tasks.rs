//! Two tasks of one runtime, and the runtime's own channels: what stands beside `local`.
//!
//! Vectors are moved, and neither copied nor encoded. A call is one entry in the server's queue, with an answer's place of
//! its own, which is allocated anew. A stream is a queue with as many places as elements fit the library's window. Nothing
//! is cancelled, has a deadline or ends with a link, and nobody asks which method is meant.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    Failure,
    args::{Case, Workload},
    machine,
    measure::{Figures, LONGEST, TIMED_CALLS, TIMED_ELEMENTS, payload},
    pair::settings,
};

/// A request and where its answer goes.
type Request = (Vec<u8>, oneshot::Sender<Vec<u8>>);
type Latency = Arc<Mutex<Histogram<u64>>>;

pub(super) async fn measure(case: &Case, time: Duration) -> Result<Figures, Failure> {
    let latency = Arc::new(Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?));
    work(case, time / 10, &latency).await?;
    lock(&latency).reset();
    let (cpu, start) = (machine::cpu_ns(), Instant::now());
    let n = work(case, time, &latency).await?;
    let secs = start.elapsed().as_secs_f64();
    let latency = lock(&latency).clone();
    Ok(Figures { n, secs, latency, cpu_ns: machine::cpu_ns() - cpu })
}

async fn work(case: &Case, time: Duration, latency: &Latency) -> Result<u64, Failure> {
    let until = Instant::now() + time;
    if case.workload == Workload::Unary {
        unary(case, until, latency).await
    } else {
        stream(case, until, latency.clone()).await
    }
}

/// So many tasks that each call in a loop, and one that serves them.
async fn unary(case: &Case, until: Instant, latency: &Latency) -> Result<u64, Failure> {
    let (requests, mut queue) = mpsc::channel::<Request>(case.inflight as usize);
    let server = tokio::spawn(async move {
        while let Some((data, answer)) = queue.recv().await {
            let _ = answer.send(data);
        }
    });
    let mut callers = JoinSet::new();
    for seed in 0..case.inflight {
        callers.spawn(call(
            requests.clone(),
            payload(case.size, seed),
            case.inflight == 1,
            until,
            latency.clone(),
        ));
    }
    drop(requests);
    let mut n = 0;
    while let Some(called) = callers.join_next().await {
        n += called??;
    }
    server.await?;
    Ok(n)
}

/// Calls until the time is over; how often.
async fn call(
    requests: mpsc::Sender<Request>,
    mut data: Vec<u8>,
    alone: bool,
    until: Instant,
    latency: Latency,
) -> Result<u64, Failure> {
    let size = data.len();
    for n in 0_u64.. {
        let then = (alone || n.is_multiple_of(TIMED_CALLS)).then(Instant::now);
        if then.is_some_and(|then| then >= until) {
            return Ok(n);
        }
        let stamp = n.to_le_bytes()[0];
        data[0] = stamp;
        let (answer, answered) = oneshot::channel();
        requests.send((data, answer)).await?;
        data = answered.await?;
        if data.len() != size || data[0] != stamp {
            return Err("an echo is not what was sent".into());
        }
        if let Some(then) = then {
            lock(&latency).saturating_record(then.elapsed().as_nanos() as u64);
        }
    }
    Ok(0)
}

/// Sends elements until the time is over, each a vector of its own; how many arrived.
async fn stream(case: &Case, until: Instant, latency: Latency) -> Result<u64, Failure> {
    let (_, window) = settings(case).limits();
    let (elements, mut queue) = mpsc::channel::<Vec<u8>>((window / case.size).max(1) as usize);
    let reader: JoinHandle<(u64, u64)> = tokio::spawn(async move {
        let (mut count, mut sum) = (0, 0);
        while let Some(element) = queue.recv().await {
            count += 1;
            sum += u64::from(element[0]);
        }
        (count, sum)
    });
    let element = payload(case.size, 0);
    let timed_every = if case.size < 4 << 10 { TIMED_ELEMENTS } else { 1 };
    let (mut n, mut sum) = (0_u64, 0);
    loop {
        let mut next = element.clone();
        next[0] = n.to_le_bytes()[0];
        sum += u64::from(next[0]);
        let then = n.is_multiple_of(timed_every).then(Instant::now);
        elements.send(next).await?;
        n += 1;
        if let Some(then) = then {
            let now = Instant::now();
            lock(&latency).saturating_record((now - then).as_nanos() as u64);
            if now >= until {
                break;
            }
        }
    }
    drop(elements);
    if reader.await? == (n, sum) { Ok(n) } else { Err("what arrived is not what was sent".into()) }
}

/// All tasks run on one thread: it is always free.
fn lock(latency: &Latency) -> std::sync::MutexGuard<'_, Histogram<u64>> {
    latency.lock().unwrap_or_else(PoisonError::into_inner)
}

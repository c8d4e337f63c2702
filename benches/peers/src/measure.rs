//! The time, the histogram, and what is compared.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    Failure,
    case::Case,
    far::Far,
    machine,
    payload::{self, Reading, Totals},
    peer::Peer,
};

/// What one line says.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) per_sec: f64,
    /// In nanoseconds; of calls alone.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// In nanoseconds, of both processes.
    pub(crate) cpu_per_op: f64,
    /// The share of the time in which a side could have run, but somebody else had its CPU.
    pub(crate) waited: f64,
}

/// Starts a server, warms up, and then measures for this time.
pub(crate) fn measure<P: Peer>(case: &Case, cpu: usize, time: Duration) -> Result<Figures, Failure> {
    machine::end_after(time * 2 + PATIENCE);
    let far = Far::start(case, cpu)?;
    let mut peer = P::open(case, far.address())?;
    peer.work(&Run::new(case, time / 10)?)?;

    let pid = far.pid()?;
    let spent = || Ok::<_, Failure>(machine::cpu_ns(0)? + machine::cpu_ns(pid)?);
    let waited = || Ok::<_, Failure>(machine::waited_ns(0)? + machine::waited_ns(pid)?);
    let (cpu, wait) = (spent()?, waited()?);
    let run = Run::new(case, time)?;
    let start = Instant::now();
    let n = peer.work(&run)?;
    let secs = start.elapsed().as_secs_f64();
    let (cpu, wait) = (spent()? - cpu, waited()? - wait);

    peer.close()?;
    far.reap()?;
    let latency = run.latency.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |quantile| latency.value_at_quantile(quantile) as f64;
    let n = n.max(1) as f64;
    Ok(Figures {
        per_sec: n / secs,
        p50: at(0.5),
        p99: at(0.99),
        cpu_per_op: cpu as f64 / n,
        waited: wait as f64 / 1e9 / secs,
    })
}

/// How much longer than planned a line may take. Then the benchmark ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// Work for some time: until when, on what, and how long each call took.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) case: Case,
    until: Instant,
    /// One for all callers, with its memory taken beforehand. They run on one thread: its lock is always free.
    latency: Arc<Mutex<Histogram<u64>>>,
    template: Vec<u8>,
    /// What a receiver reads of the template.
    sum: u64,
}

impl Run {
    /// Begins now.
    fn new(case: &Case, time: Duration) -> Result<Self, Failure> {
        let template =
            if case.work.is_lent() { payload::filled(case.size) } else { payload::template(case.size) };
        let sum = payload::sum(&template, case.reading());
        let latency = Arc::new(Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?));
        Ok(Run { case: *case, until: Instant::now() + time, latency, template, sum })
    }

    /// A payload without a number, to be sent. Where many are sent each is a copy of its own, as an application would
    /// have made it.
    pub(crate) fn payload(&self) -> Vec<u8> {
        self.template.clone()
    }

    /// The payload of this number.
    pub(crate) fn element(&self, number: u64) -> Vec<u8> {
        let mut element = self.template.clone();
        payload::stamp(&mut element, number);
        element
    }

    /// Says whether to call once more, and since when, if this call is one of those that are timed. Where many are in
    /// flight, reading the clock for each would be a good part of what is measured.
    pub(crate) fn begin(&self, number: u64) -> Begun {
        let timed_every = if self.case.inflight == 1 { 1 } else { TIMED_CALLS };
        if !number.is_multiple_of(timed_every) {
            return Begun::Untimed;
        }
        let now = Instant::now();
        if now < self.until { Begun::At(now) } else { Begun::Over }
    }

    /// Compares an answer, and takes its time.
    pub(crate) fn end(&self, begun: Begun, number: u64, answer: &[u8]) -> Result<(), Failure> {
        let sum = payload::sum(answer, self.case.reading());
        if answer.len() != self.case.size || sum != self.sum.wrapping_add(number) {
            return Err("an answer is not what was sent".into());
        }
        if let Begun::At(then) = begun {
            let nanos = u64::try_from(then.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
        }
        Ok(())
    }

    /// Whether to send no more; looked at often enough.
    pub(crate) fn is_over(&self, number: u64) -> bool {
        let looked_every = if self.case.size < 4 << 10 { 61 } else { 1 };
        number.is_multiple_of(looked_every) && Instant::now() >= self.until
    }

    /// Compares what the receiver of `count` elements has read; their count.
    pub(crate) fn compare(&self, count: u64, received: Totals) -> Result<u64, Failure> {
        let reading = self.case.reading();
        let template = match reading {
            Reading::Stamp => &vec![0; self.case.size],
            Reading::Lines | Reading::Whole => &self.template,
        };
        let sent = Totals::expected(count, template, reading);
        if received == sent { Ok(count) } else { Err(format!("{sent:?} sent, {received:?} arrived").into()) }
    }
}

/// The beginning of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// The time is over: there is no call.
    Over,
    /// It is timed.
    At(Instant),
    /// It is not.
    Untimed,
}

/// Every so many calls one is timed, where many are in flight.
const TIMED_CALLS: u64 = 7;

/// The longest time that is told apart, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::ROWS;

    fn run() -> Run {
        Run::new(&Case { whole: true, ..ROWS[2] }, Duration::ZERO).unwrap()
    }

    #[test]
    fn an_answer_with_a_wrong_byte_is_found() {
        let run = run();
        let mut answer = run.element(7);
        run.end(Begun::Untimed, 7, &answer).unwrap();
        assert!(run.end(Begun::Untimed, 8, &answer).is_err());
        answer[4001] ^= 1;
        assert!(run.end(Begun::Untimed, 7, &answer).is_err());
        answer[4001] ^= 1;
        answer.pop();
        assert!(run.end(Begun::Untimed, 7, &answer).is_err());
    }

    #[test]
    fn an_element_that_is_lost_or_comes_twice_is_found() {
        let run = run();
        let read = |numbers: &[u64]| {
            let mut totals = Totals::default();
            for &number in numbers {
                totals.read(&run.element(number), run.case.reading());
            }
            totals
        };
        assert_eq!(run.compare(3, read(&[0, 1, 2])).unwrap(), 3);
        assert!(run.compare(3, read(&[0, 1])).is_err());
        assert!(run.compare(3, read(&[0, 2, 2])).is_err());
    }
}

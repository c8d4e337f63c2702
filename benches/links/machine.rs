//! What the benchmark asks of the system: CPU time, and a CPU to run on.

use std::{fmt, io, thread};

use rustix::time::{ClockId, clock_gettime};

use crate::args::Pin;

/// The time that this process has spent on CPUs, user and system, all threads: the sum that `getrusage` gives,
/// in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The CPUs that the two processes run on; `None` is wherever the system puts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// How many there are to choose from.
    available: usize,
    pub(crate) client: Option<usize>,
    pub(crate) server: Option<usize>,
}

impl Placement {
    /// Chooses from the CPUs that this process may run on.
    pub(crate) fn choose(pin: Pin) -> io::Result<Self> {
        let available = thread::available_parallelism()?.get();
        let cpus = cpus()?;
        let (first, second) = (cpus.first().copied(), cpus.get(1).copied());
        let (client, server) = match pin {
            Pin::None => (None, None),
            Pin::Split => (first, second.or(first)),
            Pin::Same => (first, first),
        };
        Ok(Placement { available, client, server })
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, ", self.available)?;
        match (self.client, self.server) {
            (Some(client), Some(server)) => write!(f, "client on CPU {client}, server on CPU {server}"),
            _ => f.write_str("client and server wherever the system puts them"),
        }
    }
}

/// The CPUs that this process may run on.
#[cfg(target_os = "linux")]
fn cpus() -> io::Result<Vec<usize>> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// Pins this thread, and with it all that it starts from now on.
#[cfg(target_os = "linux")]
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

/// There is no pinning here.
#[cfg(not(target_os = "linux"))]
fn cpus() -> io::Result<Vec<usize>> {
    Ok(Vec::new())
}

/// There is no pinning here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) -> io::Result<()> {
    Ok(())
}

//! What the benchmark asks of the system: CPU time of two processes, a CPU for each, and an end to what hangs.
#![allow(unsafe_code, reason = "these calls have no safe wrapper")]

use std::{fmt, io, mem::MaybeUninit, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The time that a process has spent on CPUs, user and system, all threads, in nanoseconds. 0 is this process; another one
/// needs to do nothing for it.
pub(crate) fn cpu_ns(pid: libc::pid_t) -> io::Result<u64> {
    let (mut clock, mut time) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both calls write to the place that they are given, and to nothing else; that it was written is checked.
    let time = unsafe {
        match libc::clock_getcpuclockid(pid, clock.as_mut_ptr()) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        if libc::clock_gettime(clock.assume_init(), time.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        time.assume_init()
    };
    let nanos = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(nanos(time.tv_sec) * 1_000_000_000 + nanos(time.tv_nsec))
}

/// For how long the main thread of a process could have run, but had no CPU, in nanoseconds: who else is busy on it.
pub(crate) fn waited_ns(pid: libc::pid_t) -> io::Result<u64> {
    let path = if pid == 0 { "/proc/self/schedstat".to_owned() } else { format!("/proc/{pid}/schedstat") };
    let text = std::fs::read_to_string(path)?;
    let waited = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    waited.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Ends this process by a signal if it has not called this again in this time. Servers end with it.
pub(crate) fn end_after(time: Duration) {
    let secs = u32::try_from(time.as_secs() + 1).unwrap_or(u32::MAX);
    // SAFETY: it takes a number, and touches no memory.
    unsafe { libc::alarm(secs) };
}

/// Has the allocator keep what it once got from the system.
///
/// As it is set by default, glibc gives the end of its heap back whenever 128 KiB of it are free, and gets it anew, at a
/// page fault for each 4 KiB. Whether that happens with each long payload, or never, depends on what else lies there.
pub(crate) fn keep_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: both take numbers, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// The CPUs that the two processes run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) client: usize,
    pub(crate) server: usize,
}

impl Placement {
    /// Chooses the first two that this process may run on.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        let client = cpus.next().ok_or(io::ErrorKind::NotFound)?;
        Ok(Placement { client, server: cpus.next().unwrap_or(client) })
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client on CPU {}, server on CPU {}", self.client, self.server)
    }
}

/// Pins this thread, and with it all that it starts from now on.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(None, &cpus)?)
}

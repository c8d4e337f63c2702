//! A cell's process, from the host's side: its child.
//!
//! Two look at it: the link's watcher and whoever holds the [`Process`]. It is reaped once, by whoever
//! notices first, and its status is kept for the other. Nobody waits for a process that runs: what can be
//! waited for is the pidfd, and only then the status is asked for.

use std::{
    future::poll_fn,
    io,
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal,
        waitid,
    },
};
use tokio::{io::unix::AsyncFd, runtime::Handle, time::timeout};

use super::{
    exit::{self, GRACE, GRACES},
    poller,
};

/// A cell's process. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Process {
    shared: Arc<Shared>,
    runtime: Handle,
}

/// What the watcher of the link shares with the owner of the process.
#[derive(Debug)]
pub(super) struct Shared {
    id: u32,
    pidfd: AsyncFd<OwnedFd>,
    child: Mutex<Child>,
    /// It leads a process group, which ends with it.
    group: bool,
}

impl Process {
    /// Takes a child that nobody has waited for. On an error it is killed and reaped.
    pub(super) fn new(mut child: Child, group: bool) -> io::Result<Self> {
        match Shared::handle(&child) {
            Ok(pidfd) => {
                let shared = Arc::new(Shared { id: child.id(), pidfd, child: Mutex::new(child), group });
                Ok(Process { shared, runtime: Handle::current() })
            }
            Err(error) => {
                // What matters is the first error; these two fail only if it is gone already.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process id. The system may give it to another process once this one is reaped.
    pub(crate) fn id(&self) -> u32 {
        self.shared.id
    }

    /// Kills it by SIGKILL, and its process group with it. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// It runs under another user by now.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.shared.kill()
    }

    /// Waits until it has ended, and returns how. Reaps it, if nobody has yet.
    ///
    /// # Errors
    ///
    /// Its status is lost: something else in this process has reaped it, and the system does not tell any
    /// more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub(crate) async fn wait(&self) -> io::Result<ExitStatus> {
        self.shared.ended().await
    }

    /// What the link's watcher needs.
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

/// Kills it, and reaps it here if it ends at once, and else on the runtime, which waits without blocking.
impl Drop for Process {
    fn drop(&mut self) {
        // An error is that it runs as another user: the host may not kill it, and need not wait for it.
        if self.shared.kill().is_err() || !matches!(self.shared.try_reap(), Ok(None)) {
            return;
        }
        let reaper = Reaper(self.shared.clone());
        self.runtime.spawn(async move {
            let reaper = reaper;
            reaper.0.ended().await
        });
    }
}

impl Shared {
    /// A pidfd of the child. While it is not reaped its number is its own.
    fn handle(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
        poller::register(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
    }

    /// As [`Process::id`].
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// A handle on it that no other process can get.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// As [`Process::wait`].
    pub(super) async fn ended(&self) -> io::Result<ExitStatus> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            if let Some(status) = self.try_reap()? {
                return Ok(status);
            }
            ready.clear_ready();
        }
    }

    /// As [`ended`](Self::ended), for one task.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        loop {
            let mut ready = ready!(self.pidfd.poll_read_ready(cx))?;
            if let Some(status) = self.try_reap()? {
                return Poll::Ready(Ok(status));
            }
            ready.clear_ready();
        }
    }

    /// As [`ended`](Self::ended), for a process that has closed its end of the link. `None`: it runs on.
    pub(super) async fn ends_soon(&self) -> Option<ExitStatus> {
        for _ in 0..=GRACES {
            if let Ok(ended) = timeout(GRACE, self.ended()).await {
                return ended.ok();
            }
            if !exit::is_ending(self.pidfd()) {
                break;
            }
        }
        None
    }

    /// Its status, if it has ended. Never waits. One system call until it is known, and then none.
    fn try_reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if self.group && self.look() == Ok(true) {
            self.kill_group();
        }
        let waited = child.try_wait();
        drop(child);
        match waited {
            // Something else waits for all children of this process, or it ignores SIGCHLD: ask the system.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CHILD.raw_os_error()) => {
                exit::status(&self.pidfd).map(Some).ok_or(error)
            }
            waited => waited,
        }
    }

    /// Whether it has ended; an error if it was reaped. Reaps nothing.
    fn look(&self) -> rustix::io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(self.pidfd.as_fd()), options).map(|ended| ended.is_some())
    }

    /// Kills the group, or what is left of it. Before its leader is reaped: until then nobody else gets their number.
    fn kill_group(&self) {
        if let Some(group) = Pid::from_raw(self.id.cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL); // nobody may be left
        }
    }

    fn kill(&self) -> io::Result<()> {
        if self.group {
            // Under the lock, so that nobody reaps it meanwhile.
            let _unreaped = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            if self.look().is_ok() {
                self.kill_group();
            }
        }
        match pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sees to it that a process that was killed is reaped even if the runtime ends before the task that waits
/// for it: then, and only then, this thread waits for the kernel to finish killing.
struct Reaper(Arc<Shared>);

impl Drop for Reaper {
    fn drop(&mut self) {
        // `Child` knows if it was reaped, and does not wait then. An error leaves nothing to reap.
        let _ = self.0.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// The first of two futures that is done; if both are, the left one.
pub(crate) async fn race<L, R>(
    left: impl Future<Output = L>,
    right: impl Future<Output = R>,
) -> Either<L, R> {
    let (mut left, mut right) = (std::pin::pin!(left), std::pin::pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(value) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(value));
        }
        right.as_mut().poll(cx).map(Either::Right)
    })
    .await
}

/// What [`race`] returns.
pub(crate) enum Either<L, R> {
    Left(L),
    Right(R),
}

//! A cell dies with its host, and what it has started dies with it.
//!
//! A cell that has attached has a thread of its own for that. It sleeps until the host is gone, gives the cell [`GRACE`] to
//! notice the end of its link and to come to its own, and kills the whole process group then. A cell that has not attached
//! yet finds, when it tries to, that its host is not there.
//!
//! (`PR_SET_PDEATHSIG` would not do: the system ties it to the thread that forked, which may end long before the host, and
//! it kills the cell alone, before that could end what it has started.)
//!
//! What the cell has started is killed at once, before its program hears of the host's end ([`host_is_gone`]): a program
//! that exits then takes the thread along.
//!
//! The thread also works when the program's own threads hang. It wakes for nothing but the host's end. A process that has
//! left the group (a daemon, which makes itself a session of its own) is its own business, and so is what a program leaves
//! behind that exits for another reason just when its host dies.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::{Errno, fcntl_dupfd_cloexec},
    process::{
        Pid, PidfdFlags, Signal, getpgrp, getpid, kill_process, kill_process_group, pidfd_open,
        pidfd_send_signal,
    },
};

/// Starts the thread. `host` is a handle on the host.
pub(super) fn start(host: impl AsFd) -> io::Result<()> {
    let host = fcntl_dupfd_cloexec(host, 0)?;
    GUARDED.store(true, Ordering::Relaxed);
    thread::Builder::new().name("adjoin-guard".into()).stack_size(STACK).spawn(move || watch(&host))?;
    Ok(())
}

fn watch(host: &OwnedFd) {
    // Readable once it has ended.
    while let Err(Errno::INTR | Errno::AGAIN) = poll(&mut [PollFd::new(host, PollFlags::IN)], None) {}
    host_is_gone();
    thread::sleep(GRACE);
    // One of them ends this process. An error leaves nothing to be done.
    let own = getpid();
    if getpgrp() == own {
        let _ = kill_process_group(own, Signal::KILL);
    }
    let _ = kill_process(own, Signal::KILL);
}

/// Kills what this process has started, if it is a cell that dies with its host, and whatever those have started, as far as
/// it is in the cell's process group. Some reads of `/proc` for each of them.
pub(super) fn host_is_gone() {
    // Relaxed: set before there was a link, and read by those who have that.
    if !GUARDED.load(Ordering::Relaxed) || getpgrp() != getpid() {
        return;
    }
    let own = getpid();
    let mut found = children(own);
    // A child may be found while it starts another: it is killed before that is looked for.
    while let Some(pid) = found.pop() {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The number may have been another's before the handle was opened; a member of this group it is now.
        if group_of(pid) == Some(own) {
            let grandchildren = children(pid);
            let _ = pidfd_send_signal(&process, Signal::KILL); // it may have ended
            found.extend(grandchildren);
        }
    }
}

/// The children of a process, of all of its threads.
fn children(of: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", of.as_raw_nonzero())) else { return Vec::new() };
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let parse = |list: String| -> Vec<Pid> {
        list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    };
    lists.flat_map(parse).collect()
}

/// The group of a process, by `/proc/PID/stat`.
fn group_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name is in parentheses, and may contain anything. Behind it: state, parent, group.
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_ascii_whitespace().nth(2)?.parse().ok()?)
}

/// What a cell has to come to its end by itself, once its host is gone.
const GRACE: Duration = Duration::from_millis(500);
/// Whether this process is a cell that dies with its host.
static GUARDED: AtomicBool = AtomicBool::new(false);
/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;

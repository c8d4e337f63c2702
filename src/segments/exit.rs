//! How a process ended that is not our child.
//!
//! Only its parent gets its status by waiting. Others can read it in two places, each good for a part of the
//! time: while nobody has reaped it, in `/proc/PID/stat` (readable with the same uid), and afterwards from
//! its pidfd (`PIDFD_GET_INFO`, Linux 6.15). Where neither says anything, the process is simply gone.
#![allow(unsafe_code)]

use std::{fs, io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd},
    ioctl::{self, Opcode, Updater, opcode},
};

use crate::error::LinkEnd;

/// What an exit status means for a link.
pub(super) fn link_end(status: ExitStatus) -> LinkEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => LinkEnd::Exited { code },
        (None, Some(signal)) => LinkEnd::Killed { signal },
        (None, None) => LinkEnd::Gone,
    }
}

/// The status of a process that has ended, where the system still tells it.
///
/// One to six system calls.
pub(super) fn status(pidfd: impl AsFd) -> Option<ExitStatus> {
    let pidfd = pidfd.as_fd();
    // Once more at the end: it may be reaped between the first two.
    from_pidfd(pidfd).or_else(|| from_proc(pidfd)).or_else(|| from_pidfd(pidfd))
}

/// The process that a pidfd is for, as this process's `/proc` numbers it. `None`: it was reaped, or this is
/// no pidfd, or the system does not say.
pub(super) fn pid(pidfd: impl AsFd) -> Option<u32> {
    find_pid(pidfd).ok()?
}

/// As [`pid`], where it matters why the system does not say: to look takes a descriptor.
pub(super) fn find_pid(pidfd: impl AsFd) -> io::Result<Option<u32>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    // -1 once it was reaped, and 0 if it is in no namespace of ours: neither parses to a process.
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    Ok(pid.filter(|pid| *pid > 0))
}

/// Whether a process is on its way out, or gone: it lets go of its descriptors before it has ended.
pub(super) fn is_ending(pidfd: impl AsFd) -> bool {
    // What cannot be read is not there any more.
    proc_field(pidfd.as_fd(), FLAGS_BEHIND_NAME).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// The status of a zombie. Of a process that runs it is 0.
fn from_proc(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let status = proc_field(pidfd, EXIT_CODE_BEHIND_NAME)?;
    i32::try_from(status).ok().map(ExitStatus::from_raw)
}

/// A number in `/proc/PID/stat`, by its place behind the program's name.
fn proc_field(pidfd: BorrowedFd<'_>, place: usize) -> Option<u64> {
    let process = pid(pidfd)?;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The number may have been given to another process since; not if the pidfd still has it.
    if pid(pidfd)? != process {
        return None;
    }
    // The name is the second field, in parentheses, and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// The status of a process that was reaped.
fn from_pidfd(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: in bounds and aligned: the opcode carries the size of `PidfdInfo`, so the kernel reads and
    // writes that many bytes of it, and a descriptor of another kind refuses the opcode. Alone: `info` is a
    // local that is borrowed mutably for the call. Alive: it outlives the call; no mapping is involved.
    unsafe { ioctl::ioctl(pidfd, Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info)) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

/// How long a process may take to die after it closed its end of a socket. The link of a peer that let go
/// without dying ends this much later.
pub(super) const GRACE: Duration = Duration::from_millis(20);
/// How many times more it may take as long, if it [is seen to be dying](is_ending): a busy machine is slow at
/// that, too.
pub(super) const GRACES: u32 = 20;

/// `struct pidfd_info` of `linux/pidfd.h`, in its first version, which later kernels take as well.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    /// What is asked for, and then what was answered.
    mask: u64,
    cgroup_id: u64,
    /// `pid`, `tgid`, `ppid`, and the real, effective, saved and file system ids of user and group.
    ids: [u32; 11],
    /// As `wait` returns it.
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// `PIDFD_GET_INFO`
const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xFF, 11);
/// `PIDFD_INFO_EXIT`
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Where `flags` (field 9 of `/proc/PID/stat`) is when the first two fields are gone.
const FLAGS_BEHIND_NAME: usize = 6;
/// The flag of a process that has begun to exit.
const PF_EXITING: u64 = 4;
/// Where `exit_code` (field 52 of `/proc/PID/stat`) is when the first two fields are gone.
const EXIT_CODE_BEHIND_NAME: usize = 49;

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use rustix::{
        event::{PollFd, PollFlags, poll},
        fd::OwnedFd,
        process::{Pid, PidfdFlags, pidfd_open},
    };

    use super::*;

    fn shell(script: &str) -> (Child, OwnedFd) {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(super::pid(&pidfd), Some(child.id()));
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        (child, pidfd)
    }

    #[test]
    fn the_status_of_a_zombie_is_read_from_proc() {
        for (script, expected) in [("exit 7", 7 << 8), ("kill -9 $$", 9)] {
            let (mut child, pidfd) = shell(script);
            assert_eq!(from_proc(pidfd.as_fd()), Some(ExitStatus::from_raw(expected)));
            assert_eq!(status(&pidfd), Some(ExitStatus::from_raw(expected)));
            assert!(is_ending(&pidfd));
            child.wait().unwrap();
        }
    }

    #[test]
    fn the_status_of_a_reaped_process_is_right_or_unknown() {
        let (mut child, pidfd) = shell("exit 7");
        child.wait().unwrap();
        assert_eq!(pid(&pidfd), None);
        assert_eq!(from_proc(pidfd.as_fd()), None);
        assert!(is_ending(&pidfd));
        // Linux before 6.15 does not tell.
        assert!(matches!(status(&pidfd).map(link_end), None | Some(LinkEnd::Exited { code: 7 })));
    }

    #[test]
    fn a_process_that_runs_is_not_ending() {
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        assert!(!is_ending(&own));
    }

    #[test]
    fn another_kind_of_descriptor_is_nobodys() {
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(pid(&file), None);
        assert_eq!(status(&file), None);
    }
}

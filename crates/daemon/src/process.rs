//! Process identity: tells a process apart from a later one with the same pid. Only proven processes are signalled.
//!
//! The kernel reuses pids, but within one boot of the host no two processes have both the same pid and the same start
//! time. Decides nothing about what a process is for.

#![expect(unsafe_code, reason = "the runtime wants a promise that a watched descriptor stays open")]

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The boot of this host (`/proc/sys/kernel/random/boot_id`).
pub fn host_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A process that can be told apart from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot when it started (proc(5)).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now; `None` when there is none, or only its unreaped rest.
    pub fn of(pid: u32) -> Option<Self> {
        let (state, start_time) = stat(pid)?;
        (!matches!(state, b'Z' | b'X')).then_some(Self { pid, start_time })
    }

    /// This process.
    pub fn current() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether this very process still runs; a zombie does not.
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Whether it is certain that it does not. A process that cannot be looked at, for want of a descriptor, may run.
    pub fn is_gone(&self) -> bool {
        match fs::read(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => parse_stat(&stat)
                .is_some_and(|(state, start_time)| matches!(state, b'Z' | b'X') || start_time != self.start_time),
            Err(error) => error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(&error) == Some(Errno::SRCH),
        }
    }

    /// Whether somebody stopped this very process (`SIGSTOP`, a terminal): until it is told to go on it hears nothing else. One
    /// that a debugger holds is the debugger's.
    pub fn is_stopped(&self) -> bool {
        stat(self.pid) == Some((b'T', self.start_time))
    }
}

/// State and start time of whatever has this pid now.
fn stat(pid: u32) -> Option<(u8, u64)> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// State and start time (fields 3 and 22) of a `/proc/<pid>/stat`. The name in field 2 may hold anything, so counting
/// begins after its last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let after_name = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let mut fields = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A handle on one proven process, child or not.
#[derive(Debug)]
pub struct ProvenProcess {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
}

impl ProvenProcess {
    /// A child of this process that has not been waited for: its pid is its own, whether or not it has ended.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (_, start_time) = parse_stat(&fs::read(format!("/proc/{pid}/stat"))?).ok_or_else(gone)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self { pidfd, identity: ProcessIdentity { pid, start_time } })
    }

    /// `None` when that process is gone. The handle is opened first and the start time compared after, so what it holds
    /// is what was compared.
    pub fn open(identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(identity.alive().then_some(Self { pidfd, identity }))
    }

    /// Whose handle it is.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Sends a signal; `false` when the process is already gone.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended, without waiting.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Waits until it has ended. Cancelling loses nothing.
    pub async fn ended(&self) -> io::Result<()> {
        // SAFETY: the descriptor is ours and stays open while `self` is borrowed, which is longer than `ready` lives.
        let ready = unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) }?;
        ready.readable().await.map(|_| ())
    }
}

impl AsFd for ProvenProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Sends a signal to exactly this process; `false` when it is gone, whatever has its pid now.
pub fn kill_proven(identity: ProcessIdentity, signal: Signal) -> io::Result<bool> {
    ProvenProcess::open(identity)?.map_or(Ok(false), |process| process.signal(signal))
}

/// Has exactly this process go on if somebody stopped it; `false` when nobody did.
pub fn wake_proven(identity: ProcessIdentity) -> io::Result<bool> {
    if identity.is_stopped() { kill_proven(identity, Signal::CONT) } else { Ok(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };

    #[test]
    fn a_name_full_of_parentheses_does_not_shift_the_fields() {
        let stat = b"42 (a) b) R 1 2 (x) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1";
        assert_eq!(parse_stat(stat), Some((b'S', 987_654)));
        assert_eq!(parse_stat(b"42 no name"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_an_older_one_with_its_pid_is_not() {
        let me = ProcessIdentity::current().unwrap();
        assert!(me.alive());
        let other = ProcessIdentity { start_time: me.start_time + 1, ..me };
        assert!(!other.alive());
        assert!(!kill_proven(other, Signal::KILL).unwrap());
    }

    #[tokio::test]
    async fn a_proven_process_is_killed_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let process = ProvenProcess::open(identity).unwrap().unwrap();
        assert!(!process.has_ended());
        assert!(kill_proven(identity, Signal::KILL).unwrap());
        tokio::time::timeout(Duration::from_secs(10), process.ended()).await.unwrap().unwrap();
        assert!(process.has_ended());
        assert!(!identity.alive() && identity.is_gone(), "a zombie is not alive");
        child.wait().unwrap();
        assert!(!kill_proven(identity, Signal::KILL).unwrap());
    }

    #[test]
    fn a_stopped_process_is_woken_and_no_other() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        assert!(!wake_proven(identity).unwrap(), "it runs");
        assert!(kill_proven(identity, Signal::STOP).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !identity.is_stopped() {
            assert!(std::time::Instant::now() < deadline, "it does not stop");
            std::thread::yield_now();
        }
        assert!(identity.alive(), "a stopped process has not ended");
        let other = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
        assert!(!wake_proven(other).unwrap() && identity.is_stopped(), "an older one with its pid");
        assert!(wake_proven(identity).unwrap());
        assert!(!identity.is_stopped());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!wake_proven(identity).unwrap());
    }
}

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

/// Clock ticks per second in `/proc/<pid>/stat`. Linux fixes it at 100 for programs on every processor that banger is
/// built for, whatever the kernel's own rate.
const TICKS: u64 = 100;

/// Returns the id of this boot of the host (`/proc/sys/kernel/random/boot_id`).
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
    /// Returns the process that has this pid now; `None` where there is none, or only a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid).ok()?;
        (!stat.has_ended()).then_some(Self { pid, start_time: stat.start_time })
    }

    /// Returns the identity of this process.
    pub fn current() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether exactly this process still runs. A zombie does not.
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Whether the process has certainly ended. A process that cannot be read, for want of a descriptor, may still run.
    pub fn is_gone(&self) -> bool {
        match Stat::read(self.pid) {
            Ok(stat) => stat.has_ended() || stat.start_time != self.start_time,
            Err(error) => error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(&error) == Some(Errno::SRCH),
        }
    }

    /// Whether exactly this process is stopped (`SIGSTOP`, a terminal). Until SIGCONT it reacts to nothing but SIGKILL.
    /// A process that a debugger holds does not count: it belongs to the debugger.
    pub fn is_stopped(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.state == b'T' && stat.start_time == self.start_time)
    }

    /// Returns the CPU time and memory of the process; `None` when it has ended.
    pub fn usage(&self) -> Option<Usage> {
        let stat = Stat::read(self.pid).ok()?;
        let is_this = !stat.has_ended() && stat.start_time == self.start_time;
        is_this.then(|| Usage {
            cpu_ms: stat.cpu_ticks * 1000 / TICKS,
            resident: stat.resident_pages * rustix::param::page_size() as u64,
        })
    }
}

/// Resources that a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads since it started, in milliseconds.
    pub cpu_ms: u64,
    /// Resident bytes.
    pub resident: u64,
}

/// The fields of `/proc/<pid>/stat` (proc(5)) that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// Field 3.
    state: u8,
    /// Fields 14 and 15, user and system time together, in clock ticks.
    cpu_ticks: u64,
    /// Field 22.
    start_time: u64,
    /// Field 24.
    resident_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat"))?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Parses the file. Counts the fields after the last parenthesis, because the name in field 2 may contain anything.
    fn parse(text: &[u8]) -> Option<Self> {
        let after_name = &text[text.iter().rposition(|byte| *byte == b')')? + 1..];
        let fields: Vec<&str> = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            cpu_ticks: number(14)?.checked_add(number(15)?)?,
            start_time: number(22)?,
            resident_pages: number(24)?,
        })
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// A pidfd of one proven process, which may be a child or not.
#[derive(Debug)]
pub struct ProvenProcess {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
}

impl ProvenProcess {
    /// Opens a child of this process that has not been waited for: its pid is not reused, whether or not it has ended.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let start_time = Stat::read(pid)?.start_time;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self { pidfd, identity: ProcessIdentity { pid, start_time } })
    }

    /// Opens a process; `None` when it has ended. The pidfd is opened before the start time is compared, so that both
    /// are of the same process.
    pub fn open(identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(identity.alive().then_some(Self { pidfd, identity }))
    }

    /// Returns the identity of the process.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Sends a signal; `false` when the process has already ended.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process has ended, without waiting.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Waits until the process has ended. Cancelling loses nothing.
    pub async fn ended(&self) -> io::Result<()> {
        // SAFETY: the descriptor belongs to `self` and stays open while `self` is borrowed, which is longer than
        // `ready` lives.
        let ready = unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) }?;
        ready.readable().await.map(|_| ())
    }
}

impl AsFd for ProvenProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Sends a signal to exactly this process; `false` when it has ended, whatever has its pid now.
pub fn kill_proven(identity: ProcessIdentity, signal: Signal) -> io::Result<bool> {
    ProvenProcess::open(identity)?.map_or(Ok(false), |process| process.signal(signal))
}

/// Sends SIGCONT to exactly this process if it is stopped; `false` when it is not.
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
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 987_654));
        assert_eq!(Stat::parse(b"42 no name"), None);
        assert_eq!(Stat::parse(b""), None);
        let stat = Stat::parse(b"7 (a) b) S 1 1 1 0 -1 4 1 0 0 0 11 22 0 0 20 0 1 0 98 5000 333 1").unwrap();
        assert_eq!((stat.cpu_ticks, stat.resident_pages), (33, 333));
    }

    #[test]
    fn this_process_uses_memory() {
        let me = ProcessIdentity::current().unwrap();
        assert!(me.usage().unwrap().resident > 1 << 20);
        assert_eq!(ProcessIdentity { start_time: me.start_time + 1, ..me }.usage(), None, "an older one with its pid");
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

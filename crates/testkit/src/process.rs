//! Processes: proven identity, and which ones belong to a test.
//!
//! A pid alone proves nothing. A process that is ended here was found by a mark no other process can carry (the random
//! path of a test's directory), is held by a pidfd, and was checked again after the pidfd was open.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

/// Unit of processor time in Linux' interface to programs.
const TICK: Duration = Duration::from_millis(10);

/// Identity of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot when it started.
    pub start_time: u64,
    /// The command line, for messages.
    pub command: String,
}

impl Identity {
    /// Identity of the process with this pid; `None` if it has ended (as a zombie has).
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        if matches!(stat.field(3)?, "Z" | "X") {
            return None;
        }
        let start_time = stat.field(22)?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        Some(Self { pid, start_time, command })
    }

    /// Reads a numeric field of its `/proc/<pid>/stat`, numbered as in proc(5).
    #[track_caller]
    pub fn stat(&self, field: usize) -> i64 {
        let number = Stat::of(self.pid).and_then(|stat| stat.field(field)?.parse().ok());
        number.unwrap_or_else(|| panic!("{self:?} has ended"))
    }

    /// Pid of its parent; `None` if it has ended.
    pub fn parent(&self) -> Option<u32> {
        Stat::of(self.pid)?.field(4)?.parse().ok()
    }

    /// Processor time it has used so far.
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let ticks = self.stat(14) + self.stat(15);
        TICK * u32::try_from(ticks).expect("a number of ticks")
    }

    /// Whether this process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start_time == self.start_time)
    }

    /// Sends a signal to this process; `false` if it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        self.pidfd().is_some_and(|pidfd| pidfd_send_signal(&pidfd, signal).is_ok())
    }

    /// Waits until this process has ended, or panics. Its first thread may be a zombie while other threads still run
    /// and its sockets still take connections; a pidfd is readable only after the last one.
    #[track_caller]
    pub fn wait_gone(&self, deadline: Duration) {
        let pidfd = self.raw_pidfd();
        crate::wait_until(deadline, &format!("the end of process {} ({})", self.pid, self.command), || {
            let Some(pidfd) = &pidfd else { return Ok(()) };
            if self.is_alive() {
                return Err("it is alive".to_owned());
            }
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec::default())) {
                Ok(0) => Err("threads of it are left".to_owned()),
                _ => Ok(()),
            }
        });
    }

    /// Opens a pidfd of this process; `None` if it has ended.
    fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = self.raw_pidfd()?;
        self.is_alive().then_some(pidfd)
    }

    /// Opens a pidfd of whatever has this pid now.
    fn raw_pidfd(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }
}

/// `/proc/<pid>/stat` after its second field, the program's name in parentheses, which may hold anything.
struct Stat(String);

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self(stat.rsplit_once(')')?.1.to_owned()))
    }

    /// Returns a field, numbered as in proc(5).
    fn field(&self, number: usize) -> Option<&str> {
        self.0.split_whitespace().nth(number.checked_sub(3)?)
    }
}

/// Finds all processes of this user whose command line, environment, working directory or executable is under `home`,
/// except the caller and others that run the same test program.
pub fn marked_processes(home: &Path) -> Vec<Identity> {
    let own_exe = exe(std::process::id());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc can be read").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let exe = exe(pid);
        // A child of this program between fork and exec still has its parent's command line and environment.
        if exe.is_some() && exe == own_exe {
            continue;
        }
        if is_marked(pid, exe.as_deref(), home)
            && let Some(identity) = Identity::of(pid)
        {
            found.push(identity);
        }
    }
    found
}

fn is_marked(pid: u32, exe: Option<&Path>, home: &Path) -> bool {
    let needle = home.as_os_str().as_encoded_bytes();
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    cwd.as_deref().is_some_and(|cwd| cwd.starts_with(home))
        || exe.is_some_and(|exe| exe.starts_with(home))
        || ["cmdline", "environ"]
            .iter()
            .any(|file| std::fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, needle)))
}

fn exe(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_marked_process_is_found_and_ended() {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("1000").env("MARK", home.path()).spawn().unwrap();
        let found = crate::wait_until(Duration::from_secs(10), "the marked child", || {
            let found = marked_processes(home.path());
            if found.iter().any(|process| process.command == "sleep 1000") {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].signal(Signal::KILL));
        child.wait().unwrap();
        assert!(!found[0].is_alive());
        assert!(!found[0].signal(Signal::KILL), "a pid that may be somebody else's by now");
    }
}

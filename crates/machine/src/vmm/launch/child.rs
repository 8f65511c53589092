//! A child process that has not been reaped yet.
//!
//! A VMM is PID 1 of its PID namespace, which the kernel protects: a signal that it neither handles nor ignores is
//! dropped, unless it is SIGKILL. [`Child::signal`] restores the usual effect: the process ends, and its status names
//! the signal that was sent.

use crate::process::{ProcessIdentity, ProvenProcess};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use std::{
    io,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    sync::atomic::{AtomicI32, Ordering},
};

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub(in crate::vmm) struct Child {
    process: ProvenProcess,
    status: Option<ExitStatus>,
    /// The signal that was sent as SIGKILL; 0 for none.
    requested: AtomicI32,
}

impl Child {
    /// `pid` must be a child of this process that has not been waited for.
    pub(super) fn new(pid: u32) -> io::Result<Self> {
        Ok(Self { process: ProvenProcess::of_child(pid)?, status: None, requested: AtomicI32::new(0) })
    }

    /// Identity of the process.
    pub(in crate::vmm) fn identity(&self) -> ProcessIdentity {
        self.process.identity()
    }

    /// Sends a signal with its usual effect; `false` when the process has ended.
    pub(in crate::vmm) fn signal(&self, signal: Signal) -> io::Result<bool> {
        if signal != Signal::KILL && self.has_default_action(signal) {
            self.requested.store(signal.as_raw(), Ordering::Relaxed);
            return self.process.signal(Signal::KILL);
        }
        self.process.signal(signal)
    }

    /// Whether the process leaves this signal at its default action, which for all signals sent here is to terminate.
    fn has_default_action(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.identity().pid));
        status.is_ok_and(|status| !is_in_set(&status, "SigCgt:", signal) && !is_in_set(&status, "SigIgn:", signal))
    }

    /// Waits until the process has ended. Cancel safe.
    pub(in crate::vmm) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if self.status.is_none() {
            self.process.ended().await?;
        }
        self.reap()
    }

    /// Waits until the process has ended, blocking the thread.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let ended = loop {
            match waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                ended => break ended?.ok_or(io::ErrorKind::NotFound)?,
            }
        };
        // The encoding of the status in wait(2).
        let raw = match (ended.exit_status(), ended.terminating_signal()) {
            (Some(code), _) => code << 8,
            (None, Some(signal)) if signal == Signal::KILL.as_raw() => {
                Some(self.requested.load(Ordering::Relaxed)).filter(|signal| *signal != 0).unwrap_or(signal)
            }
            (None, signal) => signal.unwrap_or(Signal::KILL.as_raw()),
        };
        let status = ExitStatus::from_raw(raw);
        self.status = Some(status);
        Ok(status)
    }
}

/// Whether a signal is in one of the masks of `/proc/<pid>/status`: hexadecimal, with the first signal as the lowest
/// bit.
fn is_in_set(status: &str, set: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(set)).map(str::trim);
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    u32::try_from(signal.as_raw() - 1).is_ok_and(|bit| mask >> bit & 1 == 1)
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() && self.process.signal(Signal::KILL).is_ok() {
            // A killed process ends; it must not stay behind as a zombie.
            let _ = self.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_signals_are_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(is_in_set(status, "SigCgt:", Signal::INT) && is_in_set(status, "SigCgt:", Signal::TERM));
        assert!(is_in_set(status, "SigIgn:", Signal::PIPE) && !is_in_set(status, "SigCgt:", Signal::ABORT));
        assert!(!is_in_set("", "SigCgt:", Signal::INT));
    }
}

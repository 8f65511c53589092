//! `--ready-fd N`: tells the starting process that the daemon serves, or why it cannot.

#![expect(unsafe_code, reason = "a descriptor's number from the command line becomes an owned descriptor")]

use super::StartError;
use banger_proto::{api::host::READY_LINE, failure::Failure};
use rustix::io::{FdFlags, fcntl_setfd};
use std::{
    fs::File,
    io::Write,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

/// Where readiness is reported: an inherited descriptor, or stderr for a person at a terminal.
#[derive(Debug)]
pub struct Ready(Option<File>);

impl Ready {
    /// No descriptor: start-up failures go to stderr.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Takes over the inherited descriptor `fd` and closes all others but the standard streams: a caller's lock or pipe
    /// would otherwise be held as long as the daemon lives. Call it once and first, before a descriptor number is
    /// reused.
    pub fn inherited(fd: RawFd) -> Result<Self, StartError> {
        if fd <= 2 {
            return Err(StartError::BadReadyFd);
        }
        // SAFETY: the borrow lasts for one fcntl, which fails with EBADF when the number is not open.
        let open = unsafe { fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::CLOEXEC) };
        open.map_err(|_| StartError::BadReadyFd)?;
        close_between(3, fd - 1)?;
        close_between(fd + 1, RawFd::MAX)?;
        // SAFETY: it is open (just proven), was inherited over exec, and nothing in this process knows its number.
        Ok(Self(Some(unsafe { OwnedFd::from_raw_fd(fd) }.into())))
    }

    /// Reports that requests are answered. From then on nobody reads stderr, so it is redirected to the log.
    pub(super) fn serving(&mut self, log: &Path) {
        let Some(mut file) = self.0.take() else { return };
        if let Ok(log) = File::options().append(true).open(log) {
            // Late output such as a panic's message is worth keeping; a failure to redirect is no reason not to serve.
            let _ = rustix::stdio::dup2_stdout(&log).and_then(|()| rustix::stdio::dup2_stderr(&log));
        }
        // The starting process may be gone already.
        let _ = file.write_all(READY_LINE.as_bytes());
    }

    /// Reports that the daemon cannot serve; `true` when a descriptor took the report.
    pub fn failed(&mut self, failure: &Failure) -> bool {
        let Some(mut file) = self.0.take() else { return false };
        let mut line = serde_json::to_vec(failure).expect("a failure serializes");
        line.push(b'\n');
        file.write_all(&line).is_ok()
    }
}

fn close_between(first: RawFd, last: RawFd) -> Result<(), StartError> {
    if first > last {
        return Ok(());
    }
    // SAFETY: called at the start of `main`, when nothing here has opened a descriptor over 2.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed == 0 { Ok(()) } else { Err(StartError::BadReadyFd) }
}

//! Detaches the shim from the process that starts it: it gets a session of its own, and reports in one line how the
//! start went.

#![expect(unsafe_code, reason = "fork, and closing what was inherited")]

use rustix::{
    fs::{Mode, OFlags, open},
    process::setsid,
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    path::Path,
};

/// Report that the VMM runs.
const READY: &[u8] = b"ready";
/// Upper bound for the length of a reason, in bytes.
const MAX_REASON: u64 = 4096;
/// File for the detached shim's stderr, in the VM's state directory: the message of a panic, should there be one.
const LOG: &str = "shim.log";

/// Reports the outcome of the start to the process that waits for it.
#[derive(Debug)]
pub(super) struct StartReporter(Option<PipeWriter>);

impl StartReporter {
    /// A reporter without a recipient: the shim runs in the foreground.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Reports that the VMM runs. `false` when the recipient has gone: nobody wants the machine any more.
    pub(super) fn ready(&mut self) -> bool {
        self.0.take().is_none_or(|mut reporter| reporter.write_all(READY).is_ok())
    }

    /// Reports why the VMM does not run. `false` when there is no recipient any more.
    pub(super) fn failed(&mut self, reason: &str) -> bool {
        self.0.take().is_some_and(|mut reporter| reporter.write_all(reason.as_bytes()).is_ok())
    }
}

/// The side of the fork.
#[derive(Debug)]
pub(super) enum Side {
    /// The shim.
    Shim(StartReporter),
    /// The process that was started, which waits: `Ok` when the VMM runs, else the reason.
    Starter(Result<(), String>),
}

/// Forks. Must be called while the process has a single thread.
pub(super) fn detach(state_dir: &Path) -> io::Result<Side> {
    close_inherited()?;
    let (reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may do everything its parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            let mut reporter = StartReporter(Some(writer));
            match leave(state_dir) {
                Ok(()) => Ok(Side::Shim(reporter)),
                Err(error) => {
                    reporter.failed(&format!("leaving the session failed: {error}"));
                    Err(error)
                }
            }
        }
        _ => {
            drop(writer);
            Ok(Side::Starter(wait(reader)?))
        }
    }
}

/// Closes inherited descriptors; one that the parent forgot to mark would stay open for the life of the VM.
fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: called at the start of `main`, before this process has opened any descriptor over 2.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn leave(state_dir: &Path) -> io::Result<()> {
    setsid()?;
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::CLOEXEC;
    let log = open(state_dir.join(LOG), flags, Mode::RUSR | Mode::WUSR)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

fn wait(reader: PipeReader) -> io::Result<Result<(), String>> {
    let mut report = Vec::new();
    reader.take(MAX_REASON).read_to_end(&mut report)?;
    Ok(match report.as_slice() {
        READY => Ok(()),
        [] => Err("the shim died before it could say why".to_owned()),
        reason => Err(String::from_utf8_lossy(reason).into_owned()),
    })
}

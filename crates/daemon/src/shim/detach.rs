//! How a shim leaves whoever started it: a process in a session of its own, and one line back about how the start went.

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

/// What the shim writes to whoever waits, once its VMM runs.
const READY: &[u8] = b"ready";
/// Most that is read of a shim's reason, in bytes.
const MAX_REASON: u64 = 4096;
/// Where a detached shim's stderr goes, in the VM's state directory: words of a panic, should there be one.
const LOG: &str = "shim.log";

/// Who waits for the start.
#[derive(Debug)]
pub(super) struct StartReporter(Option<PipeWriter>);

impl StartReporter {
    /// Nobody: the shim runs in the foreground.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The VMM runs. `false` when whoever waited has gone away: nobody wants the machine.
    pub(super) fn ready(&mut self) -> bool {
        self.0.take().is_none_or(|mut reporter| reporter.write_all(READY).is_ok())
    }

    /// It does not, and this is why. `false` when there is nobody to tell any more.
    pub(super) fn failed(&mut self, reason: &str) -> bool {
        self.0.take().is_some_and(|mut reporter| reporter.write_all(reason.as_bytes()).is_ok())
    }
}

/// On which side of the fork this is.
#[derive(Debug)]
pub(super) enum Side {
    /// The shim.
    Shim(StartReporter),
    /// Whoever was started, to wait: `Ok` when the VMM runs, else why not.
    Starter(Result<(), String>),
}

/// Forks. Must be called before there is any thread.
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

/// A descriptor somebody forgot to mark would be held open for the VM's life.
fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: called at the start of `main`, when nothing here has opened a descriptor over 2.
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

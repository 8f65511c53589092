//! A running program.
//!
//! The caller's reads drive one `poll` over stdout, stderr and the process. However that ends, the whole process group
//! ends with it.

use super::{GRACE, ProgramError, escaped};
use crate::job::{Cancel, Cancelled};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    collections::VecDeque,
    io::{self, Read},
    os::fd::OwnedFd,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    time::{Duration, Instant},
};

/// Bytes kept of the end of stderr.
pub(super) const STDERR_TAIL: usize = 4096;
/// Bytes that may follow after the reader has all it wants (archives are padded) before the program is considered to
/// flood.
const MAX_PADDING: u64 = 1 << 20;
/// Upper bound of a pipe's capacity: bytes beyond it were written after the program's end.
const PIPE: usize = 1 << 20;
/// Time for a killed process to end: one that waits for a busy disk ends only after that.
const LAST: Duration = Duration::from_secs(60);
/// Interval at which a wait for a silent program checks the cancellation flag.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A running program; reading from it reads its stdout. Dropping it ends whatever is left.
pub(super) struct Running<'a> {
    program: String,
    cancel: &'a Cancel,
    child: Child,
    /// The child's pid, which is also its process group. Valid until the child is reaped, which only [`Self::reap`]
    /// does.
    group: Pid,
    process: OwnedFd,
    /// Pipe whose closing kills everything (see `containment`), where there is one.
    line: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    tail: VecDeque<u8>,
    /// Receiver of the lines of stderr.
    hear: &'a mut dyn FnMut(&str),
    said: Vec<u8>,
    /// Lines of stderr are discarded from now on.
    deaf: bool,
    exited: bool,
    reaped: bool,
}

impl<'a> Running<'a> {
    /// Starts `command`, a process group of its own with pipes for stdout and stderr.
    pub(super) fn new(
        command: &mut Command,
        program: String,
        cancel: &'a Cancel,
        hear: &'a mut dyn FnMut(&str),
    ) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let group = Pid::from_child(&child);
        let (line, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = match pidfd_open(group, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(error) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(error.into());
            }
        };
        // From here on `Drop` cleans up.
        let tail = VecDeque::with_capacity(STDERR_TAIL);
        let (said, deaf) = (Vec::new(), false);
        let (exited, reaped) = (false, false);
        let running = Self {
            program,
            cancel,
            child,
            group,
            process,
            line,
            stdout,
            stderr,
            tail,
            hear,
            said,
            deaf,
            exited,
            reaped,
        };
        if let Some(stdout) = &running.stdout {
            fcntl_setfl(stdout, fcntl_getfl(stdout)? | OFlags::NONBLOCK)?;
        }
        if let Some(stderr) = &running.stderr {
            fcntl_setfl(stderr, fcntl_getfl(stderr)? | OFlags::NONBLOCK)?;
        }
        Ok(running)
    }

    /// Whether stdout was read to its end.
    pub(super) fn has_ended_its_output(&self) -> bool {
        self.stdout.is_none()
    }

    /// Waits at most one tick for stdout (if asked), stderr or the end, and reads from stderr.
    fn step(&mut self, for_stdout: bool) -> io::Result<()> {
        let mut fds = Vec::with_capacity(3);
        if let Some(stdout) = self.stdout.as_ref().filter(|_| for_stdout) {
            fds.push(PollFd::new(stdout, PollFlags::IN));
        }
        if let Some(stderr) = &self.stderr {
            fds.push(PollFd::new(stderr, PollFlags::IN));
        }
        if !self.exited {
            fds.push(PollFd::new(&self.process, PollFlags::IN));
        }
        match poll(&mut fds, Some(&TICK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !self.exited && fds.last().is_some_and(|fd| !fd.revents().is_empty());
        self.drain_stderr();
        if ended {
            self.exited = true;
            // Processes left in its group would keep the pipes open forever. The pid is not reaped yet, so the group is
            // still ours.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        Ok(())
    }

    fn drain_stderr(&mut self) {
        let mut buffer = [0; STDERR_TAIL];
        // One buffer per call while the program runs, and the content of the pipe at its end: a flood must not keep the
        // caller from its own work, whoever still writes.
        let mut most = if self.exited { PIPE } else { 1 };
        while let Some(stderr) = self.stderr.as_mut().filter(|_| most > 0) {
            match stderr.read(&mut buffer) {
                Ok(0) => self.stderr = None,
                Ok(n) => {
                    self.tail.extend(&buffer[..n]);
                    let surplus = self.tail.len().saturating_sub(STDERR_TAIL);
                    self.tail.drain(..surplus);
                    for &byte in buffer[..n].iter().filter(|_| !self.deaf) {
                        if byte == b'\n' {
                            (self.hear)(&escaped(&self.said));
                            self.said.clear();
                        } else if self.said.len() < STDERR_TAIL {
                            self.said.push(byte);
                        }
                    }
                    most = most.saturating_sub(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// Reads what the consumer left over, so that the program does not die of a closed pipe.
    pub(super) fn drain(&mut self) -> Result<(), ProgramError> {
        let mut left = 0;
        let mut buffer = [0; 16 << 10];
        while left <= MAX_PADDING {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => left += n as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed_io(source)),
            }
        }
        self.terminate();
        Err(ProgramError::TooMuchOutput { program: self.program.clone(), limit: MAX_PADDING })
    }

    /// Waits for the program's end and checks its status.
    pub(super) fn finish(&mut self) -> Result<(), ProgramError> {
        while !self.exited {
            if self.cancel.is_cancelled() {
                self.terminate();
                return Err(Cancelled.into());
            }
            self.step(false).map_err(|source| self.failed_io(source))?;
        }
        self.drain_stderr();
        let status = self.reap().map_err(|source| self.failed_io(source))?;
        if status.success() {
            return Ok(());
        }
        let stderr = escaped(&self.tail.iter().copied().collect::<Vec<_>>());
        Err(ProgramError::Failed { program: self.program.clone(), status, stderr })
    }

    /// Asks everything to end, waits, then kills it.
    pub(super) fn terminate(&mut self) {
        let mut grace = GRACE;
        if self.line.take().is_some() {
            // stdout stays open: mmdebstrap kills the process that waits for its namespace when nobody takes its
            // output.
            grace = LAST;
        } else {
            self.stdout = None;
            if !self.exited {
                let _ = kill_process_group(self.group, Signal::TERM);
            }
        }
        let deadline = Instant::now() + grace;
        while !self.exited && Instant::now() < deadline && self.step(false).is_ok() {}
        self.stdout = None;
        let _ = self.reap();
    }

    /// Kills what is left of the group and reaps the child, after which the pid may belong to another process.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }

    fn failed_io(&self, source: io::Error) -> ProgramError {
        if self.cancel.is_cancelled() {
            return Cancelled.into();
        }
        ProgramError::Io { program: self.program.clone(), source }
    }
}

impl Read for Running<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.cancel.check().map_err(io::Error::other)?;
            let Some(stdout) = &mut self.stdout else { return Ok(0) };
            match stdout.read(buffer) {
                Ok(0) if !buffer.is_empty() => {
                    self.stdout = None;
                    return Ok(0);
                }
                // A process that left the group may still hold the pipe; it is not waited for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.exited => self.stdout = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.step(true)?,
                other => return other,
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // The receiver of the lines may be what is panicking.
        self.deaf = true;
        if self.line.is_some() {
            self.terminate();
        } else if !self.reaped {
            let _ = self.reap();
        }
    }
}

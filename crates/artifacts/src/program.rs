//! Running other people's programs: `apt-get`, `depmod`, `mmdebstrap`, `mkfs.ext4`.
//!
//! Decides what such a program sees (a known environment, no stdin, its own process group), how much of its output is
//! kept, and that nothing of it is left when the call returns. It refuses to know what any program is for; only the
//! Debian package that has it is carried along, so that an error can say how to mend a missing one.
//!
//! There are no helper threads: the caller's own reads drive one `poll` over stdout, stderr and the process, so a
//! program that floods stderr, that outlives its pipe or that is cancelled half way is dealt with in one place.

#![expect(unsafe_code, reason = "a hook between fork and exec ties the program's life to ours")]

use crate::job::{Cancel, Cancelled};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, set_parent_process_death_signal},
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{self, Read},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How much of the end of stderr is kept.
const STDERR_TAIL: usize = 4096;
/// How many of its last lines an error repeats.
const STDERR_LINES: usize = 3;
/// What may follow after the reader has all it wants (archives are padded), before the program is called a flood.
const MAX_PADDING: u64 = 1 << 20;
/// Between SIGTERM and SIGKILL, unless the caller knows better.
const GRACE: Duration = Duration::from_secs(5);
/// How often a silent program's wait looks at the cancel flag.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Where system programs live although an ordinary user's `PATH` often leaves it out.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not installed. `package` is the Debian package that has it.
    #[error("{program} is not installed")]
    Missing {
        /// The program's name.
        program: String,
        /// The Debian package with it.
        package: &'static str,
    },
    /// It ran and did not end with status 0.
    #[error("{program} failed ({status}){}", last_lines(stderr))]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr, at most 4 KiB before escaping; control characters other than line feeds are escaped.
        stderr: String,
    },
    /// It wrote more than its caller takes.
    #[error("{program} wrote more than {limit} bytes")]
    TooMuchOutput {
        /// The program's name.
        program: String,
        /// The caller's limit.
        limit: u64,
    },
    /// It could not be started or talked to.
    #[error("cannot run {program}")]
    Io {
        /// The program's name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was told to stop, and did.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A program about to be run.
#[derive(Debug)]
pub struct Program {
    name: String,
    package: &'static str,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: PathBuf,
    grace: Duration,
}

impl Program {
    /// `name` as found on `PATH` (system directories are always searched, last); `package` is the Debian package with it.
    pub fn new(name: impl Into<String>, package: &'static str) -> Self {
        Self {
            name: name.into(),
            package,
            args: Vec::new(),
            env: Vec::new(),
            directory: PathBuf::from("/"),
            grace: GRACE,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable. Only `PATH` and `LANG=C.UTF-8` are there by themselves; `HOME` is the caller's.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Lets the user's proxy settings through: for programs that go to the network.
    #[must_use]
    pub fn with_proxy_settings(mut self) -> Self {
        for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            if let Some(value) = std::env::var_os(name) {
                self = self.env(name, value);
            }
        }
        self
    }

    /// The directory it runs in; `/` unless said.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// How long it may take to tidy up when it is told to end, before it is killed; 5 s unless said. It only matters for
    /// programs that would leave something behind.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Where `name` is installed, if it is.
    pub fn find(name: &str) -> Option<PathBuf> {
        std::env::split_paths(&search_path())
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
    }

    /// Runs it to its end and returns its stdout, at most `limit` bytes.
    pub fn capture(self, limit: u64, cancel: &Cancel) -> Result<Vec<u8>, ProgramError> {
        let program = self.name.clone();
        self.stream(cancel, |stdout| {
            let mut output = Vec::new();
            stdout
                .take(limit.saturating_add(1))
                .read_to_end(&mut output)
                .map_err(|source| ProgramError::Io { program: program.clone(), source })?;
            if output.len() as u64 > limit {
                return Err(ProgramError::TooMuchOutput { program, limit });
            }
            Ok(output)
        })
    }

    /// Runs it while `consume` reads its stdout. When `consume` fails before the program has ended its output, the
    /// program is stopped; when the output ended because the program failed, the program's failure is the error.
    pub fn stream<T, E: From<ProgramError>>(
        self,
        cancel: &Cancel,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, E> {
        self.stream_heard(cancel, &mut |_| (), consume)
    }

    /// As [`Program::stream`]; `hear` is given each line of stderr as it comes, escaped, without its line feed, cut at
    /// 4 KiB.
    pub fn stream_heard<T, E: From<ProgramError>>(
        self,
        cancel: &Cancel,
        hear: &mut dyn FnMut(&str),
        consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut running = self.start(cancel, hear)?;
        let consumed = consume(&mut running);
        if cancel.is_cancelled() {
            running.terminate();
            return Err(ProgramError::Cancelled(Cancelled).into());
        }
        match consumed {
            Ok(value) => {
                running.drain()?;
                running.finish()?;
                Ok(value)
            }
            Err(error) if running.stdout.is_none() => {
                running.finish()?;
                Err(error)
            }
            Err(error) => {
                running.terminate();
                Err(error)
            }
        }
    }

    fn start<'a>(self, cancel: &'a Cancel, hear: &'a mut dyn FnMut(&str)) -> Result<Running<'a>, ProgramError> {
        cancel.check()?;
        let Some(path) = Self::find(&self.name) else {
            return Err(ProgramError::Missing { program: self.name, package: self.package });
        };
        let mut command = Command::new(path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", search_path())
            .env("LANG", "C.UTF-8")
            .envs(self.env)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: the hook makes two system calls and touches neither memory of the parent nor any lock.
        unsafe {
            command.pre_exec(move || {
                // A daemon that is killed takes its programs with it: TERM, so that they can tidy up.
                set_parent_process_death_signal(Some(Signal::TERM))?;
                if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
            });
        }
        let program = self.name;
        let mut running = Running::new(&mut command, program.clone(), cancel, hear)
            .map_err(|source| ProgramError::Io { program, source })?;
        running.grace = self.grace;
        Ok(running)
    }
}

/// The user's `PATH`, then the system's directories.
fn search_path() -> OsString {
    match std::env::var_os("PATH") {
        Some(mut path) if !path.is_empty() => {
            path.push(":");
            path.push(SYSTEM_PATH);
            path
        }
        _ => SYSTEM_PATH.into(),
    }
}

/// The program while it runs; reading from it reads its stdout. Dropping it kills whatever is left.
struct Running<'a> {
    program: String,
    cancel: &'a Cancel,
    child: Child,
    /// The child's pid, which is also its process group. Valid until the child is reaped, which only [`Self::reap`] does.
    group: Pid,
    process: OwnedFd,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    tail: VecDeque<u8>,
    /// Who hears the lines of stderr, and the line that is not complete yet.
    hear: &'a mut dyn FnMut(&str),
    line: Vec<u8>,
    grace: Duration,
    exited: bool,
    reaped: bool,
}

impl<'a> Running<'a> {
    fn new(
        command: &mut Command,
        program: String,
        cancel: &'a Cancel,
        hear: &'a mut dyn FnMut(&str),
    ) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let group = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
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
        let line = Vec::new();
        let (grace, exited, reaped) = (GRACE, false, false);
        let running =
            Self { program, cancel, child, group, process, stdout, stderr, tail, hear, line, grace, exited, reaped };
        if let Some(stdout) = &running.stdout {
            fcntl_setfl(stdout, fcntl_getfl(stdout)? | OFlags::NONBLOCK)?;
        }
        if let Some(stderr) = &running.stderr {
            fcntl_setfl(stderr, fcntl_getfl(stderr)? | OFlags::NONBLOCK)?;
        }
        Ok(running)
    }

    /// Waits at most one tick for stdout (if asked), stderr or the end, and takes in what stderr has.
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
            // Whatever it left behind in its group would keep the pipes open for ever. The pid is not reaped yet, so
            // the group is still ours.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        Ok(())
    }

    fn drain_stderr(&mut self) {
        let mut buffer = [0; STDERR_TAIL];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut buffer) {
                Ok(0) => self.stderr = None,
                Ok(n) => {
                    self.tail.extend(&buffer[..n]);
                    let surplus = self.tail.len().saturating_sub(STDERR_TAIL);
                    self.tail.drain(..surplus);
                    for &byte in &buffer[..n] {
                        if byte == b'\n' {
                            (self.hear)(&escaped(&self.line));
                            self.line.clear();
                        } else if self.line.len() < STDERR_TAIL {
                            self.line.push(byte);
                        }
                    }
                    // One bufferful per call while it runs: a flood must not keep the caller from its own work.
                    if !self.exited {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// Reads what the consumer left over, so that the program does not die of a closed pipe.
    fn drain(&mut self) -> Result<(), ProgramError> {
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

    /// Waits for the end and judges it.
    fn finish(&mut self) -> Result<(), ProgramError> {
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

    /// Tells the whole group to end, waits a little, makes it end.
    fn terminate(&mut self) {
        self.stdout = None;
        if !self.exited && kill_process_group(self.group, Signal::TERM).is_ok() {
            let deadline = Instant::now() + self.grace;
            while !self.exited && Instant::now() < deadline && self.step(false).is_ok() {}
        }
        let _ = self.reap();
    }

    /// Kills what is left of the group and collects the child. After this the pid is nobody's.
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.step(true)?,
                other => return other,
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.reap();
        }
    }
}

/// `bytes` as text a terminal can be trusted with: control characters but the line feed are escaped, as is what is not
/// UTF-8.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\n' || !c.is_control() {
                text.push(c);
            } else {
                text.extend(c.escape_default());
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a String takes every write");
        }
    }
    text
}

/// `: ` and the last lines that say something, or nothing.
fn last_lines(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!(": {}", lines[lines.len().saturating_sub(STDERR_LINES)..].join("; ")),
    }
}

#[cfg(test)]
mod tests;

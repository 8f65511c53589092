//! Runs external programs: `apt-get`, `depmod`, `mmdebstrap`, `mkfs.ext4`.
//!
//! Decides what such a program sees (a known environment, no stdin, its own process group), how much of its output is
//! kept, and that nothing of it remains when the call returns. It does not know what a program is for; it only carries
//! the name of the Debian package that provides it, so that an error can say how to install a missing one.
//!
//! `running` handles the program while it runs: there are no helper threads, and a program that floods stderr, outlives
//! its pipe or is cancelled half way is dealt with in one place. `containment` ends a program together with everything
//! it started; `ids` runs programs under other ids than this process's.

#![expect(unsafe_code, reason = "a hook between fork and exec ties the program's life to ours")]

mod containment;
mod ids;
mod running;

use crate::job::{Cancel, Cancelled};
use containment::Containment;
use running::Running;
use rustix::{
    fs::{Access, access},
    io::Errno,
    process::set_parent_process_death_signal,
};
use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

pub use containment::CONTAINED;
pub use ids::{Ids, NoIds};

/// How many of its last lines an error repeats.
const STDERR_LINES: usize = 3;
/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Where system programs live although an ordinary user's `PATH` often leaves it out.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Error of a program's run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program is not installed. `package` is the Debian package that provides it.
    #[error("{program} is not installed")]
    Missing {
        /// The program's name.
        program: String,
        /// The Debian package with it.
        package: &'static str,
    },
    /// The program ended with another status than 0.
    #[error("{program} failed ({status}){}", last_lines(stderr))]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr, at most 4 KiB before escaping; control characters other than line feeds are escaped.
        stderr: String,
    },
    /// The program wrote more than the caller accepts.
    #[error("{program} wrote more than {limit} bytes")]
    TooMuchOutput {
        /// The program's name.
        program: String,
        /// The caller's limit.
        limit: u64,
    },
    /// The program could not be started, or its pipes failed.
    #[error("cannot run {program}")]
    Io {
        /// The program's name.
        program: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The program serves users in their own group only, and this process is in another one, as in a shell of `newgrp`
    /// or `sg`.
    #[error("{program} refuses: it wants the user's own group ({own}), and this process was started in group {here}")]
    Group {
        /// The program's name.
        program: String,
        /// Primary group of the user in the user database.
        own: u32,
        /// This process's.
        here: u32,
    },
    /// No user namespace could be created for the program.
    #[error("cannot make a user namespace")]
    Namespace(#[source] io::Error),
    /// The job was cancelled.
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
    containment: Containment,
    ids: Option<Ids>,
}

impl Program {
    /// Creates a run of the program `name`, found on `PATH` (system directories are always searched, last); `package`
    /// is the Debian package that provides it.
    pub fn new(name: impl Into<String>, package: &'static str) -> Self {
        Self {
            name: name.into(),
            package,
            args: Vec::new(),
            env: Vec::new(),
            directory: PathBuf::from("/"),
            containment: Containment::Kernel,
            ids: None,
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

    /// Passes on the user's proxy settings, for programs that use the network.
    #[must_use]
    pub fn with_proxy_settings(mut self) -> Self {
        for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            if let Some(value) = std::env::var_os(name) {
                self = self.env(name, value);
            }
        }
        self
    }

    /// Sets the working directory; the default is `/`.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Kills the whole process group of the program at once when it is to end or when this process is killed.
    #[must_use]
    pub fn grouped(mut self) -> Self {
        self.containment = Containment::Group;
        self
    }

    /// Runs the program in mount and pid namespaces of its own, in `/`, with `directory` at [`CONTAINED`]: when it ends
    /// or is to end, or when this process is killed, everything it started is killed and everything it mounted is gone.
    /// Available to root where [`Self::can_be_contained`], or as root of other ids.
    #[must_use]
    pub fn contained(mut self, directory: impl Into<PathBuf>) -> Self {
        self.containment = Containment::Namespaces;
        self.directory = directory.into();
        self
    }

    /// Runs the program as root of these ids, in a user namespace of its own.
    #[must_use]
    pub fn as_root_of(mut self, ids: Ids) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Whether programs can be contained on this host: root of a container may not be allowed to.
    pub fn can_be_contained(directory: &Path, cancel: &Cancel) -> Result<bool, ProgramError> {
        match Self::new("true", "coreutils").contained(directory).capture(0, cancel) {
            Ok(_) => Ok(true),
            Err(error @ (ProgramError::Failed { .. } | ProgramError::Missing { .. })) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no namespaces for programs");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Searches for the executable `name` on the `PATH` and in the system directories.
    pub fn find(name: &str) -> Option<PathBuf> {
        Self::find_in(&search_path(), name)
    }

    /// Searches for the executable `name` on the `PATH` alone: leaving a program out of it means that it is not used.
    pub fn find_on_path(name: &str) -> Option<PathBuf> {
        Self::find_in(&std::env::var_os("PATH")?, name)
    }

    /// Searches the absolute directories of `search_path` for an executable regular file.
    fn find_in(search_path: &OsStr, name: &str) -> Option<PathBuf> {
        std::env::split_paths(search_path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
    }

    /// Runs the program to its end and returns its stdout, at most `limit` bytes.
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

    /// Runs the program while `consume` reads its stdout. If `consume` fails before the program has ended its output,
    /// the program is stopped; if the output ended because the program failed, the program's failure is the error.
    pub fn stream<T, E: From<ProgramError>>(
        self,
        cancel: &Cancel,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, E> {
        self.stream_heard(cancel, &mut |_| (), consume)
    }

    /// Like [`Program::stream`]; `hear` gets each line of stderr as it arrives, escaped, without its line feed, cut at
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
            Err(error) if running.has_ended_its_output() => {
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
        let space = self.ids.map(|ids| ids.space(cancel)).transpose()?;
        let mut command = self.containment.command(&path)?;
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", search_path())
            .env("LANG", "C.UTF-8")
            .envs(self.env)
            .current_dir(&self.directory)
            .stdin(if self.containment.has_line() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (parent, signal) = (rustix::process::getpid(), self.containment.signal());
        // SAFETY: the hook makes a few system calls and touches neither memory of the parent nor any lock.
        unsafe {
            command.pre_exec(move || {
                // Must come first: changing ids clears the parent death signal.
                space.as_ref().map_or(Ok(()), ids::enter)?;
                // A daemon that is killed takes its programs with it.
                set_parent_process_death_signal(Some(signal))?;
                if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
            });
        }
        let program = self.name;
        Running::new(&mut command, program.clone(), cancel, hear).map_err(|source| ProgramError::Io { program, source })
    }
}

/// Search path: the user's `PATH`, then the system's directories.
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

/// Makes `bytes` safe to print on a terminal: control characters other than line feeds are escaped, and so are bytes
/// that are not UTF-8.
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

/// Formats the last non-empty lines, preceded by `: `; empty if there are none.
fn last_lines(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!(": {}", lines[lines.len().saturating_sub(STDERR_LINES)..].join("; ")),
    }
}

#[cfg(test)]
mod tests;

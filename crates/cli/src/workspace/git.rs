//! Runs the host's git as a program that only reads: no hooks, file-system monitors, transports, pager or prompt, and
//! no configuration except what is set here.

use crate::daemon::spawn::is_executable;
use banger_proto::failure::{Code, Failure};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Most bytes of stderr that are kept.
const MAX_COMPLAINT: u64 = 16 << 10;
/// Most bytes of one answer: names and object ids of a few million files.
pub(crate) const MAX_ANSWER: u64 = 1 << 30;

/// Options of every run: nothing the repository names is run, and nothing is written.
const NOTHING_RUNS: [&str; 14] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "protocol.allow=never",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "core.untrackedCache=false",
    "-c",
    "core.splitIndex=false",
];

/// The git program of this host.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    program: PathBuf,
    /// `PATH` with its absolute directories only, so that a program in the repository is not found.
    path: OsString,
}

impl Git {
    /// Finds git in `PATH`.
    pub(crate) fn find() -> Result<Self, Failure> {
        Self::find_in(&std::env::var_os("PATH").unwrap_or_default())
    }

    fn find_in(path: &OsStr) -> Result<Self, Failure> {
        let dirs: Vec<PathBuf> = std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect();
        let program = dirs.iter().map(|dir| dir.join("git")).find(|program| is_executable(program));
        let program = program.ok_or_else(|| {
            Failure::new(Code::Unavailable, "git is not installed on this host")
                .hint("install git (Debian: apt install git); a VM without a repository needs none")
        })?;
        let path = std::env::join_paths(dirs).expect("they were split from a list like this");
        Ok(Self { program, path })
    }

    /// Prepares a run on the git directory `git_dir` as it is, configuration included: only for commands that run
    /// nothing whatever the configuration says (`rev-parse`, `symbolic-ref`, `for-each-ref`, `config`).
    pub(crate) fn reading(&self, git_dir: &Path) -> Call {
        let mut call = self.call();
        call.command.env("GIT_DIR", git_dir);
        call
    }

    /// Prepares a run in a clean environment; the caller names the git directory.
    pub(crate) fn call(&self) -> Call {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", &self.path).current_dir("/");
        // git finds the user's ignore file by these.
        for name in ["HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name).filter(|value| Path::new(value).is_absolute()) {
                command.env(name, value);
            }
        }
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_ALLOW_PROTOCOL", ""),
            ("GIT_PAGER", "cat"),
            ("GIT_EDITOR", "false"),
        ] {
            command.env(name, value);
        }
        command.args(NOTHING_RUNS);
        Call { command }
    }
}

/// One run of git, being prepared.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
}

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    /// Its stderr, trimmed.
    pub(crate) complaint: String,
}

impl Call {
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub(crate) fn within(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Has git read the user's and the system's configuration, too.
    pub(crate) fn with_user_settings(mut self) -> Self {
        self.command.env_remove("GIT_CONFIG_NOSYSTEM").env_remove("GIT_CONFIG_GLOBAL");
        if let Some(global) = std::env::var_os("GIT_CONFIG_GLOBAL") {
            self.command.env("GIT_CONFIG_GLOBAL", global);
        }
        self
    }

    /// Starts git with pipes for stdout and stderr, which the caller reads.
    pub(crate) fn spawn(mut self, stdin: Stdio) -> Result<Child, Failure> {
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().map_err(|error| Failure::caused_by(Code::Unavailable, "cannot run git", &error))
    }

    /// Runs git to its end with `input` on stdin.
    pub(crate) fn answer(self, input: &[u8]) -> Result<Answer, Failure> {
        let mut child = self.spawn(if input.is_empty() { Stdio::null() } else { Stdio::piped() })?;
        let failed = |error: io::Error| Failure::caused_by(Code::Unavailable, "cannot talk to git", &error);
        let complaints = child.stderr.take().map(drain_stderr);
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let mut answer = Vec::new();
        let read = std::thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A git that does not read all of it reports that by its status.
                scope.spawn(move || drop(stdin.write_all(input)));
            }
            (&mut stdout).take(MAX_ANSWER + 1).read_to_end(&mut answer)
        });
        drop(stdout);
        let status = child.wait().map_err(failed)?;
        read.map_err(failed)?;
        if answer.len() as u64 > MAX_ANSWER {
            return Err(Failure::new(Code::Invalid, "the repository has more files than banger takes"));
        }
        let complaint = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Answer { success: status.success(), code: status.code(), stdout: answer, complaint })
    }

    /// Returns stdout; a failure named by `what` unless git ends with status 0.
    pub(crate) fn ask(self, what: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
        let answer = self.answer(input)?;
        if answer.success { Ok(answer.stdout) } else { Err(git_failed(what, &answer.complaint)) }
    }

    /// Returns stdout as one line; `None` unless git ends with status 0.
    pub(crate) fn line(self) -> Result<Option<String>, Failure> {
        let answer = self.answer(b"")?;
        let text = String::from_utf8_lossy(&answer.stdout).trim_end_matches('\n').to_owned();
        Ok((answer.success && !text.is_empty()).then_some(text))
    }
}

/// Reads a program's stderr in a thread to its end, so that the program never blocks on it, and keeps a bounded part.
pub(crate) fn drain_stderr(mut stderr: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = (&mut stderr).take(MAX_COMPLAINT).read_to_end(&mut kept);
        let _ = io::copy(&mut stderr, &mut io::sink());
        String::from_utf8_lossy(&kept).trim().to_owned()
    })
}

/// Makes the failure for a git that did not end with status 0.
pub(crate) fn git_failed(what: &str, complaint: &str) -> Failure {
    let failure = Failure::new(Code::Unavailable, format!("cannot {what}"));
    if complaint.is_empty() { failure.cause("git failed without a word") } else { failure.cause(complaint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn a_git_beside_the_files_is_not_found() {
        assert!(Git::find_in(OsStr::new(".:bin:")).is_err());
    }

    #[test]
    fn only_an_executable_file_is_git() {
        let temp = tempfile::tempdir().unwrap();
        let (first, second) = (temp.path().join("a"), temp.path().join("b"));
        for (dir, mode) in [(&first, 0o644), (&second, 0o755)] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("git"), "").unwrap();
            fs::set_permissions(dir.join("git"), fs::Permissions::from_mode(mode)).unwrap();
        }
        assert!(Git::find_in(first.as_os_str()).is_err());
        let path = std::env::join_paths([&first, &second]).unwrap();
        let found = Git::find_in(&path).unwrap();
        assert_eq!((found.program, found.path), (second.join("git"), path));
    }

    #[test]
    fn a_failure_says_what_git_said() {
        let git = Git::find().unwrap();
        let error = git.call().args(["no-such-command"]).ask("do this", b"").unwrap_err();
        assert!(error.causes[0].contains("no-such-command"), "{error:?}");
        assert!(git.call().args(["--version"]).line().unwrap().unwrap().starts_with("git version"));
    }
}

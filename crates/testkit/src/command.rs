//! Runs programs and collects their output.

use crate::session::{Session, Terminal};
use std::{
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Default timeout of a command: longer than any takes on a busy two-core machine without KVM.
const PATIENCE: Duration = Duration::from_secs(240);
/// Shell script that leads the session of a command on a terminal and outlives it: at the end of its leader the kernel
/// hangs up the terminal, and output that was not read yet is lost. The command's status is written after all its
/// output; whoever has read it ends the leader. The trap keeps keys that send signals from ending the leader, and lets
/// the command have them.
const LEADER: &str = r#"trap : INT QUIT; "$@"; printf '\036%d\036' $?; kill -STOP $$"#;
/// Upper bound of the characters of a stream shown when a test fails.
const SHOWN: usize = 20_000;

/// A command that is about to run in a test's environment.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<Vec<u8>>,
    patience: Duration,
}

impl Invocation {
    /// Creates a run of `program` with an environment that holds nothing but what is added.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env_clear();
        Self { command, stdin: None, patience: PATIENCE }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets the bytes of stdin, which ends after them. Without this stdin is `/dev/null`.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the timeout of [`Self::run`], after which the test fails.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(mut self) -> Output {
        let stdin = self.stdin.take();
        let patience = self.patience;
        let mut session = self.start(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(bytes) = stdin {
            session.feed(bytes);
        }
        session.finish(patience)
    }

    /// Runs the program to its end without streams, and returns how long that took: for measurements.
    #[track_caller]
    pub fn time(mut self) -> (Duration, ExitStatus) {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let started = Instant::now();
        let status = self.command.status().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        (started.elapsed(), status)
    }

    /// Starts the program with an open stdin and returns.
    #[track_caller]
    pub fn spawn(self) -> Session {
        self.start(Stdio::piped())
    }

    /// Starts the program on a terminal of its own and returns.
    #[track_caller]
    pub fn spawn_on_terminal(self, cols: u16, rows: u16) -> Terminal {
        let program = self.command.get_program().to_owned();
        // `setsid --ctty` makes the terminal on stdin the controlling one, which takes code after fork otherwise.
        let args: Vec<OsString> = ["--ctty", "sh", "-c", LEADER, "sh"]
            .into_iter()
            .map(OsString::from)
            .chain([program])
            .chain(self.command.get_args().map(OsStr::to_owned))
            .collect();
        let mut command = Command::new("setsid");
        command.args(args).env_clear();
        command.envs(self.command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        Terminal::spawn(command, cols, rows)
    }

    #[track_caller]
    fn start(mut self, stdin: Stdio) -> Session {
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Session::spawn(self.command)
    }
}

/// Status and output of a command.
#[derive(Clone)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: Vec<u8>,
    /// Duration of the run.
    pub elapsed: Duration,
}

impl Output {
    /// The exit status, 128+n when signal n ended it.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).expect("it has ended")
    }

    /// Stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{self}"))
    }

    /// Panics, showing all output, unless the exit status is `code`.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "the check alone is a use")]
    pub fn expect(self, code: i32) -> Self {
        assert!(self.code() == code, "exit status {code} expected:\n{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit: {}\n--- stdout\n{}--- stderr\n{}", self.code(), ended(&self.out()), ended(&self.err()))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Formats a stream for a person: its beginning, no control characters, and a note if the last line end is missing.
fn ended(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .map(|char| if char.is_control() && char != '\n' { '\u{fffd}' } else { char })
        .take(SHOWN)
        .collect();
    if shown.len() < text.len() && text.chars().nth(SHOWN).is_some() {
        let _ = writeln!(shown, "[and so on, {} bytes]", text.len());
    } else if !shown.is_empty() && !shown.ends_with('\n') {
        shown.push_str("[no line end]\n");
    }
    shown
}

//! One run of a program: what it is given, and what came out.

use crate::session::{Session, Terminal};
use std::{
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Longer than any command a test runs to its end may take on a busy two-core machine without KVM.
const PATIENCE: Duration = Duration::from_secs(240);
/// Leads the session of a command on a terminal and outlives it: at the end of its leader the kernel hangs a terminal up,
/// and what was written to it and not passed on yet is lost. How the command ended is said behind all that it wrote;
/// whoever has read that far ends the leader. The trap keeps keys that are signals from it, and lets the command have them.
const LEADER: &str = r#"trap : INT QUIT; "$@"; printf '\036%d\036' $?; kill -STOP $$"#;
/// Characters of a stream that are shown when a test fails.
const SHOWN: usize = 20_000;

/// A command that is about to run in a test's environment.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<Vec<u8>>,
    patience: Duration,
}

impl Invocation {
    /// `program` with nothing in its environment but what is added.
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

    /// Gives bytes on stdin and then its end. Without this stdin is `/dev/null`.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long [`Self::run`] may take before the test fails.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs it to its end.
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

    /// Runs it to its end with nothing on its streams, and says how long that took: for measuring.
    #[track_caller]
    pub fn time(mut self) -> (Duration, ExitStatus) {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let started = Instant::now();
        let status = self.command.status().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        (started.elapsed(), status)
    }

    /// Starts it with an open stdin and comes back.
    #[track_caller]
    pub fn spawn(self) -> Session {
        self.start(Stdio::piped())
    }

    /// Starts it on a terminal of its own and comes back.
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

/// How a command ended and what it said.
#[derive(Clone)]
pub struct Output {
    /// Its status.
    pub status: ExitStatus,
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: Vec<u8>,
    /// How long it took.
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

    /// Panics, showing everything, unless the exit status is `code`.
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

/// What a person reads of a stream: its beginning, no control characters, a line end after its last line, which says when
/// that was missing.
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

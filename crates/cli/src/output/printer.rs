//! All output of the program: data to stdout, messages to stderr.

use super::escape::{self, escape};
use crate::exit::Error;
use banger_proto::failure::{Code, Failure};
use clap::builder::StyledStr;
use serde::Serialize;
use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

/// Output settings of this invocation.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    json: bool,
    quiet: bool,
    /// Name that every message is prefixed with, if the command acts on several VMs.
    subject: Option<String>,
    /// Whether a guest command writes to stderr, too.
    stderr_is_guests: bool,
    stderr: Stderr,
}

/// Capabilities of stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stderr {
    /// Plain lines.
    Plain,
    /// Lines that are redrawn.
    Terminal,
    /// Redrawn lines and colors.
    Color,
}

impl Printer {
    /// Detects the capabilities of stderr, with `NO_COLOR` and `TERM`.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let stderr = match io::stderr().is_terminal() && !dumb {
            false => Stderr::Plain,
            true if no_color() => Stderr::Terminal,
            true => Stderr::Color,
        };
        Self { json, quiet, subject: None, stderr_is_guests: false, stderr }
    }

    /// Builds a printer of plain lines without colors.
    pub(crate) fn plain() -> Self {
        Self { json: false, quiet: false, subject: None, stderr_is_guests: false, stderr: Stderr::Plain }
    }

    /// Builds a printer for one of several VMs that a command acts on at once: each line is prefixed with `name`, and
    /// no progress is shown, because several bars would overwrite each other.
    pub(crate) fn about(&self, name: &str) -> Self {
        Self { subject: Some(name.to_owned()), ..self.clone() }
    }

    /// Builds a printer for a session, in which a guest command writes to stderr, too: no events are written among its
    /// output.
    pub(crate) fn for_session(&self) -> Self {
        Self { stderr_is_guests: true, ..self.clone() }
    }

    /// Whether the events of an operation are written to stderr for programs, instead of progress.
    pub(crate) fn events(&self) -> bool {
        self.json && !self.quiet && !self.stderr_is_guests
    }

    /// Whether data is printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether notices are suppressed.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether progress is shown.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && self.subject.is_none()
    }

    /// Whether stderr can show a progress bar.
    pub(crate) fn terminal(&self) -> bool {
        self.stderr != Stderr::Plain
    }

    /// Prints data for a person and a line feed; nothing if it is empty.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        if text.is_empty() { Ok(()) } else { self.bytes(format!("{text}\n").as_bytes()) }
    }

    /// Prints raw data.
    #[expect(clippy::unused_self, reason = "who has no printer has no business on stdout")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| stdout_error(&error))
    }

    /// Prints data for a program: one JSON document.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| crate::exit::internal("cannot write the result as JSON", &error))?;
        self.bytes(format!("{}\n", escape::json(&text)).as_bytes())
    }

    /// Prints `value` as JSON if that was asked for, else as the text that `text` builds.
    pub(crate) fn data<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Error> {
        if self.json { self.value(value) } else { self.text(&text(value)) }
    }

    /// Prints clap's help, colored if stdout is a terminal.
    pub(crate) fn help(&self, help: &StyledStr) -> Result<(), Error> {
        let text = if io::stdout().is_terminal() && !no_color() { help.ansi().to_string() } else { help.to_string() };
        self.bytes(text.as_bytes())
    }

    /// Prints a notice on stderr, escaped; not with `--quiet`.
    pub(crate) fn note(&self, line: &str) {
        if self.quiet {
            return;
        }
        match &self.subject {
            None => write_stderr(&escape(line)),
            Some(name) => write_stderr(&escape(&format!("{name}: {line}"))),
        }
    }

    /// Prints several lines on stderr, which must be escaped already; not with `--quiet`.
    pub(crate) fn note_block(&self, text: &str) {
        if !self.quiet {
            write_stderr(text);
        }
    }

    /// Prints a warning on stderr; also with `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        write_stderr(&format!("{} {}", self.paint("33", "warning:"), escape(line)));
    }

    /// Prints a failure: `error:`, its causes, its hints. With `--json` it is one object: on stdout, because it is the
    /// data of a failed command, or on stderr if stdout belongs to a guest command (`session`).
    pub(crate) fn failure(&self, failure: &Failure, session: bool) {
        if !self.json {
            write_stderr(&self.describe(failure));
        } else if session {
            write_stderr(&escape::json(&serde_json::to_string(failure).unwrap_or_default()));
        } else if self.value(failure).is_err() {
            write_stderr(&self.describe(failure));
        }
    }

    /// Prints an event of an operation: the daemon's JSON, with the VM's name as `vm` if the command acts on several.
    pub(crate) fn event(&self, line: &str) {
        if self.events() {
            write_stderr(&escape::json(&self.named(line.trim_end())));
        }
    }

    fn named<'a>(&self, event: &'a str) -> Cow<'a, str> {
        match (&self.subject, event.strip_suffix('}')) {
            (Some(name), Some(fields)) => {
                format!("{fields},\"vm\":{}}}", serde_json::Value::from(name.as_str())).into()
            }
            _ => event.into(),
        }
    }

    /// Formats a failure as text of several lines.
    pub(crate) fn describe(&self, failure: &Failure) -> String {
        let mut out = format!("{} {}", self.paint("1;31", "error:"), block(&failure.message, "  "));
        for cause in &failure.causes {
            let _ = write!(out, "\n  caused by: {}", block(cause, "    "));
        }
        for hint in &failure.hints {
            let _ = write!(out, "\n{} {}", self.paint("36", "hint:"), block(hint, "  "));
        }
        if let (Code::Internal, Some(operation)) = (failure.code, &failure.operation) {
            let _ = write!(out, "\n{} look for operation {operation} in the daemon's log", self.paint("36", "hint:"));
        } else if let Some(operation) = &failure.operation {
            let _ = write!(out, "\n  operation: {operation}");
        }
        out
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.stderr == Stderr::Color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Whether `NO_COLOR` asks for no colors.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes to stderr; a closed one is no reason to fail.
fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Converts the error of a write to stdout.
pub(crate) fn stdout_error(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Error::Pipe
    } else {
        Failure::caused_by(Code::Unavailable, "cannot write to stdout", error).into()
    }
}

/// Formats text of several lines (such as the end of a console): each is escaped, all but the first are indented.
fn block(text: &str, indent: &str) -> String {
    text.trim_end().lines().map(escape).collect::<Vec<_>>().join(&format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Printer {
        Printer::plain()
    }

    #[test]
    fn a_failure_shows_cause_and_help() {
        let failure = Failure::new(Code::Guest, "the guest \x1b[2Jdied")
            .cause("last console lines\nKernel panic\r\n")
            .hint("banger vm logs demo");
        assert_eq!(
            plain().describe(&failure),
            "error: the guest \\u{1b}[2Jdied\n  caused by: last console lines\n    Kernel panic\nhint: banger vm logs demo"
        );
    }

    #[test]
    fn the_operation_can_be_found_in_the_log() {
        let mut failure = Failure::new(Code::Internal, "a bug");
        failure.operation = Some("0123abcd".parse().unwrap());
        assert!(plain().describe(&failure).ends_with("look for operation 0123abcd in the daemon's log"));
        failure.code = Code::Timeout;
        assert!(plain().describe(&failure).ends_with("\n  operation: 0123abcd"));
    }

    #[test]
    fn events_are_for_programs_that_want_them_on_a_stderr_of_their_own() {
        let events = |json, quiet| Printer { json, quiet, ..plain() }.events();
        assert_eq!([events(true, false), events(true, true), events(false, false)], [true, false, false]);
        assert!(!Printer { json: true, ..plain() }.for_session().events());
    }

    #[test]
    fn an_event_of_one_of_several_says_of_which() {
        let event = r#"{"event":"notice","text":"too slow"}"#;
        assert_eq!(plain().named(event), event);
        assert_eq!(plain().about("a").named(event), r#"{"event":"notice","text":"too slow","vm":"a"}"#);
    }

    #[test]
    fn color_is_only_around_the_label() {
        let printer = Printer { stderr: Stderr::Color, ..plain() };
        assert_eq!(printer.describe(&Failure::new(Code::Invalid, "no")), "\x1b[1;31merror:\x1b[0m no");
    }
}

//! The one way out: data to stdout, talk to stderr.

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

/// How this invocation talks.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    json: bool,
    quiet: bool,
    /// Whom the talk is about, where it is about several.
    about: Option<String>,
    /// stderr is a guest command's, too.
    shared: bool,
    stderr: Stderr,
}

/// What stderr can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stderr {
    /// Lines.
    Plain,
    /// Lines that move.
    Terminal,
    /// And colours.
    Color,
}

impl Printer {
    /// Looks at stderr, `NO_COLOR` and `TERM` once.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let stderr = match io::stderr().is_terminal() && !dumb {
            false => Stderr::Plain,
            true if no_color() => Stderr::Terminal,
            true => Stderr::Color,
        };
        Self { json, quiet, about: None, shared: false, stderr }
    }

    /// One that talks to nobody in particular, in lines without colours.
    pub(crate) fn plain() -> Self {
        Self { json: false, quiet: false, about: None, shared: false, stderr: Stderr::Plain }
    }

    /// The same for one of several that something is done to at once: each line says whose it is, and there is no progress,
    /// of which several would paint over each other.
    pub(crate) fn about(&self, name: &str) -> Self {
        Self { about: Some(name.to_owned()), ..self.clone() }
    }

    /// The same where stderr is a guest command's, too: events would stand in what it says.
    pub(crate) fn beside_a_command(&self) -> Self {
        Self { shared: true, ..self.clone() }
    }

    /// Whether what an operation does goes to stderr as events, for programs that watch, instead of as progress.
    pub(crate) fn events(&self) -> bool {
        self.json && !self.quiet && !self.shared
    }

    /// Whether data goes out as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether talk is left out.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether it is shown how far things are.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && self.about.is_none()
    }

    /// Whether stderr can show a progress bar.
    pub(crate) fn terminal(&self) -> bool {
        self.stderr != Stderr::Plain
    }

    /// Data for a person, with a line end; nothing when it is empty.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        if text.is_empty() { Ok(()) } else { self.bytes(format!("{text}\n").as_bytes()) }
    }

    /// Data as it is.
    #[expect(clippy::unused_self, reason = "who has no printer has no business on stdout")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| stdout_error(&error))
    }

    /// Data for a program: one JSON document.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| crate::exit::internal("cannot write the result as JSON", &error))?;
        self.bytes(format!("{}\n", escape::json(&text)).as_bytes())
    }

    /// `value` as JSON when that was asked for, else what `text` makes of it.
    pub(crate) fn data<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Error> {
        if self.json { self.value(value) } else { self.text(&text(value)) }
    }

    /// Help as clap made it, coloured when stdout is a terminal.
    pub(crate) fn help(&self, help: &StyledStr) -> Result<(), Error> {
        let text = if io::stdout().is_terminal() && !no_color() { help.ansi().to_string() } else { help.to_string() };
        self.bytes(text.as_bytes())
    }

    /// One line for the person at the terminal; not with `--quiet`. The text is escaped.
    pub(crate) fn talk(&self, line: &str) {
        if self.quiet {
            return;
        }
        match &self.about {
            None => say(&escape(line)),
            Some(name) => say(&escape(&format!("{name}: {line}"))),
        }
    }

    /// Several lines for the person at the terminal, whose cells are escaped already; not with `--quiet`.
    pub(crate) fn talk_block(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Something a person should know though nothing failed; also with `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        say(&format!("{} {}", self.paint("33", "warning:"), escape(line)));
    }

    /// A failure: `error:`, its causes, its hints. With `--json` it is one object, on stdout because it is the data of a
    /// failed command; on stderr where stdout belongs to a guest command (`session`).
    pub(crate) fn failure(&self, failure: &Failure, session: bool) {
        if !self.json {
            say(&self.describe(failure));
        } else if session {
            say(&escape::json(&serde_json::to_string(failure).unwrap_or_default()));
        } else if self.value(failure).is_err() {
            say(&self.describe(failure));
        }
    }

    /// An event of an operation, JSON as the daemon sent it; one about one of several VMs has its name as `vm`.
    pub(crate) fn event(&self, line: &str) {
        if self.events() {
            say(&escape::json(&self.named(line.trim_end())));
        }
    }

    fn named<'a>(&self, event: &'a str) -> Cow<'a, str> {
        match (&self.about, event.strip_suffix('}')) {
            (Some(name), Some(fields)) => {
                format!("{fields},\"vm\":{}}}", serde_json::Value::from(name.as_str())).into()
            }
            _ => event.into(),
        }
    }

    /// A failure as text, several lines.
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

/// Whether the person asked for no colours.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// A stderr that is gone is no reason to fail.
fn say(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// What a failed write to stdout means.
pub(crate) fn stdout_error(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Error::Pipe
    } else {
        Failure::caused_by(Code::Unavailable, "cannot write to stdout", error).into()
    }
}

/// Text of several lines (a console's last ones), each escaped, all but the first indented.
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
        assert!(!Printer { json: true, ..plain() }.beside_a_command().events());
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

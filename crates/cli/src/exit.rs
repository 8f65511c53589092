//! How an invocation ends: every way to fail, and the exit status each has.
//!
//! A guest command's exit code is a [`Status`], never an error, so no failure of banger can be mistaken for one.

use crate::output::printer::Printer;
use banger_proto::failure::{Code, Failure};
use std::{ffi::OsString, process::ExitCode};

/// Exit status of any other failure.
const FAILED: u8 = 1;
/// Exit status of a command line that does not parse.
const USAGE: u8 = 2;
/// Exit status of a session in which banger itself failed; the guest command's status was expected (as in Docker).
const SESSION_FAILED: u8 = 125;
/// Exit status that a shell reports for a program that wrote to a closed pipe.
const CLOSED_PIPE: u8 = 128 + 13;

/// How a command ended that did not fail as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done as requested.
    Done,
    /// The command reported each result itself, and some failed.
    SomeFailed,
    /// The command reported each result itself, and this signal interrupted it before all were there.
    CutShort(u8),
    /// The guest command ended with this status.
    Guest(u8),
}

/// Reason why a command failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// banger, the daemon or the guest failed.
    Failed(Failure),
    /// The command was ended by a signal.
    Interrupted {
        /// Number of the signal.
        signal: u8,
        /// Message for the user: what was undone, or may be left.
        on_interrupt: String,
    },
    /// Stdout is a closed pipe.
    Pipe,
}

/// Result of a command.
pub(crate) type Result<T = Status> = std::result::Result<T, Error>;

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Builds a failure that only a bug or a broken system explains.
pub(crate) fn internal(message: &str, error: &dyn std::error::Error) -> Error {
    Failure::caused_by(Code::Internal, message, error).into()
}

/// Prints the failure, if it was not printed yet, and returns the exit status.
pub(crate) fn report(printer: &Printer, session: bool, result: Result) -> ExitCode {
    ExitCode::from(match result {
        Ok(Status::Done) => 0,
        Ok(Status::SomeFailed) => FAILED,
        Ok(Status::CutShort(signal)) => interrupted(signal),
        Ok(Status::Guest(code)) => code,
        Err(Error::Failed(failure)) => {
            printer.failure(&failure, session);
            if session { SESSION_FAILED } else { FAILED }
        }
        Err(Error::Interrupted { signal, on_interrupt }) => {
            printer.failure(&interruption(on_interrupt), session);
            interrupted(signal)
        }
        Err(Error::Pipe) => CLOSED_PIPE,
    })
}

/// Exit status that a shell reports for a program that was ended by a signal.
fn interrupted(signal: u8) -> u8 {
    signal.saturating_add(128)
}

/// Builds the failure for an interrupted command.
pub(crate) fn interruption(on_interrupt: impl Into<String>) -> Failure {
    Failure::new(Code::Timeout, on_interrupt)
}

/// Reports a command line that does not parse: with clap's message on stderr, or with `--json` as any other failure.
pub(crate) fn usage(error: &clap::Error, typed: &[OsString]) -> ExitCode {
    let line = TypedLine::of(typed);
    if line.json {
        Printer::new(true, false).failure(&misuse(&error.to_string()), line.session);
    } else {
        let _ = error.print();
    }
    ExitCode::from(if line.session { SESSION_FAILED } else { USAGE })
}

/// Converts clap's message, which is made for people, into a failure: what is wrong, with which arguments, and hints.
fn misuse(text: &str) -> Failure {
    let mut lines = text.lines();
    let message = lines.next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':');
    let details = lines.by_ref().map(str::trim).take_while(|line| !line.is_empty());
    let failure = details.fold(Failure::new(Code::Invalid, message), Failure::cause);
    lines.map(str::trim).fold(failure, |failure, line| match line.strip_prefix("Usage: ") {
        Some(usage) => {
            let is_command = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
            let command: Vec<&str> = usage.split_whitespace().take_while(is_command).collect();
            failure.hint(format!("`{} --help` shows how it is used", command.join(" ")))
        }
        None => match line.strip_prefix("tip: ") {
            Some(tip) => failure.hint(tip),
            None => failure,
        },
    })
}

/// Properties of a command line that does not parse.
#[derive(Debug, PartialEq, Eq)]
struct TypedLine {
    /// Whether the command is `run` or `exec`: status 125 then says that the guest command did not run.
    session: bool,
    /// Whether `--json` is among banger's own arguments, before `--`.
    json: bool,
}

impl TypedLine {
    fn of(typed: &[OsString]) -> Self {
        let own: Vec<&str> =
            typed.iter().skip(1).map_while(|word| (word != "--").then(|| word.to_str().unwrap_or(""))).collect();
        let mut verbs = own.iter().filter(|word| !word.starts_with('-'));
        let session = match verbs.next() {
            Some(&"vm") => matches!(verbs.next(), Some(&("run" | "exec"))),
            Some(&("run" | "exec")) => true,
            _ => false,
        };
        Self { session, json: own.contains(&"--json") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_recognised_in_a_line_that_does_not_parse() {
        for (line, session, json) in [
            ("banger run --vcpu x", true, false),
            ("banger --json vm exec", true, true),
            ("banger vm create --vcpu run", false, false),
            ("banger vm --quiet run -- x --json", true, false),
            ("banger", false, false),
        ] {
            let typed: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(TypedLine::of(&typed), TypedLine { session, json }, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_to_programs_too() {
        let failure_of = |line: &str| {
            let error = crate::cli::command().try_get_matches_from(line.split(' ')).unwrap_err();
            misuse(&error.to_string())
        };
        let missing = failure_of("banger vm start");
        assert_eq!(missing.message, "the following required arguments were not provided");
        assert_eq!(
            (missing.causes, missing.hints),
            (vec!["<VM>...".to_owned()], vec!["`banger vm start --help` shows how it is used".to_owned()])
        );
        let near = failure_of("banger vm start v --overcomit");
        assert_eq!((near.message.as_str(), near.causes.len()), ("unexpected argument '--overcomit' found", 0));
        assert_eq!(near.hints[0], "a similar argument exists: '--overcommit'", "{near:?}");
        let value = failure_of("banger vm set v --vcpu 0");
        assert!(value.message.contains("'0' for '--vcpu <N>'"), "{value:?}");
    }

    #[test]
    fn statuses() {
        let printer = Printer::new(false, true);
        let status = |session, result| format!("{:?}", report(&printer, session, result));
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        let failure = || Err(Failure::new(Code::Invalid, "no").into());
        assert_eq!(status(true, failure()), is(125));
        assert_eq!(status(false, failure()), is(1));
        assert_eq!(status(true, Ok(Status::Guest(42))), is(42));
        assert_eq!(status(true, Err(Error::Interrupted { signal: 2, on_interrupt: "x".into() })), is(130));
        assert_eq!(status(false, Ok(Status::CutShort(2))), is(130));
        assert_eq!(status(false, Err(Error::Pipe)), is(141));
    }
}

//! How an invocation ends: every way to fail, and the exit status each has.
//!
//! A guest command's exit code is a [`Status`], never an error, so no failure of banger can be mistaken for one.

use crate::output::printer::Printer;
use banger_proto::failure::{Code, Failure};
use std::{ffi::OsString, process::ExitCode};

/// Something failed.
const FAILED: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// banger failed where the guest command's status was expected (as Docker).
const SESSION_FAILED: u8 = 125;
/// What a shell reports for a program that wrote to a closed pipe.
const CLOSED_PIPE: u8 = 128 + 13;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// As asked.
    Done,
    /// It reported each result itself, and not all were good.
    SomeFailed,
    /// It reported each result itself, and this signal came before all were there.
    CutShort(u8),
    /// A guest command ended with this status.
    Guest(u8),
}

/// Why a command did not end as asked.
#[derive(Debug)]
pub(crate) enum Error {
    /// banger, the daemon or the guest failed.
    Failed(Failure),
    /// A signal ended it; the line says what that undid.
    Interrupted {
        /// Its number.
        signal: u8,
        /// What became of what was begun.
        undone: String,
    },
    /// Nobody reads stdout any more.
    Pipe,
}

/// The result of a command.
pub(crate) type Result<T = Status> = std::result::Result<T, Error>;

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A failure that only a bug or a broken system explains.
pub(crate) fn internal(message: &str, error: &dyn std::error::Error) -> Error {
    Failure::caused_by(Code::Internal, message, error).into()
}

/// Says how it ended, as far as that was not said, and gives the exit status.
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
        Err(Error::Interrupted { signal, undone }) => {
            printer.failure(&interruption(undone), session);
            interrupted(signal)
        }
        Err(Error::Pipe) => CLOSED_PIPE,
    })
}

/// What a shell reports for a program that a signal ended.
fn interrupted(signal: u8) -> u8 {
    signal.saturating_add(128)
}

/// An interrupt as a failure: somebody waits for it no longer.
pub(crate) fn interruption(undone: impl Into<String>) -> Failure {
    Failure::new(Code::Timeout, undone)
}

/// A command line that does not parse: clap's own words on stderr, or with `--json` a failure like any other.
pub(crate) fn usage(error: &clap::Error, typed: &[OsString]) -> ExitCode {
    let words = Words::of(typed);
    if words.json {
        Printer::new(true, false).failure(&misuse(&error.to_string()), words.session);
    } else {
        let _ = error.print();
    }
    ExitCode::from(if words.session { SESSION_FAILED } else { USAGE })
}

/// clap's words, which are for people, as a failure: what is wrong, with which arguments, and what would help.
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

/// What can be told from a command line that does not parse.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    /// `run` or `exec` was meant: 125 says that the guest command did not run.
    session: bool,
    /// `--json` stands among banger's own words.
    json: bool,
}

impl Words {
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
            assert_eq!(Words::of(&typed), Words { session, json }, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_to_programs_too() {
        let told = |line: &str| {
            let error = crate::cli::command().try_get_matches_from(line.split(' ')).unwrap_err();
            misuse(&error.to_string())
        };
        let missing = told("banger vm start");
        assert_eq!(missing.message, "the following required arguments were not provided");
        assert_eq!(
            (missing.causes, missing.hints),
            (vec!["<VM>...".to_owned()], vec!["`banger vm start --help` shows how it is used".to_owned()])
        );
        let near = told("banger vm start v --overcomit");
        assert_eq!((near.message.as_str(), near.causes.len()), ("unexpected argument '--overcomit' found", 0));
        assert_eq!(near.hints[0], "a similar argument exists: '--overcommit'", "{near:?}");
        let value = told("banger vm set v --vcpu 0");
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
        assert_eq!(status(true, Err(Error::Interrupted { signal: 2, undone: "x".into() })), is(130));
        assert_eq!(status(false, Ok(Status::CutShort(2))), is(130));
        assert_eq!(status(false, Err(Error::Pipe)), is(141));
    }
}

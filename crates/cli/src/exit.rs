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
        Ok(Status::Guest(code)) => code,
        Err(Error::Failed(failure)) => {
            printer.failure(&failure, session);
            if session { SESSION_FAILED } else { FAILED }
        }
        Err(Error::Interrupted { signal, undone }) => {
            // Somebody waits for it no longer.
            printer.failure(&Failure::new(Code::Timeout, undone), session);
            signal.saturating_add(128)
        }
        Err(Error::Pipe) => CLOSED_PIPE,
    })
}

/// A command line that does not parse: clap's own words on stderr, or with `--json` a failure like any other.
pub(crate) fn usage(error: &clap::Error, typed: &[OsString]) -> ExitCode {
    let words = Words::of(typed);
    if words.json {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Printer::new(true, false).failure(&Failure::new(Code::Invalid, message), words.session);
    } else {
        let _ = error.print();
    }
    ExitCode::from(if words.session { SESSION_FAILED } else { USAGE })
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
    fn statuses() {
        let printer = Printer::new(false, true);
        let status = |session, result| format!("{:?}", report(&printer, session, result));
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        let failure = || Err(Failure::new(Code::Invalid, "no").into());
        assert_eq!(status(true, failure()), is(125));
        assert_eq!(status(false, failure()), is(1));
        assert_eq!(status(true, Ok(Status::Guest(42))), is(42));
        assert_eq!(status(true, Err(Error::Interrupted { signal: 2, undone: "x".into() })), is(130));
        assert_eq!(status(false, Err(Error::Pipe)), is(141));
    }
}

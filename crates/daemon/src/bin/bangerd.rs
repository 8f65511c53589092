//! `bangerd [--ready-fd N]` runs the daemon. `bangerd --doctor` examines the host instead and prints its findings.
//! Everything is in the library; this only parses the command line.

use banger_daemon::daemon::{self, StartError, ready::Ready};
use banger_proto::{api::host::EXIT_LOCK_HELD, failure::Failure};
use std::{io::Write, process::ExitCode};

const USAGE: &str = "usage: bangerd [--ready-fd N]\n       bangerd --doctor\n\nThe daemon behind banger. `banger` starts it when it is needed.\n";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut ready = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ready::nobody(),
        ["--ready-fd", fd] => match fd.parse().map_err(|_| StartError::BadReadyFd).and_then(Ready::inherited) {
            Ok(ready) => ready,
            Err(error) => return failed(error, &mut Ready::nobody()),
        },
        ["--doctor"] => return look(),
        ["--version"] => return say(concat!("bangerd ", env!("CARGO_PKG_VERSION"), "\n")),
        ["--help"] => return say(USAGE),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match daemon::run(&mut ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error, &mut ready),
    }
}

/// Prints one JSON document with the findings; or an error when the host cannot be examined.
fn look() -> ExitCode {
    match banger_daemon::doctor::run() {
        Ok(found) => say(&(found + "\n")),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "bangerd: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failed(error: StartError, ready: &mut Ready) -> ExitCode {
    let code =
        if matches!(error, StartError::Held { .. }) { ExitCode::from(EXIT_LOCK_HELD) } else { ExitCode::FAILURE };
    let failure = Failure::from(error);
    if !ready.failed(&failure) {
        let _ = writeln!(std::io::stderr(), "bangerd: {failure}");
    }
    code
}

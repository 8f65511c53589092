//! The shim: one small process per VM that owns the VMM child process, its console log and its exit status.
//!
//! `banger-shim` is [`run`]; the daemon's side is [`client`]; the protocol between them is [`control`]. A shim knows
//! one machine and nothing of images, network names or users: the daemon decides, the shim outlives it.

mod boot;
mod claim;
pub mod client;
mod console;
mod console_rate;
pub mod control;
mod detach;
mod guest;
mod hub;
mod ports;
mod power_off;
mod run;
mod server;
mod sockets;
pub mod stream_quota;
mod verdict;
mod vsock;

use crate::vmm::{
    kvm_probe,
    launch::probe::{self, ConfinementFinding},
};
use detach::{Side, StartReporter};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

pub use claim::{end_proven, living, revoke};
pub(crate) use console::panic_on;
pub(crate) use guest::fuzz_read as fuzz_read_events;
pub(crate) use ports::fuzz_read as fuzz_read_answer;
pub use power_off::end_silent;

/// Prefix of the shim's messages on stderr.
const PREFIX: &str = "banger-shim: ";
/// Exit status for an invalid command line.
const USAGE: u8 = 2;

/// Runs the shim's command line:
///
/// ```text
/// banger-shim --detach STATE_DIR [LAUNCH]    returns once a detached shim has its VMM running, or has failed
/// banger-shim STATE_DIR                      runs the shim in the foreground
/// banger-shim kvm-probe                      (internal) tests KVM in this process
/// banger-shim confinement-probe              (internal) starts a program that does nothing in the way of a VMM
/// banger-shim --version
/// ```
///
/// With `LAUNCH` it runs only the plan of that launch.
///
/// Must be called while the process has a single thread.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match args.as_slice() {
        [name] if name == kvm_probe::SUBCOMMAND => print(&kvm_probe::probe_here()),
        [name] if name == probe::SUBCOMMAND => print(
            &ConfinementFinding::here()
                .unwrap_or_else(|error| ConfinementFinding::Broken { reason: run::with_causes(&error) }),
        ),
        [version] if version == "--version" => {
            writeln!(io::stdout(), "banger-shim {}", env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())
        }
        [detach, state_dir, launch @ ..] if detach == "--detach" && launch.len() <= 1 => {
            let state_dir = absolute(state_dir);
            match detach::detach(&state_dir) {
                Ok(Side::Shim(reporter)) => run_shim(&state_dir, launch.first().map(OsString::as_os_str), reporter),
                Ok(Side::Starter(outcome)) => outcome,
                Err(error) => Err(error.to_string()),
            }
        }
        [state_dir] => run_shim(&absolute(state_dir), None, StartReporter::none()),
        _ => {
            run::print_error("usage: banger-shim [--detach] STATE_DIR [LAUNCH]");
            return ExitCode::from(USAGE);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            run::print_error(&reason);
            ExitCode::FAILURE
        }
    }
}

/// Resolves a path now, because the working directory of a shim becomes `/`.
fn absolute(path: &OsStr) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Runs the shim. A failure to start the machine is reported to the waiting process and on stderr.
fn run_shim(state_dir: &Path, launch: Option<&OsStr>, mut reporter: StartReporter) -> Result<(), String> {
    raise_descriptors();
    run::run(state_dir, launch, &mut reporter).map_err(|error| {
        let reason = run::with_causes(&error);
        reporter.failed(&reason);
        reason
    })
}

/// Raises the limit of open descriptors. Each stream to the guest needs a descriptor at the host's end, and there may
/// be some 500; with everything else that is close to the usual soft limit. The VMM has limits of its own.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where the limit cannot be raised, the shim works with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Prints the finding of a probe as one line of JSON.
fn print(finding: &impl serde::Serialize) -> Result<(), String> {
    let finding = serde_json::to_vec(finding).expect("findings serialize");
    io::stdout().write_all(&finding).map_err(|error| error.to_string())
}

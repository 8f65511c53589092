//! The shim: one small process per VM that owns the VMM child, its console log and its exit status.
//!
//! `banger-shim` is [`run`]; the daemon's side of it is [`client`]; what they say to each other is [`control`]. A shim
//! knows one machine and nothing of images, names on the network or users: the daemon decides, the shim keeps.

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

pub use claim::end_proven;
pub(crate) use claim::{living, revoke};
pub(crate) use console::panic_on;
pub(crate) use guest::fuzz_read as fuzz_read_events;
pub(crate) use ports::fuzz_read as fuzz_read_answer;
pub(crate) use power_off::end_silent;

/// What a shim's own words on stderr begin with.
const PREFIX: &str = "banger-shim: ";
/// Exit status of a command line that makes no sense.
const USAGE: u8 = 2;

/// Runs the shim's command line:
///
/// ```text
/// banger-shim --detach STATE_DIR [LAUNCH]    returns once the VMM runs in a shim left behind, or has failed
/// banger-shim STATE_DIR                      is the shim
/// banger-shim kvm-probe                      (internal) tries KVM in this process
/// banger-shim confinement-probe              (internal) starts a program that does nothing as a monitor is started
/// banger-shim --version
/// ```
///
/// With `LAUNCH` it runs the plan of that launch and no other.
///
/// Must be called before there is any thread.
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

/// A shim's working directory is `/`.
fn absolute(path: &OsStr) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Is the shim. What prevents the machine is told to whoever waits, and on stderr.
fn run_shim(state_dir: &Path, launch: Option<&OsStr>, mut reporter: StartReporter) -> Result<(), String> {
    raise_descriptors();
    run::run(state_dir, launch, &mut reporter).map_err(|error| {
        let reason = run::with_causes(&error);
        reporter.failed(&reason);
        reason
    })
}

/// Each stream to the guest has a descriptor at its host's end, and there may be some 500: with all else that is close to
/// what a process is given unasked. Its VMM has limits of its own.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // One that cannot have more does with what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What a probe found, as one line of JSON.
fn print(finding: &impl serde::Serialize) -> Result<(), String> {
    let finding = serde_json::to_vec(finding).expect("findings serialize");
    io::stdout().write_all(&finding).map_err(|error| error.to_string())
}

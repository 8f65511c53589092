//! The shim: one small process per VM that owns the VMM child, its console log and its exit status.
//!
//! `banger-shim` is [`run`]; the daemon's side of it is [`client`]; what they say to each other is [`control`]. A shim
//! knows one machine and nothing of images, names on the network or users: the daemon decides, the shim keeps.

pub mod client;
pub mod control;
pub mod identity;
pub mod record;

/// What a shim's own words on stderr begin with.
const SPEAKS: &str = "banger-shim: ";

use crate::vmm::kvm_probe;
use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

/// Runs the shim's command line:
///
/// ```text
/// banger-shim --detach STATE_DIR    returns once the VMM runs in a shim left behind, or has failed
/// banger-shim STATE_DIR             is the shim
/// banger-shim kvm-probe             (internal) tries KVM in this process
/// ```
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    match words[..] {
        [kvm_probe::SUBCOMMAND] => match print_finding() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::from(2),
    }
}

fn print_finding() -> io::Result<()> {
    let finding = serde_json::to_vec(&kvm_probe::probe_here())?;
    io::stdout().write_all(&finding)
}

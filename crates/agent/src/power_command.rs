//! `poweroff`, `reboot`, `halt` and `shutdown` in a guest whose process 1 is the agent's.
//!
//! Nothing is scheduled and nobody is warned: whatever time the arguments give, it happens at once.
#![expect(unsafe_code, reason = "the safe wrappers know no real-time signals")]

use crate::{boot::power_signal, hosted::print_error};
use banger_proto::agent::event::Power;
use std::{ffi::OsString, io, process::ExitCode};

/// Sends process 1 the signal to shut down.
pub(crate) fn run(name: &str, args: &[OsString]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help") {
        print_error(&format!("usage: {name}: the machine goes down now; options are ignored but for -r and -c"));
        return ExitCode::SUCCESS;
    }
    if name == "shutdown" && args.iter().any(|arg| arg == "-c") {
        print_error("nothing is scheduled: a shutdown happens at once");
        return ExitCode::SUCCESS;
    }
    // SAFETY: kill has no memory to be wrong about.
    if unsafe { libc::kill(1, power_signal(verb(name, args))) } == -1 {
        print_error(&format!("{name}: process 1 cannot be asked: {}", io::Error::last_os_error()));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn verb(name: &str, args: &[OsString]) -> Power {
    let reboots = name == "reboot" || (name == "shutdown" && args.iter().any(|arg| arg == "-r" || arg == "--reboot"));
    let off = args.iter().any(|arg| arg == "-p" || arg == "--poweroff" || arg == "--halt");
    if reboots && !off { Power::Reboot } else { Power::Poweroff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_names_mean() {
        let verb = |line: &str| {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            super::verb(name, &words.map(OsString::from).collect::<Vec<_>>())
        };
        for off in ["poweroff", "halt", "shutdown", "shutdown -h now", "shutdown -P +0", "reboot -p", "poweroff -f"] {
            assert_eq!(verb(off), Power::Poweroff, "{off}");
        }
        for again in ["reboot", "reboot -f", "shutdown -r now", "shutdown --reboot"] {
            assert_eq!(verb(again), Power::Reboot, "{again}");
        }
    }
}

//! The guest side of banger: `/init` of every VM, and the agent that serves it.
//!
//! One static binary with several roles, told apart by its name, its process id and its first argument:
//!
//! ```text
//! /init, as process 1                       boot, then the image's init or our own process 1, and the agent beside it
//! /shutdown <verb>, as process 1            systemd's last step: the agent reports and resets the machine
//! poweroff | reboot | halt | shutdown       where the agent's init is process 1: signal it
//! modprobe <name>…                          for images without one
//! banger-vsock-agent hosted --fd N --config FILE    the agent alone, as an ordinary process on an inherited channel
//! banger-vsock-agent --version                      print the version
//! ```

mod accounts;
mod beneath;
mod boot;
mod checkout_dirs;
mod hosted;
mod modprobe;
mod power_command;
mod server;
mod shutdown_hook;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let first = std::process::id() == 1;
    match (name, first) {
        ("shutdown", true) => shutdown_hook::run(&args),
        (_, true) => boot::run(),
        ("poweroff" | "reboot" | "halt" | "shutdown", false) => power_command::run(name, &args),
        ("modprobe", false) => modprobe::run(&args),
        _ if args.first().is_some_and(|arg| arg == "hosted") => hosted::run(&args[1..]),
        _ if args.first().is_some_and(|arg| arg == "--version") => {
            let printed = writeln!(io::stdout(), "banger-vsock-agent {}", env!("CARGO_PKG_VERSION"));
            if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ => {
            hosted::print_error(
                "usage: banger-vsock-agent hosted --fd N --config FILE (every other role is the guest's own)",
            );
            ExitCode::from(2)
        }
    }
}

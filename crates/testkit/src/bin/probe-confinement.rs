//! Runs in place of QEMU and attempts what a compromised VMM would attempt (`banger_testkit::escape_attempts`).
//!
//! It takes QEMU's arguments and uses two: the console's descriptor, to which it reports, and the kernel's command
//! line, which lists the targets.

#![expect(unsafe_code, reason = "a descriptor's number from the command line becomes an owned descriptor")]

use banger_testkit::escape_attempts;
use std::{
    fs::File,
    io::Write,
    os::fd::{FromRawFd, RawFd},
    process::ExitCode,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let Some((fd, words)) = given(&args) else { return ExitCode::FAILURE };
    // SAFETY: the number was given to this process for this.
    let mut console = unsafe { File::from_raw_fd(fd) };
    if console.write_all(escape_attempts::attempt(words).as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        std::thread::park();
    }
}

/// Parses the console's descriptor and the kernel's command line.
fn given(args: &[String]) -> Option<(RawFd, &str)> {
    let descriptor = |arg: &str| arg.strip_prefix("fd=")?.strip_suffix(",set=0")?.parse().ok();
    let console = args.iter().find_map(|arg| descriptor(arg))?;
    let append = args.iter().position(|arg| arg == "-append")?;
    Some((console, args.get(append + 1)?))
}

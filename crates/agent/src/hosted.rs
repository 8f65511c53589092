//! The agent as an ordinary process of the host, on an inherited channel: the fake VMM of the tests runs it.
//!
//! It has no init, no cgroups and no power over the machine: a shutdown is reported and acknowledged as usual, and ends
//! the process.
#![expect(unsafe_code, reason = "the channel is a descriptor named on the command line")]

use crate::{
    boot::{Phases, read_config},
    server::{self, ACKNOWLEDGEMENT, Channel, Guest, RunsIn},
};
use banger_link::Ended;
use banger_proto::agent::boot::Init;
use std::{
    ffi::OsString,
    io::{self, Write},
    os::{fd::FromRawFd, unix::net::UnixStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// Serves until the channel ends. Arguments: `--fd N --config FILE`, and `--acknowledgement-ms N` for tests that delay
/// the host's acknowledgement.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    match serve(args) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("banger-vsock-agent: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Prints an error to stderr.
pub(crate) fn print_error(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

fn serve(args: &[OsString]) -> io::Result<Ended> {
    let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message.to_owned());
    let (mut fd, mut config, mut acknowledgement) = (None, None, ACKNOWLEDGEMENT);
    for pair in args.chunks(2) {
        match pair {
            [name, value] if name == "--fd" => fd = value.to_str().and_then(|value| value.parse::<i32>().ok()),
            [name, value] if name == "--config" => config = Some(PathBuf::from(value)),
            [name, value] if name == "--acknowledgement-ms" => {
                let number = value.to_str().and_then(|value| value.parse().ok());
                acknowledgement = number.map(Duration::from_millis).ok_or_else(|| invalid("that is no number"))?;
            }
            _ => return Err(invalid("hosted takes --fd N, --config FILE and --acknowledgement-ms N")),
        }
    }
    let fd = fd.filter(|fd| *fd > 2).ok_or_else(|| invalid("--fd wants a descriptor above 2"))?;
    let config = read_config(&config.ok_or_else(|| invalid("--config is missing"))?)?;
    rustix::io::fcntl_getfd(
        // SAFETY: only asked whether it is open.
        unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) },
    )?;
    // SAFETY: the descriptor is open, was passed to us for this, and nothing else in the process uses it.
    let channel = unsafe { UnixStream::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC)?;
    let mut phases = Phases::default();
    phases.end("agent");
    let (init, runs_in) = (Init::Agent, RunsIn::Hosted);
    let guest = Guest { config, init, phases, work: None, troubles: Vec::new(), runs_in, acknowledgement };
    Ok(server::run(guest, Channel::Inherited(channel)))
}

//! `bangerd-root`: the network helper as a process.
//! ```text
//! bangerd-root hold [PID START]     makes banger's namespaces, or joins those of that process, and keeps them
//! bangerd-root serve PID START      serves the socket on stdin, inside the namespaces of that process
//! bangerd-root system BLOCK         the same on systemd's socket, in the host's namespace; networks are cut from BLOCK
//! bangerd-root --version            prints the version
//! ```

use banger_root_helper::{Host, Namespaces, Tools, hold, names::Owner, rules::Scope, serve, system};
use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

const USAGE: &str = "usage: bangerd-root hold [PID START] | serve PID START | system BLOCK | --version";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["hold"] => hold::hold(None),
        ["hold", pid, start] => process(pid, start).and_then(|joined| hold::hold(Some(&joined))),
        ["serve", pid, start] => process(pid, start).and_then(|joined| user(&joined)),
        ["--version"] => writeln!(io::stdout(), "bangerd-root {}", env!("CARGO_PKG_VERSION")),
        ["system", pool] => pool.parse().map_err(io::Error::other).and_then(system::run),
        _ => {
            complain(USAGE);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn process(pid: &str, start: &str) -> io::Result<Namespaces> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, USAGE);
    Namespaces::of(pid.parse().map_err(invalid)?, start.parse().map_err(invalid)?)
}

/// Serves the daemon that started this process.
fn user(namespaces: &Namespaces) -> io::Result<()> {
    let owner = Owner(rustix::process::getuid().as_raw());
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    namespaces.enter()?;
    // The namespace has no other user. New links take these values as defaults.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for scope in ["all", "default"] {
        // A kernel without IPv6 has nothing to disable.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    let mut host = Host::new(owner, Scope::OwnNamespace, Tools::confine()?)?;
    serve::serve(&stream, |request| host.carry_out(request))
}

fn complain(words: &str) {
    // If stderr is closed, there is nowhere else to report to.
    let _ = writeln!(io::stderr(), "bangerd-root: {words}");
}

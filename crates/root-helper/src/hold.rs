//! The holder: a process that does nothing, so that a network namespace has somebody in it.
//!
//! It says `ready` on stdout when the namespaces are there, and ends unless it is told `go` on stdin: whoever starts it
//! writes down who it is in between, so that no namespace is ever held by a process nobody knows of.

#![expect(unsafe_code, reason = "unshare")]

use crate::{Namespaces, confine};
use rustix::{
    process::{getegid, geteuid, setsid},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    fs,
    io::{self, Read, Write},
    time::Duration,
};

/// Makes namespaces, or joins those of a process that is in them still; then holds them until it is killed.
pub fn hold(join: Option<&Namespaces>) -> io::Result<()> {
    // Whoever starts it may have made it a session's leader already.
    let _ = setsid();
    match join {
        Some(namespaces) => namespaces.enter()?,
        None => make()?,
    }
    confine::drop_everything()?;
    std::env::set_current_dir("/")?;
    io::stdout().write_all(b"ready\n")?;
    io::stdout().flush()?;
    let mut word = [0; 2];
    if io::stdin().read_exact(&mut word).is_err() || word != *b"go" {
        return Ok(());
    }
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    loop {
        std::thread::sleep(Duration::from_secs(1 << 30));
    }
}

fn make() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    // SAFETY: this process has one thread, and descriptors are not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
}

//! The holder: a process that does nothing but keep network namespaces alive.
//!
//! It writes `ready` to stdout when the namespaces exist, and ends unless it reads `go` from stdin. In between, the
//! starting process records the holder's identity, so that no namespace is ever held by an unrecorded process.

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

/// Makes namespaces, or joins those of a process that is still in them, and holds them until it is killed.
pub fn hold(join: Option<&Namespaces>) -> io::Result<()> {
    // Fails if the starting process made it a session leader already.
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

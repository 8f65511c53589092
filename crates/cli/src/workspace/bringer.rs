//! Who brings a repository into a VM, one at a time: two would take each other's half for somebody's work.
//!
//! The lock is on the directory of the VM's sockets, so there is no file to be left over, and it ends with its process.

use crate::{context::Context, exit::Result, guest, output::progress::Progress, output::progress::TICK};
use banger_proto::{
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat},
    io::Errno,
};
use std::{io, os::fd::OwnedFd, path::Path};

/// Nobody else brings anything into the VM while this is held. What is planned before may be older than what is there.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The VM, as it is now that nobody else brings anything there.
    pub(crate) endpoint: GuestEndpoint,
    lock: OwnedFd,
}

impl Turn {
    /// Takes it; waits for whoever has it, for as long as that takes.
    pub(crate) async fn take(context: &Context, vm: &str) -> Result<Self> {
        let mut endpoint = guest::endpoint(context, vm).await?;
        loop {
            let lock = lock(context, &endpoint).await?;
            // Somebody may have had it, and been done with it, since the VM was asked for. Or that VM is gone, and its lock
            // with it, and another one has its name; or the directory was taken away, and its shim made another one.
            let now = guest::endpoint(context, vm).await?;
            if is_of(&lock, dir(&now)) {
                return Ok(Self { endpoint: now, lock });
            }
            endpoint = now;
        }
    }
}

fn dir(endpoint: &GuestEndpoint) -> &Path {
    endpoint.socket.parent().unwrap_or_else(|| Path::new("/"))
}

/// Whether a lock is on the directory that is there now.
fn is_of(lock: &OwnedFd, dir: &Path) -> bool {
    let (Ok(locked), Ok(there)) = (fstat(lock), stat(dir)) else { return false };
    (locked.st_dev, locked.st_ino) == (there.st_dev, there.st_ino)
}

async fn lock(context: &Context, endpoint: &GuestEndpoint) -> Result<OwnedFd> {
    let dir = dir(endpoint);
    let failed = |error: Errno| {
        Failure::caused_by(Code::Unavailable, format!("cannot lock {}", dir.display()), &io::Error::from(error))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = open(dir, flags, Mode::empty()).map_err(failed)?;
    let mut progress = Progress::new(&context.printer);
    let mut waited = false;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(failed(error).into()),
        }
        if !waited {
            progress.phase(&format!("waiting for another command that brings a repository into {}", endpoint.name));
        }
        waited = true;
        tokio::time::sleep(TICK).await;
        progress.tick();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Closing is not enough where a child between fork and exec has a copy.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_lock_is_on_the_directory_that_is_there_now() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("v"), temp.path().join("w"));
        for dir in [&dir, &other] {
            fs::create_dir(dir).unwrap();
        }
        let lock = open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(is_of(&lock, &dir) && !is_of(&lock, &other));
        // Taken away, and made anew.
        fs::rename(&dir, temp.path().join("gone")).unwrap();
        assert!(!is_of(&lock, &dir));
        fs::create_dir(&dir).unwrap();
        assert!(!is_of(&lock, &dir));
    }
}

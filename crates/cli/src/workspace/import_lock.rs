//! Lock that lets one command at a time import into a VM: of two, each would take the other's half for work of the
//! guest.
//!
//! The lock is on the directory of the VM's sockets, so no file is left over, and it ends with its process.

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

/// Held lock on imports into a VM. A plan made before the lock was taken may be older than what is in the guest.
#[derive(Debug)]
pub(crate) struct ImportLock {
    /// The VM, as read while the lock is held.
    pub(crate) endpoint: GuestEndpoint,
    lock: OwnedFd,
}

impl ImportLock {
    /// Takes the lock; waits for its holder without a limit.
    pub(crate) async fn take(context: &Context, vm: &str) -> Result<Self> {
        let mut endpoint = guest::endpoint(context, vm).await?;
        loop {
            let lock = lock(context, &endpoint).await?;
            // Another holder may have finished since the VM was asked for. Or that VM is gone, its lock with it, and
            // another one has its name; or the directory was removed, and the shim made another one.
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

/// Whether a lock is on the directory that is at the path now.
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

impl Drop for ImportLock {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec may have a copy.
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
        // The directory is removed and made again.
        fs::rename(&dir, temp.path().join("gone")).unwrap();
        assert!(!is_of(&lock, &dir));
        fs::create_dir(&dir).unwrap();
        assert!(!is_of(&lock, &dir));
    }
}

//! Who brings a repository into a VM, one at a time: two would take each other's half for somebody's work.
//!
//! The lock is on the directory of the VM's sockets, so there is no file to be left over, and it ends with its process.

use crate::{context::Context, exit::Result, guest, output::progress::Progress, output::progress::TICK};
use banger_proto::{
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
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
            // with it, and another one has its name.
            let now = guest::endpoint(context, vm).await?;
            if dir(&now) == dir(&endpoint) {
                return Ok(Self { endpoint: now, lock });
            }
            endpoint = now;
        }
    }
}

fn dir(endpoint: &GuestEndpoint) -> &Path {
    endpoint.socket.parent().unwrap_or_else(|| Path::new("/"))
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

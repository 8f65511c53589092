//! Descriptors the runtime waits on.
#![expect(unsafe_code, reason = "the runtime's promise about descriptors has to be given by hand")]

use rustix::fd::OwnedFd;
use std::io;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that does not block.
pub(super) fn pollable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, and the result owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

//! Guest memory: a file of its own, so that it can be looked at, kept and mapped again by a restored machine.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{io, os::fd::OwnedFd};

/// The memory of one machine.
#[derive(Debug)]
pub struct Memory {
    /// The file. A memfd takes memory only as the guest touches it, and never touches a disk but through swap.
    pub file: OwnedFd,
    /// Whether the guest's writes go to the file; else they stay with the machine, and many machines can have one file.
    pub shared: bool,
}

impl Memory {
    /// Fresh zeroes. `bytes` is sealed: nobody makes the file shorter under the machine.
    pub fn fresh(bytes: u64) -> io::Result<Self> {
        let file = memfd_create("banger-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file, shared: true })
    }

    /// The memory another machine left, which this one changes only for itself. The file must be open for writing.
    pub fn copy_of(file: OwnedFd) -> Self {
        Self { file, shared: false }
    }
}

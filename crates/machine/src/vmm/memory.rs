//! Guest memory: a file of its own, so that it can be inspected, kept, and mapped again by a restored machine.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{io, os::fd::OwnedFd};

/// The memory of one machine.
#[derive(Debug)]
pub struct Memory {
    /// The file. A memfd allocates memory only as the guest touches it, and reaches a disk only through swap.
    pub file: OwnedFd,
    /// Whether guest writes go to the file. Otherwise they are private to the machine, and many machines can share one
    /// file.
    pub shared: bool,
}

impl Memory {
    /// Allocates zeroed memory. The size is sealed, so that nobody can truncate the file under the machine.
    pub fn fresh(bytes: u64) -> io::Result<Self> {
        let file = memfd_create("banger-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file, shared: true })
    }

    /// Wraps the memory file of another machine, as a private copy-on-write mapping. The file must be open for writing.
    pub fn copy_of(file: OwnedFd) -> Self {
        Self { file, shared: false }
    }
}

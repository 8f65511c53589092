//! The initramfs a guest boots from.
//!
//! It has two parts. The base is the same for every VM with the same kernel and agent, and is made once: the kernel's
//! own `initrd.img` if it has one, then `/init` (the guest agent), `/dev/console` and the modules needed to reach disks
//! and host. The second part is a few hundred bytes per VM: its configuration, and data that is valid for one boot
//! only. The kernel unpacks concatenated archives, later files winning, so both parts are simply appended.
//!
//! Decides what is in the archive; what the guest does with it is the agent's business.

mod base;
mod config;
mod cpio;
mod moment;

pub use base::{BootFiles, InitramfsCache};
pub use config::append_config;
pub use cpio::{Cpio, CpioError};
pub use moment::renew_moment;

use crate::{
    job::Cancelled,
    kernel::{CodecError, ModulesError},
    publish::PublishError,
};
use std::{io, path::PathBuf};

/// Error of making the archive.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file could not be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file exceeds its limit.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// File or directory.
        path: PathBuf,
        /// Limit in bytes.
        limit: u64,
    },
    /// The agent is not a program the guest can start.
    #[error("the guest agent {} is not an ELF file", .0.display())]
    Agent(PathBuf),
    /// The kernel's module tree is unusable.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A module cannot be unpacked.
    #[error("cannot unpack the module {}", path.display())]
    Module {
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: CodecError,
    },
    /// The archive could not be written.
    #[error("cannot write the initramfs")]
    Cpio(#[from] CpioError),
    /// The cache could not be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Adds the step and the path to an I/O error.
fn at(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> InitramfsError {
    move |source| InitramfsError::Io { what, path: path.to_owned(), source }
}

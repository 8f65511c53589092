//! The archive a guest starts from.
//!
//! It has two parts. The base is the same for every VM of one kernel and one agent, and is made once: the kernel's own
//! `initrd.img` if it has one, then `/init` (the guest agent), `/dev/console` and the modules needed to reach disks and
//! host. The second part is a few hundred bytes per VM: its configuration, and what holds for one boot only. The kernel
//! unpacks archives that follow each other, later files winning, so both are simply appended.
//!
//! Decides what is in the archive; what the guest makes of it is the agent's business.

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

/// Why the archive could not be made.
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
    /// A file is larger than anything that belongs there.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// File or directory.
        path: PathBuf,
        /// The most it may have.
        limit: u64,
    },
    /// The agent is not a program the guest can start.
    #[error("the guest agent {} is not an ELF file", .0.display())]
    Agent(PathBuf),
    /// The kernel's module tree.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A module's compression.
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

//! Errors of reading an archive, and limits of what is read.

use crate::rootfs::quoted;
use std::io;

/// Error of reading an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive itself is damaged.
    #[error("the archive is damaged at byte {offset}: {what}")]
    Damaged {
        /// Position in the stream, in bytes.
        offset: u64,
        /// Damage at that position.
        what: &'static str,
    },
    /// An entry is of a kind that is not read.
    #[error("entry {} is a {kind}, which is not supported", quoted(path))]
    Unsupported {
        /// Path of the entry.
        path: Vec<u8>,
        /// The kind.
        kind: &'static str,
    },
    /// There are more entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// There is more content than the limit.
    #[error("more than {0} bytes of content")]
    TooManyBytes(u64),
    /// The stream could not be read.
    #[error("cannot read the archive")]
    Io(#[source] io::Error),
}

/// Limits of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of entries, without extension headers.
    pub entries: u64,
    /// Bytes of content, extension headers included.
    pub bytes: u64,
}

impl Limits {
    /// No limits, where what is behind the stream has its own.
    pub const NONE: Self = Self { entries: u64::MAX, bytes: u64::MAX };
}

//! Errors of entries and of writing an image.

use crate::{job::Cancelled, publish::is_full, tar::TarError};
use std::io;

/// Reason why one entry cannot be stored. The names in it come from an archive: they are quoted and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The name is empty.
    #[error("its name is empty")]
    Empty,
    /// The path begins with `/`.
    #[error("its path is absolute")]
    Absolute,
    /// The path has a `..` component.
    #[error("its path contains \"..\"")]
    ParentDir,
    /// A name, target or path has a zero byte.
    #[error("it contains a zero byte")]
    Nul,
    /// A component of the path is over 255 bytes.
    #[error("a component of its path has {0} bytes, more than 255")]
    NameTooLong(usize),
    /// The path is over 4,096 bytes.
    #[error("its path has {0} bytes, more than 4096")]
    PathTooLong(usize),
    /// The name of an attribute is not UTF-8.
    #[error("the name of its attribute is not UTF-8")]
    NotUtf8,
    /// Something other than a directory stands where a parent directory is needed.
    #[error("{0} is in its path and is not a directory")]
    NotADirectory(String),
    /// Symbolic links lead to each other.
    #[error("{0}, in its path, leads through links without end")]
    LinkLoop(String),
    /// All paths together follow longer links than those of any real image.
    #[error("the paths of the image lead through too many links")]
    LinkSteps,
    /// The target of a hard link does not exist (yet).
    #[error("it is a hard link to {0}, which is not there")]
    LinkTargetMissing(String),
    /// The target of a hard link is a directory.
    #[error("it is a hard link to the directory {0}")]
    LinkToDirectory(String),
    /// One file has more names than ext4 counts.
    #[error("it is one of more than 65000 hard links to one file")]
    TooManyLinks,
    /// The target of a symbolic link is empty or over 4,095 bytes.
    #[error("its link target has {0} bytes, not 1 to 4095")]
    LinkTarget(usize),
    /// The device number is too large for ext4.
    #[error("its device number {0}:{1} is out of range")]
    DeviceNumber(u32, u32),
    /// The name of an extended attribute is empty, too long or has a zero byte.
    #[error("the name of its extended attribute {0} is no name: empty, over 255 bytes or with a zero byte")]
    XattrName(String),
    /// The extended attributes do not fit the inode and one block.
    #[error("its extended attributes need {0} bytes; the inode and one block of 4096 bytes do not hold them")]
    XattrTooLarge(usize),
    /// An access control list is malformed.
    #[error("its access control list is malformed")]
    Acl,
    /// `lost+found` in the root belongs to the filesystem; only a directory of that name may be given.
    #[error("lost+found in the root belongs to the filesystem")]
    Reserved,
    /// The content ended before the announced size.
    #[error("its content ended after {got} of {size} bytes")]
    Short {
        /// Bytes that were read.
        got: u64,
        /// Announced bytes.
        size: u64,
    },
    /// A whiteout names nothing, the directory it is in, or has something in it.
    #[error("it is not a whiteout of anything")]
    Whiteout,
    /// The type of the entry, or a feature of it, is not supported.
    #[error("it is a {0}, which is not supported")]
    Unsupported(&'static str),
}

/// Error of building an image.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// One entry cannot be stored.
    #[error("entry {entry} cannot be stored")]
    Entry {
        /// Path of the entry, quoted and cut.
        entry: String,
        /// Reason.
        #[source]
        why: EntryError,
    },
    /// There are more entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// There is more content than the limit.
    #[error("more than {0} bytes of content")]
    TooManyBytes(u64),
    /// There are more bytes of paths, link targets and attributes than the limit.
    #[error("more than {0} bytes of names and attributes")]
    TooMuchMetadata(u64),
    /// The archive itself is damaged.
    #[error("the archive is damaged at byte {offset}: {what}")]
    Archive {
        /// Position in the stream, in bytes.
        offset: u64,
        /// Damage at that position.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {what}")]
    Io {
        /// Failed action, such as `write the image`.
        what: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A directory has more names than its index can hold.
    #[error("a directory with {0} names is too large")]
    DirectoryTooLarge(usize),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RootfsError {
    pub(crate) fn entry(path: &[u8], why: EntryError) -> Self {
        Self::Entry { entry: quoted(path), why }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Whether the disk (or the user's quota) was full: freeing space and trying again helps.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

impl From<TarError> for RootfsError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Damaged { offset, what } => Self::Archive { offset, what },
            TarError::Unsupported { path, kind } => Self::entry(&path, EntryError::Unsupported(kind)),
            TarError::TooManyEntries(limit) => Self::TooManyEntries(limit),
            TarError::TooManyBytes(limit) => Self::TooManyBytes(limit),
            TarError::Io(source) => Self::Io { what: "read the archive", source },
        }
    }
}

/// Longest part of a hostile name that is repeated in an error, in bytes.
const SHOWN: usize = 120;

/// Formats a name from an archive for an error: quoted, escaped, cut.
pub(crate) fn quoted(name: &[u8]) -> String {
    let shown = &name[..name.len().min(SHOWN)];
    let rest = if shown.len() < name.len() { "…" } else { "" };
    match std::str::from_utf8(shown) {
        Ok(text) => format!("{text:?}{rest}"),
        Err(_) => format!("\"{}\"{rest}", shown.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        assert_eq!(quoted(b"a\x1b[31m"), "\"a\\u{1b}[31m\"");
        assert_eq!(quoted(b"\xff\n"), "\"\\xff\\n\"");
        assert!(quoted(&vec![b'x'; 5000]).len() < 200);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = RootfsError::Io { what: "write the image", source: io::ErrorKind::StorageFull.into() };
        assert!(full.is_out_of_space());
        assert!(!RootfsError::TooManyBytes(1).is_out_of_space());
    }
}

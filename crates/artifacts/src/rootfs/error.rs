//! What can be wrong with an entry, and what can go wrong while an image is written.

use crate::{job::Cancelled, publish::is_full};
use std::io;

/// Why one entry cannot be stored. The names in here come from an archive: they are shown quoted and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A name of no bytes.
    #[error("its name is empty")]
    Empty,
    /// A path beginning with `/`.
    #[error("its path is absolute")]
    Absolute,
    /// A path with a `..` component.
    #[error("its path contains \"..\"")]
    ParentDir,
    /// A name, target or path with a zero byte.
    #[error("it contains a zero byte")]
    Nul,
    /// One component over 255 bytes.
    #[error("a component of its path has {0} bytes, more than 255")]
    NameTooLong(usize),
    /// A path over 4,096 bytes.
    #[error("its path has {0} bytes, more than 4096")]
    PathTooLong(usize),
    /// The name of an attribute.
    #[error("the name of its attribute is not UTF-8")]
    NotUtf8,
    /// Something that is no directory stands where a parent directory is needed.
    #[error("{0} is in its path and is not a directory")]
    NotADirectory(String),
    /// Links that lead to each other.
    #[error("{0}, in its path, leads through links without end")]
    LinkLoop(String),
    /// All paths together take more steps through links than any real image's.
    #[error("the paths of the image lead through too many links")]
    LinkSteps,
    /// A hard link to something that is not there (yet).
    #[error("it is a hard link to {0}, which is not there")]
    LinkTargetMissing(String),
    /// A hard link to a directory.
    #[error("it is a hard link to the directory {0}")]
    LinkToDirectory(String),
    /// More names for one file than ext4 counts.
    #[error("it is one of more than 65000 hard links to one file")]
    TooManyLinks,
    /// A symbolic link whose target is empty or over 4,095 bytes.
    #[error("its link target has {0} bytes, not 1 to 4095")]
    LinkTarget(usize),
    /// A device number ext4 cannot hold.
    #[error("its device number {0}:{1} is out of range")]
    DeviceNumber(u32, u32),
    /// An extended attribute whose name nobody can read.
    #[error("the name of its extended attribute {0} is no name: empty, over 255 bytes or with a zero byte")]
    XattrName(String),
    /// Extended attributes that do not fit the inode and one block.
    #[error("its extended attributes need {0} bytes; the inode and one block of 4096 bytes do not hold them")]
    XattrTooLarge(usize),
    /// An access control list that is not one.
    #[error("its access control list is malformed")]
    Acl,
    /// `lost+found` in the root belongs to the filesystem; only an empty directory of that name may be given.
    #[error("lost+found in the root belongs to the filesystem")]
    Reserved,
    /// The content ended before the announced size.
    #[error("its content ended after {got} of {size} bytes")]
    Short {
        /// Bytes that came.
        got: u64,
        /// Bytes announced.
        size: u64,
    },
    /// A whiteout of nothing, of the directory it is in, or with something in it.
    #[error("it is not a whiteout of anything")]
    Whiteout,
    /// A kind of entry, or a feature of one, that is not supported.
    #[error("it is {0}, which is not supported")]
    Unsupported(&'static str),
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// One entry cannot be stored.
    #[error("entry {entry} cannot be stored")]
    Entry {
        /// Its path, quoted and cut.
        entry: String,
        /// Why.
        #[source]
        why: EntryError,
    },
    /// More entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// More content than the limit.
    #[error("more than {0} bytes of content")]
    TooManyBytes(u64),
    /// More bytes of paths, link targets and attributes than the limit.
    #[error("more than {0} bytes of names and attributes")]
    TooMuchMetadata(u64),
    /// The archive itself is damaged.
    #[error("the archive is damaged at byte {offset}: {what}")]
    Archive {
        /// Where in the stream, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done, such as `write the image`.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// More names in one directory than its index can find.
    #[error("a directory with {0} names is too large")]
    DirectoryTooLarge(usize),
    /// Told to stop.
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

/// Longest piece of a hostile name that is repeated in an error, in bytes.
const SHOWN: usize = 120;

/// A name from an archive as an error shows it: quoted, escaped, cut.
pub(super) fn quoted(name: &[u8]) -> String {
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

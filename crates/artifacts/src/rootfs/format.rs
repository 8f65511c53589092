//! Limits of a build, parameters of the filesystem, and the summary of a written image.

use crate::tar;

/// Limits of what a hostile stream may make the builder hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of names, including parent directories that no entry described.
    pub entries: u64,
    /// Bytes of file content, including replaced files.
    pub content_bytes: u64,
    /// Bytes of paths, link targets and extended attributes, all of which stay in memory.
    pub metadata_bytes: u64,
}

impl Limits {
    /// Limits of one archive that is added.
    pub(crate) fn of_archive(&self) -> tar::Limits {
        tar::Limits { entries: self.entries, bytes: self.content_bytes }
    }
}

impl Default for Limits {
    /// Allows one million entries, 64 GiB of content, 512 MiB of names and attributes.
    fn default() -> Self {
        Self { entries: 1_000_000, content_bytes: 64 << 30, metadata_bytes: 512 << 20 }
    }
}

/// Parameters of the filesystem itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Format {
    /// Volume label, at most 16 bytes.
    pub label: String,
    /// Time in the superblock and of directories that no entry described, in seconds since 1970; below 2^32.
    pub epoch: u32,
    /// Distinguishes it from a filesystem with the same tree: part of the filesystem's UUID, not of the tree.
    pub salt: Vec<u8>,
}

/// Summary of a written image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the image in bytes; a multiple of 4,096.
    pub size_bytes: u64,
    /// Number of inodes that came from entries or were implied by them, including the root.
    pub entries: u64,
    /// Bytes of file content, holes left out.
    pub content_bytes: u64,
}

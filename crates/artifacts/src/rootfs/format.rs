//! Limits of a build, parameters of the filesystem and the summary of what was written.

/// What an unfriendly stream may make the builder hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Names, parent directories nobody described included.
    pub entries: u64,
    /// Bytes of file content, replaced files included.
    pub content_bytes: u64,
    /// Bytes of paths, link targets and extended attributes, all of which stay in memory.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    /// One million entries, 64 GiB of content, 512 MiB of names and attributes.
    fn default() -> Self {
        Self { entries: 1_000_000, content_bytes: 64 << 30, metadata_bytes: 512 << 20 }
    }
}

/// What the filesystem itself is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Format {
    /// Volume label, at most 16 bytes.
    pub label: String,
    /// Time in the superblock and of directories nobody described, in seconds since 1970; below 2^32.
    pub epoch: u32,
    /// What tells it from a filesystem with the same tree; it is not in the tree, but in the filesystem's identity.
    pub salt: Vec<u8>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the image in bytes; a multiple of 4,096.
    pub size_bytes: u64,
    /// Inodes in it that came from entries or were implied by them, the root included.
    pub entries: u64,
    /// Bytes of file content in it.
    pub content_bytes: u64,
}

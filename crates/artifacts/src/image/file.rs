//! Noticing that a file banger does not own was changed.
//!
//! An unmanaged image is used where it lies. What it was when it was registered is kept, and compared before every
//! start: a VM whose base changed under its overlay is corrupt. The comparison is `stat(2)`'s, so it costs nothing and
//! trusts the file's owner not to forge times. The number of the device says nothing: with btrfs, NFS, overlays and disks
//! that are found in another order it is another one after a reboot.

use serde::{Deserialize, Serialize};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// A file at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Inode.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, whole seconds since 1970.
    pub modified: i64,
    /// Nanoseconds of it.
    pub modified_nanos: i64,
}

/// Why a file is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum FileChanged {
    /// It cannot be looked at, or is gone.
    #[error("cannot look at it")]
    Unreadable(#[from] io::Error),
    /// Something that is no regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Another file is there now.
    #[error("another file is in its place")]
    Replaced,
    /// Its length changed.
    #[error("its size changed from {was} to {is} bytes")]
    Resized {
        /// Then.
        was: u64,
        /// Now.
        is: u64,
    },
    /// It was written to.
    #[error("it was written to since it was registered")]
    Modified,
}

impl FileIdentity {
    /// What the regular file at `path` (links followed) is now.
    pub fn of(path: &Path) -> Result<Self, FileChanged> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(FileChanged::NotAFile);
        }
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
        })
    }

    /// Whether `path` is still that file, untouched.
    pub fn check_unchanged(&self, path: &Path) -> Result<(), FileChanged> {
        let now = Self::of(path)?;
        if now.inode != self.inode {
            return Err(FileChanged::Replaced);
        }
        if now.size != self.size {
            return Err(FileChanged::Resized { was: self.size, is: now.size });
        }
        if now == *self { Ok(()) } else { Err(FileChanged::Modified) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_with_a_device_is_read() {
        let then = r#"{"device": 7, "inode": 1, "size": 2, "modified": 3, "modified_nanos": 4}"#;
        let now = FileIdentity { inode: 1, size: 2, modified: 3, modified_nanos: 4 };
        assert_eq!(serde_json::from_str::<FileIdentity>(then).unwrap(), now);
        assert!(!serde_json::to_string(&now).unwrap().contains("device"));
    }

    #[test]
    fn every_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, "abc").unwrap();
        let then = FileIdentity::of(&path).unwrap();
        then.check_unchanged(&path).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(matches!(then.check_unchanged(&path), Err(FileChanged::Modified)));
        fs::write(&path, "abcd").unwrap();
        assert!(matches!(then.check_unchanged(&path), Err(FileChanged::Resized { was: 3, is: 4 })));
        fs::write(dir.path().join("other"), "abc").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(matches!(then.check_unchanged(&path), Err(FileChanged::Replaced)));
        fs::remove_file(&path).unwrap();
        assert!(matches!(then.check_unchanged(&path), Err(FileChanged::Unreadable(_))));
        assert!(matches!(FileIdentity::of(dir.path()), Err(FileChanged::NotAFile)));
    }
}

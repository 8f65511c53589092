//! Detects changes of a file that banger does not own.
//!
//! An unmanaged image is used in place. The state of its file at registration is kept and compared before every start:
//! a VM whose base changed under its overlay is corrupt. The comparison uses `stat(2)` only, so it costs nothing. A
//! modification time that was set back (`cp -p`, `rsync -t`, `touch -r`) does not hide a change, because the change
//! time is set by the kernel; a new mode or another hard link changes it, too. The device number is not compared: with
//! btrfs, NFS, overlays and disks found in another order it differs after a reboot.

use serde::{Deserialize, Serialize};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// State of a file at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Inode.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, whole seconds since 1970.
    pub modified: i64,
    /// Nanoseconds of the modification time.
    pub modified_nanos: i64,
    /// Change time of the inode, seconds since 1970 and nanoseconds; absent in manifests of an earlier banger. It is
    /// not part of an image's id, so the same file registered again is the same image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<(i64, i64)>,
}

/// How a file differs from its registered state.
#[derive(Debug, thiserror::Error)]
pub enum FileChanged {
    /// Its state cannot be read, or it is gone.
    #[error("cannot look at it")]
    Unreadable(#[from] io::Error),
    /// It is no regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Another file is there now.
    #[error("another file is in its place")]
    Replaced,
    /// Its length changed.
    #[error("its size changed from {was} to {is} bytes")]
    Resized {
        /// Old value.
        was: u64,
        /// New value.
        is: u64,
    },
    /// It was written to.
    #[error("it was written to since it was registered")]
    Modified,
    /// Its change time differs: it was written to and its modification time set back, or only its mode, owner or a link
    /// changed.
    #[error("it was written to since it was registered, or has another mode, owner or name")]
    Touched,
}

impl FileIdentity {
    /// Reads the state of the regular file at `path` (links followed).
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
            changed: Some((metadata.ctime(), metadata.ctime_nsec())),
        })
    }

    /// Checks that `path` is still that file, unchanged.
    pub fn check_unchanged(&self, path: &Path) -> Result<(), FileChanged> {
        let now = Self::of(path)?;
        if now.inode != self.inode {
            return Err(FileChanged::Replaced);
        }
        if now.size != self.size {
            return Err(FileChanged::Resized { was: self.size, is: now.size });
        }
        if (now.modified, now.modified_nanos) != (self.modified, self.modified_nanos) {
            return Err(FileChanged::Modified);
        }
        if self.changed.is_none_or(|then| now.changed == Some(then)) { Ok(()) } else { Err(FileChanged::Touched) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_with_a_device_is_read() {
        let then = r#"{"device": 7, "inode": 1, "size": 2, "modified": 3, "modified_nanos": 4}"#;
        let now = FileIdentity { inode: 1, size: 2, modified: 3, modified_nanos: 4, changed: None };
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
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(matches!(then.check_unchanged(&path), Err(FileChanged::Modified)));
        // The content is another, and its time and length are not.
        // The kernel's clock has ticks.
        let told = banger_testkit::wait_until(std::time::Duration::from_secs(60), "a change that is seen", || {
            fs::write(&path, "abd").unwrap();
            file.set_modified(modified).unwrap();
            then.check_unchanged(&path).err().ok_or_else(|| "not yet".to_owned())
        });
        assert!(matches!(told, FileChanged::Touched), "{told:?}");
        FileIdentity { changed: None, ..then }.check_unchanged(&path).unwrap();
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

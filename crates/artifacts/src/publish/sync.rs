//! Bringing what is published to the disk.

use super::{PublishError, at};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Up to this many files each is synced by itself; a larger tree is synced with its whole file system.
pub(super) const FEW_FILES: usize = 32;

/// Brings the tree to the disk.
pub(super) fn sync_tree(root: &Path) -> Result<(), PublishError> {
    let mut files = Vec::new();
    if collect(root, &mut files).map_err(at("read", root))? {
        for path in &files {
            // Links have no content to sync; their names are the directory's.
            File::open(path).and_then(|file| file.sync_all()).map_err(at("sync", path))?;
        }
        return Ok(());
    }
    let directory = File::open(root).map_err(at("open", root))?;
    rustix::fs::syncfs(&directory).map_err(at("sync the file system of", root))
}

/// Collects files and directories (deepest last to first is not needed: a rename follows); false when they are many.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<bool> {
    files.push(directory.to_owned());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !collect(&entry.path(), files)? {
                return Ok(false);
            }
        } else if kind.is_file() {
            files.push(entry.path());
        }
        if files.len() > FEW_FILES {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the renames in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), PublishError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at("sync", directory))
}

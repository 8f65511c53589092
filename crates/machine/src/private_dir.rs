//! Directories that belong to this user alone.

use rustix::{
    fs::{FileType, Mode, lstat},
    process::geteuid,
};
use std::path::Path;

/// Whether the path is a directory, and not a link to one, that this user owns and nobody else may enter.
pub fn is_ours_alone(directory: &Path) -> bool {
    lstat(directory).is_ok_and(|stat| {
        let is_closed = !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        is_directory && is_closed && stat.st_uid == geteuid().as_raw()
    })
}

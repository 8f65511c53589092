//! Unfinished directories and files, removed unless they are published.

use crate::{
    job::Cancel,
    program::{Ids, Program, ProgramError},
};
use rustix::process::geteuid;
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Program that removes files owned by subordinate ids.
const RM: &str = "rm";

/// Directory being filled. Dropping it removes it with its content, unless it was published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    // An flock on the directory tells other processes that it is in use.
    _lock: OwnedFd,
}

/// File being written. Dropping it removes it, unless it was published.
#[derive(Debug)]
pub struct StagedFile {
    file: NamedTempFile,
}

impl Staging {
    /// Takes over a directory whose lock is held.
    pub(super) fn new(path: PathBuf, lock: OwnedFd) -> Self {
        Self { path, _lock: lock }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Releases the directory, which has its final name now.
    pub(super) fn into_published(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty()
            && let Err(error) = remove_any(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a staging directory");
        }
    }
}

impl StagedFile {
    pub(super) fn new(file: NamedTempFile) -> Self {
        Self { file }
    }

    /// The open file, at its current position.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The open file, for writing.
    pub fn file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Temporary path, for programs that want one.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Renames the file to `target`, replacing a file that exists.
    pub(super) fn persist(self, target: &Path) -> io::Result<()> {
        self.file.persist(target).map(drop).map_err(|error| error.error)
    }
}

/// Removes a file, or a directory with everything below it. The path must be a staging path made here, or one below it.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)
            .or_else(|_| {
                // A tree may contain directories their owner may not write: they are made writable before the second
                // try.
                open_up(path)?;
                fs::remove_dir_all(path)
            })
            .or_else(|error| remove_as_subordinate_root(path, error)),
        Ok(_) => fs::remove_file(path),
    }
}

/// Removes a directory that contains files of the user's subordinate ids, as a killed bootstrap of an ordinary user
/// leaves them. `refused` is the error the user alone got.
fn remove_as_subordinate_root(path: &Path, refused: io::Error) -> io::Result<()> {
    let (Some(parent), Some(name), false) = (path.parent(), path.file_name(), geteuid().is_root()) else {
        return Err(refused);
    };
    let Ok(ids) = Ids::subordinate() else { return Err(refused) };
    // Named relative to its parent: root of these ids is in none of the user's groups and may not be able to pass the
    // directories above.
    let rm = Program::new(RM, "coreutils").as_root_of(ids.under_own()).directory(parent);
    let rm = rm.args(["-rf", "--one-file-system", "--"]).arg(Path::new(".").join(name));
    rm.capture(0, &Cancel::default()).map(drop).map_err(|error| removal_error(refused, error))
}

/// Chooses the error to report if that failed too: that of `rm`, or, if `rm` was not run at all, the one the user alone
/// got. The cause may be another one than ownership, such as a disk that cannot be written to.
fn removal_error(refused: io::Error, error: ProgramError) -> io::Error {
    match error {
        ProgramError::Failed { ref program, .. } if program == RM => io::Error::new(refused.kind(), error),
        error => {
            tracing::debug!(error = &error as &dyn std::error::Error, "nothing is removed as root of subordinate ids");
            refused
        }
    }
}

/// Makes every directory below `path` writable for its owner.
fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn why_a_directory_stays_is_said_by_who_tried_last() {
        let failed = |program: &str| ProgramError::Failed {
            program: program.into(),
            status: std::process::ExitStatus::from_raw(1 << 8),
            stderr: "./x: busy".into(),
        };
        let missing = ProgramError::Missing { program: "newuidmap".into(), package: "uidmap" };
        for (error, words) in [
            (failed(RM), "./x: busy"),
            (failed("newuidmap"), "read-only"),
            (missing, "read-only"),
            (ProgramError::Namespace(io::ErrorKind::PermissionDenied.into()), "read-only"),
        ] {
            let refused = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "read-only");
            let error = removal_error(refused, error);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
    }
}

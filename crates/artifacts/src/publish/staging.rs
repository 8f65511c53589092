//! Unfinished work: gone unless it is published.

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

/// What removes files that are not the user's own.
const RM: &str = "rm";

/// A directory being filled; it goes, with its content, unless it is published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    // An flock on the directory itself tells a sweeper that somebody is at work.
    _lock: OwnedFd,
}

/// A file being written; it goes unless it is published.
#[derive(Debug)]
pub struct StagedFile {
    file: NamedTempFile,
}

impl Staging {
    /// Takes over a directory whose lock is held.
    pub(super) fn new(path: PathBuf, lock: OwnedFd) -> Self {
        Self { path, _lock: lock }
    }

    /// Where to put things.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the directory: it stands under its final name.
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

    /// Where it is until it is published: for programs that want a path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives it its final name, `target`, in the place of what is there.
    pub(super) fn persist(self, target: &Path) -> io::Result<()> {
        self.file.persist(target).map(drop).map_err(|error| error.error)
    }
}

/// Removes a file, or a directory with all below it. Only ever called with a staging path made here, or one below it.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)
            .or_else(|_| {
                // A tree can contain directories its owner may not write; make them writable and try once more.
                open_up(path)?;
                fs::remove_dir_all(path)
            })
            .or_else(|error| remove_given(path, error)),
        Ok(_) => fs::remove_file(path),
    }
}

/// Removes a directory with what was given to the user's subordinate ids: what an ordinary user's bootstrap leaves that is
/// killed. `refused` is what the user alone got of it.
fn remove_given(path: &Path, refused: io::Error) -> io::Result<()> {
    let (Some(parent), Some(name), false) = (path.parent(), path.file_name(), geteuid().is_root()) else {
        return Err(refused);
    };
    let Ok(ids) = Ids::subordinate() else { return Err(refused) };
    // By no name of what is above it: root of these ids is in no group of the user's, and may not get through that.
    let rm = Program::new(RM, "coreutils").as_root_of(ids.under_own()).directory(parent);
    let rm = rm.args(["-rf", "--one-file-system", "--"]).arg(Path::new(".").join(name));
    rm.capture(0, &Cancel::default()).map(drop).map_err(|error| said(refused, error))
}

/// What is said where that failed, too: what `rm` found in its way, or, where it was not run at all, what the user alone got.
/// That may be as little a matter of whose the files are as a disk that cannot be written to.
fn said(refused: io::Error, error: ProgramError) -> io::Error {
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
            let said = said(refused, error);
            assert!(said.to_string().contains(words), "{said}");
            assert_eq!(said.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
    }
}

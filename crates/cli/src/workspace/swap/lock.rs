//! Lock that lets one process at a time exchange files of a repository, and recovery of what a killed one left.

use super::{PREFIX, SwapDirs, at, journal::Journal, rename::Renames};
use crate::workspace::{cannot, repository::Repository};
use banger_proto::failure::{Code, Failure};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long to wait for another process to exchange its files.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two tries to take the lock.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Held lock on exchanges in a repository.
#[derive(Debug)]
pub(in crate::workspace) struct ApplyLock {
    /// None where the file system has no locks on directories.
    _lock: Option<fs::File>,
}

impl ApplyLock {
    /// Takes the lock, then takes back an exchange that was killed; returns whether there was one. Blocks while another
    /// process has the lock.
    pub(in crate::workspace) fn take(repository: &Repository) -> Result<(Self, bool), Failure> {
        let deadline = Instant::now() + TIMEOUT;
        Self::take_with(repository, lock, || {
            thread::sleep(RETRY_EVERY);
            Instant::now() < deadline
        })
    }

    /// Does the same with another lock function; retries while it would block and `again` says so.
    pub(super) fn take_with(
        repository: &Repository,
        lock: impl Fn(&Path) -> io::Result<fs::File>,
        mut again: impl FnMut() -> bool,
    ) -> Result<(Self, bool), Failure> {
        loop {
            match lock(&repository.git_dir) {
                Ok(lock) => {
                    let rolled_back = recover(repository, &Renames::default())?;
                    return Ok((Self { _lock: Some(lock) }, rolled_back));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    without_lock(repository, &error)?;
                    return Ok((Self { _lock: None }, false));
                }
                Err(_) if again() => {}
                Err(_) => {
                    let failure = format!("another export is being applied to {}", repository.root.display());
                    return Err(Failure::new(Code::Conflict, failure));
                }
            }
        }
    }
}

pub(super) fn lock(dir: &Path) -> io::Result<fs::File> {
    let dir = fs::File::open(dir)?;
    flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
    Ok(dir)
}

/// Refuses a repository with an unfinished exchange: without locks it is not known whether a process is at work or was
/// killed.
fn without_lock(repository: &Repository, error: &io::Error) -> Result<(), Failure> {
    for stage in stages(repository)? {
        let unread = |error: io::Error| cannot("read", &repository.git_dir, &error);
        let dirs = SwapDirs::of(repository, stage).map_err(unread)?;
        if Journal::is_in(&dirs).map_err(unread)? {
            return Err(left_behind(repository, &dirs, &at(&repository.git_dir, error)));
        }
    }
    Ok(())
}

/// Takes back an exchange that was killed, if there is one; returns a notice of it.
pub(in crate::workspace) fn roll_back(repository: &Repository) -> Result<Option<String>, Failure> {
    // A reader takes the lock only if there is something to take back.
    if stages(repository)?.is_empty() || !ApplyLock::take(repository)?.1 {
        return Ok(None);
    }
    let root = repository.root.display();
    let notice = "an export was killed while it was applied to";
    Ok(Some(format!("{notice} {root}: the files it had changed are as they were before")))
}

/// Returns the staging directories. They are looked for in the git directory only: the tree holds whatever was checked
/// out.
fn stages(repository: &Repository) -> Result<Vec<PathBuf>, Failure> {
    let unread = |error: io::Error| cannot("read", &repository.git_dir, &error);
    let mut stages = Vec::new();
    for entry in fs::read_dir(&repository.git_dir).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            stages.push(entry.path());
        }
    }
    Ok(stages)
}

/// Takes back the exchanges of processes that are gone, and removes their staging directories.
pub(super) fn recover(repository: &Repository, renames: &Renames) -> Result<bool, Failure> {
    let mut rolled_back = false;
    for stage in stages(repository)? {
        let dirs = SwapDirs::of(repository, stage).map_err(|error| cannot("read", &repository.git_dir, &error))?;
        let done = Journal::read(&dirs).and_then(|journal| {
            let Some(journal) = journal else { return Ok(false) };
            journal.roll_back(&dirs, renames)?;
            Journal::remove(&dirs)?;
            Ok(true)
        });
        rolled_back |= done.map_err(|error| left_behind(repository, &dirs, &error))?;
        // The directory that names the other one goes last.
        for dir in [&dirs.store, &dirs.stage] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Another user's, in which nothing began: theirs to remove, and in nobody's way.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_ours(dir) => {}
                Err(error) => return Err(cannot("remove", dir, &error)),
                Ok(()) => {}
            }
        }
    }
    Ok(rolled_back)
}

fn is_ours(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw())
}

/// Makes the failure about an exchange that cannot be taken back, with what to do about it.
fn left_behind(repository: &Repository, dirs: &SwapDirs, error: &io::Error) -> Failure {
    let what =
        format!("an export that was killed while it was applied to {} cannot be taken back", repository.root.display());
    let (stage, store) = (dirs.stage.display(), dirs.store.display());
    Failure::caused_by(Code::Conflict, what, error).hint(format!(
        "the files as they were are below {store}/tree and {store}/away; remove {stage} when all is well"
    ))
}

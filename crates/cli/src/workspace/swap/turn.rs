//! Who may change files of a repository, one at a time, and what whoever is next takes back of what somebody was killed in.

use super::{PREFIX, Places, at, journal::Journal, rename::Renames};
use crate::workspace::{about, repository::Repository};
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

/// How long somebody else may take to change files of the repository.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one looks whether they are done.
const PAUSE: Duration = Duration::from_millis(50);

/// Nobody else changes files of the repository while this is held.
#[derive(Debug)]
pub(in crate::workspace) struct Turn {
    /// None where the file system has no locks on directories.
    _lock: Option<fs::File>,
}

impl Turn {
    /// Takes it, and takes back what somebody was killed in; whether there was such a thing. Blocks while somebody else
    /// has it, who is soon done.
    pub(in crate::workspace) fn take(repository: &Repository) -> Result<(Self, bool), Failure> {
        let deadline = Instant::now() + PATIENCE;
        Self::take_with(repository, lock, || {
            thread::sleep(PAUSE);
            Instant::now() < deadline
        })
    }

    /// The same with a way to lock; where somebody else has it, as often as they are to be asked `again`.
    pub(super) fn take_with(
        repository: &Repository,
        lock: impl Fn(&Path) -> io::Result<fs::File>,
        mut again: impl FnMut() -> bool,
    ) -> Result<(Self, bool), Failure> {
        loop {
            match lock(&repository.git_dir) {
                Ok(lock) => {
                    let taken_back = recover(repository, &Renames::default())?;
                    return Ok((Self { _lock: Some(lock) }, taken_back));
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

/// Refuses files that are changed in part: nobody knows whether somebody is at work or was killed.
fn without_lock(repository: &Repository, error: &io::Error) -> Result<(), Failure> {
    for stage in stages(repository)? {
        let unread = |error: io::Error| about("read", &repository.git_dir, &error);
        let places = Places::of(repository, stage).map_err(unread)?;
        if Journal::is_in(&places).map_err(unread)? {
            return Err(left_behind(repository, &places, &at(&repository.git_dir, error)));
        }
    }
    Ok(())
}

/// Takes back what somebody was killed in, if there is such a thing, and says so.
pub(in crate::workspace) fn take_back(repository: &Repository) -> Result<Option<String>, Failure> {
    // Who only reads is not to be in anybody's way.
    if stages(repository)?.is_empty() || !Turn::take(repository)?.1 {
        return Ok(None);
    }
    let root = repository.root.display();
    let notice = "an export was killed while it was applied to";
    Ok(Some(format!("{notice} {root}: the files it had changed are as they were before")))
}

/// Stages that are there, somebody's or nobody's. They are looked for in git's directory only: what is in the tree is
/// whatever was checked out.
fn stages(repository: &Repository) -> Result<Vec<PathBuf>, Failure> {
    let unread = |error: io::Error| about("read", &repository.git_dir, &error);
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

/// Takes back what is left of stages whose makers are gone.
pub(super) fn recover(repository: &Repository, renames: &Renames) -> Result<bool, Failure> {
    let mut taken_back = false;
    for stage in stages(repository)? {
        let places = Places::of(repository, stage).map_err(|error| about("read", &repository.git_dir, &error))?;
        let done = Journal::read(&places).and_then(|journal| {
            let Some(journal) = journal else { return Ok(false) };
            journal.take_back(&places, renames)?;
            Journal::remove(&places)?;
            Ok(true)
        });
        taken_back |= done.map_err(|error| left_behind(repository, &places, &error))?;
        // The one that says that there is another goes last.
        for dir in [&places.store, &places.stage] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Another user's, in which nothing began: theirs to remove, and in nobody's way.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_ours(dir) => {}
                Err(error) => return Err(about("remove", dir, &error)),
                Ok(()) => {}
            }
        }
    }
    Ok(taken_back)
}

fn is_ours(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw())
}

/// What to do about a stage that nobody can take back.
fn left_behind(repository: &Repository, places: &Places, error: &io::Error) -> Failure {
    let what =
        format!("an export that was killed while it was applied to {} cannot be taken back", repository.root.display());
    let (stage, store) = (places.stage.display(), places.store.display());
    Failure::caused_by(Code::Conflict, what, error).hint(format!(
        "the files as they were are below {store}/tree and {store}/away; remove {stage} when all is well"
    ))
}

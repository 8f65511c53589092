//! Publishes directories and files atomically under a name, so that nobody ever sees half of one.
//!
//! A [`Shelf`] is one directory of named entries (`kernels/`, `images/`, a cache). Work on an entry happens under the
//! [`NameLock`] of its name: it is prepared in a [`Staging`] directory beside the entries and appears under its name by
//! one rename. Leftovers of a killed process are removed by the next process, and only when no living process holds
//! them. The shelf does not know what its entries mean.
//!
//! Locks are `flock`s: they are released when their process ends, however it ends, and exclude threads as well as
//! processes.

mod early;
mod staging;
mod sync;

use crate::job::{Cancel, Cancelled, Job};
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, open, renameat_with, statat},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use sync::{sync_directory, sync_tree};

pub use early::{Mark, Unsynced};
pub(crate) use staging::remove_any;
pub use staging::{StagedFile, Staging};

/// Prefix of the names of unfinished directories and files.
const STAGING: &str = ".staging-";
/// Prefix of the names of lock files.
const LOCK: &str = ".lock-";
/// Interval at which a waiter for a lock checks the cancellation flag; `flock` cannot wait for two things.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Error of a publication.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The name is not one plain file name.
    #[error("{name:?} cannot be the name of a stored entry")]
    Name {
        /// The name as given.
        name: String,
    },
    /// A file system operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb: `create`, `sync`.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The wait for the lock was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Returns a function that adds the step and the path to an I/O error.
fn at<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> PublishError {
    move |source| PublishError::Io { what, path: path.to_owned(), source: source.into() }
}

/// Whether the disk or the user's quota is full, so that a retry helps after space was freed.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory of entries published by rename.
#[derive(Debug, Clone)]
pub struct Shelf {
    directory: PathBuf,
}

/// Exclusive right to change the entry of one name, held until dropped.
#[derive(Debug)]
pub struct NameLock {
    name: String,
    path: PathBuf,
    // Closing it gives the lock back.
    file: File,
}

impl Shelf {
    /// Opens `directory`, creates it (mode 0700) when absent, and sweeps what dead processes left in it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, PublishError> {
        let shelf = Self::at(directory)?;
        shelf.leftovers()?.into_iter().for_each(Leftover::remove);
        Ok(shelf)
    }

    /// Like [`Self::open`], but removes the leftovers in the background: a tree of a hundred thousand files takes a
    /// while to delete, and nobody can see it. What this process does not get to is left to the next one.
    pub fn open_at_once(directory: impl Into<PathBuf>) -> Result<Self, PublishError> {
        let shelf = Self::at(directory)?;
        let mut left = Vec::new();
        for leftover in shelf.leftovers()? {
            // There is nothing below a lock file, so it goes at once; whoever takes that lock next need not wait.
            if leftover.is_lock() { leftover.remove() } else { left.push(leftover) }
        }
        if !left.is_empty() {
            let sweep = move || left.into_iter().for_each(Leftover::remove);
            if let Err(error) = thread::Builder::new().name("sweep".into()).spawn(sweep) {
                tracing::warn!(%error, "what killed processes left stays until the next start");
            }
        }
        Ok(shelf)
    }

    fn at(directory: impl Into<PathBuf>) -> Result<Self, PublishError> {
        let given = directory.into();
        // Programs get paths below the directory and run in another one.
        let directory = std::path::absolute(&given).map_err(at("find", &given))?;
        create(&directory).map_err(at("create", &directory))?;
        Ok(Self { directory })
    }

    /// Makes something in the directory, which is created again if it is gone: a cache may be deleted at any time.
    fn inside<T>(&self, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&self.directory).and_then(|()| make()),
            made => made,
        }
    }

    /// Path of the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the entry `name`, whether or not it exists.
    pub fn path(&self, name: &str) -> Result<PathBuf, PublishError> {
        let plain = !name.is_empty() && !name.starts_with('.') && name.len() <= 200 && !name.contains(['/', '\0']);
        if plain { Ok(self.directory.join(name)) } else { Err(PublishError::Name { name: name.to_owned() }) }
    }

    /// Lists the names of all entries, sorted. Unfinished work, lock files and names that are not UTF-8 are left out.
    pub fn names(&self) -> Result<Vec<String>, PublishError> {
        let read = |source| PublishError::Io { what: "read", path: self.directory.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(read)? {
            if let Ok(name) = entry.map_err(read)?.file_name().into_string()
                && self.path(&name).is_ok()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Waits for the lock on `name`. The caller must check again whether its work is still to be done.
    pub fn lock(&self, name: &str, cancel: &Cancel) -> Result<NameLock, PublishError> {
        loop {
            cancel.check()?;
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            thread::sleep(LOCK_POLL);
        }
    }

    /// Like [`Self::lock`], but reports the phase `waiting` if somebody else holds the lock.
    pub fn lock_saying(&self, name: &str, waiting: &str, job: &Job<'_>) -> Result<NameLock, PublishError> {
        if let Some(lock) = self.try_lock(name)? {
            return Ok(lock);
        }
        job.progress.phase(waiting);
        self.lock(name, job.cancel)
    }

    /// Takes the lock on `name`; `None` if somebody holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<NameLock>, PublishError> {
        self.path(name)?;
        let path = self.directory.join(format!("{LOCK}{name}"));
        loop {
            let file = self
                .inside(|| File::options().read(true).write(true).create(true).truncate(false).open(&path))
                .map_err(at("open the lock", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, &path) => {
                    return Ok(Some(NameLock { name: name.to_owned(), path, file }));
                }
                // The last holder removes the file; a lock on a removed file excludes nobody.
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(at("lock", &path)(error)),
            }
        }
    }

    /// Creates an empty directory (mode 0700) in the same file system as the entries.
    pub fn stage(&self) -> Result<Staging, PublishError> {
        loop {
            let path = self
                .inside(|| tempfile::Builder::new().prefix(STAGING).tempdir_in(&self.directory))
                .map_err(at("create a directory in", &self.directory))?
                .keep();
            // A cleaner may have locked the directory first: then the directory is the cleaner's, and another one is
            // made.
            if let Some(lock) = try_lock(&path).map_err(at("lock", &path))? {
                return Ok(Staging::new(path, lock));
            }
        }
    }

    /// Creates an empty file (mode 0600) in the same file system as the entries.
    pub fn stage_file(&self) -> Result<StagedFile, PublishError> {
        loop {
            let file = self
                .inside(|| tempfile::Builder::new().prefix(STAGING).tempfile_in(&self.directory))
                .map_err(at("create a file in", &self.directory))?;
            let path = file.path();
            match flock(file.as_file(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(file.as_file(), path) => return Ok(StagedFile::new(file)),
                Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(at("lock", path)(error)),
            }
        }
    }

    /// Syncs the directory and publishes it under the lock's name, replacing an entry that exists. At no moment is
    /// there no entry, unless the file system cannot exchange two names.
    pub fn publish(&self, staging: Staging, lock: &NameLock) -> Result<PathBuf, PublishError> {
        sync_tree(staging.path())?;
        let target = self.rename(staging, lock)?;
        sync_directory(&self.directory)?;
        Ok(target)
    }

    /// Renames the directory to the lock's name without syncing it.
    fn rename(&self, staging: Staging, lock: &NameLock) -> Result<PathBuf, PublishError> {
        let target = self.path(&lock.name)?;
        match renameat_with(CWD, staging.path(), CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                // The staging directory has its final name now; dropping `staging` must not remove anything.
                staging.into_published();
            }
            // After the exchange the staging path is the old entry, which is removed when `staging` is dropped.
            Err(Errno::EXIST) => exchange(staging.path(), &target).map_err(at("replace", &target))?,
            Err(Errno::INVAL | Errno::NOSYS) if !target.exists() => {
                fs::rename(staging.path(), &target).map_err(at("publish", &target))?;
                staging.into_published();
            }
            Err(Errno::INVAL | Errno::NOSYS) => {
                let aside = self.stage()?;
                swap(aside.path(), staging.path(), &target).map_err(at("replace", &target))?;
            }
            Err(error) => return Err(at("publish", &target)(error)),
        }
        Ok(target)
    }

    /// Syncs the file and publishes it under `name`, replacing a file that exists. Needs no lock: of concurrent calls
    /// the last one wins, with a complete file.
    pub fn publish_file(&self, file: StagedFile, name: &str) -> Result<PathBuf, PublishError> {
        let target = self.path(name)?;
        file.file().sync_all().map_err(at("sync", &target))?;
        file.persist(&target).map_err(at("publish", &target))?;
        sync_directory(&self.directory)?;
        Ok(target)
    }

    /// Like [`Self::publish_file`], without a sync: for files that can be obtained again and are checked when they are
    /// used.
    pub fn publish_cached(&self, file: StagedFile, name: &str) -> Result<PathBuf, PublishError> {
        let target = self.path(name)?;
        file.persist(&target).map_err(at("publish", &target))?;
        Ok(target)
    }

    /// Syncs the file and publishes it inside the lock's entry as `file`, replacing a file that exists. A process
    /// killed in between leaves nothing in the entry.
    pub fn publish_within(&self, staged: StagedFile, lock: &NameLock, file: &str) -> Result<(), PublishError> {
        let entry = self.path(&lock.name)?;
        let target = entry.join(file);
        staged.file().sync_all().map_err(at("sync", &target))?;
        staged.persist(&target).map_err(at("replace", &target))?;
        sync_directory(&entry)
    }

    /// Removes the entry: it disappears for everybody at once and is deleted afterwards. Returns whether it existed.
    pub fn remove(&self, lock: &NameLock) -> Result<bool, PublishError> {
        let target = self.path(&lock.name)?;
        let grave = self.stage()?;
        match fs::rename(&target, grave.path().join("removed")) {
            Ok(()) => {
                sync_directory(&self.directory)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at("remove", &target)(error)),
        }
    }

    /// Finds unfinished work and lock files that no living process holds, and locks them for this process.
    fn leftovers(&self) -> Result<Vec<Leftover>, PublishError> {
        let mut left = Vec::new();
        let read = |source| PublishError::Io { what: "read", path: self.directory.clone(), source };
        for entry in fs::read_dir(&self.directory).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name();
            if ![STAGING, LOCK].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
                continue;
            }
            let path = entry.path();
            // An entry that vanishes or cannot be opened belongs to somebody else and must not keep the shelf from
            // working.
            if let Ok(Some(lock)) = try_lock(&path) {
                left.push(Leftover { path, _lock: lock });
            }
        }
        Ok(left)
    }
}

/// Leftover of a killed process, locked so that nobody else removes it.
struct Leftover {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Leftover {
    fn is_lock(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LOCK.as_bytes()))
    }

    /// Removes the leftover. A failure is logged; the next process tries again.
    fn remove(self) {
        tracing::debug!(path = %self.path.display(), "removing what a killed process left");
        if let Err(error) = remove_any(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what a killed process left");
        }
    }
}

impl NameLock {
    /// The name that is locked.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // Removed while still locked, so that nobody else takes a lock on it. If the directory was deleted and made
        // again, another process's lock file is there now.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` still leads to the open file `file`.
pub(crate) fn is_at(file: impl AsFd, path: &Path) -> bool {
    match (fstat(file), statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(ours), Ok(there)) => (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino),
        _ => false,
    }
}

/// Creates a directory that is the user's alone, and those above it.
fn create(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Locks the file or directory at `path`; `None` when another process holds it or it is no longer there.
fn try_lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let fd = match open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_at(&fd, path).then_some(fd)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Exchanges `staged` and `target` in one step.
fn exchange(staged: &Path, target: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE)?)
}

/// Replaces `target` on a file system that cannot exchange names: the old entry is first moved into `aside`.
fn swap(aside: &Path, staged: &Path, target: &Path) -> io::Result<()> {
    let old = aside.join("old");
    fs::rename(target, &old)?;
    fs::rename(staged, target).inspect_err(|_| {
        let _ = fs::rename(&old, target);
    })
}

#[cfg(test)]
mod tests;

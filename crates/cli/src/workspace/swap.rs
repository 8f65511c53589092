//! Replaces files of a working tree all together or not at all, whoever is killed meanwhile.
//!
//! The new files are made in a staging tree beside the working tree, on the same file system. Only when that is
//! complete, and a journal of what is to be done is on disk, are files exchanged by renames, for which a full disk has
//! room. If a rename fails, those before it are taken back; if the process is killed, the next one takes them back.

mod journal;
mod lock;
mod rename;

use super::{changes::RepoPath, patch, repository::Repository};
use journal::{FileIdentity, Journal};
pub(super) use lock::{ApplyLock, roll_back};
use rename::Renames;
use rustix::process::geteuid;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
};

/// Prefix of the names of staging directories.
const PREFIX: &str = "banger-apply-";

/// Failure to exchange files.
#[derive(Debug)]
pub(super) enum SwapError {
    /// All is as it was before.
    RolledBack(io::Error),
    /// Some files are exchanged and could not be taken back; the missing ones are below `kept`.
    RollbackFailed { error: io::Error, rollback_error: io::Error, kept: PathBuf },
}

/// A working tree and the staging directories of one exchange.
#[derive(Debug)]
struct SwapDirs {
    root: PathBuf,
    /// In the git directory, where nobody looks. Holds the journal.
    stage: PathBuf,
    /// Holds the files. The same directory as `stage`, unless the tree is on another file system than the git
    /// directory: then a directory of the same name in the tree.
    store: PathBuf,
}

impl SwapDirs {
    fn of(repository: &Repository, stage: PathBuf) -> io::Result<Self> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(|error| at(path, &error));
        let same = device(&repository.git_dir)? == device(&repository.root)?;
        let root = repository.root.clone();
        let store = if same { stage.clone() } else { root.join(stage.file_name().unwrap_or_default()) };
        Ok(Self { root, stage, store })
    }

    /// Refuses staging directories that may be a stranger's: of another user, or not directories (a symbolic link).
    fn check_owner(&self) -> io::Result<()> {
        let ours = |meta: &fs::Metadata| meta.is_dir() && meta.uid() == geteuid().as_raw();
        for dir in [&self.stage, &self.store, &self.store.join("tree"), &self.store.join("away")] {
            if metadata(dir)?.is_some_and(|meta| !ours(&meta)) {
                return Err(at(dir, &io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(())
    }

    /// Refuses a path that goes through a symbolic link in the working tree or, if it has a new file, in the staging
    /// tree.
    fn check_no_links(&self, path: &[u8], is_new: bool) -> io::Result<()> {
        let is_link = |path: &Path| metadata(path).map(|meta| meta.is_some_and(|meta| meta.is_symlink()));
        for parent in patch::parents(path) {
            if is_link(&self.in_tree(parent))? || is_new && is_link(&self.staged(parent))? {
                return Err(at(&self.in_tree(path), &io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(())
    }

    /// Returns the path of a file in the working tree.
    fn in_tree(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// Returns the path of a file in the staging tree.
    fn staged(&self, path: &[u8]) -> PathBuf {
        self.store.join("tree").join(OsStr::from_bytes(path))
    }

    /// Returns the path to which an old file is moved.
    fn old_file(&self, number: usize) -> PathBuf {
        self.store.join("away").join(number.to_string())
    }
}

/// A staging tree beside a working tree. Removed on drop with all that is in it.
#[derive(Debug)]
pub(super) struct Stage {
    dirs: SwapDirs,
    /// Directory in the tree, if the files have to be there. Dropped before `dir`.
    aside: Option<tempfile::TempDir>,
    dir: tempfile::TempDir,
    /// Identities of the working tree's files when they were staged. A file that differs later was written by somebody
    /// who did not know of the exchange.
    identities: BTreeMap<RepoPath, FileIdentity>,
    renames: Renames,
}

impl Stage {
    /// Makes a staging tree that holds `files` as they are now, and the attribute files that decide how git writes
    /// them.
    pub(super) fn beside(repository: &Repository, files: &BTreeSet<RepoPath>) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&repository.git_dir)?;
        let dirs = SwapDirs::of(repository, dir.path().to_owned())?;
        let mut stage = Self { dirs, aside: None, dir, identities: BTreeMap::new(), renames: Renames::default() };
        if let (true, Some(name)) = (stage.dirs.store != stage.dirs.stage, stage.dirs.store.file_name()) {
            let named = tempfile::Builder::new().prefix(name).rand_bytes(0).tempdir_in(&repository.root)?;
            stage.aside = Some(named);
        }
        for name in ["tree", "away"] {
            fs::create_dir(stage.dirs.store.join(name))?;
        }
        stage.add(b".gitattributes")?;
        for (_, dir) in patch::directories(files) {
            stage.add(&[dir, b"/.gitattributes"].concat())?;
            // A file where a directory would have to be.
            stage.add(dir)?;
        }
        for path in files {
            stage.add(path)?;
        }
        Ok(stage)
    }

    /// Returns the path of the staging tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.dirs.staged(b"")
    }

    /// Puts a file or symbolic link of the working tree into the staging tree, too.
    fn add(&mut self, path: &[u8]) -> io::Result<()> {
        let (from, to) = (self.dirs.in_tree(path), self.dirs.staged(path));
        let Some(meta) = metadata(&from)?.filter(|meta| !meta.is_dir()) else { return Ok(()) };
        if metadata(&to)?.is_some() {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        self.identities.insert(path.to_vec(), FileIdentity::of(&meta));
        if meta.is_symlink() {
            symlink(fs::read_link(&from)?, &to)
        } else if meta.is_file() {
            // git replaces files and does not write into them, so a hard link does; without hard links, a copy.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", from.display())))
        }
    }

    /// Makes `files` in the working tree what they are in the staging tree.
    pub(super) fn swap(self, files: &BTreeSet<RepoPath>) -> Result<(), SwapError> {
        let journal = Journal::plan(&self.dirs, files).and_then(|journal| {
            journal.write(&self.dirs)?;
            Ok(journal)
        });
        let journal = journal.map_err(SwapError::RolledBack)?;
        // Removing the journal completes the exchange, whatever happens afterwards.
        let done = self.exchange(&journal).and_then(|()| Journal::remove(&self.dirs));
        let Err(error) = done else {
            for path in files {
                self.remove_empty_dirs(path);
            }
            return Ok(());
        };
        match journal.roll_back(&self.dirs, &self.renames) {
            Ok(()) => Err(SwapError::RolledBack(error)),
            // The staging directories hold the only copies of the old files.
            Err(rollback_error) => Err(SwapError::RollbackFailed { error, rollback_error, kept: self.keep() }),
        }
    }

    /// Leaves the staging directories for the next process; returns the one with the files.
    fn keep(self) -> PathBuf {
        let stage = self.dir.keep();
        self.aside.map_or(stage, tempfile::TempDir::keep)
    }

    fn exchange(&self, journal: &Journal) -> io::Result<()> {
        let Self { dirs, renames, .. } = self;
        let files = || journal.files.iter().enumerate();
        // Old files go first: a directory may have to be where a file was.
        for (number, change) in files().filter(|(_, change)| change.old) {
            let (here, away) = (dirs.in_tree(&change.path), dirs.old_file(number));
            match change.new {
                Some(_) => renames.exchange(&dirs.staged(&change.path), &here, &away)?,
                None => renames.rename(&here, &away)?,
            }
        }
        for dir in &journal.dirs {
            let dir = dirs.in_tree(dir);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&dir, &error)),
                _ => {}
            }
        }
        for (number, change) in files().filter(|(_, change)| change.is_added()) {
            let here = dirs.in_tree(&change.path);
            if metadata(&here)?.is_some() {
                // A directory is in the way; files in it are not ours to remove.
                if holds_files(&here)? {
                    return Err(at(&here, &io::ErrorKind::DirectoryNotEmpty.into()));
                }
                renames.rename(&here, &dirs.old_file(number))?;
            }
            renames.rename(&dirs.staged(&change.path), &here)?;
        }
        self.check_untouched(journal)
    }

    /// Fails if an exchanged file was not the one that was staged: the new files do not contain what somebody wrote
    /// since.
    fn check_untouched(&self, journal: &Journal) -> io::Result<()> {
        for (number, change) in journal.files.iter().enumerate() {
            let went = match metadata(&self.dirs.old_file(number))? {
                None if change.old => metadata(&self.dirs.staged(&change.path))?,
                // Where no file was, a directory may have been.
                away => away.filter(|_| change.old),
            };
            if went.as_ref().map(FileIdentity::of).as_ref() != self.identities.get(&change.path) {
                let what = format!("{} was changed meanwhile", self.dirs.in_tree(&change.path).display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
            }
        }
        Ok(())
    }

    /// Removes the directories that are empty now.
    fn remove_empty_dirs(&self, path: &[u8]) {
        if metadata(&self.dirs.in_tree(path)).is_ok_and(|meta| meta.is_some()) {
            return;
        }
        for parent in patch::parents(path) {
            if fs::remove_dir(self.dirs.in_tree(parent)).is_err() {
                return;
            }
        }
    }
}

/// Returns the metadata of a path without following links; none where nothing is, or where a file is in place of a
/// directory above it.
fn metadata(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

fn holds_files(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || holds_files(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;

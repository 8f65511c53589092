//! Files that change all together or not at all, whoever is killed meanwhile.
//!
//! What is new is made in a small tree beside the working tree, on the same file system; only when that is whole, and what
//! is to be done is written down, do files change places, by renames, for which a full disk has room. Should one of them
//! fail all the same, those before it are taken back; should all of this be killed, the next one does that.

mod journal;
mod rename;
mod turn;

use super::{changes::RepoPath, patch, repository::Repository};
use journal::{Journal, Known};
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
pub(super) use turn::{Turn, take_back};

/// How the names of stages begin.
const PREFIX: &str = "banger-apply-";

/// Why files did not change places.
#[derive(Debug)]
pub(super) enum SwapError {
    /// Nothing changed.
    TakenBack(io::Error),
    /// Something did, and could not be taken back; what is missing is in `kept`.
    Stuck { error: io::Error, undoing: io::Error, kept: PathBuf },
}

/// A working tree and a stage beside it.
#[derive(Debug)]
struct Places {
    root: PathBuf,
    /// In git's directory, where nobody looks. The journal is here.
    stage: PathBuf,
    /// The files are here: the same place, unless that is another file system than the tree's; then it has the same name
    /// in the tree.
    store: PathBuf,
}

impl Places {
    fn of(repository: &Repository, stage: PathBuf) -> io::Result<Self> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(|error| at(path, &error));
        let same = device(&repository.git_dir)? == device(&repository.root)?;
        let root = repository.root.clone();
        let store = if same { stage.clone() } else { root.join(stage.file_name().unwrap_or_default()) };
        Ok(Self { root, stage, store })
    }

    /// Refuses a stage that may be a stranger's: somebody else's, or one that is elsewhere than it looks.
    fn are_ours(&self) -> io::Result<()> {
        let ours = |meta: &fs::Metadata| meta.is_dir() && meta.uid() == geteuid().as_raw();
        for dir in [&self.stage, &self.store, &self.store.join("tree"), &self.store.join("away")] {
            if there(dir)?.is_some_and(|meta| !ours(&meta)) {
                return Err(at(dir, &io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(())
    }

    /// Refuses a path that leads through a link: out of the tree or, where there `is_new` of it, of the small one.
    fn hold(&self, path: &[u8], is_new: bool) -> io::Result<()> {
        let is_link = |path: &Path| there(path).map(|meta| meta.is_some_and(|meta| meta.is_symlink()));
        for parent in patch::parents(path) {
            if is_link(&self.here(parent))? || is_new && is_link(&self.small(parent))? {
                return Err(at(&self.here(path), &io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(())
    }

    /// A file of the working tree.
    fn here(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// The same in the small one.
    fn small(&self, path: &[u8]) -> PathBuf {
        self.store.join("tree").join(OsStr::from_bytes(path))
    }

    /// Where files go that are no longer wanted.
    fn away(&self, number: usize) -> PathBuf {
        self.store.join("away").join(number.to_string())
    }
}

/// A small tree beside a working tree. It goes when it is dropped, with all that was in it.
#[derive(Debug)]
pub(super) struct Stage {
    places: Places,
    /// In the tree, if it has to be there. It goes first.
    aside: Option<tempfile::TempDir>,
    dir: tempfile::TempDir,
    /// What the files of the working tree were when they came here. Another one is somebody's who did not know of this.
    laid: BTreeMap<RepoPath, Known>,
    renames: Renames,
}

impl Stage {
    /// Makes one that holds `files` as they are now, and what decides how they are written.
    pub(super) fn beside(repository: &Repository, files: &BTreeSet<RepoPath>) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&repository.git_dir)?;
        let places = Places::of(repository, dir.path().to_owned())?;
        let mut stage = Self { places, aside: None, dir, laid: BTreeMap::new(), renames: Renames::default() };
        if let (true, Some(name)) = (stage.places.store != stage.places.stage, stage.places.store.file_name()) {
            let named = tempfile::Builder::new().prefix(name).rand_bytes(0).tempdir_in(&repository.root)?;
            stage.aside = Some(named);
        }
        for name in ["tree", "away"] {
            fs::create_dir(stage.places.store.join(name))?;
        }
        stage.lay(b".gitattributes")?;
        for (_, dir) in patch::directories(files) {
            stage.lay(&[dir, b"/.gitattributes"].concat())?;
            // A file where a directory would have to be.
            stage.lay(dir)?;
        }
        for path in files {
            stage.lay(path)?;
        }
        Ok(stage)
    }

    /// The small tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.places.small(b"")
    }

    /// Has a file or link of the working tree in the small one, too.
    fn lay(&mut self, path: &[u8]) -> io::Result<()> {
        let (from, to) = (self.places.here(path), self.places.small(path));
        let Some(meta) = there(&from)?.filter(|meta| !meta.is_dir()) else { return Ok(()) };
        if there(&to)?.is_some() {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        self.laid.insert(path.to_vec(), Known::of(&meta));
        if meta.is_symlink() {
            symlink(fs::read_link(&from)?, &to)
        } else if meta.is_file() {
            // Whoever writes there makes a file anew; where there are no second names, a copy does.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", from.display())))
        }
    }

    /// Makes `files` in the working tree what they are in the small one.
    pub(super) fn swap(self, files: &BTreeSet<RepoPath>) -> Result<(), SwapError> {
        let journal = Journal::plan(&self.places, files).and_then(|journal| {
            journal.write(&self.places)?;
            Ok(journal)
        });
        let journal = journal.map_err(SwapError::TakenBack)?;
        // Once the journal is gone it is done, whatever becomes of the rest.
        let done = self.exchange(&journal).and_then(|()| Journal::remove(&self.places));
        let Err(error) = done else {
            for path in files {
                self.tidy(path);
            }
            return Ok(());
        };
        match journal.take_back(&self.places, &self.renames) {
            Ok(()) => Err(SwapError::TakenBack(error)),
            // The old files are nowhere else.
            Err(undoing) => Err(SwapError::Stuck { error, undoing, kept: self.keep() }),
        }
    }

    /// Leaves it for the next one; where the files are.
    fn keep(self) -> PathBuf {
        let stage = self.dir.keep();
        self.aside.map_or(stage, tempfile::TempDir::keep)
    }

    fn exchange(&self, journal: &Journal) -> io::Result<()> {
        let Self { places, renames, .. } = self;
        let files = || journal.files.iter().enumerate();
        // What goes makes room first: a directory may have to be where a file was.
        for (number, change) in files().filter(|(_, change)| change.old) {
            let (here, away) = (places.here(&change.path), places.away(number));
            match change.new {
                Some(_) => renames.exchange(&places.small(&change.path), &here, &away)?,
                None => renames.rename(&here, &away)?,
            }
        }
        for dir in &journal.dirs {
            let dir = places.here(dir);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&dir, &error)),
                _ => {}
            }
        }
        for (number, change) in files().filter(|(_, change)| change.comes()) {
            let here = places.here(&change.path);
            if there(&here)?.is_some() {
                // A directory: files in it are nobody's to remove.
                if holds_files(&here)? {
                    return Err(at(&here, &io::ErrorKind::DirectoryNotEmpty.into()));
                }
                renames.rename(&here, &places.away(number))?;
            }
            renames.rename(&places.small(&change.path), &here)?;
        }
        self.nobody_else(journal)
    }

    /// Refuses what took the place of something that was not there when the stage was made, or not like that: the new files
    /// know nothing of it.
    fn nobody_else(&self, journal: &Journal) -> io::Result<()> {
        for (number, change) in journal.files.iter().enumerate() {
            let went = match there(&self.places.away(number))? {
                None if change.old => there(&self.places.small(&change.path))?,
                // Where no file was, a directory may have been.
                away => away.filter(|_| change.old),
            };
            if went.as_ref().map(Known::of).as_ref() != self.laid.get(&change.path) {
                let what = format!("{} was changed meanwhile", self.places.here(&change.path).display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
            }
        }
        Ok(())
    }

    /// Removes the directories that the last file has left.
    fn tidy(&self, path: &[u8]) {
        if there(&self.places.here(path)).is_ok_and(|meta| meta.is_some()) {
            return;
        }
        for parent in patch::parents(path) {
            if fs::remove_dir(self.places.here(parent)).is_err() {
                return;
            }
        }
    }
}

/// What is at a path, itself; none where nothing is, or a file where a directory would have to be.
fn there(path: &Path) -> io::Result<Option<fs::Metadata>> {
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

//! Files that change all together or not at all.
//!
//! What is new is made in a small tree beside the working tree, on the same file system; only when that is whole do files
//! change places, by renames, for which a full disk has room. Should one of them fail all the same, those before it are
//! taken back.

use super::{changes::RepoPath, patch, repository::Repository};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
};

/// Why files did not change places.
#[derive(Debug)]
pub(super) enum SwapError {
    /// Nothing changed.
    TakenBack(io::Error),
    /// Something did, and could not be taken back; what is missing is in `kept`.
    Stuck { error: io::Error, undoing: io::Error, kept: PathBuf },
}

/// A small tree beside a working tree. It goes when it is dropped, with all that was in it.
#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Makes one that holds `files` as they are now, and what decides how they are written.
    pub(super) fn beside(repository: &Repository, files: &BTreeSet<RepoPath>) -> io::Result<Self> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let root = repository.root.clone();
        // Where nobody looks, unless that is another file system.
        let at = if device(&repository.git_dir)? == device(&root)? { &repository.git_dir } else { &root };
        let dir = tempfile::Builder::new().prefix("banger-apply-").tempdir_in(at)?;
        let stage = Self { root, dir };
        fs::create_dir(stage.tree())?;
        fs::create_dir(stage.away())?;
        stage.lay(b".gitattributes")?;
        for path in files {
            for parent in patch::parents(path) {
                stage.lay(&[parent, b"/.gitattributes"].concat())?;
                // A file where a directory would have to be.
                stage.lay(parent)?;
            }
            stage.lay(path)?;
        }
        Ok(stage)
    }

    /// The small tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Where files go that are no longer wanted.
    fn away(&self) -> PathBuf {
        self.dir.path().join("away")
    }

    /// Has a file or link of the working tree in the small one, too.
    fn lay(&self, path: &[u8]) -> io::Result<()> {
        let name = OsStr::from_bytes(path);
        let (from, to) = (self.root.join(name), self.tree().join(name));
        let Some(meta) = there(&from)?.filter(|meta| !meta.is_dir()) else { return Ok(()) };
        if there(&to)?.is_some() {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
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
        let mut journal = Journal::default();
        let Err(error) = self.exchange(files, &mut journal) else {
            for path in files {
                self.tidy(path);
            }
            return Ok(());
        };
        match journal.undo() {
            Ok(()) => Err(SwapError::TakenBack(error)),
            // The old files are nowhere else.
            Err(undoing) => Err(SwapError::Stuck { error, undoing, kept: self.dir.keep() }),
        }
    }

    fn exchange(&self, files: &BTreeSet<RepoPath>, journal: &mut Journal) -> io::Result<()> {
        let mut coming = Vec::new();
        // What goes makes room first: a directory may have to be where a file was.
        for (number, path) in files.iter().enumerate() {
            let name = OsStr::from_bytes(path);
            let (here, new) = (self.root.join(name), self.tree().join(name));
            let is_file = |path: &Path| there(path).map(|meta| meta.is_some_and(|meta| !meta.is_dir()));
            let away = self.away().join(number.to_string());
            match (is_file(&here)?, is_file(&new)?) {
                (true, true) => journal.exchange(&new, &here, &away)?,
                (true, false) => journal.rename(&here, &away)?,
                (false, true) => coming.push((path, new, here, away)),
                (false, false) => {}
            }
        }
        for (path, new, here, away) in coming {
            let mut parents: Vec<&[u8]> = patch::parents(path).collect();
            parents.reverse();
            for parent in parents {
                journal.make_dir(&self.root.join(OsStr::from_bytes(parent)))?;
            }
            if there(&here)?.is_some() {
                // A directory: files in it are nobody's to remove.
                if holds_files(&here)? {
                    return Err(at(&here, &io::ErrorKind::DirectoryNotEmpty.into()));
                }
                journal.rename(&here, &away)?;
            }
            journal.rename(&new, &here)?;
        }
        Ok(())
    }

    /// Removes the directories that the last file has left.
    fn tidy(&self, path: &[u8]) {
        if there(&self.root.join(OsStr::from_bytes(path))).is_ok_and(|meta| meta.is_some()) {
            return;
        }
        for parent in patch::parents(path) {
            if fs::remove_dir(self.root.join(OsStr::from_bytes(parent))).is_err() {
                return;
            }
        }
    }
}

/// What was done, so that it can be taken back.
#[derive(Debug, Default)]
struct Journal(Vec<Done>);

#[derive(Debug)]
enum Done {
    Renamed { from: PathBuf, to: PathBuf },
    Exchanged(PathBuf, PathBuf),
    Made(PathBuf),
}

impl Journal {
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
            .or_else(|error| match error {
                // A file system without such renames.
                rustix::io::Errno::INVAL if to.symlink_metadata().is_err() => rustix::fs::rename(from, to),
                error => Err(error),
            })
            .map_err(|error| at(to, &error.into()))?;
        self.0.push(Done::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    /// Two files take each other's place; in two steps over `away` where the file system cannot do it in one.
    fn exchange(&mut self, new: &Path, here: &Path, away: &Path) -> io::Result<()> {
        match renameat_with(CWD, new, CWD, here, RenameFlags::EXCHANGE) {
            Ok(()) => self.0.push(Done::Exchanged(new.to_owned(), here.to_owned())),
            Err(rustix::io::Errno::INVAL) => {
                self.rename(here, away)?;
                self.rename(new, here)?;
            }
            Err(error) => return Err(at(here, &error.into())),
        }
        Ok(())
    }

    fn make_dir(&mut self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Ok(()) => self.0.push(Done::Made(dir.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(dir, &error)),
        }
        Ok(())
    }

    /// The last first; all of it, whatever fails.
    fn undo(self) -> io::Result<()> {
        let mut first = Ok(());
        for done in self.0.into_iter().rev() {
            let undone = match &done {
                Done::Renamed { from, to } => fs::rename(to, from).map_err(|error| at(from, &error)),
                Done::Exchanged(a, b) => {
                    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(|error| at(b, &error.into()))
                }
                Done::Made(dir) => fs::remove_dir(dir).map_err(|error| at(dir, &error)),
            };
            first = first.and(undone);
        }
        first
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
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A working tree with `files`, a stage over `touched`, and what the tree is.
    fn stage(files: &[(&str, &str)], touched: &[&str]) -> (tempfile::TempDir, Stage, BTreeSet<RepoPath>) {
        let temp = tempfile::tempdir().unwrap();
        let repository = Repository {
            root: temp.path().to_owned(),
            git_dir: temp.path().join(".git"),
            common_dir: temp.path().join(".git"),
        };
        fs::create_dir(&repository.git_dir).unwrap();
        for (name, content) in files {
            write(&repository.root, name, content);
        }
        let touched = touched.iter().map(|path| path.as_bytes().to_vec()).collect();
        let stage = Stage::beside(&repository, &touched).unwrap();
        (temp, stage, touched)
    }

    fn write(root: &Path, name: &str, content: &str) {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        // As git does: never into what is there.
        let _ = fs::remove_file(root.join(name));
        fs::write(root.join(name), content).unwrap();
    }

    fn tree(root: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_name() != ".git") {
                let name = entry.path().strip_prefix(root).unwrap().display().to_string();
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                    found.insert(name + "/", String::new());
                } else {
                    found.insert(name, fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn files_change_places() {
        let files =
            [("same", "s"), ("changed", "old"), ("gone/deep/x", "g"), ("was", "w"), ("dir/x", "d"), ("dir/y", "d")];
        let touched = ["changed", "gone/deep/x", "new/a", "was", "was/in", "dir", "dir/x", "dir/y"];
        let (temp, stage, touched) = stage(&files, &touched);
        fs::create_dir_all(temp.path().join("new/a")).unwrap();
        let small = stage.tree();
        for path in ["gone/deep/x", "was", "dir/x", "dir/y"] {
            fs::remove_file(small.join(path)).unwrap();
        }
        fs::remove_dir(small.join("dir")).unwrap();
        for (name, content) in [("changed", "new"), ("new/a", "a"), ("was/in", "i"), ("dir", "a file")] {
            write(&small, name, content);
        }
        stage.swap(&touched).unwrap();
        let is = tree(temp.path());
        let expected = [
            ("changed", "new"),
            ("dir", "a file"),
            ("new/", ""),
            ("new/a", "a"),
            ("same", "s"),
            ("was/", ""),
            ("was/in", "i"),
        ];
        assert_eq!(is, expected.map(|(name, content)| (name.to_owned(), content.to_owned())).into());
        assert_eq!(fs::read_dir(temp.path().join(".git")).unwrap().count(), 0);
    }

    #[test]
    fn what_was_done_is_taken_back() {
        let files = [("a", "old"), ("gone", "g"), ("z/untracked", "u")];
        let (temp, stage, touched) = stage(&files, &["a", "gone", "new/deep/b", "z"]);
        let small = stage.tree();
        fs::remove_file(small.join("gone")).unwrap();
        for (name, content) in [("a", "new"), ("new/deep/b", "b"), ("z", "in the way of it is somebody's file")] {
            write(&small, name, content);
        }
        let before = tree(temp.path());
        let SwapError::TakenBack(error) = stage.swap(&touched).unwrap_err() else { panic!("it is stuck") };
        assert!(error.to_string().contains("/z: "), "{error}");
        assert_eq!(tree(temp.path()), before);
        assert_eq!(fs::read_dir(temp.path().join(".git")).unwrap().count(), 0);
    }
}

//! Temporary git directory over a repository's objects and working tree.
//!
//! The repository's configuration is not in it, so no filter, hook, file-system monitor, helper or remote that it names
//! exists for a git that works here. Its index is a copy: refreshing it changes nothing of the user's.

use super::{
    cannot,
    git::{Call, Git},
    repository::Repository,
    settings::Settings,
};
use banger_proto::failure::{Code, Failure};
use rustix::fs::OFlags;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// Largest small file that is read, in bytes.
const MAX_SMALL: u64 = 4 << 20;
/// Largest index, in bytes.
const MAX_INDEX: u64 = 1 << 30;
/// Files in a git directory that decide which files are ignored, converted or checked out, besides those in the tree.
pub(crate) const RULES: [&str; 3] = ["info/exclude", "info/attributes", "info/sparse-checkout"];

/// Temporary git directory that borrows a repository's objects and working tree and none of its configuration. Removed
/// on drop.
#[derive(Debug)]
pub(crate) struct ShadowRepository {
    dir: tempfile::TempDir,
    git: Git,
    root: PathBuf,
    objects: PathBuf,
    /// Whether a setting converts files that no attribute names.
    converts: bool,
}

impl ShadowRepository {
    /// Makes one whose HEAD is `head`, with a copy of the repository's index.
    pub(crate) fn over(
        git: &Git,
        repository: &Repository,
        settings: &Settings,
        head: Option<&str>,
    ) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new()
            .prefix("banger-git-")
            .tempdir()
            .map_err(|error| Failure::caused_by(Code::Unavailable, "cannot make a temporary directory", &error))?;
        let (root, objects) = (repository.root.clone(), repository.objects());
        let shadow = Self { git: git.clone(), root, objects, converts: settings.convert(), dir };
        shadow.fill(repository, settings, head).map_err(|error| cannot("read", &repository.git_dir, &error))?;
        Ok(shadow)
    }

    fn fill(&self, repository: &Repository, settings: &Settings, head: Option<&str>) -> io::Result<()> {
        let dir = self.dir.path();
        for name in ["objects", "refs", "info"] {
            fs::create_dir(dir.join(name))?;
        }
        let head = head.map_or_else(|| "ref: refs/heads/banger-unborn\n".to_owned(), |head| format!("{head}\n"));
        fs::write(dir.join("HEAD"), head)?;
        fs::write(dir.join("config"), settings.for_shadow().text())?;
        for rules in RULES {
            if let Some(text) = rules_of(repository, rules)? {
                fs::write(dir.join(rules), text)?;
            }
        }
        let shallow = small(&repository.common_dir.join("shallow"))?;
        if let Some(shallow) = shallow {
            fs::write(dir.join("shallow"), shallow)?;
        }
        let index = repository.git_dir.join("index");
        match fs::symlink_metadata(&index) {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_INDEX => {
                fs::copy(&index, self.index())?;
                // git reads files that are no older than the index, for they may have been changed in the moment after
                // it was written (gitformat-index, "racy git"). Against a newer copy they would look older. The time is
                // set through a handle open for reading, since the copy of a read-only index is read-only; its owner
                // may set the time all the same.
                File::open(self.index())?.set_modified(meta.modified()?)?;
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the index is no index")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // With a split index there are two files.
        for entry in fs::read_dir(&repository.git_dir)?.flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && entry.file_name().to_string_lossy().starts_with("sharedindex.") {
                symlink(entry.path(), dir.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Prepares a run of git on this repository.
    pub(crate) fn call(&self) -> Call {
        self.call_on(&self.root)
    }

    /// Prepares a run of git on this repository and another working tree.
    pub(crate) fn call_on(&self, tree: &Path) -> Call {
        self.git
            .call()
            .env("GIT_DIR", self.dir.path())
            .env("GIT_WORK_TREE", tree)
            .env("GIT_OBJECT_DIRECTORY", &self.objects)
            .within(tree)
    }

    /// Returns the path of the copy of the index.
    pub(crate) fn index(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    /// Returns the attributes that are not in the tree.
    pub(crate) fn own_attributes(&self) -> Option<Vec<u8>> {
        small(&self.dir.path().join("info/attributes")).ok().flatten()
    }

    /// Whether any file may differ from its object in its bytes, without an attribute that says so.
    pub(crate) fn converts(&self) -> bool {
        self.converts
    }

    /// Returns a hash over all that the index holds.
    pub(crate) fn staged(&self) -> Result<String, Failure> {
        let listing = self.call().args(["ls-files", "-s", "-z"]).ask("list the repository's index", b"")?;
        let id = self.call().args(["hash-object", "--stdin"]).ask("name the repository's index", &listing)?;
        Ok(String::from_utf8_lossy(&id).into_owned())
    }

    /// Cuts history off at these commits.
    pub(crate) fn cut(&self, commits: &[String]) -> io::Result<()> {
        let path = self.dir.path().join("shallow");
        if commits.is_empty() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            fs::write(path, commits.join("\n") + "\n")
        }
    }
}

/// Reads one of [`RULES`]: the worktree's own for a sparse checkout, the shared one otherwise.
pub(crate) fn rules_of(repository: &Repository, rules: &str) -> io::Result<Option<Vec<u8>>> {
    let dir = if rules.ends_with("sparse-checkout") { &repository.git_dir } else { &repository.common_dir };
    small(&dir.join(rules))
}

/// Returns the commits at which the repository's own history is cut off.
pub(crate) fn shallow_of(repository: &Repository) -> io::Result<Vec<String>> {
    let text = small(&repository.common_dir.join("shallow"))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}

/// Reads a small file; none where there is none, or something other than a file. A symbolic link is not followed: a
/// stranger may have chosen its target, and what is read here goes to a guest.
pub(crate) fn small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = fs::OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_SMALL + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SMALL {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} is too large", path.display())));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_no_file_of_rules() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, rules) = (dir.path().join("id_ed25519"), dir.path().join("exclude"));
        fs::write(&secret, "a key").unwrap();
        assert_eq!(small(&secret).unwrap().as_deref(), Some(&b"a key"[..]));
        symlink(&secret, &rules).unwrap();
        assert_eq!(small(&rules).unwrap(), None);
        assert_eq!(small(&dir.path().join("none")).unwrap(), None);
    }
}

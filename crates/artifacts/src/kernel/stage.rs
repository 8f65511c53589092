//! Writes an untrusted tree into a new directory.
//!
//! Everything is created below one root, with modes chosen here. Symbolic links are made last, when nothing more is
//! written through any path, and each must then lead to something inside the root; so no order of entries can make a
//! write leave the root.

use super::archive::{ArchiveError, Limits};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

/// Upper bound of levels in a path. Every parent of a path is created, so many deep paths would mean many directories.
const MAX_DEPTH: usize = 64;
/// Upper bound of the bytes of paths and link texts. Links are kept in memory, and readers of the tree keep its names.
const MAX_TEXT: u64 = 16 << 20;

/// A tree being written.
#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
    links: Vec<(PathBuf, PathBuf)>,
    /// Remaining number of names, implied directories included, and of their bytes.
    left: Limits,
    limit: u64,
}

impl Stage {
    /// Creates a writer of at most `entries` names below `root`, an empty directory nobody else uses.
    pub(super) fn new(root: impl Into<PathBuf>, entries: u64) -> Self {
        let left = Limits { entries, bytes: MAX_TEXT };
        Self { root: root.into(), links: Vec::new(), left, limit: entries }
    }

    /// Path of the root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Creates a directory with its parents, unless it exists.
    pub(super) fn directory(&mut self, path: &Path) -> Result<(), ArchiveError> {
        if path.components().count() > MAX_DEPTH {
            return Err(ArchiveError::TooDeep { path: path.to_owned() });
        }
        let full = self.root.join(path);
        match fs::DirBuilder::new().mode(0o755).create(&full) {
            Ok(()) => self.count(path, 0),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // It cannot be a link, because links are made last.
                if fs::symlink_metadata(&full).is_ok_and(|found| found.is_dir()) { Ok(()) } else { Err(taken(path)) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(taken(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
                self.parents(path)?;
                fs::DirBuilder::new().mode(0o755).create(&full).map_err(|source| unwritten(source, path))?;
                self.count(path, 0)
            }
            Err(source) => Err(unwritten(source, path)),
        }
    }

    /// Counts one more name, and `text` bytes in addition to its path.
    fn count(&mut self, path: &Path, text: usize) -> Result<(), ArchiveError> {
        let bytes = (path.as_os_str().len() + text) as u64;
        let left = self.left.entries.checked_sub(1).zip(self.left.bytes.checked_sub(bytes));
        let (entries, bytes) = left.ok_or(ArchiveError::TooManyEntries(self.limit))?;
        self.left = Limits { entries, bytes };
        Ok(())
    }

    /// Writes a file (0644) with all of `content`. `path` must be relative and plain.
    pub(super) fn file(&mut self, path: &Path, content: &mut dyn Read) -> Result<u64, ArchiveError> {
        fill(&mut self.create(path)?, path, content)
    }

    /// Creates an empty file (0644), open for reading and writing.
    pub(super) fn create(&mut self, path: &Path) -> Result<File, ArchiveError> {
        self.parents(path)?;
        self.count(path, 0)?;
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(self.root.join(path));
        open.map_err(|error| duplicate(error, path))
    }

    /// Adds a second name for an existing file.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), ArchiveError> {
        self.parents(path)?;
        self.count(path, 0)?;
        fs::hard_link(self.root.join(target), self.root.join(path)).map_err(|error| {
            // A path through a file leads nowhere; the system refuses a path to a directory.
            let nowhere = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::PermissionDenied];
            if nowhere.contains(&error.kind()) {
                return ArchiveError::Link { path: path.to_owned() };
            }
            duplicate(error, path)
        })
    }

    /// Records a symbolic link, which [`Self::finish`] makes.
    pub(super) fn symlink(&mut self, path: &Path, target: PathBuf) -> Result<(), ArchiveError> {
        self.count(path, target.as_os_str().len())?;
        self.links.push((path.to_owned(), target));
        Ok(())
    }

    /// Makes the symbolic links; each must lead to something in the directory `within`.
    pub(super) fn finish(&mut self, within: &Path) -> Result<(), ArchiveError> {
        // All directories are created first: once a link exists, nothing more is created below anything. A link whose
        // path another link needs as a directory is then a duplicate.
        let links = std::mem::take(&mut self.links);
        for (path, _) in &links {
            self.parents(path)?;
        }
        for (path, target) in &links {
            symlink(target, self.root.join(path)).map_err(|error| duplicate(error, path))?;
        }
        let root = fs::canonicalize(self.root.join(within))?;
        for (path, target) in &links {
            // An absolute link may lead elsewhere later, even if it leads inside today.
            let inside = fs::canonicalize(self.root.join(path)).is_ok_and(|target| target.starts_with(&root));
            if !inside || target.is_absolute() {
                return Err(ArchiveError::Link { path: path.clone() });
            }
        }
        Ok(())
    }

    fn parents(&mut self, path: &Path) -> Result<(), ArchiveError> {
        match path.parent() {
            Some(parent) => self.directory(parent),
            None => Ok(()),
        }
    }
}

/// Writes all of `content` to `file`, whose path is for errors. The error tells a bad archive from a full disk.
pub(super) fn fill(file: &mut File, path: &Path, content: &mut dyn Read) -> Result<u64, ArchiveError> {
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(|source| unwritten(source, path))?;
                length += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn duplicate(error: io::Error, path: &Path) -> ArchiveError {
    if error.kind() == io::ErrorKind::AlreadyExists { taken(path) } else { unwritten(error, path) }
}

fn taken(path: &Path) -> ArchiveError {
    ArchiveError::Duplicate { path: path.to_owned() }
}

pub(super) fn unwritten(source: io::Error, path: &Path) -> ArchiveError {
    ArchiveError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_links(links: &[(&str, &str)]) -> (tempfile::TempDir, Result<(), ArchiveError>) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(temp.path().join("secret"), "x").unwrap();
        let mut stage = Stage::new(root, 100);
        stage.file(Path::new("deep/er/file"), &mut &b"content"[..]).unwrap();
        for (path, target) in links {
            stage.symlink(Path::new(path), PathBuf::from(target)).unwrap();
        }
        (temp, stage.finish(Path::new("deep")))
    }

    #[test]
    fn links_inside_are_kept() {
        let (temp, result) = with_links(&[("deep/a", "er/file"), ("deep/b/c", "../er"), ("deep/d", "b/c/file")]);
        result.unwrap();
        assert_eq!(fs::read_to_string(temp.path().join("root/deep/d")).unwrap(), "content");
    }

    #[test]
    fn links_that_lead_out_are_refused_however_they_get_there() {
        for links in [
            &[("deep/a", "../../secret")][..],
            &[("deep/a", "/etc/passwd")],
            &[("deep/a", "missing")],
            &[("deep/a", "a")],
            // Below the root, and still outside of what will be published.
            &[("deep/a", "..")],
            // Each looks harmless as text: the first resolves to the top, the second from there to outside.
            &[("deep/er/d", "../.."), ("deep/x", "er/d/../secret")],
            &[("deep/a", "er"), ("deep/a/x", "file")],
            &[("deep/a", "er"), ("deep/a", "er/file")],
        ] {
            let (temp, result) = with_links(links);
            assert!(result.is_err(), "{links:?}");
            assert!(!temp.path().join("root/deep/er/x").exists(), "{links:?}: written through a link");
        }
    }

    #[test]
    fn nothing_is_written_twice_and_hard_links_need_their_file() {
        let temp = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(temp.path(), 100);
        let path = Path::new("a/b");
        stage.file(path, &mut &b"1"[..]).unwrap();
        assert!(matches!(stage.file(path, &mut &b"2"[..]), Err(ArchiveError::Duplicate { .. })));
        stage.hard_link(Path::new("c"), path).unwrap();
        assert_eq!(fs::read(temp.path().join("c")).unwrap(), b"1");
        assert!(matches!(stage.hard_link(Path::new("d"), Path::new("no")), Err(ArchiveError::Link { .. })));
        assert!(matches!(stage.hard_link(path, Path::new("c")), Err(ArchiveError::Duplicate { .. })));
        for path in ["c", "c/x", "c/x/y"] {
            assert!(matches!(stage.directory(Path::new(path)), Err(ArchiveError::Duplicate { .. })), "{path}");
            let below = Path::new(path).join("z");
            assert!(matches!(stage.file(&below, &mut &b"3"[..]), Err(ArchiveError::Duplicate { .. })), "{path}");
        }
        assert!(matches!(stage.hard_link(Path::new("e"), Path::new("a")), Err(ArchiveError::Link { .. })));
        assert!(matches!(stage.hard_link(Path::new("e"), Path::new("c/x")), Err(ArchiveError::Link { .. })));
    }

    #[test]
    fn implied_directories_and_texts_count_too() {
        let temp = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(temp.path(), 5);
        stage.file(Path::new("a/b/c"), &mut &b"1"[..]).unwrap();
        stage.directory(Path::new("a/b")).unwrap();
        let error = stage.file(Path::new("d/e/f"), &mut &b"1"[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::TooManyEntries(5)), "{error:?}");
        let mut stage = Stage::new(temp.path(), 10_000);
        let deep = "x/".repeat(MAX_DEPTH + 1);
        assert!(matches!(stage.directory(Path::new(&deep)), Err(ArchiveError::TooDeep { .. })));
        assert!(!temp.path().join("x").exists());
        let long = PathBuf::from("y".repeat(4000));
        let links = (0..10_000).take_while(|n| stage.symlink(Path::new(&n.to_string()), long.clone()).is_ok());
        assert!((4_000..4_300).contains(&links.count()));
    }

    #[test]
    fn a_full_disk_is_not_the_archives_fault() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = fill(&mut full, Path::new("a/b"), &mut &b"x"[..]).unwrap_err();
        assert_eq!(error.to_string(), "cannot write a/b");
        let error = fill(&mut full, Path::new("a/b"), &mut io::empty().chain(Broken)).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the archive");
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

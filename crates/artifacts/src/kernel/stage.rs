//! Writing a tree that a stranger describes into a directory of our own.
//!
//! Everything is made new, below one root, with modes of our choosing. Symbolic links are made last, when nothing more
//! is written through any path, and each must then lead to something inside the root; so no order of entries can make
//! a write land elsewhere.

use super::archive::ArchiveError;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

/// A tree being written.
#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
    links: Vec<(PathBuf, PathBuf)>,
}

impl Stage {
    /// Writes below `root`, which is empty and nobody else's.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), links: Vec::new() }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A directory with its parents; there already is fine.
    pub(super) fn directory(&self, path: &Path) -> Result<(), ArchiveError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(self.root.join(path));
        made.map_err(|source| unwritten(source, path))
    }

    /// A file (0644) with all of `content`. `path` is relative and plain.
    pub(super) fn file(&self, path: &Path, content: &mut dyn Read) -> Result<u64, ArchiveError> {
        fill(&mut self.create(path)?, path, content)
    }

    /// An empty file (0644), open for reading and writing.
    pub(super) fn create(&self, path: &Path) -> Result<File, ArchiveError> {
        self.parents(path)?;
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(self.root.join(path));
        open.map_err(|error| duplicate(error, path))
    }

    /// A second name for a file that is already there.
    pub(super) fn hard_link(&self, path: &Path, target: &Path) -> Result<(), ArchiveError> {
        self.parents(path)?;
        fs::hard_link(self.root.join(target), self.root.join(path)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return ArchiveError::Link { path: path.to_owned() };
            }
            duplicate(error, path)
        })
    }

    /// A symbolic link, made by [`Self::finish`].
    pub(super) fn symlink(&mut self, path: &Path, target: PathBuf) {
        self.links.push((path.to_owned(), target));
    }

    /// Makes the symbolic links; each has to lead to something in the directory `within`.
    pub(super) fn finish(self, within: &Path) -> Result<(), ArchiveError> {
        // All directories first: once there is a link, nothing more is made below anything. A link to a place that
        // another link needs as a directory then is a duplicate.
        for (path, _) in &self.links {
            self.parents(path)?;
        }
        for (path, target) in &self.links {
            symlink(target, self.root.join(path)).map_err(|error| duplicate(error, path))?;
        }
        let root = fs::canonicalize(self.root.join(within))?;
        for (path, _) in &self.links {
            let inside = fs::canonicalize(self.root.join(path)).is_ok_and(|target| target.starts_with(&root));
            if !inside {
                return Err(ArchiveError::Link { path: path.clone() });
            }
        }
        Ok(())
    }

    fn parents(&self, path: &Path) -> Result<(), ArchiveError> {
        match path.parent() {
            Some(parent) => self.directory(parent),
            None => Ok(()),
        }
    }
}

/// Writes all of `content` to `file`, which errors call `path`. Tells a bad archive from a full disk.
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
    if error.kind() == io::ErrorKind::AlreadyExists {
        return ArchiveError::Duplicate { path: path.to_owned() };
    }
    unwritten(error, path)
}

fn unwritten(source: io::Error, path: &Path) -> ArchiveError {
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
        let mut stage = Stage::new(root);
        stage.file(Path::new("deep/er/file"), &mut &b"content"[..]).unwrap();
        for (path, target) in links {
            stage.symlink(Path::new(path), PathBuf::from(target));
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
        let stage = Stage::new(temp.path());
        let path = Path::new("a/b");
        stage.file(path, &mut &b"1"[..]).unwrap();
        assert!(matches!(stage.file(path, &mut &b"2"[..]), Err(ArchiveError::Duplicate { .. })));
        stage.hard_link(Path::new("c"), path).unwrap();
        assert_eq!(fs::read(temp.path().join("c")).unwrap(), b"1");
        assert!(matches!(stage.hard_link(Path::new("d"), Path::new("no")), Err(ArchiveError::Link { .. })));
        assert!(matches!(stage.hard_link(path, Path::new("c")), Err(ArchiveError::Duplicate { .. })));
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

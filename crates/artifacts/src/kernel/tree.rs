//! Walks a directory tree in one fixed order, to hash it or to write an image of it.
//!
//! No symbolic link is followed: a link is a text. Entries are visited in the order of their paths' bytes, so the same
//! tree gives the same hash and the same image on every host.

use super::archive::Limits;
use crate::{
    job::{Cancel, Job},
    rootfs::{self, Format, Meta, RootfsBuilder, RootfsError, Timestamp},
};
use data_encoding::HEXLOWER;
use rustix::fs::{Mode, OFlags, open};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Upper bound of levels.
const MAX_DEPTH: usize = 64;

/// Kind of an entry.
pub(super) enum Node {
    /// A directory; its content follows.
    Directory,
    /// A regular file, open for reading, with its length.
    File(File, u64),
    /// A symbolic link's text.
    Symlink(PathBuf),
    /// A device, socket or fifo.
    Other,
}

/// Error of walking a tree or writing its image.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// It has more files, bytes or levels than any kernel's tree.
    #[error("{} has too many files, too many bytes or too many levels", .0.display())]
    TooLarge(PathBuf),
    /// The image could not be written.
    #[error("cannot write the image of the modules")]
    Image(#[from] RootfsError),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::job::Cancelled),
}

/// Visits everything below `root`, parents before their content. Paths are relative to `root`.
pub(super) fn walk<E: From<TreeError>>(
    root: &Path,
    limits: Limits,
    cancel: &Cancel,
    visit: &mut dyn FnMut(&Path, Node) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = limits;
    level(root, Path::new(""), 0, &mut left, cancel, visit)
}

fn level<E: From<TreeError>>(
    root: &Path,
    below: &Path,
    depth: usize,
    left: &mut Limits,
    cancel: &Cancel,
    visit: &mut dyn FnMut(&Path, Node) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| E::from(TreeError::Io { path, source })
    };
    let directory = root.join(below);
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
        cancel.check().map_err(TreeError::from)?;
        let entry = entry.map_err(failed(&directory))?;
        left.entries = left.entries.checked_sub(1).ok_or_else(|| TreeError::TooLarge(root.to_owned()))?;
        names.push((entry.file_name(), entry.file_type().map_err(failed(&entry.path()))?));
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in names {
        cancel.check().map_err(TreeError::from)?;
        let path = below.join(name);
        let full = root.join(&path);
        if kind.is_dir() {
            if depth == MAX_DEPTH {
                return Err(TreeError::TooLarge(root.to_owned()).into());
            }
            visit(&path, Node::Directory)?;
            level(root, &path, depth + 1, left, cancel, visit)?;
        } else if kind.is_file() {
            let (file, length) = regular(&full).map_err(failed(&full))?;
            left.bytes = left.bytes.checked_sub(length).ok_or_else(|| TreeError::TooLarge(root.to_owned()))?;
            visit(&path, Node::File(file, length))?;
        } else if kind.is_symlink() {
            visit(&path, Node::Symlink(fs::read_link(&full).map_err(failed(&full))?))?;
        } else {
            visit(&path, Node::Other)?;
        }
    }
    Ok(())
}

/// Opens a file and checks that it is a regular one.
pub(super) fn regular(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Hashes everything from `reader`; returns the SHA-256 and the number of bytes.
pub(crate) fn sha256(reader: &mut dyn Read, cancel: &Cancel) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        cancel.check().map_err(io::Error::other)?;
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((HEXLOWER.encode(&hash.finalize()), length)),
            Ok(n) => {
                hash.update(&buffer[..n]);
                length += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes a regular file.
pub(super) fn file_sha256(path: &Path, cancel: &Cancel) -> Result<String, TreeError> {
    let hashed = regular(path).and_then(|(mut file, _)| sha256(&mut file, cancel));
    hashed.map(|(hash, _)| hash).map_err(|source| TreeError::Io { path: path.to_owned(), source })
}

/// Hashes of a tree, all hexadecimal SHA-256.
#[derive(Debug)]
pub(super) struct Hashes {
    /// Hash over everything.
    pub(super) tree: String,
    /// Hashes of the top-level files, by name.
    files: Vec<(String, String)>,
}

impl Hashes {
    /// Returns the hash of the top-level file `name`, if there is one.
    pub(super) fn of(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|(part, _)| part == name).map(|(_, hash)| hash.as_str())
    }
}

/// Hashes everything in `parts` (files or directories in `root`; absent ones are left out), reading each file once,
/// except files whose hash is `known`. The hash over all of it covers one line per entry, `<kind> <content's SHA-256 or
/// link text, or nothing> <path>`, each ended by a zero byte.
pub(super) fn hash(
    root: &Path,
    parts: &[&str],
    known: &[(&str, String)],
    limits: Limits,
    cancel: &Cancel,
) -> Result<Hashes, TreeError> {
    let mut files = Vec::new();
    let mut total = Sha256::new();
    let mut line = |kind: u8, content: &[u8], path: &Path| {
        total.update([kind, b' ']);
        total.update(content);
        total.update(b" ");
        total.update(path.as_os_str().as_bytes());
        total.update([0]);
    };
    for part in parts {
        let path = root.join(part);
        let failed = |source| TreeError::Io { path: path.clone(), source };
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if !metadata.is_dir() {
            let content = match known.iter().find(|(name, _)| name == part) {
                Some((_, hash)) => hash.clone(),
                None => file_sha256(&path, cancel)?,
            };
            line(b'f', content.as_bytes(), Path::new(part));
            files.push(((*part).to_owned(), content));
            continue;
        }
        line(b'd', b"", Path::new(part));
        walk(&path, limits, cancel, &mut |below, node| {
            let named = Path::new(part).join(below);
            match node {
                Node::Directory => line(b'd', b"", &named),
                Node::Symlink(target) => line(b'l', target.as_os_str().as_bytes(), &named),
                Node::Other => line(b'?', b"", &named),
                Node::File(mut file, _) => {
                    let hashed = sha256(&mut file, cancel);
                    let (content, _) = hashed.map_err(|source| TreeError::Io { path: path.join(below), source })?;
                    line(b'f', content.as_bytes(), &named);
                }
            }
            Ok::<_, TreeError>(())
        })?;
    }
    Ok(Hashes { tree: HEXLOWER.encode(&total.finalize()), files })
}

/// Writes the tree below `root` as a read-only ext4 to `out`, which must not exist: everything is owned by root,
/// directories are 0755, files 0644, all times zero. Contents are copied from the files straight into the image.
pub(super) fn image(root: &Path, out: &Path, limits: Limits, job: &Job<'_>) -> Result<(), TreeError> {
    let bounds = rootfs::Limits { entries: limits.entries, content_bytes: limits.bytes, ..rootfs::Limits::default() };
    let mut builder = RootfsBuilder::new(out.parent().unwrap_or(Path::new("/")), bounds, job.cancel)?;
    let time = Timestamp::default();
    builder.dir(b".", Meta::root(0o755, time))?;
    walk(root, limits, job.cancel, &mut |path, node| {
        let name = path.as_os_str().as_bytes();
        match node {
            Node::Directory => builder.dir(name, Meta::root(0o755, time))?,
            Node::File(_, length) => builder.file_at(name, Meta::root(0o644, time), length, &root.join(path))?,
            Node::Symlink(target) => {
                builder.symlink(name, target.as_os_str().as_bytes(), Meta::root(0o777, time))?;
            }
            Node::Other => {}
        }
        Ok::<_, TreeError>(())
    })?;
    builder.finish(out, &Format { label: "modules".into(), ..Format::default() }, job)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const LIMITS: Limits = Limits { entries: 10, bytes: 1000 };

    fn hashed(root: &Path) -> String {
        let hashes = hash(root, &["file", "tree", "absent"], &[], LIMITS, &Cancel::default()).unwrap();
        assert_eq!((hashes.of("file").map(str::len), hashes.of("tree"), hashes.of("absent")), (Some(64), None, None));
        hashes.tree
    }

    #[test]
    fn the_hash_sees_names_contents_and_links_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        fs::create_dir_all(root.join("tree/b")).unwrap();
        fs::write(root.join("file"), "kernel").unwrap();
        fs::write(root.join("tree/b/x"), "module").unwrap();
        symlink("b/x", root.join("tree/a")).unwrap();
        fs::write(root.join("ignored"), "1").unwrap();
        let first = hashed(root);
        assert_eq!(
            first, "3abde36d447fe6edd28baf1464f9a833d9f9065cb5288aec04cc34e59518b394",
            "fixed: manifests on disk carry it"
        );
        fs::write(root.join("ignored"), "2").unwrap();
        assert_eq!(hashed(root), first);
        fs::write(root.join("tree/b/x"), "Module").unwrap();
        let changed = hashed(root);
        assert_ne!(changed, first);
        fs::write(root.join("tree/b/x"), "module").unwrap();
        fs::rename(root.join("tree/a"), root.join("tree/c")).unwrap();
        assert!(![first, changed].contains(&hashed(root)));
    }

    #[test]
    fn size_number_and_depth_are_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let walk = |limits| walk::<TreeError>(temp.path(), limits, &Cancel::default(), &mut |_, _| Ok(()));
        fs::write(temp.path().join("a"), [0; 600]).unwrap();
        fs::write(temp.path().join("b"), [0; 600]).unwrap();
        assert!(matches!(walk(LIMITS), Err(TreeError::TooLarge(_))));
        assert!(matches!(walk(Limits { entries: 1, bytes: 5000 }), Err(TreeError::TooLarge(_))));
        walk(Limits { entries: 2, bytes: 1200 }).unwrap();
        fs::create_dir_all(temp.path().join("x/".repeat(MAX_DEPTH + 2))).unwrap();
        assert!(matches!(walk(Limits { entries: 1000, bytes: 5000 }), Err(TreeError::TooLarge(_))));
    }
}

//! Journal of an exchange of files, on disk before the first file changes, so that the exchange can be taken back by
//! the same process or, when that was killed, by the next one.
//!
//! How far the exchange came is not recorded, since it shows: a new file is recognized by inode, size and time, which a
//! rename keeps, and an old one that was moved is in the staging tree or in the directory of old files.

use super::{SwapDirs, at, metadata, rename::Renames};
use crate::workspace::{
    changes::{RepoPath, split_nul},
    patch,
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

/// File name of the journal.
const NAME: &str = "journal";
/// Last entry of a complete journal.
const END: &[u8] = b"end";
/// Largest journal, in bytes: the paths of a patch, and a few numbers for each.
const MAX: u64 = 512 << 20;

/// All changes of one exchange.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    /// Files, in the order in which they are exchanged.
    pub(super) files: Vec<Change>,
    /// Directories to make, outer before inner.
    pub(super) dirs: Vec<RepoPath>,
}

/// Change of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: RepoPath,
    /// Whether a file is there before the exchange.
    pub(super) old: bool,
    /// Identity of the new file, if any.
    pub(super) new: Option<FileIdentity>,
}

/// Identity of a file across renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl FileIdentity {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        Self { inode: meta.ino(), size: meta.size(), seconds: meta.mtime(), nanoseconds: meta.mtime_nsec() }
    }
}

impl Journal {
    /// Compares the staging tree with the working tree for `files`.
    pub(super) fn plan(dirs: &SwapDirs, files: &BTreeSet<RepoPath>) -> io::Result<Self> {
        let (mut journal, mut made) = (Self::default(), BTreeSet::new());
        for path in files {
            let file = |at: &Path| metadata(at).map(|meta| meta.filter(|meta| !meta.is_dir()));
            let (old, new) = (file(&dirs.in_tree(path))?, file(&dirs.staged(path))?);
            let change = Change { path: path.clone(), old: old.is_some(), new: new.as_ref().map(FileIdentity::of) };
            if change.is_added() {
                for parent in patch::parents(path) {
                    // The directories above an existing one, or above one that is listed already, exist or are listed
                    // as well.
                    let is_there = metadata(&dirs.in_tree(parent))?.is_some_and(|meta| meta.is_dir());
                    if is_there || !made.insert(parent.to_vec()) {
                        break;
                    }
                }
            }
            journal.files.push(change);
        }
        journal.dirs.extend(made);
        Ok(journal)
    }

    /// Writes the journal, whole or not at all.
    pub(super) fn write(&self, dirs: &SwapDirs) -> io::Result<()> {
        let mut bytes = Vec::new();
        for Change { path, old, new } in &self.files {
            let new = new.map_or_else(
                || "-".to_owned(),
                |it| format!("{}:{}:{}:{}", it.inode, it.size, it.seconds, it.nanoseconds),
            );
            write!(bytes, "{} {new} ", if *old { "old" } else { "-" })?;
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        for dir in &self.dirs {
            bytes.extend([b"dir - ".as_slice(), dir, b"\0"].concat());
        }
        bytes.extend_from_slice(END);
        bytes.push(0);
        let staged = dirs.stage.join("journal.new");
        let mut file = fs::File::create(&staged)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(staged, dirs.stage.join(NAME))
    }

    /// Reads the journal of a staging directory; none where nothing began, or all was done. Refuses paths outside the
    /// tree, whoever wrote them. A path may still lead there through links; that is checked when a change is taken
    /// back.
    pub(super) fn read(dirs: &SwapDirs) -> io::Result<Option<Self>> {
        let path = dirs.stage.join(NAME);
        if !Self::is_in(dirs)? {
            return Ok(None);
        }
        dirs.check_owner()?;
        let mut bytes = Vec::new();
        fs::File::open(&path)?.take(MAX).read_to_end(&mut bytes)?;
        let journal = Self::parse(&bytes).ok_or_else(|| at(&path, &io::ErrorKind::InvalidData.into()))?;
        for path in journal.files.iter().map(|change| &change.path).chain(&journal.dirs) {
            if patch::check_path(path).is_err() {
                return Err(at(Path::new(OsStr::from_bytes(path)), &io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(Some(journal))
    }

    /// Whether there is a journal.
    pub(super) fn is_in(dirs: &SwapDirs) -> io::Result<bool> {
        Ok(metadata(&dirs.stage.join(NAME))?.is_some_and(|meta| meta.is_file()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut journal = Self::default();
        let mut entries = split_nul(bytes);
        loop {
            let entry = entries.next()?;
            if entry == END {
                return entries.next().is_none().then_some(journal);
            }
            let mut words = entry.splitn(3, |byte| *byte == b' ');
            let (kind, new, path) = (words.next()?, words.next()?, words.next()?.to_vec());
            let new = match new {
                b"-" => None,
                known => Some(FileIdentity::parse(std::str::from_utf8(known).ok()?)?),
            };
            match kind {
                b"dir" => journal.dirs.push(path),
                b"old" => journal.files.push(Change { path, old: true, new }),
                b"-" => journal.files.push(Change { path, old: false, new }),
                _ => return None,
            }
        }
    }

    /// Removes the journal: there is nothing to take back any more.
    pub(super) fn remove(dirs: &SwapDirs) -> io::Result<()> {
        let path = dirs.stage.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, &error)),
            _ => Ok(()),
        }
    }

    /// Takes back all changes, the last file first, whatever fails. May be repeated.
    pub(super) fn roll_back(&self, dirs: &SwapDirs, renames: &Renames) -> io::Result<()> {
        let mut first = Ok(());
        let files = || self.files.iter().enumerate().rev();
        for (number, change) in files().filter(|(_, change)| change.is_added()) {
            first = first.and(change.roll_back(dirs, number, renames));
        }
        for dir in self.dirs.iter().rev() {
            // It may hold files or not be made yet. If it is in the way, a file's rename fails.
            let _ = dirs.check_no_links(dir, false).and_then(|()| fs::remove_dir(dirs.in_tree(dir)));
        }
        for (number, change) in files().filter(|(_, change)| !change.is_added()) {
            first = first.and(change.roll_back(dirs, number, renames));
        }
        first
    }
}

impl FileIdentity {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let (inode, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (seconds, nanoseconds) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { inode, size, seconds, nanoseconds })
    }
}

impl Change {
    /// Whether the new file is where no file was.
    pub(super) fn is_added(&self) -> bool {
        !self.old && self.new.is_some()
    }

    fn roll_back(&self, dirs: &SwapDirs, number: usize, renames: &Renames) -> io::Result<()> {
        // Checked for each file: the one that was taken back before it may be a link.
        dirs.check_owner()?;
        dirs.check_no_links(&self.path, self.new.is_some())?;
        let (here, new, away) = (dirs.in_tree(&self.path), dirs.staged(&self.path), dirs.old_file(number));
        let is_new = |meta: &fs::Metadata| self.new == Some(FileIdentity::of(meta));
        if metadata(&here)?.as_ref().is_some_and(is_new) {
            if metadata(&new)?.is_some() {
                renames.exchange(&new, &here, &dirs.store.join(format!("away/{number}-new")))?;
            } else {
                renames.rename(&here, &new)?;
            }
        }
        // Where the old file is, unless it was never moved.
        let old = if metadata(&away)?.is_some() {
            away
        } else if self.old && metadata(&new)?.is_some_and(|meta| !is_new(&meta)) && self.new.is_some() {
            // Only the first of two renames was done.
            new
        } else {
            return Ok(());
        };
        match metadata(&here)? {
            None => renames.rename(&old, &here),
            // It is in its place, and the staging tree holds another link to it.
            Some(meta) if metadata(&old)?.is_some_and(|old| FileIdentity::of(&old) == FileIdentity::of(&meta)) => {
                Ok(())
            }
            Some(_) => Err(at(&here, &io::ErrorKind::AlreadyExists.into())),
        }
    }
}

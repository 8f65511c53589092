//! What is about to change places, written down before the first file does: so that it can be taken back, by whoever did
//! it or, when that was killed, by the next one.
//!
//! How far it came is not written down. It shows: a new file is known by its inode, size and time, which a rename leaves as
//! they are, and an old one that went stands in the small tree or among those that are away.

use super::{Places, at, rename::Renames, there};
use crate::workspace::{
    changes::{RepoPath, pieces},
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

/// Its file, in the stage.
const NAME: &str = "journal";
/// Its last entry.
const END: &[u8] = b"end";
/// Largest one: the names of a patch, and a few numbers each.
const MAX: u64 = 512 << 20;

/// All of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    /// Files, in the order in which they change.
    pub(super) files: Vec<Change>,
    /// Directories that are made on the way, outer before inner.
    pub(super) dirs: Vec<RepoPath>,
}

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: RepoPath,
    /// Whether there is one now.
    pub(super) old: bool,
    /// The one that takes its place.
    pub(super) new: Option<Known>,
}

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Known {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        Self { inode: meta.ino(), size: meta.size(), seconds: meta.mtime(), nanoseconds: meta.mtime_nsec() }
    }
}

impl Journal {
    /// What there is to do for `files`.
    pub(super) fn plan(places: &Places, files: &BTreeSet<RepoPath>) -> io::Result<Self> {
        let (mut journal, mut dirs) = (Self::default(), BTreeSet::new());
        for path in files {
            let file = |at: &Path| there(at).map(|meta| meta.filter(|meta| !meta.is_dir()));
            let (old, new) = (file(&places.here(path))?, file(&places.small(path))?);
            let change = Change { path: path.clone(), old: old.is_some(), new: new.as_ref().map(Known::of) };
            if change.comes() {
                for parent in patch::parents(path) {
                    // What is above one that is there, or that another file needs, is there or needed as well.
                    let is_there = there(&places.here(parent))?.is_some_and(|meta| meta.is_dir());
                    if is_there || !dirs.insert(parent.to_vec()) {
                        break;
                    }
                }
            }
            journal.files.push(change);
        }
        journal.dirs.extend(dirs);
        Ok(journal)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, places: &Places) -> io::Result<()> {
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
        let staged = places.stage.join("journal.new");
        let mut file = fs::File::create(&staged)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(staged, places.stage.join(NAME))
    }

    /// Reads the one in a stage; none where nothing began, or all was done. It names nothing outside the tree, whoever
    /// wrote it; what it names may still lead there, through links, which shows when it is done.
    pub(super) fn read(places: &Places) -> io::Result<Option<Self>> {
        let path = places.stage.join(NAME);
        if !Self::is_in(places)? {
            return Ok(None);
        }
        places.are_ours()?;
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

    /// Whether there is one.
    pub(super) fn is_in(places: &Places) -> io::Result<bool> {
        Ok(there(&places.stage.join(NAME))?.is_some_and(|meta| meta.is_file()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut journal = Self::default();
        let mut entries = pieces(bytes);
        loop {
            let entry = entries.next()?;
            if entry == END {
                return entries.next().is_none().then_some(journal);
            }
            let mut words = entry.splitn(3, |byte| *byte == b' ');
            let (kind, new, path) = (words.next()?, words.next()?, words.next()?.to_vec());
            let new = match new {
                b"-" => None,
                known => Some(Known::parse(std::str::from_utf8(known).ok()?)?),
            };
            match kind {
                b"dir" => journal.dirs.push(path),
                b"old" => journal.files.push(Change { path, old: true, new }),
                b"-" => journal.files.push(Change { path, old: false, new }),
                _ => return None,
            }
        }
    }

    /// Says that there is nothing to take back any more.
    pub(super) fn remove(places: &Places) -> io::Result<()> {
        let path = places.stage.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, &error)),
            _ => Ok(()),
        }
    }

    /// Makes the tree what it was, the last file first; all of it, whatever fails. May be done again.
    pub(super) fn take_back(&self, places: &Places, renames: &Renames) -> io::Result<()> {
        let mut first = Ok(());
        let files = || self.files.iter().enumerate().rev();
        for (number, change) in files().filter(|(_, change)| change.comes()) {
            first = first.and(change.take_back(places, number, renames));
        }
        for dir in self.dirs.iter().rev() {
            // One that holds something, or was not made yet: if it is in the way, a file says so.
            let _ = places.hold(dir, false).and_then(|()| fs::remove_dir(places.here(dir)));
        }
        for (number, change) in files().filter(|(_, change)| !change.comes()) {
            first = first.and(change.take_back(places, number, renames));
        }
        first
    }
}

impl Known {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let (inode, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (seconds, nanoseconds) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { inode, size, seconds, nanoseconds })
    }
}

impl Change {
    /// Whether it is where no file was.
    pub(super) fn comes(&self) -> bool {
        !self.old && self.new.is_some()
    }

    fn take_back(&self, places: &Places, number: usize, renames: &Renames) -> io::Result<()> {
        // Each time anew: what was taken back before it may be a link.
        places.are_ours()?;
        places.hold(&self.path, self.new.is_some())?;
        let (here, new, away) = (places.here(&self.path), places.small(&self.path), places.away(number));
        let is_new = |meta: &fs::Metadata| self.new == Some(Known::of(meta));
        if there(&here)?.as_ref().is_some_and(is_new) {
            if there(&new)?.is_some() {
                renames.exchange(&new, &here, &places.store.join(format!("away/{number}-new")))?;
            } else {
                renames.rename(&here, &new)?;
            }
        }
        // Where the old one is, unless it is where it was.
        let old = if there(&away)?.is_some() {
            away
        } else if self.old && there(&new)?.is_some_and(|meta| !is_new(&meta)) && self.new.is_some() {
            // Of two steps the first was done.
            new
        } else {
            return Ok(());
        };
        match there(&here)? {
            None => renames.rename(&old, &here),
            // It stands here already, and in the small tree is what it was made of.
            Some(meta) if there(&old)?.is_some_and(|old| Known::of(&old) == Known::of(&meta)) => Ok(()),
            Some(_) => Err(at(&here, &io::ErrorKind::AlreadyExists.into())),
        }
    }
}

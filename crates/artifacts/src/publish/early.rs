//! Entries that are published before they are on the disk.
//!
//! Syncing a gigabyte takes longer than writing it, and the user gains nothing by the wait: what a killed process wrote
//! stays with the kernel, and only a host that loses its power loses part of it. So an entry may be published with a
//! marker file in it that holds the boot id of the host, and be synced in the background; the marker is removed when
//! everything is on the disk. The owner of the entries decides about those a later boot finds marked.

use super::{NameLock, PublishError, Shelf, Staging, at};
use rustix::{
    fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fsync, open, openat, syncfs, unlinkat},
    io::{Errno, retry_on_intr},
};
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

/// Name of the marker file. It holds the boot id, prefixed with [`FAILED`] once a sync failed. A marker without an id
/// belongs to no known boot.
const MARK: &str = ".unsynced";
const FAILED: &str = "failed ";
/// Upper bound of the bytes read from a marker.
const MARK_BYTES: u64 = 256;
/// File with an id that changes with every boot of the host (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Flags that open a file itself and never the target of a symbolic link.
const OPENED: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A marked entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    /// Its name.
    pub name: String,
    /// State recorded by the marker.
    pub mark: Mark,
}

/// State of an entry that is marked as not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Written in this boot of the host; being synced.
    Coming,
    /// A sync failed in this boot: the page cache says nothing about what is on the disk, and another sync would not
    /// report the error again.
    Refused,
    /// Written in an earlier boot, so part of it may be missing.
    Doubtful,
}

impl Shelf {
    /// Like [`Self::publish`], but the entry exists at once and a thread syncs it afterwards. Nothing waits for that
    /// thread; if the process ends first, [`Self::unsynced`] reports the entry to the next one.
    pub fn publish_early(&self, staging: Staging, lock: &NameLock) -> Result<PathBuf, PublishError> {
        let target = self.publish_marked(staging, lock)?;
        if let Err(error) = self.sync_behind(lock.name()) {
            // The entry exists and is marked.
            tracing::warn!(error = &error as &dyn std::error::Error, "an entry is brought to the disk later");
        }
        Ok(target)
    }

    fn publish_marked(&self, staging: Staging, lock: &NameLock) -> Result<PathBuf, PublishError> {
        let mark = staging.path().join(MARK);
        fs::write(&mark, boot_id()).map_err(at("write", &mark))?;
        self.rename(staging, lock)
    }

    /// Lists entries that were published early and are not synced.
    pub fn unsynced(&self) -> Result<Vec<Unsynced>, PublishError> {
        let marked = self.names()?.into_iter().filter_map(|name| {
            let mark = mark(&self.directory().join(&name))?;
            Some(Unsynced { name, mark })
        });
        Ok(marked.collect())
    }

    /// Returns the state of a marked entry; `None` if it is not marked.
    pub fn mark(&self, name: &str) -> Result<Option<Mark>, PublishError> {
        Ok(mark(&self.path(name)?))
    }

    /// Syncs an entry and removes its marker, in a thread of its own.
    pub fn sync_behind(&self, name: &str) -> Result<(), PublishError> {
        let (path, (entry, shelf)) = (self.path(name)?, self.opened(name)?);
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            tracing::warn!(path = %path.display(), %error, "cannot bring an entry to the disk");
        };
        let shown = path.clone();
        let work = move || {
            if let Err(error) = bring(&entry, &shelf) {
                failed(&shown, &error);
            }
        };
        if let Err(error) = thread::Builder::new().name("sync".into()).spawn(work) {
            // The entry stays marked, so the next process to open the shelf tries again.
            failed(&path, &error);
        }
        Ok(())
    }

    /// Syncs an entry and removes its marker before returning.
    pub fn sync_now(&self, name: &str) -> Result<(), PublishError> {
        let (entry, shelf) = self.opened(name)?;
        bring(&entry, &shelf).map_err(at("sync", &self.path(name)?))
    }

    /// Opens the directory of the entry (which stays the same if another entry takes its name) and that of the shelf.
    fn opened(&self, name: &str) -> Result<(OwnedFd, OwnedFd), PublishError> {
        let directory = |path: &Path| open(path, OPENED | OFlags::DIRECTORY, Mode::empty()).map_err(at("open", path));
        Ok((directory(&self.path(name)?)?, directory(self.directory())?))
    }
}

/// Reads the marker of the entry at `path`.
fn mark(path: &Path) -> Option<Mark> {
    let text = match fs::read_to_string(path.join(MARK)) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => return None,
        // A marker that is empty or unreadable did not reach the disk itself.
        text => text.unwrap_or_default(),
    };
    Some(meaning(&text))
}

/// Parses the text of a marker.
fn meaning(text: &str) -> Mark {
    let boot = boot_id();
    match text.strip_prefix(FAILED) {
        _ if boot.is_empty() => Mark::Doubtful,
        None if text == boot => Mark::Coming,
        Some(refused) if refused == boot => Mark::Refused,
        _ => Mark::Doubtful,
    }
}

/// Syncs an entry; a failure is recorded in the marker.
fn bring(entry: &OwnedFd, shelf: &OwnedFd) -> io::Result<()> {
    // The kernel reports a write error to one sync only, so concurrent syncs take turns.
    retry_on_intr(|| flock(entry, FlockOperation::LockExclusive))?;
    if is_refused(entry) {
        return Err(io::Error::other("the disk has refused part of it before"));
    }
    sync(entry, shelf).inspect_err(|_| {
        if let Err(error) = refused(entry) {
            tracing::warn!(%error, "cannot note that the disk has not all of an entry");
        }
    })
}

/// Whether the marker records a failed sync in this boot.
fn is_refused(entry: &OwnedFd) -> bool {
    let Ok(mark) = openat(entry, MARK, OPENED | OFlags::NONBLOCK, Mode::empty()) else { return false };
    let mut text = String::new();
    fs::File::from(mark).take(MARK_BYTES).read_to_string(&mut text).is_ok() && meaning(&text) == Mark::Refused
}

/// Records in the marker that the sync failed. The disk may be full: the marker is overwritten in place, which needs no
/// new block, and truncated only afterwards.
fn refused(entry: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut mark = fs::File::from(openat(entry, MARK, flags, Mode::empty())?);
    let text = format!("{FAILED}{}", boot_id());
    mark.write_all(text.as_bytes())?;
    mark.set_len(text.len() as u64)
}

/// Syncs everything in `entry` and its name in `shelf`, then removes the marker.
fn sync(entry: &OwnedFd, shelf: &OwnedFd) -> io::Result<()> {
    for found in Dir::read_from(entry)? {
        let found = found?;
        match found.file_type() {
            FileType::RegularFile | FileType::Unknown => {
                match openat(entry, found.file_name(), OPENED | OFlags::NONBLOCK, Mode::empty()) {
                    Ok(file) => fsync(file)?,
                    // The entry was removed meanwhile.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            FileType::Directory if ![&b"."[..], b".."].contains(&found.file_name().to_bytes()) => syncfs(entry)?,
            _ => {}
        }
    }
    fsync(entry)?;
    fsync(shelf)?;
    match unlinkat(entry, MARK, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(fsync(entry)?),
        Err(error) => Err(error.into()),
    }
}

/// Boot id of the host; empty if it cannot be read.
fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cancel;
    use banger_testkit::wait_until;
    use std::time::Duration;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let temp = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(temp.path().join("shelf")).unwrap();
        (temp, shelf)
    }

    /// Publishes an entry with one file in it.
    fn publish(shelf: &Shelf, name: &str) -> PathBuf {
        let staging = shelf.stage().unwrap();
        fs::write(staging.path().join("file"), name).unwrap();
        shelf.publish_marked(staging, &shelf.lock(name, &Cancel::default()).unwrap()).unwrap()
    }

    fn synced(shelf: &Shelf) {
        wait_until(Duration::from_secs(60), "everything to be synced", || match shelf.unsynced().unwrap() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        });
    }

    #[test]
    fn an_entry_is_there_at_once_and_marked_until_it_is_synced() {
        let (_temp, shelf) = shelf();
        let entry = publish(&shelf, "one");
        assert_eq!(fs::read(entry.join("file")).unwrap(), b"one");
        assert_eq!(shelf.unsynced().unwrap(), [Unsynced { name: "one".into(), mark: Mark::Coming }]);
        shelf.sync_behind("one").unwrap();
        synced(&shelf);
        let left: Vec<_> = fs::read_dir(&entry).unwrap().map(|found| found.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        // In the place of another.
        let staging = shelf.stage().unwrap();
        shelf.publish_early(staging, &shelf.lock("one", &Cancel::default()).unwrap()).unwrap();
        synced(&shelf);
        assert_eq!(shelf.names().unwrap(), ["one"]);
    }

    #[test]
    fn what_another_boot_left_marked_is_doubtful() {
        let (_temp, shelf) = shelf();
        let marks =
            [("a", boot_id()), ("b", "another\n".into()), ("c", String::new()), ("e", "failed another\n".into())];
        for (name, mark) in marks {
            fs::create_dir(shelf.directory().join(name)).unwrap();
            fs::write(shelf.directory().join(name).join(MARK), mark).unwrap();
        }
        fs::create_dir(shelf.directory().join("d")).unwrap();
        fs::write(shelf.directory().join("a file"), "").unwrap();
        let (coming, doubtful) = (Mark::Coming, Mark::Doubtful);
        let expected = [("a", coming), ("b", doubtful), ("c", doubtful), ("e", doubtful)];
        let expected = expected.map(|(name, mark)| Unsynced { name: name.into(), mark });
        assert_eq!(shelf.unsynced().unwrap(), expected);
        for Unsynced { name, .. } in expected {
            shelf.sync_behind(&name).unwrap();
        }
        synced(&shelf);
    }

    #[test]
    fn what_took_the_place_meanwhile_keeps_its_mark() {
        let (_temp, shelf) = shelf();
        let path = shelf.directory().join("x");
        let make = || {
            fs::create_dir(&path).unwrap();
            fs::write(path.join(MARK), boot_id()).unwrap();
        };
        make();
        let opened = |path| open(path, OPENED, Mode::empty()).unwrap();
        let (old, directory) = (opened(path.as_path()), opened(shelf.directory()));
        fs::remove_dir_all(&path).unwrap();
        make();
        sync(&old, &directory).unwrap();
        assert_eq!(shelf.unsynced().unwrap().len(), 1);
    }

    #[test]
    fn what_the_disk_refused_is_doubtful_from_the_next_boot_on() {
        let (_temp, shelf) = shelf();
        let entry = publish(&shelf, "x");
        refused(&shelf.opened("x").unwrap().0).unwrap();
        assert_eq!(shelf.mark("x").unwrap(), Some(Mark::Refused));
        // On a full disk the old mark is all the room there is.
        fs::write(entry.join(MARK), "x".repeat(200)).unwrap();
        refused(&shelf.opened("x").unwrap().0).unwrap();
        assert_eq!(shelf.mark("x").unwrap(), Some(Mark::Refused));
        // Another sync, which the disk would tell nothing, does not make it good.
        shelf.sync_now("x").unwrap_err();
        assert_eq!(shelf.mark("x").unwrap(), Some(Mark::Refused));
        assert_eq!(fs::read_to_string(entry.join(MARK)).unwrap(), format!("{FAILED}{}", boot_id()));
    }
}

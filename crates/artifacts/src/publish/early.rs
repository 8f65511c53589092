//! Entries that are there before the disk has them.
//!
//! To bring a gigabyte to the disk takes longer than to make it, and whoever is to use it gains nothing by the wait: a
//! process that is killed leaves all it wrote to the kernel, and only a host that loses its power loses some of that. So
//! an entry may be published with a mark in it that names the boot of the host it was made in, and be synced behind the
//! back; the mark goes when the disk has everything. What a later boot finds marked is for its owner to look at.

use super::{NameLock, PublishError, Shelf, Staging, at};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fsync, open, openat, syncfs, unlinkat},
    io::Errno,
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

/// The mark: a file with the boot's id.
const MARK: &str = ".unsynced";
/// Changes with every boot of the host (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Opened as what it is, and not as what a link in its place leads to.
const OPENED: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// An entry that is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    /// Its name.
    pub name: String,
    /// The host was started anew since, so that not all of it may be there.
    pub doubtful: bool,
}

impl Shelf {
    /// As [`Self::publish`], but the entry is there at once, and on the disk some time later: a thread sees to that.
    /// Nothing waits for it; if the process ends first, [`Self::unsynced`] names the entry to the next.
    pub fn publish_early(&self, staging: Staging, lock: &NameLock) -> Result<PathBuf, PublishError> {
        let mark = staging.path().join(MARK);
        let marked = boot_id().and_then(|boot| fs::write(&mark, boot));
        marked.map_err(at("write", &mark))?;
        let target = self.rename(staging, lock)?;
        self.sync_behind(lock.name())?;
        Ok(target)
    }

    /// Entries that were published early and not synced so far.
    pub fn unsynced(&self) -> Result<Vec<Unsynced>, PublishError> {
        let boot = boot_id().map_err(at("read", Path::new(BOOT_ID)))?;
        let marked = self.names()?.into_iter().filter_map(|name| {
            let mark = fs::read_to_string(self.directory().join(&name).join(MARK));
            match mark {
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => None,
                // One that is empty or unreadable was not brought to the disk itself.
                mark => Some(Unsynced { name, doubtful: mark.ok().as_deref() != Some(&boot) }),
            }
        });
        Ok(marked.collect())
    }

    /// Brings an entry to the disk and takes its mark away, in a thread of its own.
    pub fn sync_behind(&self, name: &str) -> Result<(), PublishError> {
        let path = self.path(name)?;
        // The directory itself, and not what has its name by then.
        let entry = open(&path, OPENED | OFlags::DIRECTORY, Mode::empty()).map_err(at("open", &path))?;
        let shelf = open(self.directory(), OPENED | OFlags::DIRECTORY, Mode::empty());
        let shelf = shelf.map_err(at("open", self.directory()))?;
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            // It stays marked, so whoever opens the shelf next tries again.
            tracing::warn!(path = %path.display(), %error, "cannot bring an entry to the disk");
        };
        let shown = path.clone();
        let work = move || sync(&entry, &shelf).unwrap_or_else(|error| failed(&shown, &error));
        if let Err(error) = thread::Builder::new().name("sync".into()).spawn(work) {
            failed(&path, &error);
        }
        Ok(())
    }
}

/// Brings everything in `entry` and its name in `shelf` to the disk; then it is marked no longer.
fn sync(entry: &OwnedFd, shelf: &OwnedFd) -> io::Result<()> {
    for found in Dir::read_from(entry)? {
        let found = found?;
        match found.file_type() {
            FileType::RegularFile | FileType::Unknown => {
                match openat(entry, found.file_name(), OPENED | OFlags::NONBLOCK, Mode::empty()) {
                    Ok(file) => fsync(file)?,
                    // Taken away meanwhile, with the entry.
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

fn boot_id() -> io::Result<String> {
    fs::read_to_string(BOOT_ID)
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
        shelf.publish_early(staging, &shelf.lock(name, &Cancel::default()).unwrap()).unwrap()
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
        synced(&shelf);
        let left: Vec<_> = fs::read_dir(&entry).unwrap().map(|found| found.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        // In the place of another.
        publish(&shelf, "one");
        synced(&shelf);
        assert_eq!(shelf.names().unwrap(), ["one"]);
    }

    #[test]
    fn what_another_boot_left_marked_is_doubtful() {
        let (_temp, shelf) = shelf();
        for (name, mark) in [("a", boot_id().unwrap()), ("b", "another\n".into()), ("c", String::new())] {
            fs::create_dir(shelf.directory().join(name)).unwrap();
            fs::write(shelf.directory().join(name).join(MARK), mark).unwrap();
        }
        fs::create_dir(shelf.directory().join("d")).unwrap();
        fs::write(shelf.directory().join("a file"), "").unwrap();
        let expected = [("a", false), ("b", true), ("c", true)];
        let expected = expected.map(|(name, doubtful)| Unsynced { name: name.into(), doubtful });
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
            fs::write(path.join(MARK), boot_id().unwrap()).unwrap();
        };
        make();
        let opened = |path| open(path, OPENED, Mode::empty()).unwrap();
        let (old, directory) = (opened(path.as_path()), opened(shelf.directory()));
        fs::remove_dir_all(&path).unwrap();
        make();
        sync(&old, &directory).unwrap();
        assert_eq!(shelf.unsynced().unwrap().len(), 1);
    }
}

//! Writes a guest's entries below one name in one directory, and nowhere else.
//!
//! The kernel resolves every path beneath that directory without following any link, so neither the archive's links nor
//! existing ones lead outside.

use super::entries::{Entry, Flow, Kind, malformed, walk};
use banger_link::archive::{mtime::UnixTime, sparse::SparseCopier};
use rustix::{
    fs::{
        AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, linkat, mkdirat,
        openat, openat2, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Number of entries that were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped(pub(crate) u64);

/// Destination of the entries.
#[derive(Debug)]
struct Target<'a> {
    /// The directory that the one new name is created in.
    root: OwnedFd,
    name: &'a OsStr,
    /// Directories created here, whose modes and times are set after their content is complete.
    made: Vec<(PathBuf, u32, UnixTime)>,
    skipped: u64,
    first: bool,
    copier: SparseCopier,
}

/// Unpacks `stream` into the directory `parent`, as `name`.
pub(crate) fn unpack(stream: impl Read, parent: &Path, name: &OsStr) -> io::Result<Skipped> {
    let root = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
    let mut target = Target { root, name, made: Vec::new(), skipped: 0, first: true, copier: SparseCopier::new() };
    walk(stream, |entry, content| target.make(entry, content).map(|()| Flow::Continue))?;
    if target.first {
        return Err(malformed("nothing"));
    }
    target.finish()
}

impl Target<'_> {
    fn make(&mut self, entry: Entry, content: &mut dyn Read) -> io::Result<()> {
        // Everything is below the first entry; a second top-level entry would replace another file.
        if entry.below.is_empty() != self.first {
            return Err(malformed("more than one thing, or its parts first"));
        }
        self.first = false;
        let path = self.path(&entry.below);
        let (parent, name) = self.parent(&path)?;
        match entry.kind {
            Kind::Directory => {
                match mkdirat(&parent, &name, Mode::RWXU) {
                    Ok(()) => self.made.push((path, entry.mode, entry.mtime)),
                    Err(Errno::EXIST) if self.is_directory(&path) => {}
                    Err(error) => return Err(at(&path, &error.into())),
                }
                return Ok(());
            }
            Kind::File(size) => {
                let file = create(&parent, &name).map_err(|error| at(&path, &error))?;
                let copied = self.copier.copy(content, &file)?;
                if copied != size {
                    return Err(malformed("a file shorter than it says"));
                }
                fchmod(&file, Mode::from_raw_mode(entry.mode))?;
                futimens(&file, &times(entry.mtime))?;
            }
            Kind::Symlink(link) => {
                replace(&parent, &name, || symlinkat(&link, &parent, &name)).map_err(|error| at(&path, &error))?;
                utimensat(&parent, &name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Kind::HardLink(below) => {
                let (other, other_name) = self.parent(&self.path(&below))?;
                replace(&parent, &name, || linkat(&other, &other_name, &parent, &name, AtFlags::empty()))
                    .map_err(|error| at(&path, &error))?;
            }
            Kind::Special => self.skipped += 1,
        }
        Ok(())
    }

    /// Sets the modes and times of the directories, the innermost first.
    fn finish(mut self) -> io::Result<Skipped> {
        while let Some((path, mode, mtime)) = self.made.pop() {
            let directory = self.open(&path, OFlags::DIRECTORY | OFlags::RDONLY)?;
            fchmod(&directory, Mode::from_raw_mode(mode))?;
            futimens(&directory, &times(mtime))?;
        }
        Ok(Skipped(self.skipped))
    }

    fn path(&self, below: &[OsString]) -> PathBuf {
        std::iter::once(self.name).chain(below.iter().map(OsString::as_os_str)).collect()
    }

    /// Opens the parent of `path`, and returns the name in it.
    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or_else(|| malformed("an entry without a name"))?.to_owned();
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => self.open(parent, OFlags::DIRECTORY | OFlags::PATH)?,
            _ => self.root.try_clone()?,
        };
        Ok((parent, name))
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), beneath).map_err(|error| match error {
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => malformed("a path through a link, which could lead outside"),
            error => at(path, &error.into()),
        })
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.open(path, OFlags::DIRECTORY | OFlags::PATH).is_ok()
    }
}

/// Creates a file, in place of anything of that name but a directory.
fn create(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut made = None;
    replace(parent, name, || {
        made = Some(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
        Ok(())
    })?;
    made.map(File::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Creates something under a name, and removes an existing file first if there is one.
fn replace(parent: &OwnedFd, name: &OsStr, mut make: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    match make() {
        Err(Errno::EXIST) => {
            let old = statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            if rustix::fs::FileType::from_raw_mode(old.st_mode).is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(make()?)
        }
        result => Ok(result?),
    }
}

fn times((seconds, nanoseconds): UnixTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use tar::{Builder, EntryType, Header};

    struct Archive(Builder<Vec<u8>>);

    impl Archive {
        fn new() -> Self {
            Self(Builder::new(Vec::new()))
        }

        fn add(mut self, path: &str, kind: EntryType, link: &str, content: &str) -> Self {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o640 });
            header.set_mtime(1_000_000_000);
            header.set_size(content.len() as u64);
            if link.is_empty() {
                self.0.append_data(&mut header, path, content.as_bytes()).unwrap();
            } else {
                self.0.append_link(&mut header, path, link).unwrap();
            }
            self
        }

        fn unpack(self, parent: &Path, name: &str) -> io::Result<Skipped> {
            unpack(self.0.into_inner().unwrap().as_slice(), parent, OsStr::new(name))
        }
    }

    #[test]
    fn a_tree_keeps_modes_times_and_links() {
        let dir = tempfile::tempdir().unwrap();
        Archive::new()
            .add("src", EntryType::Directory, "", "")
            .add("src/sub", EntryType::Directory, "", "")
            .add("src/sub/file", EntryType::Regular, "", "hello")
            .add("src/link", EntryType::Symlink, "../../etc", "")
            .add("src/second", EntryType::Link, "src/sub/file", "")
            .unpack(dir.path(), "out")
            .unwrap();
        let out = dir.path().join("out");
        assert_eq!(std::fs::read_to_string(out.join("second")).unwrap(), "hello");
        assert_eq!(std::fs::read_link(out.join("link")).unwrap(), Path::new("../../etc"));
        for (path, mode) in [("sub", 0o750), ("sub/file", 0o640)] {
            let meta = out.join(path).symlink_metadata().unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, 1_000_000_000), "{path}");
        }
        assert_eq!(out.join("link").symlink_metadata().unwrap().mtime(), 1_000_000_000);
    }

    #[test]
    fn a_link_in_the_archive_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let into = dir.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let error = Archive::new()
            .add("src", EntryType::Directory, "", "")
            .add("src/door", EntryType::Symlink, outside.to_str().unwrap(), "")
            .add("src/door/evil", EntryType::Regular, "", "x")
            .unpack(&into, "out")
            .unwrap_err();
        assert!(error.to_string().contains("through a link"), "{error}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_link_that_is_there_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "keep").unwrap();
        symlink(&precious, dir.path().join("out")).unwrap();
        Archive::new().add("f", EntryType::Regular, "", "new").unpack(dir.path(), "out").unwrap();
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "keep");
        assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "new");
        assert!(!dir.path().join("out").symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn two_roots_and_no_root_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let two = Archive::new().add("a", EntryType::Regular, "", "1").add("b", EntryType::Regular, "", "2");
        assert!(two.unpack(dir.path(), "out").is_err());
        assert!(Archive::new().unpack(dir.path(), "empty").is_err());
        assert!(Archive::new().add("a/b", EntryType::Regular, "", "1").unpack(dir.path(), "deep").is_err());
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        assert!(Archive::new().add("f", EntryType::Regular, "", "x").unpack(dir.path(), "out").is_err());
    }
}

//! Unpacks a tar stream below a directory, and nowhere else.
//!
//! Absolute paths and paths with `..` are refused. A link on the way is followed only while it stays below the
//! directory. An existing file at an entry's own name is replaced, never written through; a directory replaces nothing,
//! unless the [`OverwritePolicy`] says so. Devices and unknown types of entries are refused.

mod destination;
mod metadata;

use crate::{beneath, checkout_dirs};
use banger_link::archive::sparse::SparseCopier;
use banger_proto::failure::{Code, Failure};
use destination::{Destination, LinkSource};
use metadata::{mode, mtime, owner};
use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    rc::Rc,
};
use tar::{Archive, Entry, EntryType};

/// Longest path of an entry, in bytes.
const MAX_PATH: usize = 4096;
/// Most bytes of an entry's headers: long names and PAX records come before the entry in blocks of their own.
const MAX_HEADERS: u64 = 1 << 20;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("the archive cannot be read")]
    Stream(#[source] io::Error),
    #[error("the archive has an entry that leads outside: {0:?}")]
    Outside(PathBuf),
    #[error("the archive has an entry of a kind that is not unpacked: {0:?}")]
    Kind(PathBuf),
    #[error("cannot unpack {0:?}")]
    Write(PathBuf, #[source] io::Error),
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        let code = match &error {
            UnpackError::Stream(_) => Code::Invalid,
            UnpackError::Outside(_) => Code::Denied,
            UnpackError::Kind(_) => Code::Unsupported,
            UnpackError::Write(_, source) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Unavailable,
                io::ErrorKind::PermissionDenied => Code::Denied,
                _ => Code::Invalid,
            },
        };
        Self::caused_by(code, "the archive was not unpacked, or not wholly", &error)
    }
}

/// Opens the directory that an archive is unpacked into.
pub(in crate::server) fn open_base(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// How an entry treats existing files that are in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverwritePolicy {
    /// The archive is added to the directory: links on the way are followed while they stay below the directory, a
    /// directory is removed only if it is empty, and nothing is removed for a directory. Times are the archive's.
    Merge,
    /// The archive takes precedence: a file or link is removed where a directory has to be, and a directory with its
    /// content where something else has to be. No link is followed. A file identical to the existing one keeps the
    /// existing one's time; any other has the time of its creation in the guest.
    Replace,
}

/// Unpacks the whole archive.
pub(super) fn unpack(base: &OwnedFd, from: impl Read, policy: OverwritePolicy) -> Result<(), UnpackError> {
    let budget = Rc::new(Cell::new(Some(MAX_HEADERS)));
    let mut archive = Archive::new(Metered { inner: from, budget: Rc::clone(&budget) });
    let root = rustix::process::geteuid().is_root();
    let mask = beneath::mask();
    let mut unpacker = Unpacker { base, policy, root, mask, dirs: Vec::new(), last: None, copier: SparseCopier::new() };
    for entry in archive.entries().map_err(UnpackError::Stream)? {
        let mut entry = entry.map_err(UnpackError::Stream)?;
        budget.set(None);
        unpacker.entry(&mut entry)?;
        // Content that the entry's handler did not read is skipped here, so that the budget covers headers alone.
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Stream)?;
        budget.set(Some(MAX_HEADERS));
    }
    unpacker.leave(&[])
}

/// A reader that fails beyond its budget: headers are read into memory, whatever length they announce.
struct Metered<R> {
    inner: R,
    /// Bytes left; `None` means no limit.
    budget: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(budget) = self.budget.get() else { return self.inner.read(into) };
        if budget == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "headers over the size limit"));
        }
        let limit = usize::try_from(budget).unwrap_or(usize::MAX).min(into.len());
        let count = self.inner.read(&mut into[..limit])?;
        self.budget.set(Some(budget - count as u64));
        Ok(count)
    }
}

struct Unpacker<'a> {
    base: &'a OwnedFd,
    policy: OverwritePolicy,
    root: bool,
    /// The umask: permission bits that a new file does not get.
    mask: Mode,
    /// The directories being filled, each within the one before, and their times, which are set when they are left.
    dirs: Vec<(PathBuf, Timespec)>,
    /// The directory of the last file, while only files have come since: most files follow a file of the same
    /// directory.
    last: Option<(PathBuf, Parent)>,
    copier: SparseCopier,
}

/// A directory that entries are written to.
#[derive(Clone)]
struct Parent {
    fd: Rc<OwnedFd>,
    /// Whether the directory is set-group-id, so that new files get its group.
    gives_group: bool,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Stream)?.into_owned();
        let outside = || UnpackError::Outside(path.clone());
        if path.as_os_str().len() > MAX_PATH {
            return Err(outside());
        }
        let parts = beneath::parts(&path).ok_or_else(outside)?;
        self.leave(&parts)?;
        let Some((name, above)) = parts.split_last() else {
            // `.`, the directory itself: it exists, and keeps its metadata.
            return Ok(());
        };
        let failed = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            // openat2 returns these for a path that leads out of the directory.
            Some(Errno::XDEV | Errno::LOOP) => UnpackError::Outside(path.clone()),
            _ => UnpackError::Write(path.clone(), error),
        };
        let kind = entry.header().entry_type();
        // Before anything is created or removed.
        let source = match kind {
            EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Stream)?.ok_or_else(outside)?.into_owned();
                let target = beneath::parts(&target).filter(|target| !target.is_empty()).ok_or_else(outside)?;
                Some(self.link_source(&parts, &target).map_err(failed)?)
            }
            _ => None,
        };
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let (seconds, nanoseconds) = mtime(entry).map_err(UnpackError::Stream)?;
        let Parent { fd: parent, gives_group } = self.parent(above, is_file).map_err(failed)?;
        let (policy, of_git) = (self.policy, parts.iter().any(|part| *part == ".git"));
        let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let dest = Destination { parent, gives_group, name, policy, of_git, mtime };
        match kind {
            EntryType::Link => source.map_or(Ok(()), |source| dest.link(&source)).map_err(failed),
            _ if is_file => self.file(&dest, entry).map_err(failed),
            EntryType::Directory => {
                self.directory(&dest, entry).map_err(failed)?;
                self.dirs.push((parts.iter().collect(), dest.mtime));
                Ok(())
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(outside)?.into_owned();
                self.symlink(&dest, &target, entry).map_err(failed)
            }
            EntryType::Fifo => self.fifo(&dest, entry).map_err(failed),
            _ => Err(UnpackError::Kind(path)),
        }
    }

    /// Returns the directory of an entry, and creates it if it is missing. An entry that is not a file may put a link
    /// or another directory in the way, so the directory is resolved once only for a run of files.
    fn parent(&mut self, above: &[&OsStr], is_file: bool) -> io::Result<Parent> {
        let path: PathBuf = above.iter().collect();
        match &self.last {
            Some((last, parent)) if is_file && *last == path => return Ok(parent.clone()),
            _ => self.last = None,
        }
        let fd = match self.policy {
            OverwritePolicy::Merge => beneath::make_dirs_beneath(self.base, above)?,
            OverwritePolicy::Replace => checkout_dirs::make_dirs(self.base, above)?,
        };
        let gives_group = Mode::from_raw_mode(fs::fstat(&fd)?.st_mode).contains(Mode::SGID);
        let parent = Parent { fd: Rc::new(fd), gives_group };
        self.last = is_file.then(|| (path, parent.clone()));
        Ok(parent)
    }

    /// Sets the times of the directories that do not contain the next entry.
    fn leave(&mut self, next: &[&OsStr]) -> Result<(), UnpackError> {
        let next: PathBuf = next.iter().collect();
        while let Some((dir, mtime)) = self.dirs.last() {
            if next.starts_with(dir) {
                return Ok(());
            }
            let times = Timestamps { last_access: *mtime, last_modification: *mtime };
            // A directory that was replaced since then has the times of its replacement.
            let opened = beneath::parts(dir).and_then(|parts| beneath::open_dir_beneath(self.base, &parts).ok());
            if let Some(fd) = opened {
                fs::futimens(&fd, &times).map_err(|error| UnpackError::Write(dir.clone(), error.into()))?;
            }
            self.dirs.pop();
        }
        Ok(())
    }

    fn directory(&self, dest: &Destination<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let make = || fs::mkdirat(&*dest.parent, dest.name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                let stat = fs::statat(&*dest.parent, dest.name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    if dest.policy == OverwritePolicy::Merge {
                        return Err(Errno::NOTDIR.into());
                    }
                    dest.clear()?;
                    make()?;
                }
            }
            other => other?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::openat(&*dest.parent, dest.name, flags, Mode::empty())?;
        self.set_owner(&dir, entry)?;
        Ok(fs::fchmod(&dir, mode(entry))?)
    }

    fn file(&mut self, dest: &Destination<'_>, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let wanted = mode(entry);
        // With 20,000 small files each system call is noticeable, so the mode is set only if the created file differs.
        let created_mode = wanted & (Mode::RWXU | Mode::RWXG | Mode::RWXO) & !self.mask;
        let make = || fs::openat(&*dest.parent, dest.name, flags, created_mode);
        let mut replaced = None;
        let file = match make() {
            Err(Errno::EXIST) => {
                replaced = dest.replaced(entry.size());
                dest.clear()?;
                make()?
            }
            made => made?,
        };
        let file = File::from(file);
        match &mut replaced {
            Some(replaced) => self.copier.copy(&mut replaced.comparing(&mut *entry), &file)?,
            None => self.copier.copy(entry, &file)?,
        };
        let is_roots = owner(entry) == (Some(Uid::ROOT), Some(Gid::ROOT)) && rustix::process::getegid().is_root();
        if dest.gives_group || !is_roots {
            // A change of owner clears the set-user-id bit, so it precedes the mode.
            self.set_owner(&file, entry)?;
        }
        if created_mode != wanted {
            fs::fchmod(&file, wanted)?;
        }
        match dest.times().or_else(|| replaced?.times()) {
            Some(times) => Ok(fs::futimens(&file, &times)?),
            None => Ok(()),
        }
    }

    fn symlink(&self, dest: &Destination<'_>, target: &[u8], entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if dest.has_link(target) {
            return Ok(());
        }
        dest.clear()?;
        fs::symlinkat(target, &*dest.parent, dest.name)?;
        self.set_metadata(dest, entry)
    }

    /// Finds the target of a hard link at `parts`. A directory is refused, and so is a target inside the link or around
    /// it, which would be removed for the link.
    fn link_source(&self, parts: &[&OsStr], target: &[&OsStr]) -> io::Result<LinkSource> {
        let is_inside = parts.starts_with(target) || target.starts_with(parts);
        let (name, above) = target.split_last().filter(|_| !is_inside || parts == target).ok_or(Errno::INVAL)?;
        let dir = beneath::dir_beneath(self.base, above, self.policy == OverwritePolicy::Merge)?;
        let stat = fs::statat(&dir, *name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::PERM.into());
        }
        Ok(LinkSource { dir, name: name.into(), inode: (stat.st_dev, stat.st_ino) })
    }

    fn fifo(&self, dest: &Destination<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        dest.clear()?;
        fs::mknodat(&*dest.parent, dest.name, FileType::Fifo, mode(entry), 0)?;
        self.set_metadata(dest, entry)
    }

    /// Sets owner and times of a file that is not opened.
    fn set_metadata(&self, dest: &Destination<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if self.root {
            let (uid, gid) = owner(entry);
            fs::chownat(&*dest.parent, dest.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        match dest.times() {
            Some(times) => Ok(fs::utimensat(&*dest.parent, dest.name, &times, AtFlags::SYMLINK_NOFOLLOW)?),
            None => Ok(()),
        }
    }

    fn set_owner(&self, fd: impl rustix::fd::AsFd, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if self.root {
            let (uid, gid) = owner(entry);
            fs::fchown(fd, uid, gid)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

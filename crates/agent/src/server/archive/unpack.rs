//! Unpacks a tar stream below a directory, and nowhere else.
//!
//! A path that climbs or is absolute is refused; a link on the way is followed only while it stays below the directory;
//! what stands at an entry's own name is replaced, never written through, but not by a directory. Devices and anything
//! unknown are refused.

use super::earlier::Earlier;
use crate::{checkout_dirs, rooted};
use banger_link::{holes::Copier, times};
use banger_proto::failure::{Code, Failure};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    rc::Rc,
};
use tar::{Archive, Entry, EntryType};

/// Longest path of an entry, in bytes.
const MAX_PATH: usize = 4096;
/// Bytes an entry's headers may have: long names and PAX records come before it in blocks of their own.
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

/// Opens the directory an archive goes to.
pub(in crate::server) fn open_base(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What an entry does with what stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Links on the way are followed while they stay below the directory; a directory only goes when it is empty, and
    /// nothing goes for one.
    Shared,
    /// The archive is the whole truth: what is no directory where one has to be goes, and a directory with all that is in
    /// it where there is something else. Nothing is reached through a link. What was there already as it arrives keeps its
    /// time, and what was not has the guest's.
    Cleared,
}

/// Unpacks all of it.
pub(super) fn unpack(base: &OwnedFd, from: impl Read, way: Way) -> Result<(), UnpackError> {
    let budget = Rc::new(Cell::new(Some(MAX_HEADERS)));
    let mut archive = Archive::new(Metered { inner: from, budget: Rc::clone(&budget) });
    let root = rustix::process::geteuid().is_root();
    let mask = rooted::mask();
    let mut unpacker = Unpacker { base, way, root, mask, dirs: Vec::new(), last: None, copier: Copier::new() };
    for entry in archive.entries().map_err(UnpackError::Stream)? {
        let mut entry = entry.map_err(UnpackError::Stream)?;
        budget.set(None);
        unpacker.entry(&mut entry)?;
        // What an entry has beyond what was taken is skipped here, so that the budget is for headers alone.
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Stream)?;
        budget.set(Some(MAX_HEADERS));
    }
    unpacker.leave(&[])
}

/// A reader that gives no more than its budget: headers are read into memory, whatever length they announce.
struct Metered<R> {
    inner: R,
    /// Bytes left; `None` is no limit.
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
    way: Way,
    root: bool,
    /// Mode bits a new file does not get, whatever is asked for.
    mask: Mode,
    /// Directories that are being filled, each within the one before; they get their times when they are left.
    dirs: Vec<(PathBuf, Timespec)>,
    /// The directory of the last file, while nothing but files came since: most files come after their neighbours.
    last: Option<(PathBuf, Parent)>,
    copier: Copier,
}

/// A directory entries go to.
#[derive(Clone)]
struct Parent {
    fd: Rc<OwnedFd>,
    /// What is made there gets the directory's group.
    gives_group: bool,
}

/// A file that is there, to have another name.
struct Source {
    dir: OwnedFd,
    name: OsString,
    inode: (u64, u64),
}

/// Where an entry goes.
struct Place<'a> {
    parent: Rc<OwnedFd>,
    gives_group: bool,
    name: &'a OsStr,
    way: Way,
    /// Whether it is git's own, which nobody builds from.
    of_git: bool,
    mtime: Timespec,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Stream)?.into_owned();
        let outside = || UnpackError::Outside(path.clone());
        if path.as_os_str().len() > MAX_PATH {
            return Err(outside());
        }
        let parts = rooted::parts(&path).ok_or_else(outside)?;
        self.leave(&parts)?;
        let Some((name, above)) = parts.split_last() else {
            // The directory itself, as `.`: it exists, and keeps what it has.
            return Ok(());
        };
        let failed = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            // What openat2 says about a path that leads out of the directory.
            Some(Errno::XDEV | Errno::LOOP) => UnpackError::Outside(path.clone()),
            _ => UnpackError::Write(path.clone(), error),
        };
        let kind = entry.header().entry_type();
        // Looked for before anything is made, or makes way.
        let source = match kind {
            EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Stream)?.ok_or_else(outside)?.into_owned();
                let target = rooted::parts(&target).filter(|target| !target.is_empty()).ok_or_else(outside)?;
                Some(self.source(&parts, &target).map_err(failed)?)
            }
            _ => None,
        };
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let (seconds, nanoseconds) = time(entry).map_err(UnpackError::Stream)?;
        let Parent { fd: parent, gives_group } = self.parent(above, is_file).map_err(failed)?;
        let (way, of_git) = (self.way, parts.iter().any(|part| *part == ".git"));
        let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let place = Place { parent, gives_group, name, way, of_git, mtime };
        match kind {
            EntryType::Link => source.map_or(Ok(()), |source| place.link(&source)).map_err(failed),
            _ if is_file => self.file(&place, entry).map_err(failed),
            EntryType::Directory => {
                self.directory(&place, entry).map_err(failed)?;
                self.dirs.push((parts.iter().collect(), place.mtime));
                Ok(())
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(outside)?.into_owned();
                self.symlink(&place, &target, entry).map_err(failed)
            }
            EntryType::Fifo => self.fifo(&place, entry).map_err(failed),
            _ => Err(UnpackError::Kind(path)),
        }
    }

    /// The directory an entry is in, made where it is missing. Anything but a file may put a link or another directory in
    /// its way, so only a run of files takes it as it was found for the first of them.
    fn parent(&mut self, above: &[&OsStr], is_file: bool) -> io::Result<Parent> {
        let path: PathBuf = above.iter().collect();
        match &self.last {
            Some((last, parent)) if is_file && *last == path => return Ok(parent.clone()),
            _ => self.last = None,
        }
        let fd = match self.way {
            Way::Shared => rooted::make_dirs_beneath(self.base, above)?,
            Way::Cleared => checkout_dirs::make_dirs(self.base, above)?,
        };
        let gives_group = Mode::from_raw_mode(fs::fstat(&fd)?.st_mode).contains(Mode::SGID);
        let parent = Parent { fd: Rc::new(fd), gives_group };
        self.last = is_file.then(|| (path, parent.clone()));
        Ok(parent)
    }

    /// Gives directories that hold nothing of what follows their times.
    fn leave(&mut self, next: &[&OsStr]) -> Result<(), UnpackError> {
        let next: PathBuf = next.iter().collect();
        while let Some((dir, mtime)) = self.dirs.last() {
            if next.starts_with(dir) {
                return Ok(());
            }
            let times = Timestamps { last_access: *mtime, last_modification: *mtime };
            // One that was replaced meanwhile has its times from what replaced it.
            let opened = rooted::parts(dir).and_then(|parts| rooted::open_dir_beneath(self.base, &parts).ok());
            if let Some(fd) = opened {
                fs::futimens(&fd, &times).map_err(|error| UnpackError::Write(dir.clone(), error.into()))?;
            }
            self.dirs.pop();
        }
        Ok(())
    }

    fn directory(&self, place: &Place<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let make = || fs::mkdirat(&*place.parent, place.name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                let stat = fs::statat(&*place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    if place.way == Way::Shared {
                        return Err(Errno::NOTDIR.into());
                    }
                    place.clear()?;
                    make()?;
                }
            }
            other => other?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::openat(&*place.parent, place.name, flags, Mode::empty())?;
        self.own(&dir, entry)?;
        Ok(fs::fchmod(&dir, mode(entry))?)
    }

    fn file(&mut self, place: &Place<'_>, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let wanted = mode(entry);
        // Of twenty thousand small files every call is felt: what a new file has anyhow is not given to it again.
        let born = wanted & (Mode::RWXU | Mode::RWXG | Mode::RWXO) & !self.mask;
        let make = || fs::openat(&*place.parent, place.name, flags, born);
        let mut earlier = None;
        let file = match make() {
            Err(Errno::EXIST) => {
                earlier = place.earlier(entry.size());
                place.clear()?;
                make()?
            }
            made => made?,
        };
        let file = File::from(file);
        match &mut earlier {
            Some(earlier) => self.copier.copy(&mut earlier.beside(&mut *entry), &file)?,
            None => self.copier.copy(entry, &file)?,
        };
        let roots = owner(entry) == (Some(Uid::ROOT), Some(Gid::ROOT)) && rustix::process::getegid().is_root();
        if place.gives_group || !roots {
            // Changing hands takes set-user-id away, so it comes before the mode.
            self.own(&file, entry)?;
        }
        if born != wanted {
            fs::fchmod(&file, wanted)?;
        }
        match place.times().or_else(|| earlier?.times()) {
            Some(times) => Ok(fs::futimens(&file, &times)?),
            None => Ok(()),
        }
    }

    fn symlink(&self, place: &Place<'_>, target: &[u8], entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if place.has_link(target) {
            return Ok(());
        }
        place.clear()?;
        fs::symlinkat(target, &*place.parent, place.name)?;
        self.dress(place, entry)
    }

    /// What a hard link at `parts` is to: no directory, and neither in the other, for whose sake it would go.
    fn source(&self, parts: &[&OsStr], target: &[&OsStr]) -> io::Result<Source> {
        let is_inside = parts.starts_with(target) || target.starts_with(parts);
        let (name, above) = target.split_last().filter(|_| !is_inside || parts == target).ok_or(Errno::INVAL)?;
        let dir = rooted::dir_beneath(self.base, above, self.way == Way::Shared)?;
        let stat = fs::statat(&dir, *name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::PERM.into());
        }
        Ok(Source { dir, name: name.into(), inode: (stat.st_dev, stat.st_ino) })
    }

    fn fifo(&self, place: &Place<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        place.clear()?;
        fs::mknodat(&*place.parent, place.name, FileType::Fifo, mode(entry), 0)?;
        self.dress(place, entry)
    }

    /// Owner and times of what is not opened.
    fn dress(&self, place: &Place<'_>, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if self.root {
            let (uid, gid) = owner(entry);
            fs::chownat(&*place.parent, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        match place.times() {
            Some(times) => Ok(fs::utimensat(&*place.parent, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?),
            None => Ok(()),
        }
    }

    fn own(&self, fd: impl rustix::fd::AsFd, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if self.root {
            let (uid, gid) = owner(entry);
            fs::fchown(fd, uid, gid)?;
        }
        Ok(())
    }
}

impl Place<'_> {
    /// Makes room for the entry. A directory is only removed when it is empty.
    fn clear(&self) -> io::Result<()> {
        match fs::unlinkat(&*self.parent, self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) if self.way == Way::Cleared => checkout_dirs::clear(self.parent.as_fd(), self.name),
            Err(Errno::ISDIR) => Ok(fs::unlinkat(&*self.parent, self.name, AtFlags::REMOVEDIR)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file this name too, if it has it not.
    fn link(&self, source: &Source) -> io::Result<()> {
        let link = || fs::linkat(&source.dir, &source.name, &*self.parent, self.name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        let there = fs::statat(&*self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (there.st_dev, there.st_ino) != source.inode {
            self.clear()?;
            link()?;
        }
        Ok(())
    }

    /// The file that is there and may be the one that arrives with `size` bytes.
    fn earlier(&self, size: u64) -> Option<Earlier> {
        let counts = self.way == Way::Cleared && !self.of_git;
        counts.then(|| Earlier::find(self.parent.as_fd(), self.name, size)).flatten()
    }

    /// Whether the link that arrives is there.
    fn has_link(&self, target: &[u8]) -> bool {
        let there = || fs::readlinkat(&*self.parent, self.name, Vec::new());
        self.way == Way::Cleared && there().is_ok_and(|found| found.as_bytes() == target)
    }

    /// The times it is given, unless it has those of the moment.
    fn times(&self) -> Option<Timestamps> {
        let given = Timestamps { last_access: self.mtime, last_modification: self.mtime };
        (self.way == Way::Shared).then_some(given)
    }
}

/// When an entry was last changed, as its record or else its header says.
fn time(entry: &mut Entry<'_, impl Read>) -> io::Result<times::Time> {
    let seconds = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        if record.key_bytes() == b"mtime" {
            return Ok(times::parse(record.value_bytes()).unwrap_or((seconds, 0)));
        }
    }
    Ok((seconds, 0))
}

fn mode(entry: &Entry<'_, impl Read>) -> Mode {
    Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

/// The numbers of the archive; one that does not fit is root's.
fn owner(entry: &Entry<'_, impl Read>) -> (Option<Uid>, Option<Gid>) {
    // All ones means "leave it" to the kernel.
    let fits = |number: u64| u32::try_from(number).ok().filter(|number| *number != u32::MAX);
    let number = |number: io::Result<u64>| number.ok().and_then(fits).unwrap_or(0);
    (Some(Uid::from_raw(number(entry.header().uid()))), Some(Gid::from_raw(number(entry.header().gid()))))
}

#[cfg(test)]
mod tests;

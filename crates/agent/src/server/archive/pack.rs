//! Writes a tree as a tar stream; names begin with the last component of the requested path.
//!
//! Modes, owners, times, symbolic and hard links are kept; sockets are left out; a file whose size changes while it is
//! read is cut or zero-filled to the announced size.

use super::queue::PieceWriter;
use banger_link::archive::mtime;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// Block size of an archive, in bytes.
const BLOCK: usize = 512;
/// Maximum nesting of directories.
const MAX_DEPTH: usize = 512;
/// Most hard links that are remembered; beyond, a file is written once per name.
const MAX_LINKED: usize = 1 << 16;

/// The file or directory to pack.
#[derive(Debug)]
pub(super) struct Root {
    parent: OwnedFd,
    /// Its name in the directory, and in the archive.
    name: OsString,
}

impl Root {
    /// Finds the file at `path`. A link at its end is packed as a link.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name.to_owned()),
            // `/` and `/a/..` have no last name.
            _ => (path, OsString::from(".")),
        };
        let parent = fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self { parent, name })
    }

    /// Writes the whole archive.
    pub(super) fn write(&self, to: &mut PieceWriter) -> io::Result<()> {
        let mut packer = Packer { builder: Builder::new(to), linked: HashMap::new() };
        packer.entry(&self.parent, &self.name, Path::new(&self.name), 0)?;
        packer.builder.into_inner()?.flush()
    }
}

struct Packer<'a> {
    builder: Builder<&'a mut PieceWriter>,
    /// Device and inode of each file with several links, and its first name.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn entry(&mut self, dir: impl AsFd, name: &OsStr, path: &Path, depth: usize) -> io::Result<()> {
        let dir = dir.as_fd();
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // The file existed when the directory was read; a live tree changes.
            Err(Errno::NOENT) if depth > 0 => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                return self.builder.append_link(&mut header(&stat, EntryType::Link, 0), path, first);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert((stat.st_dev, stat.st_ino), path.to_owned());
            }
        }
        match kind {
            FileType::Directory => self.directory(dir, name, path, depth, &stat),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let Some(file) = unless_changed(fs::openat(dir, name, flags, Mode::empty()))? else { return Ok(()) };
                // The opened file decides: another one, of any type, may have the name by now.
                let stat = fs::fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(());
                }
                let (file, size) = (File::from(file), u64::try_from(stat.st_size).unwrap_or(0));
                self.time(&stat)?;
                // Only the headers: the content bypasses the builder, which writes small pieces.
                self.builder.append_data(&mut header(&stat, EntryType::Regular, size), path, io::empty())?;
                let pieces = self.builder.get_mut();
                pieces.take(&file, size)?;
                let padding = size.next_multiple_of(BLOCK as u64) - size;
                pieces.write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or_default()])
            }
            FileType::Symlink => {
                let Some(target) = unless_changed(fs::readlinkat(dir, name, Vec::new()))? else { return Ok(()) };
                let target = OsString::from_vec(target.into_bytes());
                self.time(&stat)?;
                self.builder.append_link(&mut header(&stat, EntryType::Symlink, 0), path, Path::new(&target))
            }
            FileType::Fifo => self.special(path, &stat, EntryType::Fifo),
            FileType::CharacterDevice => self.special(path, &stat, EntryType::Char),
            FileType::BlockDevice => self.special(path, &stat, EntryType::Block),
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn directory(&mut self, dir: impl AsFd, name: &OsStr, path: &Path, depth: usize, stat: &Stat) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("{} is more than {MAX_DEPTH} directories deep", path.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(inner) = unless_changed(fs::openat(dir, name, flags, Mode::empty()))? else { return Ok(()) };
        self.time(stat)?;
        self.builder.append_data(&mut header(stat, EntryType::Directory, 0), path, io::empty())?;
        // Sorted, so that equal trees give equal archives.
        let mut names = Vec::new();
        for entry in Dir::read_from(&inner)? {
            let entry = entry?;
            if !is_dot(entry.file_name()) {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            self.entry(&inner, &name, &path.join(&name), depth + 1)?;
        }
        Ok(())
    }

    /// Writes the PAX record for a time that the next entry's header cannot express.
    fn time(&mut self, stat: &Stat) -> io::Result<()> {
        match mtime::to_pax(time(stat)) {
            Some(value) => self.builder.append_pax_extensions([("mtime", value.as_bytes())]),
            None => Ok(()),
        }
    }

    fn special(&mut self, path: &Path, stat: &Stat, kind: EntryType) -> io::Result<()> {
        let mut header = header(stat, kind, 0);
        self.time(stat)?;
        header.set_device_major(fs::major(stat.st_rdev))?;
        header.set_device_minor(fs::minor(stat.st_rdev))?;
        self.builder.append_data(&mut header, path, io::empty())
    }
}

/// Treats a file that was removed or replaced since it was examined, as in a live tree, as missing.
fn unless_changed<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(mtime::header_seconds(time(stat)));
    header.set_size(size);
    header
}

fn time(stat: &Stat) -> mtime::UnixTime {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}

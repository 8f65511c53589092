//! Reads files of the working tree so that no symbolic link in it leads out.

use data_encoding::HEXLOWER;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat},
    io::Errno,
};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

/// Most bytes of an attribute file that are read.
const MAX_SMALL: u64 = 4 << 20;

/// A file or link in a working tree.
#[derive(Debug)]
pub(crate) enum Item {
    /// A regular file, and its metadata.
    File(File, Stat),
    /// A symbolic link's target.
    Link(Vec<u8>),
}

/// Time and size of a file, as an index keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seconds: u32,
    pub(crate) nanoseconds: u32,
    pub(crate) size: u32,
}

/// An open working tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())? })
    }

    /// Whether there is a file or a symbolic link of that name.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.stat(path).is_ok_and(|(_, _, stat)| {
            matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink)
        })
    }

    /// Opens what is at a path; none when it is gone, or neither file nor link.
    pub(crate) fn item(&self, path: &[u8]) -> io::Result<Option<Item>> {
        let (parent, name, stat) = match self.stat(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(&parent, name, Vec::new())?.into_bytes();
                Ok(Some(Item::Link(target)))
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&parent, name, flags, Mode::empty())?);
                let stat = rustix::fs::fstat(&file)?;
                Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(Item::File(file, stat)))
            }
            _ => Ok(None),
        }
    }

    /// Returns a file's time and size in the width an index keeps.
    pub(crate) fn stamp(&self, path: &[u8]) -> Option<Stamp> {
        let (_, _, stat) = self.stat(path).ok()?;
        Some(Stamp {
            seconds: u32::try_from(stat.st_mtime & 0xffff_ffff).unwrap_or(0),
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            size: u32::try_from(stat.st_size & 0xffff_ffff).unwrap_or(0),
        })
    }

    /// Reads a small file.
    pub(crate) fn small(&self, path: &[u8]) -> Option<Vec<u8>> {
        let Ok(Some(Item::File(file, _))) = self.item(path) else { return None };
        let mut bytes = Vec::new();
        file.take(MAX_SMALL).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Whether the file's content is that of the blob `object`.
    pub(crate) fn is_blob(&self, path: &[u8], object: &str) -> io::Result<bool> {
        let Some(Item::File(file, stat)) = self.item(path)? else { return Ok(false) };
        let header = format!("blob {}\0", stat.st_size);
        let hash = if object.len() == 64 {
            HEXLOWER.encode(&hash(Sha256::new_with_prefix(&header), file)?)
        } else {
            HEXLOWER.encode(&hash(Sha1::new_with_prefix(&header), file)?)
        };
        Ok(hash == object)
    }

    /// Opens the directory a path is in; returns also the last name of the path and its metadata.
    fn stat<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a OsStr, Stat), Errno> {
        let path = Path::new(OsStr::from_bytes(path));
        let name = path.file_name().ok_or(Errno::NOENT)?;
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or_else(|| Path::new("."));
        let parent = openat2(
            &self.root,
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((parent, name, stat))
    }
}

fn hash<D: sha1::Digest>(mut hash: D, mut file: File) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out() {
        let temp = tempfile::tempdir().unwrap();
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        for dir in [&root, &outside] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(outside.join("secret"), "x").unwrap();
        symlink(&outside, root.join("dir")).unwrap();
        symlink("../outside/secret", root.join("link")).unwrap();
        let tree = Tree::open(&root).unwrap();
        assert!(tree.item(b"dir/secret").unwrap().is_none() && !tree.has(b"dir/secret"));
        assert!(matches!(tree.item(b"link").unwrap(), Some(Item::Link(target)) if target == b"../outside/secret"));
        assert!(tree.item(b"../outside/secret").unwrap().is_none());
        assert!(tree.item(b"missing").unwrap().is_none());
    }

    #[test]
    fn a_blob_is_known_by_its_bytes() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("f"), "hello\n").unwrap();
        let tree = Tree::open(temp.path()).unwrap();
        assert!(tree.is_blob(b"f", "ce013625030ba8dba906f756967f9e9ca394464a").unwrap());
        assert!(!tree.is_blob(b"f", "0000000000000000000000000000000000000000").unwrap());
    }
}

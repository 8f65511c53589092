//! Directories and names made available in a working tree, whatever exists there: a link or file where a directory has
//! to be is removed, and no link is followed.

use crate::beneath::make_dir;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat},
    io::Errno,
};
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _};

/// The directory files are being written into, and those above it.
pub(crate) struct CheckoutDirs<'a> {
    base: &'a OwnedFd,
    open: Vec<(&'a [u8], OwnedFd)>,
}

impl<'a> CheckoutDirs<'a> {
    pub(crate) fn new(base: &'a OwnedFd) -> Self {
        Self { base, open: Vec::new() }
    }

    /// Returns the directory of `path`, created if it is missing, and the name in it. Paths with empty parts, `.`, `..`
    /// or `.git` are refused.
    pub(crate) fn of(&mut self, path: &'a [u8]) -> io::Result<(BorrowedFd<'_>, &'a OsStr)> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let bad = |part: &&[u8]| matches!(*part, b"" | b"." | b"..") || part.eq_ignore_ascii_case(b".git");
        let Some(name) = parts.pop().filter(|name| !bad(name) && !parts.iter().any(bad)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let same = self.open.iter().zip(&parts).take_while(|((open, _), part)| open == *part).count();
        self.open.truncate(same);
        for part in &parts[same..] {
            let dir = enter(self.current(), OsStr::from_bytes(part))?;
            self.open.push((part, dir));
        }
        Ok((self.current(), OsStr::from_bytes(name)))
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.base, |(_, dir)| dir).as_fd()
    }
}

/// Opens the directory `parts` below `base`, and creates the missing ones.
pub(crate) fn make_dirs(base: &OwnedFd, parts: &[&OsStr]) -> io::Result<OwnedFd> {
    let mut dir = base.try_clone()?;
    for part in parts {
        dir = enter(dir.as_fd(), part)?;
    }
    Ok(dir)
}

/// Opens the directory `name`, and creates it if it is missing. Several threads do so at the same time, and use
/// whichever directory was created first.
fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        },
        other => return Ok(other?),
    }
    make_dir(dir, name)
}

/// Removes `name`, a directory with its content. A missing one is no error.
pub(crate) fn clear(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let inside = entry.file_name().to_bytes();
        if !matches!(inside, b"." | b"..") {
            clear(inner.as_fd(), OsStr::from_bytes(inside))?;
        }
    }
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn what_is_in_the_way_goes_and_nothing_is_reached_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        for dir in [root.join("full/of"), outside.clone()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(root.join("full/of/files"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let base = rustix::fs::open(&root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut dirs = CheckoutDirs::new(&base);
        for path in [b"a/b/c".as_slice(), b"a/b/d", b"a/e", b"file/x", b"link/x", b"top"] {
            let (dir, name) = dirs.of(path).unwrap();
            openat(dir, name, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
        }
        for path in ["a/b/c", "a/b/d", "a/e", "file/x", "link/x", "top"] {
            assert!(root.join(path).is_file(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        for bad in [b"../x".as_slice(), b"a//b", b".git/config", b"a/.GIT/x", b"", b"a/"] {
            assert!(dirs.of(bad).is_err(), "{bad:?}");
        }
        clear(base.as_fd(), OsStr::new("full")).unwrap();
        clear(base.as_fd(), OsStr::new("full")).unwrap();
        assert!(!root.join("full").exists());
    }

    #[test]
    fn many_at_once_find_the_same_directories() {
        for round in 0..200 {
            let temp = tempfile::tempdir().unwrap();
            let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
            for dir in [&root, &outside] {
                fs::create_dir(dir).unwrap();
            }
            match round % 3 {
                0 => symlink(&outside, root.join("a")).unwrap(),
                1 => fs::write(root.join("a"), "x").unwrap(),
                _ => {}
            }
            let base = rustix::fs::open(&root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for path in [b"a/b".as_slice(), b"a/c/d", b"a/e", b"a/c/f"] {
                    let (base, start) = (&base, &start);
                    scope.spawn(move || {
                        start.wait();
                        let mut dirs = CheckoutDirs::new(base);
                        let (dir, name) = dirs.of(path).unwrap();
                        openat(dir, name, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
                    });
                }
            });
            for path in ["a/b", "a/c/d", "a/e", "a/c/f"] {
                assert!(root.join(path).is_file(), "{path}");
            }
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }
}

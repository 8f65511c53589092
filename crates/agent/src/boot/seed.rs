//! Copies directories of the image to the work disk once, with all their metadata.
//!
//! Each is drafted under another name; all of them are written to the disk together, and only then renamed.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{collections::HashMap, ffi::CStr, fs::File, io};

/// Maximum nesting of directories.
const MAX_DEPTH: usize = 128;
/// Largest extended attribute that ext4 can return, in bytes.
const MAX_XATTR: usize = 64 << 10;
/// Size that a file counts for in addition to its content, so that a million empty files are not a small directory.
const ENTRY_COST: u64 = 4096;

/// Result of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seeded {
    /// A draft exists.
    Drafted,
    /// The directory is over the limit; nothing was created.
    TooLarge,
}

/// Drafts a copy of `from`, or an empty directory (0755) without one, which [`publish`] renames to `name` in `store`.
pub(super) fn draft(store: BorrowedFd<'_>, name: &str, from: Option<BorrowedFd<'_>>, limit: u64) -> io::Result<Seeded> {
    if let Some(from) = from
        && measure(from, limit, 0)? > limit
    {
        return Ok(Seeded::TooLarge);
    }
    let draft = draft_name(name);
    remove_tree(store, &draft, 0)?;
    fs::mkdirat(store, &draft, Mode::from_raw_mode(0o755))?;
    let to = open_dir(store, &draft)?;
    if let Some(from) = from {
        Copy::default().directory(from, to.as_fd(), 0)?;
    }
    Ok(Seeded::Drafted)
}

/// Renames every drafted directory to its name.
pub(super) fn publish(store: BorrowedFd<'_>, names: &[String]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    // The content must be on the disk before the name is. One flush for all of them, because each costs the host one,
    // too.
    fs::syncfs(store)?;
    for name in names {
        fs::renameat(store, draft_name(name), store, name)?;
    }
    Ok(())
}

fn draft_name(name: &str) -> String {
    format!(".new-{name}")
}

fn measure(dir: BorrowedFd<'_>, limit: u64, depth: usize) -> io::Result<u64> {
    check_depth(depth)?;
    let mut total = 0;
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        if is_dot(entry.file_name()) {
            continue;
        }
        let stat = fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        total += ENTRY_COST + u64::try_from(stat.st_size).unwrap_or(0);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            total += measure(open_dir(dir, entry.file_name())?.as_fd(), limit, depth + 1)?;
        }
        if total > limit {
            break;
        }
    }
    Ok(total)
}

/// A copy in progress.
#[derive(Default)]
struct Copy {
    /// Files with several links, by inode: an open directory of the first copy, and its name there.
    linked: HashMap<u64, (OwnedFd, std::ffi::CString)>,
}

impl Copy {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        check_depth(depth)?;
        for entry in fs::Dir::read_from(from)? {
            let entry = entry?;
            if !is_dot(entry.file_name()) {
                self.entry(from, to, entry.file_name(), depth)?;
            }
        }
        let stat = fs::fstat(from)?;
        copy_xattrs(from, to)?;
        set_metadata(to, &stat)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some((dir, first)) = self.linked.get(&stat.st_ino) {
                return Ok(fs::linkat(dir, first.as_c_str(), to, name, AtFlags::empty())?);
            }
            self.linked.insert(stat.st_ino, (to.try_clone_to_owned()?, name.to_owned()));
        }
        match kind {
            FileType::Directory => {
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                self.directory(open_dir(from, name)?.as_fd(), open_dir(to, name)?.as_fd(), depth + 1)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(fs::openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut copy = File::from(fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(&mut source, &mut copy)?;
                copy_xattrs(source.as_fd(), copy.as_fd())?;
                set_metadata(copy.as_fd(), &stat)
            }
            FileType::Symlink => {
                let target = fs::readlinkat(from, name, Vec::new())?;
                fs::symlinkat(target.as_c_str(), to, name)?;
                let (uid, gid) = owner(&stat);
                fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                let (uid, gid) = owner(&stat);
                fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                fs::chmodat(to, name, mode, AtFlags::empty())?;
                Ok(fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }
}

/// Sets owner, mode and times, in this order, because a change of owner clears set-id bits.
fn set_metadata(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    fs::fchown(fd, uid, gid)?;
    fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(fs::futimens(fd, &times(stat))?)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0; MAX_XATTR];
    let length = match fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if length == 0 {
        return Ok(());
    }
    let mut value = vec![0; MAX_XATTR];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let length = fs::fgetxattr(from, name, &mut value[..])?;
        match fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn remove_tree(dir: BorrowedFd<'_>, name: &str, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = open_dir(dir, name)?;
    let names: Vec<_> = fs::Dir::read_from(&inner)?.collect::<Result<_, _>>()?;
    for entry in names {
        if !is_dot(entry.file_name()) {
            remove_tree(inner.as_fd(), &entry.file_name().to_string_lossy(), depth + 1)?;
        }
    }
    Ok(fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn open_dir(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

#[expect(clippy::cast_possible_wrap, reason = "the kernel's type is unsigned, its value is below a billion")]
fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
    }
}

fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH { Err(io::Error::other(format!("more than {MAX_DEPTH} directories deep"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn open(path: &std::path::Path) -> OwnedFd {
        fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_directory_is_copied_with_everything() {
        let temporary = tempfile::tempdir().unwrap();
        let (from, store) = (temporary.path().join("from"), temporary.path().join("store"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&store).unwrap();
        std::fs::write(from.join("a"), "content").unwrap();
        std::fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o4711)).unwrap();
        std::fs::hard_link(from.join("a"), from.join("sub/b")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o710)).unwrap();
        // A draft left by a crash is no obstacle.
        std::fs::create_dir_all(store.join(".new-x/left/over")).unwrap();

        let (from_fd, store_fd) = (open(&from), open(&store));
        let seeded = draft(store_fd.as_fd(), "x", Some(from_fd.as_fd()), 1 << 20).unwrap();
        assert_eq!(seeded, Seeded::Drafted);
        assert!(!store.join("x").exists(), "a draft has no name");
        publish(store_fd.as_fd(), &["x".to_owned()]).unwrap();
        let copy = store.join("x");
        assert_eq!(std::fs::read(copy.join("a")).unwrap(), b"content");
        let (a, b) = (copy.join("a").metadata().unwrap(), copy.join("sub/b").metadata().unwrap());
        assert_eq!((a.mode() & 0o7777, a.ino()), (0o4711, b.ino()));
        assert_eq!(a.mtime_nsec(), from.join("a").metadata().unwrap().mtime_nsec());
        assert_eq!(std::fs::read_link(copy.join("link")).unwrap(), std::path::Path::new("/etc/passwd"));
        assert_eq!(copy.metadata().unwrap().mode() & 0o7777, 0o710);
        assert!(!store.join(".new-x").exists());
    }

    #[test]
    fn a_large_directory_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let (from, store) = (temporary.path().join("from"), temporary.path().join("store"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&store).unwrap();
        std::fs::write(from.join("a"), vec![0; 10_000]).unwrap();
        let (from_fd, store_fd) = (open(&from), open(&store));
        assert_eq!(draft(store_fd.as_fd(), "x", Some(from_fd.as_fd()), 9_999).unwrap(), Seeded::TooLarge);
        assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
        assert_eq!(draft(store_fd.as_fd(), "y", None, 0).unwrap(), Seeded::Drafted);
        publish(store_fd.as_fd(), &["y".to_owned()]).unwrap();
        assert!(store.join("y").is_dir());
    }
}

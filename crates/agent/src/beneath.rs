//! Access to files below a directory with untrusted content: no link and no `..` in it leads outside.
//!
//! The kernel resolves the paths (openat2): with `IN_ROOT` where absolute links are relative to the directory (an
//! image's root file system), with `BENEATH` where they are refused (the destination of an archive).

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    path::{Component, Path},
};

/// Opens `path` as if `root` were `/`. Links inside are followed and stay inside.
pub(crate) fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(fs::openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Opens the directory `path` as if `root` were `/`, and creates it and its parents (0755) if they are missing.
pub(crate) fn make_dirs(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path, OFlags::DIRECTORY | OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = make_dirs(root, parent)?;
    match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Opened by its whole path again, so that an existing link is followed within the root.
    open(root, path, OFlags::DIRECTORY | OFlags::PATH)
}

/// Creates the directory `name` in `dir` (0755, whatever the umask of this process) and opens it; an existing one is
/// opened as it is. A link of that name is not followed, not even one that replaces the directory meanwhile.
pub(crate) fn make_dir(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let dir = dir.as_fd();
    let mode = Mode::from_raw_mode(0o755);
    let made = match fs::mkdirat(dir, name, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = fs::openat(dir, name, flags | if made { OFlags::RDONLY } else { OFlags::PATH }, Mode::empty())?;
    if made {
        let given = Mode::from_raw_mode(fs::fstat(&opened)?.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
        // A directory with any other mode is not the one just created, and must not be changed.
        if given != mode && given == mode & !mask() {
            fs::fchmod(&opened, mode)?;
        }
    }
    Ok(opened)
}

/// Returns this process's umask from `/proc`: umask(2) would change it for every thread.
pub(crate) fn mask() -> Mode {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // If it is unknown, every bit may be masked.
    Mode::from_raw_mode(mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777))
}

/// Replaces `name` in `dir` by a file with this content, atomically and without following an existing link. A file that
/// has the content already is left alone.
pub(crate) fn replace(dir: impl AsFd, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = dir.as_fd();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if let Ok(old) = fs::openat(dir, name, flags, Mode::empty()) {
        let mut bytes = Vec::new();
        let limit = content.len() as u64 + 1;
        if File::from(old).take(limit).read_to_end(&mut bytes).is_ok() && bytes == content {
            return Ok(());
        }
    }
    let temporary = format!(".{name}.banger");
    let _ = fs::unlinkat(dir, &temporary, fs::AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(dir, &temporary, flags, Mode::from_raw_mode(mode))?);
    file.write_all(content)?;
    fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(fs::renameat(dir, &temporary, dir, name)?)
}

/// Splits the path of an archive entry. `None` when it is absolute or has a `..`.
pub(crate) fn parts(path: &Path) -> Option<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

/// Opens a directory below `base` and creates the missing ones (0755). Links that lead outside are refused.
pub(crate) fn make_dirs_beneath(base: impl AsFd, parts: &[&OsStr]) -> io::Result<OwnedFd> {
    let mut dir = fs::openat(base, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let base = dir.try_clone()?;
    let mut so_far = std::path::PathBuf::new();
    for part in parts {
        so_far.push(part);
        let open = || {
            fs::openat2(
                &base,
                &so_far,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            )
        };
        let next = match open() {
            Err(Errno::NOENT) => {
                fs::mkdirat(&dir, *part, Mode::from_raw_mode(0o755))?;
                open()?
            }
            other => other?,
        };
        dir = next;
    }
    Ok(dir)
}

/// Opens a directory below `base` for reading. Links that lead outside are refused.
pub(crate) fn open_dir_beneath(base: impl AsFd, parts: &[&OsStr]) -> io::Result<OwnedFd> {
    open_dir(base, parts, ResolveFlags::empty())
}

/// Opens a directory below `base` for reading. Every link is refused.
pub(crate) fn open_dir_without_links(base: impl AsFd, parts: &[&OsStr]) -> io::Result<OwnedFd> {
    open_dir(base, parts, ResolveFlags::NO_SYMLINKS)
}

/// Opens a directory below `base` as a path only, which needs no read permission. If it `follows` links, those that
/// lead outside are refused, else every link.
pub(crate) fn dir_beneath(base: impl AsFd, parts: &[&OsStr], follows: bool) -> io::Result<OwnedFd> {
    let more = if follows { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
    resolve(base, parts, OFlags::PATH, more)
}

fn open_dir(base: impl AsFd, parts: &[&OsStr], more: ResolveFlags) -> io::Result<OwnedFd> {
    resolve(base, parts, OFlags::RDONLY, more)
}

fn resolve(base: impl AsFd, parts: &[&OsStr], how: OFlags, more: ResolveFlags) -> io::Result<OwnedFd> {
    let path: std::path::PathBuf = std::iter::once(&OsStr::new(".")).chain(parts).collect();
    let flags = how | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
    Ok(fs::openat2(base, &path, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    /// A second thread, as the owner of the parent, exchanges the new directory for a link as fast as it can.
    #[test]
    fn nothing_is_reached_through_a_link_that_comes_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let (victim, dir) = (temp.path().join("victim"), temp.path().join("dir"));
        for path in [&victim, &dir] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o700)).unwrap();
        symlink(&victim, dir.join("link")).unwrap();
        let base = fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if fs::renameat_with(&base, "link", &base, "name", fs::RenameFlags::EXCHANGE).is_ok() {
                        fs::unlinkat(&base, "link", fs::AtFlags::REMOVEDIR).unwrap();
                        fs::renameat(&base, "name", &base, "link").unwrap();
                    }
                }
            });
            for _ in 0..300 {
                while fs::statat(&base, "name", fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    std::thread::yield_now();
                }
                if let Ok(opened) = make_dir(&base, OsStr::new("name")) {
                    assert_ne!(fs::fstat(&opened).unwrap().st_ino, fs::stat(&victim).unwrap().st_ino);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

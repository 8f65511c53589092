//! Writes the files an index names, as `git checkout-index -f -u` does, but on all processors and without a process:
//! the packs were made for this, so there are no deltas to resolve.
//!
//! Lists beside the repository, of names ended by zero bytes, say where to deviate from the index. They are removed at
//! the end.

use super::{
    index::{Entry, Index, Kind},
    packs::{Blobs, Packs},
    unchanged,
};
use crate::checkout_dirs::{CheckoutDirs, clear};
use banger_proto::{
    agent::workspace::{FRESH, HashName, REMOVED, SCRATCH, WRITTEN},
    failure::{Code, Failure},
};
use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, Stat, fchmod, fstat, openat, renameat, statat, symlinkat},
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
    thread,
};

/// Largest index, and largest list, in bytes.
const MAX_INDEX: u64 = 1 << 30;
/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4095;
/// Most threads that write.
const MAX_THREADS: usize = 8;
/// Fewest files of a thread.
const SHARE: usize = 200;

/// Failure to write the files.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckoutError {
    #[error("the repository cannot be read")]
    Repository(#[source] io::Error),
    #[error("{0:?} is in no pack")]
    Missing(String),
    #[error("cannot write {0:?}")]
    Write(String, #[source] io::Error),
}

impl CheckoutError {
    pub(super) fn into_failure(self, path: &Path) -> Failure {
        let code = match &self {
            Self::Write(_, error) if error.kind() == io::ErrorKind::PermissionDenied => Code::Denied,
            Self::Write(_, error) if error.kind() == io::ErrorKind::StorageFull => Code::Unavailable,
            _ => Code::Invalid,
        };
        Failure::caused_by(code, format!("the files of {} were not written, or not all", path.display()), &self)
    }
}

/// Number of an index entry, and the metadata of its file.
type Written = (usize, Stat);

/// Removes the directory of lists of the repository in `base`, if there is one.
pub(super) fn remove_lists(base: &OwnedFd) -> io::Result<()> {
    let (dir, name) = SCRATCH.split_once('/').unwrap_or((".", SCRATCH));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(base, dir, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Ok(git) => clear(git.as_fd(), OsStr::new(name)),
        Err(error) => Err(error.into()),
    }
}

/// Lists the files that the index names, each ended by a zero byte.
pub(super) fn indexed_files(base: &OwnedFd, hash: HashName) -> io::Result<Vec<u8>> {
    let Some(bytes) = read_file(base, ".git/index")? else { return Ok(Vec::new()) };
    let index = Index::parse(bytes, hash)?;
    let files = index.entries.iter().filter(|entry| entry.kind != Kind::Submodule);
    Ok(files.flat_map(|entry| index.path(entry).iter().copied().chain([0])).collect())
}

fn list(base: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>, CheckoutError> {
    read_file(base, &format!("{SCRATCH}/{name}")).map_err(CheckoutError::Repository)
}

/// Removes the files that the repository in `base` has no longer.
pub(super) fn remove_listed(base: &OwnedFd) -> Result<(), CheckoutError> {
    for path in names(&list(base, REMOVED)?.unwrap_or_default()) {
        remove(base, path).map_err(|error| CheckoutError::Write(shown(path), error))?;
    }
    Ok(())
}

/// Writes the files of the repository in `base`.
pub(super) fn checkout(base: &OwnedFd, hash: HashName) -> Result<(), CheckoutError> {
    if let Some(bytes) = read_file(base, ".git/index").map_err(CheckoutError::Repository)? {
        let mut index = Index::parse(bytes, hash).map_err(CheckoutError::Repository)?;
        let (written, fresh) = (list(base, WRITTEN)?, list(base, FRESH)?.unwrap_or_default());
        for (at, stat) in write(base, &index, written.as_deref(), &fresh, hash)? {
            index.set_stat(at, &stat);
        }
        replace(base, ".git/banger-index", ".git/index", &index.into_bytes()).map_err(CheckoutError::Repository)?;
    }
    remove_lists(base).map_err(CheckoutError::Repository)
}

fn write(
    base: &OwnedFd,
    index: &Index,
    written: Option<&[u8]>,
    fresh: &[u8],
    hash: HashName,
) -> Result<Vec<Written>, CheckoutError> {
    let packs = Packs::open(base, hash.len()).map_err(CheckoutError::Repository)?;
    let written: Option<HashSet<&[u8]>> = written.map(|list| names(list).collect());
    let fresh: HashSet<&[u8]> = names(fresh).collect();
    let wanted = |entry: &Entry| !entry.absent && written.as_ref().is_none_or(|list| list.contains(index.path(entry)));
    let (mut work, mut stats) = (Vec::new(), Vec::new());
    for (at, entry) in index.entries.iter().enumerate().filter(|(_, entry)| entry.kind != Kind::Submodule) {
        let path = index.path(entry);
        if fresh.contains(path) {
            // It was sent, and it is what the index says.
            let stat = CheckoutDirs::new(base).of(path).and_then(|(dir, name)| stat_at(dir, name));
            stats.push((at, stat.map_err(|error| CheckoutError::Write(shown(path), error))?));
        } else if wanted(entry) {
            work.push(at);
        }
    }
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(work.len() / SHARE + 1);
    let shares = shares(&work, threads, |at| dir_of(index.path(&index.entries[at])));
    let packs = &packs;
    let done: Vec<Result<Vec<Written>, CheckoutError>> = thread::scope(|scope| {
        let running: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || write_share(base, index, packs, share))).collect();
        let ended = |panic| Err(CheckoutError::Repository(io::Error::other(format!("a thread ended: {panic:?}"))));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
    });
    for share in done {
        stats.extend(share?);
    }
    Ok(stats)
}

/// Splits the work between directories, so that no two threads fill the same one. A directory above may be made by two
/// at once.
fn shares<'a>(work: &'a [usize], count: usize, dir: impl Fn(usize) -> &'a [u8]) -> Vec<&'a [usize]> {
    let (mut shares, mut rest) = (Vec::new(), work);
    for left in (1..=count).rev() {
        let mut end = rest.len() / left;
        while 0 < end && end < rest.len() && dir(rest[end - 1]) == dir(rest[end]) {
            end += 1;
        }
        let (share, others) = rest.split_at(end);
        shares.push(share);
        rest = others;
    }
    shares.retain(|share| !share.is_empty());
    shares
}

fn dir_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |end| &path[..end])
}

fn write_share(base: &OwnedFd, index: &Index, packs: &Packs, share: &[usize]) -> Result<Vec<Written>, CheckoutError> {
    let (mut dirs, mut blobs) = (CheckoutDirs::new(base), Blobs::new(packs));
    let mut stats = Vec::with_capacity(share.len());
    for at in share {
        let entry = &index.entries[*at];
        let path = index.path(entry);
        let failed = |error| CheckoutError::Write(shown(path), error);
        let (dir, name) = dirs.of(path).map_err(failed)?;
        let stat = match entry.kind {
            Kind::File { executable } => file(dir, name, executable, &mut blobs, index.id(entry)),
            _ => link(dir, name, &mut blobs, index.id(entry)),
        };
        match stat {
            Ok(Some(stat)) => stats.push((*at, stat)),
            Ok(None) => return Err(CheckoutError::Missing(shown(path))),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(stats)
}

/// Writes a file in place of whatever was there, unless that is the same; none when its content is missing.
fn file(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    executable: bool,
    blobs: &mut Blobs<'_>,
    id: &[u8],
) -> io::Result<Option<Stat>> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let create = || openat(dir, name, flags, mode);
    let mut file = File::from(match create() {
        Err(Errno::EXIST) => {
            let size = blobs.size(id)?;
            if let Some(stat) = size.and_then(|size| unchanged::file(dir, name, mode, size, id)) {
                return Ok(Some(stat));
            }
            clear(dir, name)?;
            create()?
        }
        other => other?,
    });
    let there = blobs.read(id, &mut |bytes| file.write_all(bytes))?;
    if !there {
        return Ok(None);
    }
    let stat = fstat(&file)?;
    if Mode::from_raw_mode(stat.st_mode & 0o777) == mode {
        return Ok(Some(stat));
    }
    // This process has a umask.
    fchmod(&file, mode)?;
    Ok(Some(fstat(&file)?))
}

fn link(dir: BorrowedFd<'_>, name: &OsStr, blobs: &mut Blobs<'_>, id: &[u8]) -> io::Result<Option<Stat>> {
    let mut target = Vec::new();
    let there = blobs.read(id, &mut |bytes| {
        target.extend_from_slice(bytes);
        if target.len() > MAX_TARGET { Err(io::ErrorKind::InvalidFilename.into()) } else { Ok(()) }
    })?;
    if !there {
        return Ok(None);
    }
    match symlinkat(&target[..], dir, name) {
        Err(Errno::EXIST) if unchanged::link(dir, name, &target) => {}
        Err(Errno::EXIST) => {
            clear(dir, name)?;
            symlinkat(&target[..], dir, name)?;
        }
        other => other?,
    }
    stat_at(dir, name).map(Some)
}

fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    Ok(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Removes a file that the repository has no longer, or a directory with all that is in it, and the directories that
/// are empty then.
fn remove(base: &OwnedFd, path: &[u8]) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let whole = path.ends_with(b"/");
    let mut path = path.strip_suffix(b"/").unwrap_or(path);
    let mut flags = AtFlags::empty();
    loop {
        let parts: Option<Vec<&OsStr>> = crate::beneath::parts(Path::new(OsStr::from_bytes(path)));
        let Some((name, above)) = parts.as_deref().and_then(<[_]>::split_last) else { return Ok(()) };
        // The path must not lead through a link: a directory of it may be a link now, and the file is not the
        // repository's.
        let Ok(dir) = crate::beneath::open_dir_without_links(base, above) else { return Ok(()) };
        let removed = match rustix::fs::unlinkat(&dir, *name, flags) {
            Err(Errno::ISDIR) if whole => {
                clear(dir.as_fd(), name)?;
                Ok(())
            }
            other => other,
        };
        match removed {
            // Removed already, or something else now, which the repository did not have.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        (path, flags) = (dir_of(path), AtFlags::REMOVEDIR);
        // git takes a directory without `refs` for no repository.
        if path.is_empty() || path == b".git/refs" || path.ends_with(b"/.git/refs") {
            return Ok(());
        }
    }
}

fn read_file(base: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(base, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_INDEX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn replace(base: &OwnedFd, staged: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    File::from(openat(base, staged, flags, Mode::from_raw_mode(0o644))?).write_all(bytes)?;
    Ok(renameat(base, staged, base, name)?)
}

fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_without_refs_is_still_one() {
        let temp = tempfile::tempdir().unwrap();
        let base = rustix::fs::open(temp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for git in [".git", "sub/.git"] {
            let refs = temp.path().join(git).join("refs");
            std::fs::create_dir_all(refs.join("heads/topic")).unwrap();
            std::fs::write(refs.join("heads/topic/x"), "").unwrap();
            remove(&base, format!("{git}/refs/heads/topic/x").as_bytes()).unwrap();
            assert!(refs.exists() && !refs.join("heads").exists(), "{git}");
        }
    }

    #[test]
    fn a_directory_goes_only_where_all_of_it_is_to_go() {
        let temp = tempfile::tempdir().unwrap();
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        for dir in [root.join("libs/inner/.git/refs"), root.join("kept/.git"), outside.clone()] {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("file"), "").unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join("libs/inner/.git/link")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let base = rustix::fs::open(&root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for path in ["kept/.git", "libs/inner/.git/", "link/", "link/file", "no/such/", "/"] {
            remove(&base, path.as_bytes()).unwrap();
        }
        assert!(root.join("kept/.git/file").exists() && outside.join("file").exists());
        // Directories that become empty are removed, too.
        assert!(!root.join("libs").exists() && root.exists());
    }

    #[test]
    fn a_directory_is_one_threads() {
        let dirs = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3];
        let names: Vec<Vec<u8>> = dirs.iter().map(|dir| vec![*dir]).collect();
        let work: Vec<usize> = (0..dirs.len()).collect();
        for count in 1..12 {
            let shares = shares(&work, count, |at| &names[at]);
            assert_eq!(shares.concat(), work, "{count}");
            assert!(shares.len() <= count);
            for pair in shares.windows(2) {
                assert_ne!(dirs[*pair[0].last().unwrap()], dirs[pair[1][0]], "{count}");
            }
        }
        assert!(shares(&[], 4, |_| b"").is_empty());
    }
}

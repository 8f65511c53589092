//! Checks whether a file or link in a working tree already is what an index says. It stays then, with its times, by
//! which builds go.

use rustix::{
    fd::BorrowedFd,
    fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat},
    process::geteuid,
};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
};

/// Bytes of one read.
const PIECE: usize = 64 << 10;

/// Returns the metadata of the file `name` if it belongs to this user, has `mode`, and is byte for byte the blob `id`
/// of `size` bytes; none otherwise, or when it cannot be read. The metadata is that from before the file was read, so
/// that a write meanwhile shows in it. Never reads more than that many bytes: the file may be anything.
pub(super) fn file(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode, size: u64, id: &[u8]) -> Option<Stat> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(dir, name, flags, Mode::empty()).ok()?);
    let stat = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let fits = is_file && u64::try_from(stat.st_size).is_ok_and(|found| found == size);
    if !fits || stat.st_mode & 0o7777 != mode.as_raw_mode() || stat.st_uid != geteuid().as_raw() {
        return None;
    }
    let (header, file) = (format!("blob {size}\0"), file.take(size.saturating_add(1)));
    let found = match id.len() {
        32 => hash(Sha256::new_with_prefix(header), file),
        _ => hash(Sha1::new_with_prefix(header), file),
    };
    (found.ok()? == id).then_some(stat)
}

/// Whether `name` is a symbolic link to `target`.
pub(super) fn link(dir: BorrowedFd<'_>, name: &OsStr, target: &[u8]) -> bool {
    readlinkat(dir, name, Vec::new()).is_ok_and(|found| found.as_bytes() == target)
}

fn hash(mut hash: impl Digest, mut file: impl Read) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn only_the_same_bytes_and_mode_are_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let id: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&HELLO[at * 2..at * 2 + 2], 16).unwrap()).collect();
        let mode = Mode::from_raw_mode(0o644);
        let of = |name: &str, mode: Mode, size: u64, id: &[u8]| {
            file(dir.as_fd(), OsStr::new(name), mode, size, id).is_some()
        };
        let is = |name: &str, mode: Mode, id: &[u8]| of(name, mode, 6, id);
        for (name, content) in [("a", "hello\n"), ("b", "hellO\n"), ("c", "hello\n")] {
            fs::write(temp.path().join(name), content).unwrap();
            fs::set_permissions(temp.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(temp.path().join("c"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("a", temp.path().join("l")).unwrap();
        fs::create_dir(temp.path().join("d")).unwrap();
        assert!(is("a", mode, &id) && !is("a", Mode::from_raw_mode(0o755), &id) && !is("a", mode, &[0; 32]));
        for name in ["b", "c", "l", "d", "none"] {
            assert!(!is(name, mode, &id), "{name}");
        }
        assert!(!of("a", mode, 5, &id) && !of("a", mode, 7, &id));
        // A huge file is not read at all.
        fs::File::options().write(true).open(temp.path().join("b")).unwrap().set_len(1 << 43).unwrap();
        assert!(!is("b", mode, &id));
        let leads = |name: &str, target: &str| link(dir.as_fd(), OsStr::new(name), target.as_bytes());
        assert!(leads("l", "a") && !leads("l", "b") && !leads("a", "a") && !leads("none", ""));
    }

    /// git's id of a file that says hello.
    const HELLO: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
}

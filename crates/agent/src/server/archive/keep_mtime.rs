//! Keeps the modification time of workspace files that an import does not change.
//!
//! Build tools in the guest compare times. A file with unchanged content keeps the time it had; a changed one is newer
//! than everything built from its predecessor, whenever it was written on the host.

use rustix::{
    fd::BorrowedFd,
    fs::{FileType, Mode, OFlags, Timespec, Timestamps, fstat, openat},
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
};

/// An existing file that is being replaced, compared with the arriving content.
pub(super) struct ReplacedFile {
    file: File,
    mtime: Timespec,
    /// Whether everything that has arrived is equal.
    same: bool,
    buffer: Vec<u8>,
}

impl ReplacedFile {
    /// Opens `name`; none unless it is a readable regular file of `size` bytes.
    pub(super) fn find(dir: BorrowedFd<'_>, name: &OsStr, size: u64) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(dir, name, flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        let fits = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size).is_ok_and(|found| found == size);
        let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().ok()? };
        fits.then(|| Self { file, mtime, same: true, buffer: Vec::new() })
    }

    /// Wraps `from` in a reader that compares what it reads with this file.
    pub(super) fn comparing<R: Read>(&mut self, from: R) -> Comparing<'_, R> {
        Comparing { from, replaced: self }
    }

    /// Returns the file's times if the whole content was equal.
    pub(super) fn times(&self) -> Option<Timestamps> {
        self.same.then_some(Timestamps { last_access: self.mtime, last_modification: self.mtime })
    }
}

/// Reader of [`ReplacedFile::comparing`].
pub(super) struct Comparing<'a, R> {
    from: R,
    replaced: &'a mut ReplacedFile,
}

impl<R: Read> Read for Comparing<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        let ReplacedFile { file, same, buffer, .. } = &mut *self.replaced;
        if *same {
            buffer.resize(count, 0);
            *same = file.read_exact(buffer).is_ok() && *buffer == into[..count];
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn only_what_is_the_same_has_its_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let (long, path) = ("x".repeat(300_000), temp.path().join("file"));
        symlink("file", temp.path().join("link")).unwrap();
        for (is, arrives, same) in [
            ("", "", true),
            ("one", "one", true),
            ("one", "two", false),
            ("one", "once", false),
            (&long, &long, true),
            (&long, &format!("{}y", &long[1..]), false),
        ] {
            fs::write(&path, is).unwrap();
            let find = |name: &str| ReplacedFile::find(dir.as_fd(), OsStr::new(name), arrives.len() as u64);
            let mtime = find("file").and_then(|mut replaced| {
                let mut got = String::new();
                replaced.comparing(arrives.as_bytes()).read_to_string(&mut got).unwrap();
                assert!(got == arrives);
                replaced.times()
            });
            let expected = fs::metadata(&path).unwrap().modified().unwrap();
            let since = expected.duration_since(std::time::UNIX_EPOCH).unwrap();
            let found = mtime.map(|times| times.last_modification);
            let expected =
                Timespec { tv_sec: since.as_secs().try_into().unwrap(), tv_nsec: since.subsec_nanos().into() };
            assert_eq!(
                found.map(|time| (time.tv_sec, time.tv_nsec)),
                same.then_some((expected.tv_sec, expected.tv_nsec))
            );
            assert!(find("link").is_none() && find("none").is_none());
        }
        assert!(ReplacedFile::find(dir.as_fd(), OsStr::new("."), fs::metadata(temp.path()).unwrap().len()).is_none());
    }
}

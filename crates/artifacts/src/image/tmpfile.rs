//! A file in a user's directory that gets its name only when it is complete, so that a killed process leaves nothing.

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, open},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// A file being written.
#[derive(Debug)]
pub(super) enum TmpFile {
    /// Opened with `O_TMPFILE`: it has no name.
    Nameless(File, PathBuf),
    /// Has a hidden temporary name, on file systems without `O_TMPFILE`.
    Hidden(NamedTempFile),
}

impl TmpFile {
    /// Creates a file in the file system of `directory`.
    pub(super) fn create_in(directory: &Path) -> io::Result<Self> {
        match open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self::Nameless(file.into(), directory.to_owned())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => NamedTempFile::new_in(directory).map(Self::Hidden),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Nameless(file, _) => file,
            Self::Hidden(file) => file.as_file(),
        }
    }

    /// Names the file `target`, replacing a file that exists.
    pub(super) fn persist(self, target: &Path) -> io::Result<()> {
        let hidden = match self {
            Self::Hidden(file) => file.into_temp_path(),
            // A hard link cannot replace a file, so this takes two steps that follow each other at once.
            Self::Nameless(file, directory) => {
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link = |path: &Path| Ok(linkat(CWD, &own, CWD, path, AtFlags::SYMLINK_FOLLOW)?);
                tempfile::Builder::new().make_in(directory, link)?.into_temp_path()
            }
        };
        Ok(hidden.persist(target)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write as _};

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_takes_the_place_of_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for content in ["first", "second"] {
            let before = names(dir.path());
            let file = TmpFile::create_in(dir.path()).unwrap();
            file.file().write_all(content.as_bytes()).unwrap();
            if matches!(file, TmpFile::Nameless(..)) {
                assert_eq!(names(dir.path()), before);
            }
            file.persist(&target).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            assert_eq!(names(dir.path()), ["out"]);
        }
        let hidden = TmpFile::Hidden(NamedTempFile::new_in(dir.path()).unwrap());
        hidden.file().write_all(b"third").unwrap();
        hidden.persist(&target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "third");
        drop(TmpFile::create_in(dir.path()).unwrap());
        assert_eq!(names(dir.path()), ["out"]);
        assert!(TmpFile::create_in(&dir.path().join("none")).is_err());
    }
}

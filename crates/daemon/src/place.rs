//! Where a process of ours can be found.

use rustix::{
    fs::{FileType, Mode, lstat},
    process::geteuid,
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often a process looks whether it can still be found.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A socket at a path, until somebody takes it away: a logout does, with the directory it is in.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Place {
    /// What is at `path` now.
    pub(crate) fn at(path: PathBuf) -> Self {
        let file = identity(&path).ok();
        Self { path, file }
    }

    /// Done once there is nothing any more, or something else.
    pub(crate) async fn lost(&self) {
        while self.may_be_there() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it is there still, as far as can be seen.
    pub(crate) fn may_be_there(&self) -> bool {
        match identity(&self.path) {
            Ok(now) => Some(now) == self.file,
            // What cannot be looked at is not gone.
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

/// Whether it is a directory that this user has and nobody else may enter, and no link to one.
pub(crate) fn is_ours_alone(directory: &Path) -> bool {
    lstat(directory).is_ok_and(|stat| {
        let is_closed = !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        is_directory && is_closed && stat.st_uid == geteuid().as_raw()
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_socket_that_is_gone_or_anothers_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("run"), temp.path().join("other"));
        let path = dir.join("s");
        fs::create_dir(&dir).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let place = Place::at(path.clone());
        assert!(place.may_be_there());
        // The first one stays, so that the other is not the same file again.
        fs::rename(&dir, &other).unwrap();
        assert!(!place.may_be_there(), "its directory is gone");
        fs::create_dir(&dir).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(!place.may_be_there(), "another's");
        place.lost().await;
    }
}

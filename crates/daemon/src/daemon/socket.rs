//! The API socket: 0600 from birth, in a directory nobody else can enter.

use super::StartError;
use rustix::fs::Mode;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixListener;

/// How often a daemon looks whether it can still be found.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Binds `path`, replacing the socket of a daemon that is gone. The caller holds the lock on the directory.
pub(super) fn bind(path: &Path) -> Result<UnixListener, StartError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StartError::io("remove", path)(error)),
        _ => {}
    }
    // The store's thread creates files too, but with a stricter umask nothing it makes is more open than it should be.
    let before = rustix::process::umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound.map_err(StartError::io("bind", path))
}

/// Where a daemon can be found, until somebody takes its socket away: a logout does, with the directory it is in.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Place {
    /// What is at `path` now.
    pub(super) fn at(path: PathBuf) -> Self {
        let file = identity(&path).ok();
        Self { path, file }
    }

    /// Done once there is nothing any more, or something else.
    pub(super) async fn lost(&self) {
        while self.may_be_there() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn may_be_there(&self) -> bool {
        match identity(&self.path) {
            Ok(now) => Some(now) == self.file,
            // What cannot be looked at is not gone.
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_socket_that_is_gone_or_anothers_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("run"), temp.path().join("other"));
        let path = dir.join("s");
        fs::create_dir(&dir).unwrap();
        let _listener = bind(&path).unwrap();
        let place = Place::at(path.clone());
        assert!(place.may_be_there());
        // The first one stays, so that the other is not the same file again.
        fs::rename(&dir, &other).unwrap();
        assert!(!place.may_be_there(), "its directory is gone");
        fs::create_dir(&dir).unwrap();
        let _listener = bind(&path).unwrap();
        assert!(!place.may_be_there(), "another's");
        place.lost().await;
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_by_a_private_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        for _ in 0..2 {
            let _listener = bind(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}

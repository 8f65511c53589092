//! Watching a socket's path: a socket file can be removed while its process listens, and then nobody can connect.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Interval between two checks whether a socket is still there.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The socket file at a path, known by device and inode. Others may remove or replace it: a logout removes the whole
/// runtime directory.
#[derive(Debug)]
pub struct WatchedSocket {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl WatchedSocket {
    /// Remembers the file that is at `path` now.
    pub fn at(path: PathBuf) -> Self {
        let file = identity(&path).ok();
        Self { path, file }
    }

    /// Completes once the file is gone or another one is at its path.
    pub async fn vanished(&self) {
        while self.may_exist() {
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Whether the file is still there; also `true` where that cannot be told.
    pub fn may_exist(&self) -> bool {
        match identity(&self.path) {
            Ok(now) => Some(now) == self.file,
            // A failed stat for any other reason does not prove that the file is gone.
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
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_socket_that_was_removed_or_replaced_has_vanished() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("run"), temp.path().join("other"));
        let path = dir.join("s");
        fs::create_dir(&dir).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = WatchedSocket::at(path.clone());
        assert!(socket.may_exist());
        // The first file is kept, so that the second cannot get its inode.
        fs::rename(&dir, &other).unwrap();
        assert!(!socket.may_exist(), "its directory is gone");
        fs::create_dir(&dir).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(!socket.may_exist(), "it is another process's");
        socket.vanished().await;
    }
}

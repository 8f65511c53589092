//! The API socket: created with mode 0600, in a directory nobody else can enter.

use super::StartError;
use rustix::fs::Mode;
use std::{fs, io, path::Path};
use tokio::net::UnixListener;

/// Binds `path`, replacing the socket of a daemon that is gone. The caller holds the lock on the directory.
pub(super) fn bind(path: &Path) -> Result<UnixListener, StartError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StartError::io("remove", path)(error)),
        _ => {}
    }
    // The umask is process-wide, and the store's thread creates files too; a stricter umask does not harm them.
    let before = rustix::process::umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound.map_err(StartError::io("bind", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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

//! Locks: one daemon per state directory, and one per run directory.
//!
//! They are flocks, which are released when the process ends for whatever reason. The lock file's content tells the CLI
//! where to connect, whatever its own environment says.

use super::StartError;
use banger_machine::socket_path::WatchedSocket;
use banger_proto::{api::host::DaemonRecord, layout::Layout};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};
use std::{fs::File, os::fd::OwnedFd, os::unix::fs::FileExt, path::PathBuf};

/// The record is padded to this length, in bytes: one write replaces the whole last record, so that a reader never sees
/// a mix.
const RECORD: usize = 1024;

/// Locks of the daemon of a state directory, released on drop.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    socket: PathBuf,
    // With a different environment two state directories may share a run directory; two daemons may not.
    _run: OwnedFd,
}

impl Lock {
    /// Takes both locks; fails if another daemon holds one.
    pub fn take(layout: &Layout) -> Result<Self, StartError> {
        let path = layout.daemon_lock();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StartError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StartError::Held { path }),
            Err(error) => return Err(StartError::io("lock", path)(error.into())),
        }
        let run = open(&layout.run, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StartError::io("open", &layout.run)(error.into()))?;
        match flock(&run, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StartError::RunHeld { path: layout.run.clone() }),
            Err(error) => return Err(StartError::io("lock", &layout.run)(error.into())),
        }
        // The record of a killed daemon names a process that is gone, or another process by now.
        file.set_len(0).map_err(StartError::io("empty", &path))?;
        Ok(Self { file, path, socket: layout.daemon_socket(), _run: run })
    }

    /// Records in the lock file who serves and where.
    pub(super) fn publish(&mut self) -> Result<(), StartError> {
        let record = DaemonRecord {
            pid: std::process::id(),
            socket: self.socket.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut text = serde_json::to_vec(&record).expect("a record serializes");
        text.resize(text.len().max(RECORD - 1), b' ');
        text.push(b'\n');
        self.file.write_all_at(&text, 0).map_err(StartError::io("write", &self.path))
    }

    /// Removes the socket, if it is this daemon's, and clears the record. The lock on the directory does not prove that
    /// the socket is: the directory may have been replaced, with the socket of a daemon of another state directory in
    /// it.
    pub(super) fn leave(self, socket: Option<&WatchedSocket>) {
        if socket.is_some_and(WatchedSocket::may_exist) {
            // If this fails, the next daemon replaces the socket.
            let _ = std::fs::remove_file(&self.socket);
        }
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn layout(root: &Path, state: &str) -> Layout {
        let dir = |name: &str| {
            fs::create_dir_all(root.join(name)).unwrap();
            root.join(name)
        };
        Layout { config: dir("config"), state: dir(state), cache: dir("cache"), run: dir("run") }
    }

    #[test]
    fn a_second_daemon_is_refused_until_the_first_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path(), "state");
        let mut first = Lock::take(&layout).unwrap();
        first.publish().unwrap();
        assert!(matches!(Lock::take(&layout), Err(StartError::Held { .. })));
        let record: DaemonRecord = serde_json::from_slice(&fs::read(layout.daemon_lock()).unwrap()).unwrap();
        assert_eq!((record.pid, record.socket), (std::process::id(), layout.daemon_socket()));
        first.leave(None);
        assert_eq!(fs::read(layout.daemon_lock()).unwrap(), b"");
        Lock::take(&layout).unwrap().publish().unwrap();
        // The previous holder ended without clearing the record.
        let _next = Lock::take(&layout).unwrap();
        assert_eq!(fs::read(layout.daemon_lock()).unwrap(), b"");
    }

    #[test]
    fn only_a_daemons_own_socket_goes_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path(), "state");
        let socket = layout.daemon_socket();
        let bind = || {
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            (listener, WatchedSocket::at(socket.clone()))
        };
        let (_listener, watched) = bind();
        Lock::take(&layout).unwrap().leave(Some(&watched));
        assert!(!socket.exists());
        // The first socket stays open, so that the second is not the same file again.
        let (_listener, watched) = bind();
        fs::rename(&socket, temp.path().join("before")).unwrap();
        let (_listener, _) = bind();
        for known in [Some(&watched), None] {
            Lock::take(&layout).unwrap().leave(known);
            assert!(socket.exists(), "it is another's");
        }
    }

    #[test]
    fn two_states_cannot_share_their_sockets() {
        let temp = tempfile::tempdir().unwrap();
        let _first = Lock::take(&layout(temp.path(), "state")).unwrap();
        let second = Lock::take(&layout(temp.path(), "other"));
        assert!(matches!(second, Err(StartError::RunHeld { .. })), "{second:?}");
    }
}

//! The shim's sockets. A socket that was removed, for example with its run directory, is made anew: otherwise a daemon
//! could not tell the shim from one that hangs, and would end its VM.

use crate::{
    private_dir::is_ours_alone,
    socket_path::{CHECK_EVERY, WatchedSocket},
};
use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{net::UnixListener, task::JoinHandle, time::sleep};

/// A listening socket and the task that serves it.
pub(super) struct ServedSocket {
    path: PathBuf,
    watched: WatchedSocket,
    serve: Box<dyn Fn(UnixListener) -> JoinHandle<()> + Send>,
    server: JoinHandle<()>,
}

impl ServedSocket {
    pub(super) fn open(
        path: PathBuf,
        serve: impl Fn(UnixListener) -> JoinHandle<()> + Send + 'static,
    ) -> io::Result<Self> {
        let server = serve(bind(&path)?);
        Ok(Self { watched: WatchedSocket::at(path.clone()), path, serve: Box::new(serve), server })
    }

    /// Stops serving and removes the socket.
    pub(super) fn close(self) {
        self.server.abort();
        let _ = fs::remove_file(&self.path);
    }

    /// Makes the socket and, where needed, its directory again. Open connections stay open.
    fn reopen(&mut self) -> io::Result<()> {
        make_directory(self.path.parent().unwrap_or(&self.path))?;
        let listener = bind(&self.path)?;
        self.watched = WatchedSocket::at(self.path.clone());
        self.server.abort();
        self.server = (self.serve)(listener);
        Ok(())
    }
}

/// Reopens each socket that vanishes. Cancelling loses nothing.
pub(super) async fn keep_open(sockets: &mut [ServedSocket]) -> Infallible {
    loop {
        sleep(CHECK_EVERY).await;
        for socket in sockets.iter_mut().filter(|socket| !socket.watched.may_exist()) {
            // A socket that cannot be reopened yet is tried again after the next pause.
            let _ = socket.reopen();
        }
    }
}

/// Listens at `path`. A socket that an earlier shim left there is removed: holding the lock proves that it is gone.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Makes the VM's directory of sockets, provided that the run directory of all VMs exists again. Only a daemon makes
/// the run directory itself, because it checks with care what may be in its way.
fn make_directory(dir: &Path) -> io::Result<()> {
    let [run, vms, _] = ancestors(dir)?;
    if !is_ours_alone(run) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    for dir in [vms, dir] {
        match fs::create_dir(dir) {
            // Set apart from creation, so that the umask has no effect.
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The run directory, its directory of VMs and `dir` itself, which is below both.
fn ancestors(dir: &Path) -> io::Result<[&Path; 3]> {
    let vms = dir.parent().ok_or(io::ErrorKind::NotFound)?;
    Ok([vms.parent().ok_or(io::ErrorKind::NotFound)?, vms, dir])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::UnixStream};

    async fn greeting(path: &Path) -> io::Result<String> {
        let mut text = String::new();
        UnixStream::connect(path).await?.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_socket_that_was_taken_away_is_there_again_once_it_may_be() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("run");
        let dir = run.join("v/id");
        let path = dir.join("s");
        fs::create_dir_all(&dir).unwrap();
        let serve = |listener: UnixListener| {
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.try_write(b"hello").unwrap();
                }
            })
        };
        let mut socket = ServedSocket::open(path.clone(), serve).unwrap();
        assert_eq!(greeting(&path).await.unwrap(), "hello");
        for mode in [0o700, 0o755] {
            fs::remove_dir_all(&run).unwrap();
            assert!(!socket.watched.may_exist());
            assert!(socket.reopen().is_err(), "only a daemon makes the run directory");
            fs::create_dir(&run).unwrap();
            fs::set_permissions(&run, Permissions::from_mode(mode)).unwrap();
            let opened = socket.reopen();
            assert_eq!(opened.is_ok(), mode == 0o700, "{opened:?}");
            if mode == 0o700 {
                assert!(socket.watched.may_exist());
                assert_eq!(greeting(&path).await.unwrap(), "hello");
                let mode = fs::metadata(&dir).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o700);
            }
        }
        socket.close();
    }
}

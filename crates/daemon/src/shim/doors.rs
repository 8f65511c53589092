//! The shim's sockets. They are made anew where they were taken away, as with a run directory that somebody tidied up: a
//! daemon could not tell the shim from one that hangs, and would end its VM.

use crate::place::{LOOK_EVERY, Place, is_ours_alone};
use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{net::UnixListener, task::JoinHandle, time::sleep};

/// A socket, and who serves it.
pub(super) struct Door {
    path: PathBuf,
    place: Place,
    serve: Box<dyn Fn(UnixListener) -> JoinHandle<()> + Send>,
    served: JoinHandle<()>,
}

impl Door {
    pub(super) fn open(
        path: PathBuf,
        serve: impl Fn(UnixListener) -> JoinHandle<()> + Send + 'static,
    ) -> io::Result<Self> {
        let served = serve(bind(&path)?);
        Ok(Self { place: Place::at(path.clone()), path, serve: Box::new(serve), served })
    }

    /// Takes it away for good.
    pub(super) fn close(self) {
        self.served.abort();
        let _ = fs::remove_file(&self.path);
    }

    /// Connections that are open stay open.
    fn open_again(&mut self) -> io::Result<()> {
        make_directory(self.path.parent().unwrap_or(&self.path))?;
        let listener = bind(&self.path)?;
        self.place = Place::at(self.path.clone());
        self.served.abort();
        self.served = (self.serve)(listener);
        Ok(())
    }
}

/// Sees to it that they stay open. Cancelling loses nothing.
pub(super) async fn keep_open(doors: &mut [Door]) -> Infallible {
    loop {
        sleep(LOOK_EVERY).await;
        for door in doors.iter_mut().filter(|door| !door.place.may_be_there()) {
            // Where they cannot be opened yet they are closed still when this is looked at again.
            let _ = door.open_again();
        }
    }
}

/// Listens at `path`; what an earlier shim left there is removed (the lock says that it is gone).
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Makes the VM's directory of sockets below the one of all, once that is there again. That one only a daemon makes, who
/// looks closely at what may be in its way.
fn make_directory(dir: &Path) -> io::Result<()> {
    let [all, vms, _] = ancestors(dir)?;
    if !is_ours_alone(all) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    for dir in [vms, dir] {
        match fs::create_dir(dir) {
            // Whatever the mode mask is.
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The two directories above one, and itself.
fn ancestors(dir: &Path) -> io::Result<[&Path; 3]> {
    let vms = dir.parent().ok_or(io::ErrorKind::NotFound)?;
    Ok([vms.parent().ok_or(io::ErrorKind::NotFound)?, vms, dir])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::UnixStream};

    async fn greeting(path: &Path) -> io::Result<String> {
        let mut said = String::new();
        UnixStream::connect(path).await?.read_to_string(&mut said).await?;
        Ok(said)
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
        let mut door = Door::open(path.clone(), serve).unwrap();
        assert_eq!(greeting(&path).await.unwrap(), "hello");
        for mode in [0o700, 0o755] {
            fs::remove_dir_all(&run).unwrap();
            assert!(!door.place.may_be_there());
            assert!(door.open_again().is_err(), "only a daemon makes the directory of all");
            fs::create_dir(&run).unwrap();
            fs::set_permissions(&run, Permissions::from_mode(mode)).unwrap();
            let opened = door.open_again();
            assert_eq!(opened.is_ok(), mode == 0o700, "{opened:?}");
            if mode == 0o700 {
                assert!(door.place.may_be_there());
                assert_eq!(greeting(&path).await.unwrap(), "hello");
                let mode = fs::metadata(&dir).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o700);
            }
        }
        door.close();
    }
}

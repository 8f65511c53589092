//! The one directory a Firecracker may write in: it makes its sockets there, and the guest's way out is there.
//!
//! It belongs to a process that is not trusted. So a socket in it is never connected to by its path, which might have
//! become a link to another one, but by what was found to be a socket.
//!
//! The guest's way out is for *knocking* only. Any process of a guest may connect to the host, so what comes that way is
//! not believed to be the agent; it is the reason to dial the agent, whose port only the guest's root can take.

use crate::shim::control::VMM_DIR;
use banger_link::vsock;
use banger_proto::agent::link::{KNOCK_PORT, LINK_PORT};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// How long the guest's kernel may take to accept a connection. It gives up itself after two seconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The API's socket.
pub(super) const API: &str = "api";
/// The socket for connections to the guest; its name is also what those from the guest go by.
pub(super) const VSOCK: &str = "v";

/// The directory, which goes with its owner.
#[derive(Debug)]
pub(super) struct Sockets {
    dir: PathBuf,
}

impl Sockets {
    /// Makes the directory anew in the VM's directory of sockets.
    pub(super) fn make(run_dir: &Path) -> io::Result<Self> {
        let sockets = Self { dir: run_dir.join(VMM_DIR) };
        sockets.remove();
        DirBuilder::new().mode(0o700).create(&sockets.dir)?;
        // Whatever the mode mask is.
        fs::set_permissions(&sockets.dir, Permissions::from_mode(0o700))?;
        Ok(sockets)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn knocks(&self) -> PathBuf {
        self.dir.join(format!("{VSOCK}_{KNOCK_PORT}"))
    }

    /// Connects to the socket of this name.
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = open(self.dir.join(name), flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the monitor's socket is none"));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    fn remove(&self) {
        for name in [self.dir.join(API), self.dir.join(VSOCK), self.knocks()] {
            // What is left is found, and is an error, when the VM's directory is given back.
            let _ = fs::remove_file(name);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The way to a guest's agent.
#[derive(Debug)]
pub struct Guest {
    knocks: UnixListener,
    sockets: Arc<Sockets>,
}

impl Guest {
    pub(super) fn listen(sockets: &Arc<Sockets>) -> io::Result<Self> {
        Ok(Self { knocks: UnixListener::bind(sockets.knocks())?, sockets: sockets.clone() })
    }

    /// Waits until somebody in the guest knocks. Cancelling loses nothing.
    pub async fn knock(&self) -> io::Result<()> {
        self.knocks.accept().await.map(drop)
    }

    /// A pipe to the agent, if it is there.
    pub async fn dial(&self) -> io::Result<UnixStream> {
        let dialled = async {
            let mut pipe = self.sockets.connect(VSOCK).await?;
            vsock::client_handshake(&mut pipe, LINK_PORT).await.map_err(io::Error::other)?;
            Ok(pipe)
        };
        timeout(DIAL_TIMEOUT, dialled).await?
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_in_a_sockets_place_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let sockets = Sockets::make(temp.path()).unwrap();
        let elsewhere = temp.path().join("docker.sock");
        let _listener = UnixListener::bind(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, sockets.dir().join(API)).unwrap();
        assert_eq!(sockets.connect(API).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_file(sockets.dir().join(API)).unwrap();
        let _own = UnixListener::bind(sockets.dir().join(API)).unwrap();
        sockets.connect(API).await.unwrap();
        drop(sockets);
        assert!(!temp.path().join(VMM_DIR).exists());
    }
}

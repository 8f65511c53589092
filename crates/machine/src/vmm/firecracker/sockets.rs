//! The only directory a Firecracker may write to. It creates its sockets there, and the guest reaches the host through
//! it.
//!
//! The directory belongs to an untrusted process. So a socket in it is never connected to by its path, which might have
//! become a link to another one, but through a descriptor that was checked to be a socket.
//!
//! A connection from the guest is a *knock* only. Any process of a guest may connect to the host, so the peer is not
//! believed to be the agent; a knock is merely the reason to dial the agent, whose port only the guest's root can
//! listen on.

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

/// Time limit for the guest's kernel to accept a connection. The kernel itself gives up after two seconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Name of the API socket.
pub(super) const API: &str = "api";
/// Name of the socket for connections to the guest; also the prefix of those for connections from it.
pub(super) const VSOCK: &str = "v";

/// The directory. Removed on drop.
#[derive(Debug)]
pub(super) struct Sockets {
    dir: PathBuf,
}

impl Sockets {
    /// Creates the directory in the VM's directory of sockets, replacing an old one.
    pub(super) fn make(run_dir: &Path) -> io::Result<Self> {
        let sockets = Self { dir: run_dir.join(VMM_DIR) };
        sockets.remove();
        DirBuilder::new().mode(0o700).create(&sockets.dir)?;
        // Independent of the umask.
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
            // A file left behind is found, and reported, when the VM's directory is released.
            let _ = fs::remove_file(name);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Connections to and from a guest's agent.
#[derive(Debug)]
pub struct Guest {
    knocks: UnixListener,
    sockets: Arc<Sockets>,
}

impl Guest {
    pub(super) fn listen(sockets: &Arc<Sockets>) -> io::Result<Self> {
        Ok(Self { knocks: UnixListener::bind(sockets.knocks())?, sockets: sockets.clone() })
    }

    /// Waits until a process in the guest connects. Cancel safe.
    pub async fn knock(&self) -> io::Result<()> {
        self.knocks.accept().await.map(drop)
    }

    /// Opens a byte stream to the agent, if it listens.
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

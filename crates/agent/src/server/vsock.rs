//! The guest's end of the pipe on a machine with a vsock: a listener on a port that only root can bind, and a knock at
//! the host to announce it. The host then dials.
//!
//! Every process of the guest can reach the host's knock port, so nothing is sent there. The listener accepts the host
//! only, because the guest's own processes can reach it where the kernel loops vsock back.
#![expect(unsafe_code, reason = "the address family has no wrapper here")]

use super::pollable::{Pipe, pollable};
use banger_proto::agent::link::{KNOCK_PORT, LINK_PORT};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::{io, time::Duration};
use tokio::{io::unix::AsyncFd, task::spawn_blocking, time::sleep};

/// Time after which a host that has not dialed is knocked again.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);
/// Address of the host.
const HOST: u32 = libc::VMADDR_CID_HOST;

/// Listener for the host's connections.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(libc::SOCK_NONBLOCK)?;
        let address = address(libc::VMADDR_CID_ANY, LINK_PORT);
        // SAFETY: bind(2) reads an address of the length it is told; listen(2) takes numbers.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length()) })?;
        // SAFETY: as above.
        check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
        Ok(Self(pollable(socket)?))
    }

    /// Knocks until the host dials.
    pub(super) async fn accept(&self) -> io::Result<Pipe> {
        loop {
            // The connect blocks until the host accepts it, for two seconds at most. A host that does not listen yet is
            // knocked again.
            let _ = spawn_blocking(knock).await;
            tokio::select! {
                accepted = self.next() => return accepted,
                () = sleep(KNOCK_AGAIN) => {}
            }
        }
    }

    async fn next(&self) -> io::Result<Pipe> {
        loop {
            let mut guard = self.0.readable().await?;
            match accept(guard.get_inner()) {
                Ok((HOST, pipe)) => return Pipe::new(pipe),
                // A process of the guest.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Connects to the host and closes.
fn knock() -> io::Result<()> {
    let socket = socket(0)?;
    let address = address(HOST, KNOCK_PORT);
    // SAFETY: connect(2) reads an address of the length it is told.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length()) })
}

/// Accepts a connection; returns its peer's address with it.
fn accept(listener: &OwnedFd) -> io::Result<(u32, OwnedFd)> {
    let (mut peer, mut size) = (address(0, 0), length());
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: accept4(2) writes an address of at most the length it is told, which is that of `peer`.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut size, flags) };
    check(fd)?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok((peer.svm_cid, unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes numbers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: plain old data, for which all zeroes is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    (address.svm_cid, address.svm_port) = (cid, port);
    address
}

fn length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).unwrap_or_default()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

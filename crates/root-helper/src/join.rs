//! Finds banger's namespaces through a process that is in them.

#![expect(unsafe_code, reason = "the owner of a network namespace is asked for by ioctl")]

use rustix::{
    fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    fs::{Mode, OFlags, open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{fs, io};

/// `_IO(0xb7, 0x1)`: returns the user namespace that owns a namespace (ioctl_ns(2)).
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// A network namespace and the user namespace that owns it.
#[derive(Debug)]
pub struct Namespaces {
    user: OwnedFd,
    network: OwnedFd,
}

impl Namespaces {
    /// Opens the namespaces of the process with this pid and start time (field 22 of its `stat`).
    pub fn of(pid: u32, start_time: u64) -> io::Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let network = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Compared after opening: the pid may have been reused before.
        if started(pid) != Some(start_time) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} is not the one that was meant"),
            ));
        }
        // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor.
        let user = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
        if user == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let user = unsafe { OwnedFd::from_raw_fd(user) };
        Ok(Self { user, network })
    }

    /// Moves this process into the namespaces. It must have only one thread.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.user.as_fd(), Some(LinkNameSpaceType::User))?;
        Ok(move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// Start time of a process. The name in field 2 may contain anything, so fields are counted after its last parenthesis.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

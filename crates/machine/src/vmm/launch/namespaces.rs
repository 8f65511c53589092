//! Private namespaces for the VMM. Everything here runs between fork and exec, and does not allocate.

#![expect(
    unsafe_code,
    reason = "leaving namespaces has no safe wrapper, and clone none that runs between fork and exec"
)]

use rustix::{
    fs::{Mode, OFlags, open},
    process::{getegid, geteuid},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{ffi::CStr, io};

/// Contents of the map files of a user namespace, rendered before fork.
#[derive(Debug, Clone)]
pub(super) struct IdMaps {
    user: String,
    group: String,
}

impl IdMaps {
    /// Maps this user and group to themselves and nobody else: their files stay theirs, including root's when this is
    /// root.
    pub(super) fn own() -> Self {
        let only = |id: u32| format!("{id} {id} 1\n");
        Self { user: only(geteuid().as_raw()), group: only(getegid().as_raw()) }
    }

    /// Enters a new user namespace and a new network namespace, in which no interface is up.
    pub(super) fn enter(&self) -> io::Result<()> {
        // SAFETY: this process has one thread and shares no memory or descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
        // Required before an ordinary user may map groups.
        write(c"/proc/self/setgroups", "deny")?;
        write(c"/proc/self/uid_map", &self.user)?;
        write(c"/proc/self/gid_map", &self.group)
    }
}

fn write(file: &CStr, text: &str) -> io::Result<()> {
    let file = open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes())?;
    Ok(())
}

/// Unshares the mount, UTS and IPC namespaces, and has the next child start a new PID namespace.
pub(super) fn unshare() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: as above.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Forks a process that is not this one's child but its parent's: PID 1 of the new PID namespace, and still a child of
/// the shim. Returns `None` in the new process, and its pid in this one.
pub(super) fn fork_sibling() -> io::Result<Option<i32>> {
    // SAFETY: without CLONE_VM and a stack this is fork(2), from a process with one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?)),
    }
}

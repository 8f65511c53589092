//! The network namespace of a VMM, and its end of the tap device there.
//!
//! Found through a process inside it and kept open from then on, so that a rebooting machine finds it again whatever
//! became of that process. Entered between fork and exec; the capabilities gained by entering are for later steps to
//! use and to drop.

use crate::{process::ProcessIdentity, vmm::plan::Network};
use banger_netlink::tap::{self, Tap};
use rustix::{
    fs::{Mode, OFlags, open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
};

/// `_IO(0xb7, 0x1)`: the user namespace that owns this one (ioctl_ns(2)).
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// A network namespace and the user namespace that owns it. Clones refer to the same namespaces.
#[derive(Debug, Clone)]
pub struct Namespace {
    user: Arc<OwnedFd>,
    network: Arc<OwnedFd>,
}

impl Namespace {
    /// The namespace of a process.
    pub fn of(process: ProcessIdentity) -> io::Result<Self> {
        let path = format!("/proc/{}/ns/net", process.pid);
        let network = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Opened first, checked after: the namespace held open is the one of the process that was checked.
        if !process.alive() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the process that holds the network is gone"));
        }
        // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor.
        let user = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
        if user == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let user = unsafe { OwnedFd::from_raw_fd(user) };
        Ok(Self { user: Arc::new(user), network: Arc::new(network) })
    }

    /// Moves this thread into it. The user namespace comes first: it gives the right to enter the other.
    pub(super) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.user.as_fd(), Some(LinkNameSpaceType::User))?;
        Ok(move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// The NIC of a VMM.
#[derive(Debug)]
pub(in crate::vmm) struct Nic {
    namespace: Namespace,
    /// `None` when the VMM opens the tap device itself.
    tap: Option<ReservedFd>,
}

#[derive(Debug)]
struct ReservedFd {
    name: tap::Name,
    /// The descriptor by which the VMM inherits the tap. Reserved by opening another file, which the tap then replaces.
    reserved: OwnedFd,
}

impl Nic {
    /// A NIC for a VMM that opens the tap device itself, by name, in the namespace.
    pub(in crate::vmm) fn by_name(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), tap: None }
    }

    /// Prepares everything that allocates.
    pub(in crate::vmm) fn prepare(namespace: &Namespace, network: &Network) -> io::Result<Self> {
        let name = tap::Name::new(&network.tap)?;
        let reserved = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { namespace: namespace.clone(), tap: Some(ReservedFd { name, reserved }) })
    }

    /// The descriptor by which the VMM inherits the tap.
    pub(in crate::vmm) fn fd(&self) -> Option<RawFd> {
        self.tap.as_ref().map(|tap| tap.reserved.as_raw_fd())
    }

    /// Enters the namespace and opens the tap device. Runs between fork and exec. Does not allocate.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.namespace.enter()?;
        let Some(ReservedFd { name, reserved }) = &self.tap else { return Ok(()) };
        let tap = OwnedFd::from(Tap::open(*name)?);
        // SAFETY: dup2(2) onto a descriptor that this process reserved; it closes the file that reserved it.
        if unsafe { libc::dup2(tap.as_raw_fd(), reserved.as_raw_fd()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

//! The network namespace a monitor lives in, and its end of the tap there.
//!
//! Found through a process that is in it and kept open from then on, so that a machine that reboots finds it again
//! whatever became of that process. Entered between fork and exec; the capabilities that entering gives are for later
//! steps to use and to drop.

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

/// A network namespace and the user namespace that owns it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Namespace {
    user: Arc<OwnedFd>,
    network: Arc<OwnedFd>,
}

impl Namespace {
    /// That of a process.
    pub fn of(process: ProcessIdentity) -> io::Result<Self> {
        let path = format!("/proc/{}/ns/net", process.pid);
        let network = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Opened first, compared after: what is held is what was compared.
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

/// What a monitor needs to have its card.
#[derive(Debug)]
pub(in crate::vmm) struct Nic {
    namespace: Namespace,
    /// `None` when the monitor opens the tap itself.
    tap: Option<ReservedFd>,
}

#[derive(Debug)]
struct ReservedFd {
    name: tap::Name,
    /// The number under which the monitor has the tap. Reserved by an open file until the tap takes its place.
    reserved: OwnedFd,
}

impl Nic {
    /// For a monitor that opens its tap itself, by name, in the namespace.
    pub(in crate::vmm) fn by_name(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), tap: None }
    }

    /// Makes everything ready that needs memory.
    pub(in crate::vmm) fn prepare(namespace: &Namespace, network: &Network) -> io::Result<Self> {
        let name = tap::Name::new(&network.tap)?;
        let reserved = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { namespace: namespace.clone(), tap: Some(ReservedFd { name, reserved }) })
    }

    /// The number of the tap's descriptor.
    pub(in crate::vmm) fn fd(&self) -> Option<RawFd> {
        self.tap.as_ref().map(|tap| tap.reserved.as_raw_fd())
    }

    /// Between fork and exec: enters the namespace and opens the tap that stands there. Allocates nothing.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.namespace.enter()?;
        let Some(ReservedFd { name, reserved }) = &self.tap else { return Ok(()) };
        let tap = OwnedFd::from(Tap::open(*name)?);
        // SAFETY: dup2(2) onto a number that this process reserved; the file that reserved it is closed by it.
        if unsafe { libc::dup2(tap.as_raw_fd(), reserved.as_raw_fd()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

//! Tap devices: frames written by a VMM arrive on one, and vice versa. They are made with ioctls, not netlink.

#![expect(unsafe_code, reason = "taps are made by ioctl")]

use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags, open},
};
use std::io;

/// Path of the device.
pub const DEVICE: &str = "/dev/net/tun";
/// ioctl requests used here.
pub const CONTROLS: [libc::c_ulong; 3] = [TUNSETIFF, TUNSETPERSIST, TUNSETOWNER];

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;

/// Name of a tap, in the device's format.
#[derive(Debug, Clone, Copy)]
pub struct Name([libc::c_char; libc::IFNAMSIZ]);

impl Name {
    /// Fails if the name is too long for an interface.
    pub fn new(text: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if text.len() >= name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in name.iter_mut().zip(text.bytes()) {
            *to = from.cast_signed();
        }
        Ok(Self(name))
    }
}

/// Open tap. A tap made by opening it is removed when closed, unless it is kept.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Opens the tap with this name in the network namespace of this thread. Does not allocate.
    pub fn open(name: Name) -> io::Result<Self> {
        Self::named(open_device()?, name)
    }

    /// Makes the tap with this name in the network namespace of this thread if it does not exist: down, and on no
    /// bridge. If the device may not be opened, the error says what allows it.
    pub fn make(name: Name) -> io::Result<Self> {
        Self::named(open_device().map_err(|error| closed(&error))?, name)
    }

    fn named(device: OwnedFd, name: Name) -> io::Result<Self> {
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = name.0;
        // Plain frames, with the header that lets the guest leave checksums and segmentation to the host.
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives until the call returns.
        check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        Ok(Self(device))
    }

    /// Lets processes of this user open it without a capability, as Firecracker does by itself.
    pub fn give(&self, user: u32) -> io::Result<()> {
        // SAFETY: TUNSETOWNER takes a number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOWNER, libc::c_ulong::from(user)) })
    }

    /// Makes the tap persistent: it stays when nobody has it open.
    pub fn keep(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes a number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETPERSIST, 1) })
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.0
    }
}

fn open_device() -> io::Result<OwnedFd> {
    Ok(open(c"/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Error for a device this user may not open, with the command that allows it.
fn closed(error: &io::Error) -> io::Error {
    let what = format!("{DEVICE} cannot be opened: {error}; `sudo modprobe tun; sudo chmod 666 {DEVICE}` opens it");
    io::Error::new(error.kind(), what)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_closed_is_named_with_what_opens_it() {
        let said = closed(&io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert_eq!(
            said,
            "/dev/net/tun cannot be opened: Permission denied (os error 13); \
             `sudo modprobe tun; sudo chmod 666 /dev/net/tun` opens it"
        );
    }
}

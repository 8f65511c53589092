//! Taps: what a virtual machine monitor sends is a frame on one, and the other way round. Netlink makes none, ioctl does.

#![expect(unsafe_code, reason = "taps are made by ioctl")]

use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags, open},
};
use std::io;

/// The device.
pub const DEVICE: &str = "/dev/net/tun";
/// The controls of the device that are used here.
pub const CONTROLS: [libc::c_ulong; 3] = [TUNSETIFF, TUNSETPERSIST, TUNSETOWNER];

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;

/// The name of a tap, as the device takes it.
#[derive(Debug, Clone, Copy)]
pub struct Name([libc::c_char; libc::IFNAMSIZ]);

impl Name {
    /// An error where it is too long for an interface.
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

/// An open tap. One that was made by opening it goes when it is closed, unless it is kept.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Opens the tap of this name in the network namespace of this thread. Allocates nothing.
    pub fn open(name: Name) -> io::Result<Self> {
        Self::named(open_device()?, name)
    }

    /// Makes the tap of this name in the network namespace of this thread, down and on no bridge, unless it is there. An
    /// error says what opens the device where that is what is missing.
    pub fn make(name: Name) -> io::Result<Self> {
        Self::named(open_device().map_err(|error| closed(&error))?, name)
    }

    fn named(device: OwnedFd, name: Name) -> io::Result<Self> {
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = name.0;
        // Frames as they are, with the header that lets the guest leave checksums and segmentation to the host.
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives until the call returns.
        check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        Ok(Self(device))
    }

    /// Whoever this user runs may open it without a capability (Firecracker does so by itself).
    pub fn give(&self, user: u32) -> io::Result<()> {
        // SAFETY: TUNSETOWNER takes a number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOWNER, libc::c_ulong::from(user)) })
    }

    /// From now on it stays when nobody has it open.
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

/// The device is not this user's to open: which one, and what opens it.
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

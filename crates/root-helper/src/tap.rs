//! Making a tap: what a virtual machine monitor sends is a frame on it, and the other way round.

#![expect(unsafe_code, reason = "tap devices are made by ioctl")]

use rustix::{
    fd::AsRawFd,
    fs::{Mode, OFlags, open},
};
use std::io;

/// The device; the helper may open nothing else for writing.
pub(crate) const DEVICE: &str = "/dev/net/tun";

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;

/// Makes a tap of this user that stays when nobody has it open. Down, on no bridge. One that is there already stays as it is.
pub(crate) fn make(name: &str, owner: u32) -> io::Result<()> {
    let device = open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| closed(&error.into()))?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // Frames as they are, with the header that lets the guest leave checksums and segmentation to the host.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    // Whoever this user runs may open its end without a capability (Firecracker does so by itself).
    // SAFETY: TUNSETOWNER takes a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOWNER, libc::c_ulong::from(owner)) })?;
    // SAFETY: TUNSETPERSIST takes a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETPERSIST, 1) })
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

//! System calls on the machine as a whole that have no safe wrapper.
#![expect(unsafe_code, reason = "ioctls on sockets, the random pool and a file system; a process's visible name")]

use super::say;
use banger_proto::agent::exec::MAX_CLOCK_DRIFT_NS;
use rustix::{
    fd::{AsFd, AsRawFd},
    fs::{Mode, OFlags, open},
    process::{Resource, Rlimit, setrlimit},
    system::{RebootCommand, reboot},
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};
use std::{ffi::CStr, io, thread::sleep, time::Duration};

/// Most bytes of entropy that are used.
const MAX_ENTROPY: usize = 512;
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const FIFREEZE: libc::c_ulong = 0xc004_5877;

/// Resets the machine, which ends the VMM. All reports must have been sent.
pub(crate) fn reset() -> ! {
    loop {
        if let Err(error) = reboot(RebootCommand::Restart) {
            say(&format!("the machine does not reset: {error}"));
        }
        sleep(Duration::from_secs(1));
    }
}

/// Sets the wall clock when it is off by more than a second.
pub(super) fn set_clock(now_ns: u64) -> io::Result<()> {
    if now_ns == 0 || clock_ns().abs_diff(now_ns) <= MAX_CLOCK_DRIFT_NS {
        return Ok(());
    }
    set(now_ns)
}

/// Adds `shift` nanoseconds to the wall clock.
pub(crate) fn shift_clock(shift: i64) -> io::Result<()> {
    set(clock_ns().saturating_add_signed(shift))
}

/// Returns the wall clock, in nanoseconds since 1970 (UTC).
pub(crate) fn clock_ns() -> u64 {
    let clock = clock_gettime(ClockId::Realtime);
    u64::try_from(clock.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(clock.tv_nsec).unwrap_or(0)
}

fn set(now_ns: u64) -> io::Result<()> {
    let seconds = i64::try_from(now_ns / 1_000_000_000).map_err(io::Error::other)?;
    let nanoseconds = i64::try_from(now_ns % 1_000_000_000).map_err(io::Error::other)?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })?)
}

/// Adds hexadecimal bytes to the kernel's pool and counts them as entropy.
pub(super) fn add_entropy(hex: &str) -> io::Result<()> {
    let bytes = from_hex(hex).ok_or(io::ErrorKind::InvalidData)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let count = i32::try_from(bytes.len()).map_err(io::Error::other)?;
    // struct rand_pool_info: entropy in bits, length in bytes, the bytes.
    let mut request = Vec::with_capacity(bytes.len() + 8);
    request.extend((count * 8).to_ne_bytes());
    request.extend(count.to_ne_bytes());
    request.extend(bytes);
    let pool = open("/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the kernel reads `8 + count` bytes from the pointer, which is what `request` holds.
    check(unsafe { libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY, request.as_ptr()) })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 2 * MAX_ENTROPY || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Brings up the loopback interface; the kernel sets its addresses.
pub(super) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// Freezes the file system of `dir`: writes everything to its disk, with a clean journal, and blocks further writes.
pub(crate) fn freeze(dir: impl AsFd) -> io::Result<()> {
    // SAFETY: FIFREEZE takes no argument that is read.
    check(unsafe { libc::ioctl(dir.as_fd().as_raw_fd(), FIFREEZE, 0) })
}

/// Sets the resource limits that every process of the guest starts with; the kernel's own are from 1999.
pub(super) fn limits() {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: Some(1 << 20) });
}

/// Sets the name of the process for `ps` and systemd, which at shutdown spares a process whose first argument begins
/// with `@`, as this name must.
pub(super) fn name_process(name: &'static CStr) {
    // Leaked on the heap: the kernel does not show memory that is backed by a file, such as a constant.
    let bytes: &'static [u8] = Vec::leak(name.to_bytes_with_nul().to_vec());
    let (start, end) = (bytes.as_ptr(), bytes.as_ptr().wrapping_add(bytes.len()));
    let set = |option: libc::c_int, address: *const u8| {
        // SAFETY: PR_SET_MM moves what /proc/self/cmdline shows; the bytes live as long as the process.
        check(unsafe { libc::prctl(libc::PR_SET_MM, option, address as libc::c_ulong, 0, 0) })
    };
    // The start must stay below the end at each step, and the position of the bytes relative to the stack is unknown.
    let start_first = set(libc::PR_SET_MM_ARG_START, start).and_then(|()| set(libc::PR_SET_MM_ARG_END, end));
    let done =
        start_first.or_else(|_| set(libc::PR_SET_MM_ARG_END, end).and_then(|()| set(libc::PR_SET_MM_ARG_START, start)));
    if let Err(error) = done {
        say(&format!("naming the agent's process: {error}"));
    }
    let plain = name.to_bytes_with_nul().strip_prefix(b"@").unwrap_or_default().as_ptr();
    // SAFETY: PR_SET_NAME reads a NUL-terminated string, which a name without its first character is.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, plain) };
}

/// Forks. The child gets `Ok(None)`.
pub(super) fn fork() -> io::Result<Option<rustix::process::Pid>> {
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(rustix::process::Pid::from_raw(pid)),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::from_hex;

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex("00ffA5"), Some(vec![0, 255, 165]));
        assert_eq!(from_hex(""), Some(vec![]));
        for bad in ["0", "0g", "éé", &"00".repeat(1000)] {
            assert_eq!(from_hex(bad), None, "{bad:.10}");
        }
    }
}

//! What is done in the monitor's process before it is one. Every function here runs between fork and exec: it neither
//! allocates nor locks.

#![expect(unsafe_code, reason = "system calls that have no safe wrapper")]

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::FdFlags,
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    time::Timespec,
};
use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
};

/// How much likelier the kernel's out-of-memory killer takes a monitor than its shim (-1000..1000): a shim that is killed
/// takes its monitor along and leaves no record, a monitor that is killed leaves one.
const OOM_SCORE: &[u8] = b"200";
/// Most bytes of a core file. Not 0: where the host's `core_pattern` is a program (systemd-coredump, apport), the kernel
/// takes no notice of a limit of 0 and has it read the whole of the monitor's memory, guest's and all. 1 is the one value
/// that it refuses there (core(5): it marks such a program's own crash), and where cores are files none is that short.
const CORE_LIMIT: u64 = 1;
/// Descriptors a monitor may have open: each connection to a guest is one.
const MAX_DESCRIPTORS: u64 = 4096;

/// Standard input is nothing, output and errors go where they should.
pub(super) fn stdio(fds: [RawFd; 3]) -> io::Result<()> {
    for (to, from) in (0..).zip(fds) {
        // SAFETY: dup2(2) on numbers; what stood at the lower ones is the shim's own standard streams.
        if unsafe { libc::dup2(from, to) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The signal comes when the *thread* that forked ends, so only a main thread may launch. If it has ended before the
/// request no signal comes any more; then nobody reads `report`, the pipe to it, either.
pub(super) fn die_with_reader_of(report: BorrowedFd<'_>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut pipe = [PollFd::from_borrowed_fd(report, PollFlags::empty())];
    poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if pipe[0].revents().contains(PollFlags::ERR) { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
}

/// A signal that is ignored or blocked here would stay so in the program.
pub(super) fn default_signals() -> io::Result<()> {
    for signal in
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
    {
        // SAFETY: signal(2) with the default disposition; no handler of ours is involved.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: an empty set is a value, and sigprocmask(2) reads it.
    let unblocked = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if unblocked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// No core file, since guest memory must not land on a disk; no file longer than the machine's own; no queue, no
/// real-time scheduling.
pub(super) fn limits(longest_file: u64) -> io::Result<()> {
    let limits = [
        (Resource::Core, CORE_LIMIT),
        (Resource::Fsize, longest_file),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ];
    for (resource, limit) in limits {
        // What is lower already stays as it is.
        let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(limit);
        setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?;
    }
    Ok(())
}

/// See [`OOM_SCORE`].
pub(super) fn out_of_memory_score() -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    let file = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, OOM_SCORE)?;
    Ok(())
}

/// Whatever else is open, a descriptor the shim forgot to mark included, does not reach the program.
pub(super) fn inherit_only(keep: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing here; it marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: the descriptor is open: whoever launches keeps it so.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}

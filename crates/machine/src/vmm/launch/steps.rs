//! Steps in the process of the VMM before its program is executed. Every function here runs between fork and exec: it
//! neither allocates nor locks.

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

/// OOM score adjustment (-1000..1000) that makes the kernel kill a VMM rather than its shim: a killed shim takes its
/// VMM with it and leaves no exit record, whereas the shim of a killed VMM writes one.
const OOM_SCORE: &[u8] = b"200";
/// Largest core file in bytes. Not 0: where the host's `core_pattern` is a program (systemd-coredump, apport), the
/// kernel ignores a limit of 0 and lets it read all of the VMM's memory, including the guest's. 1 is the one value with
/// which the kernel refuses to dump there (core(5): it marks the crash of such a program itself); and where cores are
/// files, none is that short.
const CORE_LIMIT: u64 = 1;
/// Descriptors a VMM may have open: each connection to a guest needs one.
const MAX_DESCRIPTORS: u64 = 4096;

/// Redirects standard input, output and error.
pub(super) fn stdio(fds: [RawFd; 3]) -> io::Result<()> {
    for (to, from) in (0..).zip(fds) {
        // SAFETY: dup2(2) on numbers; the lower ones are the shim's own standard streams.
        if unsafe { libc::dup2(from, to) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has this process killed when the *thread* that forked it ends; so only a main thread may launch. If that thread
/// ended before the request, no signal comes; but then the read end of `report` is closed too, which is checked here.
pub(super) fn die_with_reader_of(report: BorrowedFd<'_>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut pipe = [PollFd::from_borrowed_fd(report, PollFlags::empty())];
    poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if pipe[0].revents().contains(PollFlags::ERR) { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
}

/// Resets signal dispositions and the mask, because ignored or blocked signals would stay so in the program.
pub(super) fn default_signals() -> io::Result<()> {
    for signal in
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
    {
        // SAFETY: signal(2) with the default disposition; no handler of ours is involved.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: an all-zero set is a valid value, and sigprocmask(2) only reads it.
    let unblocked = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if unblocked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets resource limits: no core file, since guest memory must not be written to disk; no file longer than the
/// machine's own; no message queues; no real-time scheduling.
pub(super) fn limits(longest_file: u64) -> io::Result<()> {
    let limits = [
        (Resource::Core, CORE_LIMIT),
        (Resource::Fsize, longest_file),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ];
    for (resource, limit) in limits {
        // A limit that is already lower stays.
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

/// Closes all descriptors on exec except these, including any that the shim forgot to mark.
pub(super) fn inherit_only(keep: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing here; it marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: the descriptor is open: the caller of the launch keeps it so.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}

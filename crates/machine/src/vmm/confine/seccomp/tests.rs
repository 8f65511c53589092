//! Tests which calls the filter refuses and allows: each is made behind the filter, in a child before it executes
//! anything.

use super::*;
use std::{ffi::CStr, os::unix::process::CommandExt, process::Command};

/// One or several system calls, made behind the filter.
type Attempt = fn() -> libc::c_long;

const NOWHERE: &CStr = c"/nonexistent/file";

/// Runs a program behind the filter, after making an attempt there.
fn behind(vmm: Vmm, mut command: Command, attempt: Attempt) -> io::Result<std::process::Output> {
    let filter = Filter::new(vmm);
    let enter = move || {
        rustix::thread::set_no_new_privs(true)?;
        filter.enter()?;
        if attempt() == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: system calls, no allocation.
    unsafe { command.pre_exec(enter) };
    command.output()
}

/// Error number of an attempt behind the filter; 0 for success.
fn tried(vmm: Vmm, attempt: Attempt) -> i32 {
    behind(vmm, Command::new("true"), attempt).map_or_else(|error| error.raw_os_error().unwrap(), |_| 0)
}

fn filtered(line: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    behind(Vmm::Qemu, command, || 0).unwrap().status.success()
}

/// A system call with numbers and a file name.
macro_rules! call {
    ($name:ident $(, $argument:expr)*) => {
        // SAFETY: a NUL-terminated string, numbers and null pointers.
        || unsafe { libc::syscall(libc::$name $(, $argument)*) }
    };
}

const NULL: *const libc::c_void = std::ptr::null();

#[test]
fn ordinary_programs_run_and_namespaces_do_not_start() {
    assert!(filtered("ls / | cat >/dev/null"), "processes and pipes are nothing to refuse");
    assert!(!filtered("unshare --user true"));
    assert!(!filtered("unshare --mount true"));
}

#[test]
fn nobody_elses_process_gets_a_signal() {
    for vmm in [Vmm::Qemu, Vmm::Firecracker] {
        let others: [(&str, Attempt); 9] = [
            ("kill", call!(SYS_kill, libc::getppid(), 0)),
            ("tkill", call!(SYS_tkill, libc::getppid(), 0)),
            ("tgkill", call!(SYS_tgkill, libc::getppid(), libc::getppid(), 0)),
            ("rt_sigqueueinfo", call!(SYS_rt_sigqueueinfo, libc::getppid(), 0, NULL)),
            ("rt_tgsigqueueinfo", call!(SYS_rt_tgsigqueueinfo, libc::getppid(), libc::getppid(), 0, NULL)),
            ("pidfd_open", call!(SYS_pidfd_open, libc::getppid(), 0)),
            ("F_SETOWN", call!(SYS_fcntl, 0, libc::F_SETOWN, libc::getppid())),
            ("FIOSETOWN", call!(SYS_ioctl, 0, FIOSETOWN, NULL)),
            ("prlimit64", call!(SYS_prlimit64, libc::getppid(), libc::RLIMIT_CPU, NULL, NULL)),
        ];
        for (name, attempt) in others {
            assert_eq!(tried(vmm, attempt), libc::EPERM, "{name} under {vmm}");
        }
        // QEMU's threads wake each other, and it reads its own limits.
        assert_eq!(tried(vmm, call!(SYS_tgkill, libc::getpid(), libc::gettid(), 0)), 0);
        assert_eq!(tried(vmm, call!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, NULL, NULL)), 0);
        assert_eq!(tried(vmm, call!(SYS_fcntl, 0, libc::F_GETFD)), 0);
    }
    // tkill only with the two signals that Firecracker sends.
    let knock: Attempt = || {
        // SAFETY: the signal is ignored before it is sent.
        unsafe {
            libc::signal(FIRECRACKERS_SIGNALS[1], libc::SIG_IGN);
            libc::syscall(libc::SYS_tkill, libc::gettid(), FIRECRACKERS_SIGNALS[1])
        }
    };
    assert_eq!((tried(Vmm::Firecracker, knock), tried(Vmm::Qemu, knock)), (0, libc::EPERM));
}

#[test]
fn nobody_elses_turn_is_moved() {
    let others: [(&str, Attempt); 9] = [
        ("sched_setaffinity", call!(SYS_sched_setaffinity, libc::getppid(), 0, NULL)),
        ("sched_setscheduler", call!(SYS_sched_setscheduler, libc::getppid(), 0, NULL)),
        ("sched_setparam", call!(SYS_sched_setparam, libc::getppid(), NULL)),
        ("sched_setattr", call!(SYS_sched_setattr, libc::getppid(), NULL, 0)),
        ("setpriority", call!(SYS_setpriority, libc::PRIO_PROCESS, libc::getppid(), 0)),
        ("setpriority of all", call!(SYS_setpriority, libc::PRIO_USER, 0, 0)),
        ("ioprio_set", call!(SYS_ioprio_set, 1, libc::getppid(), 0)),
        ("migrate_pages", call!(SYS_migrate_pages, libc::getppid(), 0, NULL, NULL)),
        ("move_pages", call!(SYS_move_pages, libc::getppid(), 0, NULL, NULL, NULL, 0)),
    ];
    for vmm in [Vmm::Qemu, Vmm::Firecracker] {
        for (name, attempt) in others {
            assert_eq!(tried(vmm, attempt), libc::EPERM, "{name} under {vmm}");
        }
        // Allowed for the calling thread: the kernel then rejects the missing argument.
        assert_eq!(tried(vmm, call!(SYS_sched_setparam, 0, NULL)), libc::EINVAL);
    }
}

#[test]
fn nothing_is_done_to_files_by_their_names() {
    let deeds: [(&str, Attempt); 11] = [
        ("truncate", call!(SYS_truncate, NOWHERE.as_ptr(), 0)),
        ("fchmodat", call!(SYS_fchmodat, libc::AT_FDCWD, NOWHERE.as_ptr(), 0)),
        ("fchmodat2", call!(SYS_fchmodat2, libc::AT_FDCWD, NOWHERE.as_ptr(), 0, 0)),
        ("fchownat", call!(SYS_fchownat, libc::AT_FDCWD, NOWHERE.as_ptr(), 0, 0, 0)),
        ("setxattr", call!(SYS_setxattr, NOWHERE.as_ptr(), c"user.x".as_ptr(), NULL, 0, 0)),
        ("lremovexattr", call!(SYS_lremovexattr, NOWHERE.as_ptr(), c"user.x".as_ptr())),
        ("utimensat", call!(SYS_utimensat, libc::AT_FDCWD, NOWHERE.as_ptr(), NULL, 0)),
        ("inotify_init1", call!(SYS_inotify_init1, 0)),
        ("cut off while read", call!(SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_TRUNC)),
        ("for neither", call!(SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_ACCMODE)),
        ("both", call!(SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_ACCMODE | libc::O_TRUNC)),
    ];
    for (name, attempt) in deeds {
        assert_eq!(tried(Vmm::Qemu, attempt), libc::EPERM, "{name}");
    }
    let written = call!(SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_TRUNC);
    let read = call!(SYS_openat, libc::AT_FDCWD, NOWHERE.as_ptr(), libc::O_RDONLY);
    assert_eq!((tried(Vmm::Qemu, written), tried(Vmm::Qemu, read)), (0, libc::ENOENT));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_old_names_of_these_are_refused_as_well() {
    let deeds: [(&str, Attempt); 4] = [
        ("chmod", call!(SYS_chmod, NOWHERE.as_ptr(), 0)),
        ("lchown", call!(SYS_lchown, NOWHERE.as_ptr(), 0, 0)),
        ("utimes", call!(SYS_utimes, NOWHERE.as_ptr(), NULL)),
        ("open", call!(SYS_open, c"/dev/null".as_ptr(), libc::O_TRUNC)),
    ];
    for (name, attempt) in deeds {
        assert_eq!(tried(Vmm::Qemu, attempt), libc::EPERM, "{name}");
    }
}

#[test]
fn sockets_are_streams_and_qemu_connects_to_nobody() {
    let datagrams = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    let streams = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
    let internet = call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0);
    // The filter ignores the address, and for the kernel descriptor 0 is not a socket.
    let connection = call!(SYS_connect, 0, NULL, 0);
    for (vmm, connected) in [(Vmm::Qemu, libc::EPERM), (Vmm::Firecracker, libc::ENOTSOCK)] {
        assert_eq!(tried(vmm, datagrams), libc::EPERM);
        assert_eq!(tried(vmm, internet), libc::EPERM);
        assert_eq!(tried(vmm, streams), 0);
        assert_eq!(tried(vmm, connection), connected);
    }
    let pair: Attempt = || {
        let mut pair = [0_i32; 2];
        // SAFETY: two numbers are written into an array of two.
        unsafe { libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) }
    };
    assert_eq!(tried(Vmm::Firecracker, pair), libc::EPERM);
}

#[test]
fn calls_that_nobody_looked_at_are_not_there() {
    // SAFETY: number 1000 is not a system call.
    assert_eq!(tried(Vmm::Qemu, || unsafe { libc::syscall(1000) }), libc::ENOSYS);
    // The kernel itself would return EINVAL for a null argument.
    assert_eq!(tried(Vmm::Qemu, call!(SYS_openat2, libc::AT_FDCWD, NOWHERE.as_ptr(), NULL, 0)), libc::ENOSYS);
}

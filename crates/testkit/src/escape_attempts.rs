//! What a compromised VMM would attempt. A program that runs in place of a VMM reports the result of each attempt, one
//! line each (`NAME: done` or `NAME: <error>`), and finally `end`. The kernel's command line lists the targets:
//!
//! | word | attempt |
//! |---|---|
//! | `probe.read.NAME=PATH` | to read a file, or to list a directory |
//! | `probe.write.NAME=PATH` | to open a file for writing |
//! | `probe.unix.NAME=PATH` | to connect to a unix socket; `@NAME` is an abstract one |
//! | `probe.tcp.NAME=PORT` | to connect to a port of the host's 127.0.0.1 |
//! | `probe.process.NAME=PID` | to signal a process in every way, to trace it, limit it, read its environment |
//! | `probe.file.NAME=PATH` | to truncate a file in three ways, to change its mode, owner and times |
//!
//! Attempts without a target are always made: new namespaces, mounts, sockets, programs, capabilities.

#![expect(unsafe_code, reason = "system calls that a well-behaved program does not make")]

use std::{
    ffi::{CStr, CString},
    fmt::Write as _,
    fs::{File, OpenOptions},
    io,
    net::TcpStream,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::Path,
    process::Command,
};

/// Prefix of a word that names a target.
const WORD: &str = "probe.";

/// Whether a kernel's command line asks for attempts.
pub fn is_asked(words: &str) -> bool {
    words.split(' ').any(|word| word.starts_with(WORD))
}

/// Makes every attempt and returns the report.
pub fn attempt(words: &str) -> String {
    let mut said = String::new();
    let mut say = |name: &str, outcome: io::Result<()>| {
        let outcome = outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned());
        let _ = write!(said, "{name}: {outcome}\r\n");
    };
    for word in words.split(' ') {
        let Some((name, target)) = word.strip_prefix(WORD).and_then(|word| word.split_once('=')) else { continue };
        match name.split_once('.') {
            Some(("read", _)) => say(name, read(target.as_ref())),
            Some(("write", _)) => say(name, OpenOptions::new().write(true).open(target).map(drop)),
            Some(("unix", _)) => say(name, connect(target)),
            Some(("tcp", _)) => say(name, port(target)),
            Some(("process", _)) => {
                for (what, attempt) in SIGNALS {
                    say(&format!("{name}.{what}"), number(target).and_then(attempt));
                }
                say(&format!("{name}.trace"), number(target).and_then(trace));
                say(&format!("{name}.environment"), read(Path::new(&format!("/proc/{target}/environ"))));
            }
            Some(("file", _)) => {
                for (what, attempt) in FILE_OPERATIONS {
                    let outcome = CString::new(target).map_err(io::Error::other).and_then(|path| attempt(&path));
                    say(&format!("{name}.{what}"), outcome);
                }
            }
            _ => say(name, Err(io::ErrorKind::Unsupported.into())),
        }
    }
    for (name, flag) in [
        ("namespace.user", libc::CLONE_NEWUSER),
        ("namespace.mount", libc::CLONE_NEWNS),
        ("namespace.network", libc::CLONE_NEWNET),
    ] {
        say(name, in_child(|| check(unsafe_unshare(flag))));
    }
    say("mount", in_child(|| check(unsafe_mount(c"/"))));
    say("socket.packet", socket(libc::AF_PACKET, libc::SOCK_RAW, 0));
    say("socket.raw", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP));
    say("socket.udp", socket(libc::AF_INET, libc::SOCK_DGRAM, 0));
    say("socket.netlink", socket(libc::AF_NETLINK, libc::SOCK_RAW, 0));
    say("program", Command::new("/bin/true").status().map(drop));
    say("processes", read(Path::new("/proc")));
    say("capability.kept", capability(libc::PR_CAPBSET_READ));
    said.push_str("end\r\n");
    said
}

fn read(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return std::fs::read_dir(path)?.next().map_or(Ok(()), |entry| entry.map(drop));
    }
    io::Read::read(&mut File::open(path)?, &mut [0]).map(drop)
}

fn connect(target: &str) -> io::Result<()> {
    match target.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop),
        None => UnixStream::connect(target).map(drop),
    }
}

fn port(target: &str) -> io::Result<()> {
    let port: u16 = target.parse().map_err(io::Error::other)?;
    TcpStream::connect(("127.0.0.1", port)).map(drop)
}

fn number(text: &str) -> io::Result<i32> {
    text.parse().map_err(io::Error::other)
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

type ToProcess = fn(i32) -> io::Result<()>;
type ToFile = fn(&CStr) -> io::Result<()>;

/// Ways to send a signal, or to have one sent. Signal 0 only asks whether one could be sent.
const SIGNALS: [(&str, ToProcess); 6] = [
    // SAFETY: numbers.
    ("signal", |pid| check(unsafe { libc::kill(pid, 0) })),
    // SAFETY: numbers.
    ("thread", |pid| long(unsafe { libc::syscall(libc::SYS_tkill, pid, 0) })),
    // SAFETY: numbers.
    ("group-thread", |pid| long(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) })),
    // SAFETY: numbers; the descriptor is closed with the process.
    ("descriptor", |pid| long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })),
    // SAFETY: numbers. Standard input is there.
    ("owner", |pid| check(unsafe { libc::fcntl(0, libc::F_SETOWN, pid) })),
    ("limit", |pid| {
        let nothing = std::ptr::null::<libc::c_void>();
        // SAFETY: neither a new limit nor room for the old one.
        long(unsafe { libc::syscall(libc::SYS_prlimit64, pid, libc::RLIMIT_CPU, nothing, nothing) })
    }),
];

/// Operations on a file by its name. Its remaining content is not checked.
const FILE_OPERATIONS: [(&str, ToFile); 6] = [
    // SAFETY: a string that ends with a NUL, and a number.
    ("cut", |path| check(unsafe { libc::truncate(path.as_ptr(), 0) })),
    // SAFETY: likewise; the descriptor is closed with the process.
    ("cut-while-read", |path| check(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_TRUNC) })),
    // SAFETY: likewise.
    ("cut-unopened", |path| check(unsafe { libc::open(path.as_ptr(), libc::O_ACCMODE | libc::O_TRUNC) })),
    // SAFETY: likewise.
    ("mode", |path| check(unsafe { libc::chmod(path.as_ptr(), 0o777) })),
    // SAFETY: likewise; it stays whose it is.
    ("owner", |path| check(unsafe { libc::chown(path.as_ptr(), u32::MAX, u32::MAX) })),
    // SAFETY: likewise; no times are now.
    ("times", |path| check(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) })),
];

fn long(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unsafe_unshare(flag: i32) -> i32 {
    // SAFETY: the process ends right after.
    unsafe { libc::unshare(flag) }
}

fn unsafe_mount(at: &CStr) -> i32 {
    let (kind, none) = (c"tmpfs".as_ptr(), std::ptr::null());
    // SAFETY: strings that end with a NUL; mounted in a mount namespace that ends with the process, or not at all.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS);
        libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
        libc::mount(kind, at.as_ptr(), kind, 0, none.cast())
    }
}

/// Attaches to a process and detaches from it.
fn trace(pid: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: ptrace requests without memory.
    unsafe {
        check(i32::try_from(libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing)).unwrap_or(-1))?;
    }
    Ok(())
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    // SAFETY: socket(2) takes numbers; what it gives is closed with the process.
    check(unsafe { libc::socket(family, kind, protocol) })
}

/// Whether a set of capabilities is not empty.
fn capability(option: i32) -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    let kept = (0..64_u64).any(|number| unsafe { libc::prctl(option, number, 0, 0, 0) } == 1);
    if kept { Ok(()) } else { Err(io::Error::other("none")) }
}

/// Runs an attempt in a child process, for attempts that cannot be undone.
fn in_child(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: the child makes system calls and ends; it neither allocates nor locks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = attempt().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is written to where it lives.
            check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
            match libc::WEXITSTATUS(status) {
                0 if libc::WIFEXITED(status) => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

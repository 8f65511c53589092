//! What a helper taken over by an attacker could still do: tried by a process confined like the helper, and by an
//! unconfined one, so that differences are due to the confinement.

#![expect(unsafe_code, reason = "system calls that a well-behaved program does not make")]

use banger_root_helper::Tools;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Tells a child process of these tests to try the calls, and in which directory.
const TRY: &str = "BANGER_TEST_CONFINEMENT";
const NOBODY: i64 = 0x7fff_ffff;

/// System call with invalid arguments: its error shows whether it was let through.
type Call = (&'static str, i64, [i64; 5]);

/// System calls that lead beyond networking: namespaces and mounts, other processes, the kernel itself, keys, other
/// sockets.
const CALLS: &[Call] = &[
    ("unshare", libc::SYS_unshare, [0; 5]),
    ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0; 5]),
    // A thread in a new user namespace is an invalid combination, and likewise in a new network namespace.
    ("clone: user", libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::CLONE_THREAD) as i64, 0, 0, 0, 0]),
    ("clone: mount", libc::SYS_clone, [(libc::CLONE_NEWNS | libc::CLONE_FS) as i64, 0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0; 5]),
    ("umount2", libc::SYS_umount2, [0; 5]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("chroot", libc::SYS_chroot, [0; 5]),
    ("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0; 5]),
    ("fsconfig", libc::SYS_fsconfig, [-1, 99, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
    ("fspick", libc::SYS_fspick, [-1, 0, 0, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [-1, 0, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [9999, NOBODY, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [NOBODY, 0, 0, 0, 0]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [NOBODY, 0, 0, 0, 0]),
    ("pidfd_open", libc::SYS_pidfd_open, [NOBODY, 0, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
    ("kill", libc::SYS_kill, [NOBODY, 0, 0, 0, 0]),
    ("bpf", libc::SYS_bpf, [9999, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
    ("userfaultfd", libc::SYS_userfaultfd, [0xffff, 0, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 5]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0; 5]),
    ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [0; 5]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0xffff, 0]),
    ("reboot", libc::SYS_reboot, [0; 5]),
    ("swapon", libc::SYS_swapon, [0; 5]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    ("keyctl", libc::SYS_keyctl, [9999, 0, 0, 0, 0]),
    ("personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, [9999, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [0, 9999, 0, 0, 0]),
    ("syslog", libc::SYS_syslog, [9999, 0, 0, 0, 0]),
    ("fanotify_init", libc::SYS_fanotify_init, [-1, 0, 0, 0, 0]),
    ("memfd_create", libc::SYS_memfd_create, [0; 5]),
    ("execveat", libc::SYS_execveat, [-1, 0, 0, 0, 0]),
    ("prctl", libc::SYS_prctl, [9999, 0, 0, 0, 0]),
    ("connect", libc::SYS_connect, [-1, 0, 0, 0, 0]),
    ("socket: packet", libc::SYS_socket, [libc::AF_PACKET as i64, libc::SOCK_RAW as i64, 0, 0, 0]),
    ("socket: IPv6", libc::SYS_socket, [libc::AF_INET6 as i64, libc::SOCK_STREAM as i64, 0, 0, 0]),
    ("ioctl: a terminal's input", libc::SYS_ioctl, [-1, libc::TIOCSTI.cast_signed(), 0, 0, 0]),
];

/// Files outside the helper's business, but for the last three.
fn files(own: &Path) -> [(&'static str, io::Result<()>); 8] {
    let write = |path: &Path| File::options().write(true).open(path).map(drop);
    [
        ("read a user's file", fs::read(own).map(drop)),
        ("write a user's file", write(own)),
        ("make a file", File::create(own.with_extension("new")).map(drop)),
        ("look at processes", fs::read("/proc/self/status").map(drop)),
        ("run a program", Command::new("/bin/true").stdin(Stdio::inherit()).status().map(drop)),
        ("read the system's configuration", fs::read("/etc/passwd").map(drop)),
        ("open the tap device", File::options().read(true).write(true).open("/dev/net/tun").map(drop)),
        ("open nothing", write("/dev/null".as_ref())),
    ]
}

/// Runs in a process of its own: applies the confinement if requested, then tries everything.
#[test]
fn attempts() {
    let Some(dir) = std::env::var_os(TRY).map(PathBuf::from) else { return };
    let mut report = File::create(dir.join("report")).unwrap();
    if dir.join("confine").exists() {
        Tools::confine().unwrap();
    }
    for (name, number, [a, b, c, d, e]) in CALLS {
        // SAFETY: pointers are null or point nowhere, and numbers mean nothing: no memory of this process is touched.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, *d, *e) };
        let error = if result == -1 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 };
        writeln!(report, "{name}={error}").unwrap();
    }
    for (name, outcome) in files(&dir.join("own")) {
        let error = outcome.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
        writeln!(report, "{name}={error}").unwrap();
    }
}

fn report(confined: bool) -> BTreeMap<String, i32> {
    let dir = std::env::temp_dir().join(format!("banger-confinement-{}-{confined}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("own"), "x").unwrap();
    if confined {
        fs::write(dir.join("confine"), "").unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confinement::attempts", "--test-threads=1"])
        .env(TRY, &dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(dir.join("report")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, error)| (name.into(), error.parse().unwrap()))
        .collect()
}

#[test]
fn what_has_no_place_in_networking_fails() {
    if !banger_testkit::require("netns") || !banger_testkit::require("root") {
        return;
    }
    let (free, confined) = (report(false), report(true));
    let mut seen = 0;
    for (name, ..) in CALLS {
        // The filter answers as if the call did not exist. Without the filter that would be this kernel's own answer.
        assert_eq!(confined[*name], libc::ENOSYS, "{name}");
        if free[*name] == libc::ENOSYS && *name != "clone3" {
            eprintln!("this kernel has no {name}");
        } else {
            seen += 1;
        }
    }
    assert!(seen * 10 > CALLS.len() * 8, "{seen} of {} are this confinement's doing", CALLS.len());
    let names: Vec<_> = files(Path::new("/none")).into_iter().map(|(name, _)| name).collect();
    for (index, name) in names.iter().enumerate() {
        assert_eq!(free[*name], 0, "{name}");
        let expected = if index < 5 { libc::EACCES } else { 0 };
        assert_eq!(confined[*name], expected, "{name}");
    }
}

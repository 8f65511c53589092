//! A filter of system calls for every monitor, on top of the one it brings itself.
//!
//! It refuses what no monitor needs and what kernels have most often been broken by: namespaces and mounts, looking
//! into other processes, loading code into the kernel, keys, io_uring, and every socket but unix ones. A refused call
//! fails with EPERM; it does not end the process, so a library that only tries goes on.

#![expect(unsafe_code, reason = "the system call has no wrapper that can run between fork and exec")]

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};
use std::{io, mem::offset_of};

/// The architecture whose numbers are meant (`AUDIT_ARCH_*`).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// The architecture whose numbers are meant (`AUDIT_ARCH_*`).
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers from here on are another interface of the same kernel (x32).
const OTHER_INTERFACE: u32 = 0x4000_0000;

/// Refused whatever their arguments.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Namespaces, mounts, roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The host's name and clock.
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// New namespaces in the flags of clone(2).
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// The filter's program.
#[derive(Debug)]
pub(in crate::vmm) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Puts it together.
    pub(in crate::vmm) fn new() -> Self {
        let mut code = Code::default();
        code.load(offset_of!(libc::seccomp_data, arch));
        code.unless_equal(ARCHITECTURE, SECCOMP_RET_KILL_PROCESS);
        code.load(offset_of!(libc::seccomp_data, nr));
        code.when(BPF_JGE, OTHER_INTERFACE, refuse(libc::EPERM));
        for number in REFUSED {
            code.when(BPF_JEQ, word(*number), refuse(libc::EPERM));
        }
        // Its flags are in memory, where a filter cannot look. The C library falls back to clone.
        code.when(BPF_JEQ, word(libc::SYS_clone3), refuse(libc::ENOSYS));
        code.argument_of(libc::SYS_clone, BPF_JSET, NEW_NAMESPACES, refuse(libc::EPERM), SECCOMP_RET_ALLOW);
        let unix = u32::try_from(libc::AF_UNIX).expect("a small number");
        code.argument_of(libc::SYS_socket, BPF_JEQ, unix, SECCOMP_RET_ALLOW, refuse(libc::EPERM));
        code.give(SECCOMP_RET_ALLOW);
        Self(code.0)
    }

    /// Applies it to this thread and what it executes, for good. Needs no-new-privileges. Allocates nothing.
    pub(in crate::vmm) fn enter(&self) -> io::Result<()> {
        let length = u16::try_from(self.0.len()).expect("some hundred instructions");
        let program = sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: seccomp(2) reads a program of `len` instructions, which is not changed.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[expect(clippy::cast_sign_loss, reason = "the kernel's error numbers are positive")]
fn refuse(error: libc::c_int) -> u32 {
    SECCOMP_RET_ERRNO | error as u32
}

fn word(number: libc::c_long) -> u32 {
    u32::try_from(number).expect("system calls have small numbers")
}

/// Instructions of the kernel's classic packet filter.
#[derive(Default)]
struct Code(Vec<sock_filter>);

impl Code {
    fn push(&mut self, code: u32, k: u32, (jt, jf): (u8, u8)) {
        let code = u16::try_from(code).expect("an instruction's code has 16 bits");
        self.0.push(sock_filter { code, jt, jf, k });
    }

    /// Takes a word of the call's description.
    fn load(&mut self, offset: usize) {
        self.push(BPF_LD | BPF_W | BPF_ABS, u32::try_from(offset).expect("a small record"), (0, 0));
    }

    /// The verdict.
    fn give(&mut self, verdict: u32) {
        self.push(BPF_RET | BPF_K, verdict, (0, 0));
    }

    fn when(&mut self, test: u32, value: u32, verdict: u32) {
        self.push(BPF_JMP | test | BPF_K, value, (0, 1));
        self.give(verdict);
    }

    fn unless_equal(&mut self, value: u32, verdict: u32) {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, value, (1, 0));
        self.give(verdict);
    }

    /// Decides about one call by the low half of its first argument. The call's number is loaded before and after.
    fn argument_of(&mut self, call: libc::c_long, test: u32, value: u32, yes: u32, no: u32) {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, word(call), (0, 4));
        self.load(offset_of!(libc::seccomp_data, args));
        self.push(BPF_JMP | test | BPF_K, value, (0, 1));
        self.give(yes);
        self.give(no);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    /// A shell that tries something behind the filter.
    fn filtered(line: &str) -> bool {
        let filter = Filter::new();
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        let enter = move || {
            rustix::thread::set_no_new_privs(true)?;
            filter.enter()
        };
        // SAFETY: two system calls, no allocation.
        unsafe { command.pre_exec(enter) };
        command.output().unwrap().status.success()
    }

    #[test]
    fn ordinary_programs_run_and_namespaces_do_not_start() {
        assert!(filtered("ls / | cat >/dev/null"), "processes and pipes are nothing to refuse");
        assert!(!filtered("unshare --user true"));
        assert!(!filtered("unshare --mount true"));
    }
}

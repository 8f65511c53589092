//! A seccomp filter for every VMM, in addition to the one that the VMM installs itself.
//!
//! It refuses the system calls that no VMM needs and by which kernels have most often been attacked ([`refused`]). Of
//! the calls a VMM does need, it refuses other uses: signals to anything but its own threads, ways of opening files
//! that Landlock does not check, sockets other than streams between processes of this host. A refused call fails with
//! EPERM; the process is not killed, so that a library that merely probes for a feature goes on.
//!
//! The filter does not rely on the other layers: it stands alone where a host allows no namespaces and its Landlock is
//! old.

#![expect(unsafe_code, reason = "the system call has no wrapper that can run between fork and exec")]

mod refused;

use banger_proto::api::vm::Vmm;
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};
use std::{io, mem::offset_of};

/// The architecture whose system call numbers are used (`AUDIT_ARCH_*`).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// The architecture whose system call numbers are used (`AUDIT_ARCH_*`).
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// First system call number of another ABI of the same kernel (x32).
const OTHER_INTERFACE: u32 = 0x4000_0000;
/// The newest system call that was reviewed (mseal, Linux 6.10). Newer ones fail with ENOSYS, as on older kernels:
/// among them are new ways to do what is refused.
const NEWEST: u32 = 462;
/// Signals that Firecracker sends to its threads with tkill(2), as its C library (musl) does: SIGABRT on a panic, and
/// the first real-time signal that musl leaves free. Firecracker's own filter allows the same two.
const FIRECRACKERS_SIGNALS: [libc::c_int; 2] = [libc::SIGABRT, 35];

/// Flags of clone(2) that create namespaces.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// Mask of the socket type; the remaining bits are flags.
const SOCKET_TYPE: u32 = 0xf;
/// Operations that have SIGIO, or another signal, sent to a process: `<asm-generic/fcntl.h>`,
/// `<asm-generic/sockios.h>`.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;

/// The filter program.
#[derive(Debug)]
pub(in crate::vmm) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Builds the filter for one kind of VMM.
    pub(in crate::vmm) fn new(vmm: Vmm) -> Self {
        let mut code = Bpf::default();
        code.load(offset_of!(libc::seccomp_data, arch));
        code.unless_equal(ARCHITECTURE, SECCOMP_RET_KILL_PROCESS);
        code.load(offset_of!(libc::seccomp_data, nr));
        // Decided first, because it is called all the time and depends on an argument; the kernel caches the verdict of
        // calls that do not.
        code.on(libc::SYS_ioctl, |code| {
            code.argument(1);
            code.refuse_values(&[FIOSETOWN, SIOCSPGRP]);
        });
        code.when(BPF_JGE, OTHER_INTERFACE, refuse(libc::EPERM));
        code.when(BPF_JGT, NEWEST, refuse(libc::ENOSYS));
        for number in refused::CALLS.iter().chain(refused::BY_OLD_NAMES) {
            code.when(BPF_JEQ, call_number(*number), refuse(libc::EPERM));
        }
        // Their arguments are in memory, which a filter cannot read. The C library falls back to the older calls.
        code.when(BPF_JEQ, call_number(libc::SYS_clone3), refuse(libc::ENOSYS));
        code.when(BPF_JEQ, call_number(libc::SYS_openat2), refuse(libc::ENOSYS));
        code.on(libc::SYS_clone, |code| {
            code.argument(0);
            code.when(BPF_JSET, NEW_NAMESPACES, refuse(libc::EPERM));
            code.ret(SECCOMP_RET_ALLOW);
        });
        sockets(&mut code, vmm);
        files(&mut code);
        signals(&mut code, vmm);
        scheduling(&mut code);
        code.ret(SECCOMP_RET_ALLOW);
        Self(code.0)
    }

    /// Applies the filter to this thread and what it executes, irrevocably. Needs no-new-privileges. Does not allocate.
    pub(in crate::vmm) fn enter(&self) -> io::Result<()> {
        apply(&own_threads_only(rustix::process::getpid().as_raw_pid()))?;
        apply(&self.0)
    }
}

/// Allows only stream sockets between processes of this host. A datagram could be sent to any socket without connecting
/// to it.
fn sockets(code: &mut Bpf, vmm: Vmm) {
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        code.on(call, |code| {
            code.argument(0);
            code.unless_equal(bits(libc::AF_UNIX), refuse(libc::EPERM));
            code.argument(1);
            code.mask(SOCKET_TYPE);
            code.when(BPF_JEQ, bits(libc::SOCK_STREAM), SECCOMP_RET_ALLOW);
            code.when(BPF_JEQ, bits(libc::SOCK_SEQPACKET), SECCOMP_RET_ALLOW);
            code.ret(refuse(libc::EPERM));
        });
    }
    // QEMU gets its connections as inherited descriptors. Firecracker connects to the host on behalf of its guest.
    if vmm == Vmm::Qemu {
        code.when(BPF_JEQ, call_number(libc::SYS_connect), refuse(libc::EPERM));
    }
}

/// Refuses the ways of opening that Landlock does not check: access mode 3 (neither reading nor writing), and
/// truncation of a file opened for reading, which older Landlock versions do not restrict.
fn files(code: &mut Bpf) {
    let cut = bits(libc::O_TRUNC);
    let neither = bits(libc::O_ACCMODE);
    let mut on = |call, flags| {
        code.on(call, |code| {
            code.argument(flags);
            code.mask(cut | neither);
            code.refuse_values(&[cut | bits(libc::O_RDONLY), cut | neither, neither]);
        });
    };
    on(libc::SYS_openat, 2);
    #[cfg(target_arch = "x86_64")]
    on(libc::SYS_open, 1);
}

/// Restricts signals to the process's own threads, as far as the calls are not refused altogether.
fn signals(code: &mut Bpf, vmm: Vmm) {
    // Operations that make a descriptor send signals to a process.
    code.on(libc::SYS_fcntl, |code| {
        code.argument(1);
        code.refuse_values(&[libc::F_SETOWN, F_SETSIG, F_SETOWN_EX].map(bits));
    });
    // A CPU time limit kills the process it is set for.
    code.on(libc::SYS_prlimit64, |code| {
        code.argument(0);
        code.unless_equal(0, refuse(libc::EPERM));
        code.ret(SECCOMP_RET_ALLOW);
    });
    code.on(libc::SYS_tkill, |code| {
        code.argument(1);
        for signal in FIRECRACKERS_SIGNALS.iter().filter(|_| vmm == Vmm::Firecracker) {
            code.when(BPF_JEQ, bits(*signal), SECCOMP_RET_ALLOW);
        }
        code.ret(refuse(libc::EPERM));
    });
}

/// Allows scheduling changes for the calling thread only.
fn scheduling(code: &mut Bpf) {
    let own_only = |code: &mut Bpf, argument| {
        code.argument(argument);
        code.unless_equal(0, refuse(libc::EPERM));
    };
    for call in
        [libc::SYS_sched_setaffinity, libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr]
    {
        code.on(call, |code| {
            own_only(code, 0);
            code.ret(SECCOMP_RET_ALLOW);
        });
    }
    code.on(libc::SYS_setpriority, |code| {
        // Only PRIO_PROCESS: not the priority of a process group or of a user, for which 0 also means the caller's.
        own_only(code, 0);
        own_only(code, 1);
        code.ret(SECCOMP_RET_ALLOW);
    });
}

/// A separate filter for tgkill(2). The process id is known only in the child, where nothing may be allocated.
fn own_threads_only(own: i32) -> [sock_filter; 6] {
    let load = |offset: usize| instruction(BPF_LD | BPF_W | BPF_ABS, offset_u32(offset), (0, 0));
    let equal = |value, jumps| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, jumps);
    let ret = |verdict| instruction(BPF_RET | BPF_K, verdict, (0, 0));
    [
        load(offset_of!(libc::seccomp_data, nr)),
        equal(call_number(libc::SYS_tgkill), (0, 3)),
        load(argument(0)),
        equal(bits(own), (1, 0)),
        ret(refuse(libc::EPERM)),
        ret(SECCOMP_RET_ALLOW),
    ]
}

fn apply(filter: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).expect("some hundred instructions");
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) reads a program of `len` instructions, which is not changed.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn refuse(error: libc::c_int) -> u32 {
    SECCOMP_RET_ERRNO | bits(error)
}

/// A number as the kernel compares it.
#[expect(clippy::cast_sign_loss, reason = "the same bits")]
fn bits(number: libc::c_int) -> u32 {
    number as u32
}

fn call_number(number: libc::c_long) -> u32 {
    u32::try_from(number).expect("system calls have small numbers")
}

/// Offset of the low half of an argument; calls that are decided by an argument use no more than its low half.
fn argument(index: usize) -> usize {
    offset_of!(libc::seccomp_data, args) + index * size_of::<u64>()
}

fn offset_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("a small record")
}

fn instruction(code: u32, k: u32, (jt, jf): (u8, u8)) -> sock_filter {
    let code = u16::try_from(code).expect("an instruction's code has 16 bits");
    sock_filter { code, jt, jf, k }
}

/// A program for the kernel's classic BPF machine.
#[derive(Default)]
struct Bpf(Vec<sock_filter>);

impl Bpf {
    fn push(&mut self, code: u32, k: u32, jumps: (u8, u8)) {
        self.0.push(instruction(code, k, jumps));
    }

    /// Loads a word of `seccomp_data` into the accumulator.
    fn load(&mut self, offset: usize) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset_u32(offset), (0, 0));
    }

    fn argument(&mut self, index: usize) {
        self.load(argument(index));
    }

    /// Keeps only these bits of the accumulator.
    fn mask(&mut self, bits: u32) {
        self.push(BPF_ALU | BPF_AND | BPF_K, bits, (0, 0));
    }

    /// Returns a verdict.
    fn ret(&mut self, verdict: u32) {
        self.push(BPF_RET | BPF_K, verdict, (0, 0));
    }

    fn when(&mut self, test: u32, value: u32, verdict: u32) {
        self.push(BPF_JMP | test | BPF_K, value, (0, 1));
        self.ret(verdict);
    }

    fn unless_equal(&mut self, value: u32, verdict: u32) {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, value, (1, 0));
        self.ret(verdict);
    }

    /// Refuses these values and allows all others.
    fn refuse_values(&mut self, values: &[u32]) {
        for value in values {
            self.when(BPF_JEQ, *value, refuse(libc::EPERM));
        }
        self.ret(SECCOMP_RET_ALLOW);
    }

    /// Decides one system call; `decision` must end in a verdict on every path. The call's number must be in the
    /// accumulator before, and for every other call still is afterwards.
    fn on(&mut self, call: libc::c_long, decision: impl FnOnce(&mut Self)) {
        let mut decided = Self::default();
        decision(&mut decided);
        let over = u8::try_from(decided.0.len()).expect("a few instructions");
        self.push(BPF_JMP | BPF_JEQ | BPF_K, call_number(call), (0, over));
        self.0.extend(decided.0);
    }
}

#[cfg(test)]
mod tests;

//! Confinement of the helper itself: two capabilities, few files, and the system calls needed to make links and rules.

use crate::apply::Nft;
use banger_netlink::tap;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{collections::BTreeMap, io, path::Path};

/// For links, addresses, taps and nftables.
const ADMIN: CapabilitySet = CapabilitySet::NET_ADMIN;
/// For the guests' resolver on port 53.
const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Confines this process and the nft it runs, irrevocably, and names the layers that hold. Call before a second thread.
pub(crate) fn enter(nft: &Nft) -> io::Result<Vec<String>> {
    keep(ADMIN | BIND, ADMIN)?;
    set_no_new_privs(true)?;
    let mut layers = vec!["capabilities: net_admin, net_bind_service".to_owned()];
    layers.push(match landlock(nft.path()) {
        Ok(RulesetStatus::NotEnforced) => "landlock: this kernel has none".to_owned(),
        Ok(_) => "landlock: on".to_owned(),
        Err(error) => return Err(io::Error::other(format!("landlock: {error}"))),
    });
    seccompiler::apply_filter(&filter()?).map_err(|error| io::Error::other(format!("seccomp: {error}")))?;
    layers.push("seccomp: on".to_owned());
    Ok(layers)
}

/// Drops every capability.
pub(crate) fn drop_everything() -> io::Result<()> {
    keep(CapabilitySet::empty(), CapabilitySet::empty())?;
    Ok(set_no_new_privs(true)?)
}

/// Keeps the capabilities in `own`, passes `handed_on` to programs, and lets no program gain others.
fn keep(own: CapabilitySet, handed_on: CapabilitySet) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if own.contains(capability) {
            continue;
        }
        match capability_is_in_bounding_set(capability) {
            // The kernel knows fewer capabilities than there are bits.
            Err(rustix::io::Errno::INVAL) => break,
            // A process started without the capability may not have the right to drop it.
            Ok(false) => {}
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Err(error) => return Err(error.into()),
        }
    }
    set_capabilities(None, CapabilitySets { effective: own, permitted: own, inheritable: handed_on })?;
    for capability in handed_on.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn landlock(nft: &Path) -> Result<RulesetStatus, RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?;
    let (execute, device) = (read | AccessFs::Execute, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev);
    let libraries = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store"].map(|path| (Path::new(path), execute));
    // The loader's cache, the files in which nft looks up names, and the tap device.
    let others =
        [(nft, execute), ("/etc".as_ref(), read), (tap::DEVICE.as_ref(), device), ("/dev/null".as_ref(), device)];
    for (path, access) in libraries.into_iter().chain(others) {
        // A path that does not exist needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}
/// System calls allowed with any arguments.
const FREE: &[libc::c_long] = calls! {
    // Files and pipes; which ones is restricted by Landlock.
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_lseek SYS_close SYS_openat SYS_fstat SYS_newfstatat SYS_statx
    SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getdents64 SYS_getcwd SYS_chdir SYS_fcntl SYS_dup SYS_dup3 SYS_pipe2
    // Memory.
    SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk
    // Netlink, the resolver's sockets, and connections of clients. The helper never connects to a peer.
    SYS_bind SYS_listen SYS_accept4 SYS_getsockname SYS_getpeername SYS_getsockopt SYS_setsockopt SYS_shutdown
    SYS_sendto SYS_sendmsg SYS_recvfrom SYS_recvmsg SYS_ppoll SYS_pselect6
    // Threads, and running nft. No signal is sent to another process.
    SYS_execve SYS_wait4 SYS_waitid SYS_exit SYS_exit_group SYS_futex SYS_set_tid_address SYS_set_robust_list SYS_rseq
    SYS_membarrier SYS_sched_yield SYS_sched_getaffinity SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn
    SYS_sigaltstack SYS_restart_syscall
    // Identity and time.
    SYS_getpid SYS_gettid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_uname SYS_sysinfo SYS_prlimit64
    SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getrandom
};
/// System calls that exist only on older architectures.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = calls! {
    SYS_access SYS_arch_prctl SYS_dup2 SYS_getrlimit SYS_open SYS_pipe SYS_poll SYS_readlink SYS_select SYS_stat SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];
/// Flags of clone(2) for new namespaces: every `CLONE_NEW*`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Filter of the system calls helper and nft need. Any other fails with ENOSYS: a C library that tries a newer call
/// (clone3, whose flags a filter cannot see) falls back to the older one.
fn filter() -> io::Result<BpfProgram> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let failed = |error: seccompiler::BackendError| io::Error::other(format!("seccomp: {error}"));
    let when = |argument, is, value: u64| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?;
        SeccompRule::new(vec![condition])
    };
    let any =
        |argument, values: &[u64]| values.iter().map(|value| when(argument, Eq, *value)).collect::<Result<_, _>>();
    // Not packet, raw, vsock or any other family.
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK].map(|family| u64::from(family.unsigned_abs()));
    // Controls of taps, and the query whether an output is a terminal.
    let controls = [&tap::CONTROLS[..], &[libc::TCGETS, libc::FIONBIO]].concat();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FREE.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    let clone = when(0, MaskedEq(NEW_NAMESPACES), 0).map_err(failed)?;
    rules.insert(libc::SYS_clone, vec![clone]);
    rules.insert(libc::SYS_socket, any(0, &families).map_err(failed)?);
    rules.insert(libc::SYS_ioctl, any(1, &controls).map_err(failed)?);
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, unknown, SeccompAction::Allow, arch).and_then(BpfProgram::try_from).map_err(failed)
}

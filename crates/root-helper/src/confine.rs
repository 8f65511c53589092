//! What the helper itself may do: two capabilities, two files, and no system call that leads elsewhere.

use crate::{apply::Nft, tap};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{collections::BTreeMap, io, path::Path};

/// Links, addresses, taps and nftables.
const ADMIN: CapabilitySet = CapabilitySet::NET_ADMIN;
/// The guests' resolver listens on port 53.
const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Confines this process and the nft it runs, for good; says which layers hold. Must be called before there is a thread.
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

/// Gives up every capability.
pub(crate) fn drop_everything() -> io::Result<()> {
    keep(CapabilitySet::empty(), CapabilitySet::empty())?;
    Ok(set_no_new_privs(true)?)
}

/// Keeps these capabilities, hands some on to programs, and lets no program gain others.
fn keep(own: CapabilitySet, handed_on: CapabilitySet) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if own.contains(capability) {
            continue;
        }
        match capability_is_in_bounding_set(capability) {
            // The kernel knows fewer than there are bits.
            Err(rustix::io::Errno::INVAL) => break,
            // Who is started without it may not have the right to give it up.
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
    const NEWEST: ABI = ABI::V5;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // It binds the resolver's port and connects nowhere.
        .handle_access(AccessNet::ConnectTcp)?
        .create()?;
    let (execute, device) = (read | AccessFs::Execute, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev);
    let libraries = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store"].map(|path| (Path::new(path), execute));
    // The loader's index and what nft looks names up in; the tap device.
    let others =
        [(nft, execute), ("/etc".as_ref(), read), (tap::DEVICE.as_ref(), device), ("/dev/null".as_ref(), device)];
    for (path, access) in libraries.into_iter().chain(others) {
        // What is not there needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// System calls that have no place in networking: they fail, in nft too.
fn filter() -> io::Result<BpfProgram> {
    const NEVER: [libc::c_long; 27] = [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_open_by_handle_at,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_personality,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
    ];
    let failed = |error: seccompiler::BackendError| io::Error::other(format!("seccomp: {error}"));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = NEVER.into_iter().map(|call| (call, Vec::new())).collect();
    // Sockets of the kinds it works with, and no others: not packet, raw or vsock.
    let kinds = [libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK];
    let other = kinds.map(|kind| {
        let kind = u64::try_from(kind).expect("address families are positive");
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, kind)
    });
    let other = other.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other).map_err(failed)?]);
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).and_then(BpfProgram::try_from).map_err(failed)
}

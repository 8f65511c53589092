//! The list of files as Landlock rules; network connections are denied.
//!
//! Needs no privilege. Landlock does not prevent connecting to unix sockets by path, nor changing a file's mode, owner,
//! times and extended attributes; the private root and the seccomp filter do. Older kernels support fewer restrictions:
//! [`unsupported`] names them.

#![expect(unsafe_code, reason = "the system call has no wrapper that can run between fork and exec")]

use super::{Entry, Reach};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

/// The newest Landlock ABI requested; older kernels enforce the part they know.
const NEWEST: ABI = ABI::V6;
/// Requested restrictions by the ABI version that introduced them, newest first, and the first kernel that has each.
const FEATURES: [(i64, &str, &str); 4] = [
    (6, "signals and abstract sockets", "6.12"),
    (5, "the controls of devices", "6.10"),
    (4, "TCP", "6.7"),
    (3, "cutting files off", "6.2"),
];
/// Flag that asks for the ABI version in place of a ruleset.
const VERSION: u32 = 1;

/// Creates the ruleset; `None` where the kernel has no Landlock.
pub(super) fn ruleset(entries: &[Entry]) -> Result<Option<OwnedFd>, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for entry in entries {
        let Ok(fd) = PathFd::new(&entry.path) else { continue };
        let is_dir = fs::metadata(&entry.path).is_ok_and(|file| file.is_dir());
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access(entry.reach, is_dir)))?;
    }
    Ok(ruleset.into())
}

/// Landlock ABI version of this kernel; not above 0 where it has none.
pub(super) fn abi_version() -> i64 {
    // SAFETY: landlock_create_ruleset(2) reads no memory when it is asked for the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, VERSION) }
}

/// Names the requested restrictions that a kernel with this ABI version does not enforce; `None` when it enforces all.
pub(super) fn unsupported(abi: i64) -> Option<String> {
    let lacks: Vec<_> = FEATURES.iter().filter(|(first, ..)| *first > abi).collect();
    let (_, _, kernel) = lacks.first()?;
    let what: Vec<&str> = lacks.iter().map(|(_, what, _)| *what).collect();
    Some(format!("this kernel's Landlock does not restrict {} (Linux {kernel} does)", what.join(", ")))
}

fn access(reach: Reach, is_dir: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let access = match reach {
        Reach::Read | Reach::Library => read,
        Reach::Execute => read | AccessFs::Execute,
        Reach::Write => read | AccessFs::WriteFile | AccessFs::Truncate,
        Reach::Device => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
        Reach::Sockets => AccessFs::ReadDir | AccessFs::MakeSock | AccessFs::RemoveFile,
    };
    if is_dir { access } else { access & AccessFs::from_file(NEWEST) }
}

/// Confines this thread and what it executes, irrevocably. Needs no-new-privileges. Does not allocate.
pub(super) fn enter(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: landlock_restrict_self(2) takes a descriptor and flags, and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_leaves_open_is_named() {
        // Debian 12, Ubuntu 24.04, and kernels that enforce everything.
        let of = |abi| unsupported(abi).unwrap_or_default();
        assert_eq!(
            of(2),
            "this kernel's Landlock does not restrict signals and abstract sockets, the controls of devices, TCP, \
             cutting files off (Linux 6.12 does)"
        );
        assert!(of(4).contains("sockets, the controls of devices (Linux 6.12"), "{}", of(4));
        assert_eq!((of(6), of(7)), (String::new(), String::new()));
    }
}

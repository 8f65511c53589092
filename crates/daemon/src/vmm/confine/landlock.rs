//! The list of files as Landlock rules, and no connection anywhere.
//!
//! Needs no privilege. It does not stop connecting to unix sockets by path; the monitor's own root does.

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

/// The newest interface asked for; older kernels give the part they know.
const NEWEST: ABI = ABI::V6;

/// The kernel's object; `None` where the kernel has no Landlock.
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

/// Confines this thread and what it executes, for good. Needs no-new-privileges. Allocates nothing.
pub(super) fn enter(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: landlock_restrict_self(2) takes a descriptor and flags, and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

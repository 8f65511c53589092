//! Which monitor and which accelerator, and why: a pure function of what is wanted and what was found.

use super::{
    host::{HostFacts, ProgramFinding, Version},
    kvm_probe::KvmFinding,
};
use banger_proto::api::vm::{Accelerator, Vmm};
use std::path::PathBuf;

/// The oldest QEMU whose `microvm` machine has all that is used here.
pub const OLDEST_QEMU: Version = Version(6, 2, 0);

/// What a machine will run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The monitor.
    pub vmm: Vmm,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// The monitor's program.
    pub program: PathBuf,
    /// Why, for `vm show` and `doctor`.
    pub reason: String,
}

/// Why there is nothing to run a machine on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVmm {
    /// Not installed.
    #[error("{} is not installed", name.display())]
    Missing {
        /// The program.
        name: PathBuf,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Installed, and does not run.
    #[error("{} does not work: {reason}", path.display())]
    Broken {
        /// The program.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Too old.
    #[error("{} is version {found}, and {OLDEST_QEMU} is the oldest that works", path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// Firecracker was asked for.
    #[error("this version of banger has no Firecracker driver")]
    NoFirecracker,
}

/// `wanted` is what the user asked for; `None` is `auto`.
pub fn select(wanted: Option<Vmm>, host: &HostFacts) -> Result<Choice, NoVmm> {
    if wanted == Some(Vmm::Firecracker) {
        return Err(NoVmm::NoFirecracker);
    }
    let (path, version) = match &host.qemu {
        ProgramFinding::Found { path, version, .. } => (path.clone(), *version),
        ProgramFinding::Missing { name } => {
            return Err(NoVmm::Missing { name: name.clone(), package: "qemu-system-x86" });
        }
        ProgramFinding::Broken { path, reason } => {
            return Err(NoVmm::Broken { path: path.clone(), reason: reason.clone() });
        }
    };
    if version < OLDEST_QEMU {
        return Err(NoVmm::TooOld { path, found: version });
    }
    let (accelerator, reason) = match &host.kvm {
        KvmFinding::Usable => (Accelerator::Kvm, format!("QEMU {version} with KVM, which runs guest code here")),
        finding => (Accelerator::Tcg, format!("QEMU {version} in software: {finding}")),
    };
    Ok(Choice { vmm: Vmm::Qemu, accelerator, program: path, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kvm: KvmFinding, qemu: &str) -> HostFacts {
        let found = serde_json::from_str(qemu).unwrap();
        let firecracker = ProgramFinding::Missing { name: "firecracker".into() };
        HostFacts { boot_id: "b".into(), kvm, tsc_khz: Some(1), qemu: found, firecracker }
    }

    const QEMU_7: &str = r#"{"program":"found","path":"/usr/bin/q","version":[7,2,22],
        "stamp":{"device":0,"inode":0,"size":0,"changed_s":0,"changed_ns":0}}"#;

    #[test]
    fn kvm_where_it_works_and_software_where_it_does_not() {
        let choice = select(None, &host(KvmFinding::Usable, QEMU_7)).unwrap();
        assert_eq!((choice.vmm, choice.accelerator), (Vmm::Qemu, Accelerator::Kvm));
        for finding in [KvmFinding::Absent, KvmFinding::Denied, KvmFinding::Broken { reason: "so".into() }] {
            let choice = select(Some(Vmm::Qemu), &host(finding.clone(), QEMU_7)).unwrap();
            assert_eq!(choice.accelerator, Accelerator::Tcg);
            assert_eq!(choice.reason, format!("QEMU 7.2.22 in software: {finding}"));
        }
    }

    #[test]
    fn what_is_missing_or_old_is_named() {
        let refused = |qemu: &str| select(None, &host(KvmFinding::Usable, qemu)).unwrap_err();
        let missing = refused(r#"{"program":"missing","name":"qemu-system-x86_64"}"#);
        assert_eq!(missing.to_string(), "qemu-system-x86_64 is not installed");
        let broken = refused(r#"{"program":"broken","path":"/q","reason":"it cannot be run"}"#);
        assert_eq!(broken.to_string(), "/q does not work: it cannot be run");
        let old = refused(&QEMU_7.replace("[7,2,22]", "[5,1,0]"));
        assert_eq!(old.to_string(), "/usr/bin/q is version 5.1.0, and 6.2.0 is the oldest that works");
        let host = host(KvmFinding::Usable, QEMU_7);
        assert_eq!(select(Some(Vmm::Firecracker), &host), Err(NoVmm::NoFirecracker));
    }
}

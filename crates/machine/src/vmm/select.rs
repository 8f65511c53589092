//! Chooses the VMM and the accelerator, with the reason: a pure function of the user's wish and the host's facts.

use super::{
    host::{HostFacts, ProgramFinding, Version},
    kvm_probe::KvmFinding,
};
use banger_proto::api::vm::{Accelerator, Vmm};
use std::path::PathBuf;

/// The oldest QEMU whose `microvm` machine has every feature used here.
pub const OLDEST_QEMU: Version = Version(6, 2, 0);

/// The oldest Firecracker that describes its devices in the way the guest looks for them.
pub const OLDEST_FIRECRACKER: Version = Version(1, 12, 0);

/// The chosen VMM for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The VMM.
    pub vmm: Vmm,
    /// How guest code is executed.
    pub accelerator: Accelerator,
    /// Executable of the VMM.
    pub program: PathBuf,
    /// The reason for the choice, for `vm show` and `doctor`.
    pub reason: String,
}

/// Why no VMM can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVmm {
    /// The program is not installed.
    #[error("{} is not installed", name.display())]
    Missing {
        /// The VMM.
        vmm: Vmm,
        /// Name of the program.
        name: PathBuf,
        /// The Debian package that contains it, if any does.
        package: Option<&'static str>,
    },
    /// The program is installed and does not run.
    #[error("{} does not work: {reason}", path.display())]
    Broken {
        /// The VMM.
        vmm: Vmm,
        /// The file.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The version is too old.
    #[error("{} is version {found}, and {oldest} is the oldest that works", path.display())]
    TooOld {
        /// The VMM.
        vmm: Vmm,
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest supported version.
        oldest: Version,
    },
    /// The version has a known defect.
    #[error("{} is version {found}: {reason}", path.display())]
    Unfit {
        /// The VMM.
        vmm: Vmm,
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
        /// The defect.
        reason: &'static str,
    },
}

impl NoVmm {
    /// The configuration key that sets the path of the program.
    pub fn key(&self) -> &'static str {
        let (Self::Missing { vmm, .. } | Self::Broken { vmm, .. } | Self::TooOld { vmm, .. } | Self::Unfit { vmm, .. }) =
            self;
        match vmm {
            Vmm::Firecracker => "firecracker_bin",
            Vmm::Qemu => "qemu_bin",
        }
    }
}

/// Chooses the VMM. `wanted` is the user's choice; `None` is `auto`.
///
/// `auto` picks Firecracker only where KVM has been seen to run guest code. An explicit choice is honored wherever a
/// supported version is installed: what that VMM cannot do, its driver reports.
pub fn select(wanted: Option<Vmm>, host: &HostFacts) -> Result<Choice, NoVmm> {
    match wanted {
        Some(Vmm::Firecracker) => {
            let (program, version) = firecracker(host)?;
            let kvm = if host.kvm == KvmFinding::Usable { String::new() } else { format!("; {}", host.kvm) };
            let reason = format!("Firecracker {version}, which was asked for{kvm}");
            Ok(Choice { vmm: Vmm::Firecracker, accelerator: Accelerator::Kvm, program, reason })
        }
        Some(Vmm::Qemu) => qemu(host, ""),
        None => match (&host.kvm, firecracker(host)) {
            (KvmFinding::Usable, Ok((program, version))) => {
                let reason = format!("Firecracker {version} with KVM, which runs guest code here");
                Ok(Choice { vmm: Vmm::Firecracker, accelerator: Accelerator::Kvm, program, reason })
            }
            (KvmFinding::Usable, Err(NoVmm::Missing { .. })) | (_, Ok(_) | Err(NoVmm::Missing { .. })) => {
                qemu(host, "")
            }
            (_, Err(unfit)) => qemu(host, &format!("; not Firecracker: {unfit}")),
        },
    }
}

/// Returns Firecracker's path and version, if that version may be used.
pub fn firecracker(host: &HostFacts) -> Result<(PathBuf, Version), NoVmm> {
    let vmm = Vmm::Firecracker;
    let (path, found) = found(&host.firecracker, vmm, None)?;
    match found {
        version if version < OLDEST_FIRECRACKER => Err(NoVmm::TooOld { vmm, path, found, oldest: OLDEST_FIRECRACKER }),
        Version(1, 16, 0) => Err(NoVmm::Unfit { vmm, path, found, reason: "guests lose their host after a restore" }),
        Version(1, 16, 1) => {
            Err(NoVmm::Unfit { vmm, path, found, reason: "connections to a guest hang after it was paused" })
        }
        _ => Ok((path, found)),
    }
}

fn qemu(host: &HostFacts, remark: &str) -> Result<Choice, NoVmm> {
    let vmm = Vmm::Qemu;
    let (program, version) = found(&host.qemu, vmm, Some("qemu-system-x86"))?;
    if version < OLDEST_QEMU {
        return Err(NoVmm::TooOld { vmm, path: program, found: version, oldest: OLDEST_QEMU });
    }
    let (accelerator, reason) = match &host.kvm {
        KvmFinding::Usable => {
            (Accelerator::Kvm, format!("QEMU {version} with KVM, which runs guest code here{remark}"))
        }
        finding => (Accelerator::Tcg, format!("QEMU {version} in software: {finding}{remark}")),
    };
    Ok(Choice { vmm: Vmm::Qemu, accelerator, program, reason })
}

fn found(finding: &ProgramFinding, vmm: Vmm, package: Option<&'static str>) -> Result<(PathBuf, Version), NoVmm> {
    match finding {
        ProgramFinding::Found { path, version, .. } => Ok((path.clone(), *version)),
        ProgramFinding::Missing { name } => Err(NoVmm::Missing { vmm, name: name.clone(), package }),
        ProgramFinding::Broken { path, reason } => {
            Err(NoVmm::Broken { vmm, path: path.clone(), reason: reason.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kvm: KvmFinding, qemu: &str) -> HostFacts {
        let found = serde_json::from_str(qemu).unwrap();
        let firecracker = ProgramFinding::Missing { name: "firecracker".into() };
        HostFacts { boot_id: "b".into(), kvm, kvm_device: None, tsc_khz: Some(1), qemu: found, firecracker }
    }

    const QEMU_7: &str = r#"{"program":"found","path":"/usr/bin/q","version":[7,2,22],
        "stamp":{"device":0,"inode":0,"size":0,"changed_s":0,"changed_ns":0}}"#;

    #[test]
    fn kvm_where_it_works_and_software_where_it_does_not() {
        let choice = select(None, &host(KvmFinding::Usable, QEMU_7)).unwrap();
        assert_eq!((choice.vmm, choice.accelerator), (Vmm::Qemu, Accelerator::Kvm));
        let (broken, untried) = ("so".to_owned(), "busy".to_owned());
        for finding in [
            KvmFinding::Absent,
            KvmFinding::Denied,
            KvmFinding::Broken { reason: broken },
            KvmFinding::Untried { reason: untried },
        ] {
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
    }

    #[test]
    fn the_key_that_names_a_program_is_its_monitors_whatever_it_is_called() {
        let qemu = QEMU_7.replace("/usr/bin/q", "/home/firecracker/qemu").replace("[7,2,22]", "[5,1,0]");
        assert_eq!(select(None, &host(KvmFinding::Absent, &qemu)).unwrap_err().key(), "qemu_bin");
        let firecracker = QEMU_7.replace("/usr/bin/q", "/opt/fc/fc-1.11").replace("[7,2,22]", "[1,11,0]");
        let firecracker = serde_json::from_str(&firecracker).unwrap();
        let host = HostFacts { firecracker, ..host(KvmFinding::Absent, QEMU_7) };
        assert_eq!(select(Some(Vmm::Firecracker), &host).unwrap_err().key(), "firecracker_bin");
    }

    fn with_firecracker(kvm: KvmFinding, version: &str) -> HostFacts {
        let firecracker = QEMU_7.replace("/usr/bin/q", "/usr/bin/firecracker").replace("[7,2,22]", version);
        HostFacts { firecracker: serde_json::from_str(&firecracker).unwrap(), ..host(kvm, QEMU_7) }
    }

    #[test]
    fn firecracker_where_kvm_works_and_where_it_was_asked_for() {
        let broken = || KvmFinding::Broken { reason: "so".into() };
        let chosen = |wanted, kvm| select(wanted, &with_firecracker(kvm, "[1,15,1]")).unwrap();
        let auto = chosen(None, KvmFinding::Usable);
        assert_eq!((auto.vmm, auto.accelerator), (Vmm::Firecracker, Accelerator::Kvm));
        assert_eq!(auto.program, PathBuf::from("/usr/bin/firecracker"));
        assert_eq!(chosen(None, broken()).vmm, Vmm::Qemu);
        assert_eq!(chosen(Some(Vmm::Qemu), KvmFinding::Usable).vmm, Vmm::Qemu);
        let explicit = chosen(Some(Vmm::Firecracker), broken());
        assert_eq!(explicit.vmm, Vmm::Firecracker);
        assert!(
            explicit.reason.contains("asked for") && explicit.reason.contains("KVM does not run guest code"),
            "{explicit:?}"
        );
    }

    #[test]
    fn versions_of_firecracker_that_do_not_work_are_refused_with_the_reason() {
        for (version, expected) in
            [("[1,11,0]", "1.12.0 is the oldest"), ("[1,16,0]", "after a restore"), ("[1,16,1]", "after it was paused")]
        {
            let host = with_firecracker(KvmFinding::Usable, version);
            let refused = select(Some(Vmm::Firecracker), &host).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
            assert_eq!(refused.key(), "firecracker_bin");
            let auto = select(None, &host).unwrap();
            assert!(auto.vmm == Vmm::Qemu && auto.reason.contains(expected), "{auto:?}");
        }
        for version in ["[1,12,0]", "[1,15,1]", "[1,16,2]"] {
            assert_eq!(select(None, &with_firecracker(KvmFinding::Usable, version)).unwrap().vmm, Vmm::Firecracker);
        }
        let missing = select(Some(Vmm::Firecracker), &host(KvmFinding::Usable, QEMU_7)).unwrap_err();
        assert_eq!(missing.to_string(), "firecracker is not installed");
    }
}

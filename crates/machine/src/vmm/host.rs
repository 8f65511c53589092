//! The host's virtualization facts, cached in one small file for as long as they cannot have changed.
//!
//! A finding that KVM runs guest code, or that it does not, holds for one boot of the host and one loading of the
//! kernel module. When the probe could not be carried out, that is no finding and is not cached. This module only
//! collects facts; [`select`](super::select) decides.

use super::{
    kvm_probe::{self, KvmFinding},
    tsc,
};
use crate::{process::host_boot_id, record};
use banger_artifacts::program::Program;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Name of the cache file.
const CACHE_FILE: &str = "host.json";
/// The KVM device.
const KVM: &str = "/dev/kvm";
/// Time limit for `--version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Name of QEMU's program for this architecture.
pub const QEMU: &str = concat!("qemu-system-", "x86_64");
/// Name of Firecracker's program.
pub const FIRECRACKER: &str = "firecracker";

/// Parameters of a probe.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The `banger-shim` executable, which runs the KVM probe.
    pub shim: PathBuf,
    /// Configured path of QEMU; without one, `PATH` is searched for [`QEMU`].
    pub qemu: Option<PathBuf>,
    /// Configured path of Firecracker; without one, `PATH` is searched for [`FIRECRACKER`].
    pub firecracker: Option<PathBuf>,
    /// Existing directory for the cache; `None` probes everything each time.
    pub cache: Option<PathBuf>,
}

/// The host's virtualization facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The boot of the host in which the facts were collected.
    pub boot_id: String,
    /// Whether KVM runs guest code.
    pub kvm: KvmFinding,
    /// Identifies the device node that was probed: loading the module again creates another one.
    #[serde(default)]
    pub kvm_device: Option<Stamp>,
    /// Frequency of the time-stamp counter, for [`LaunchPlan::tsc_khz`](super::plan::LaunchPlan::tsc_khz).
    pub tsc_khz: Option<u32>,
    /// QEMU.
    pub qemu: ProgramFinding,
    /// Firecracker.
    pub firecracker: ProgramFinding,
}

/// Whether the program of a VMM can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "program", rename_all = "snake_case")]
pub enum ProgramFinding {
    /// Not installed, or not at the configured path.
    Missing {
        /// The name or path that was looked for.
        name: PathBuf,
    },
    /// The file exists and does not run.
    Broken {
        /// The file.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The program runs.
    Found {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: Version,
        /// Identifies this file, to detect that it was replaced.
        stamp: Stamp,
    },
}

/// Version of a program: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Finds the first `a.b` or `a.b.c` in a text.
    fn find(text: &str) -> Option<Self> {
        text.split(|char: char| !char.is_ascii_digit() && char != '.').find_map(|word| {
            let mut numbers = word.trim_end_matches('.').split('.');
            let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
            Some(Self(major, minor, numbers.next().and_then(|patch| patch.parse().ok()).unwrap_or(0)))
        })
    }
}

/// Identity of a file, to detect that it was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed_s: file.ctime(),
            changed_ns: file.ctime_nsec(),
        })
    }
}

impl HostFacts {
    /// Collects the facts. Those cached earlier in this boot are reused as far as they cannot have changed.
    pub async fn probe(probe: &Probe) -> io::Result<Self> {
        let boot_id = host_boot_id()?;
        let cached = probe.cache.as_deref().and_then(|dir| Self::cached(dir, &boot_id));
        let facts = find(boot_id, probe, cached.as_ref()).await;
        if let Some(dir) = probe.cache.as_deref().filter(|_| cached.as_ref() != Some(&facts))
            && let Err(error) = record::write_volatile(dir, CACHE_FILE, &facts)
        {
            tracing::debug!(%error, "what was found about the host is not kept");
        }
        Ok(facts)
    }

    fn cached(cache: &Path, boot_id: &str) -> Option<Self> {
        record::read(cache, CACHE_FILE).ok().flatten().filter(|facts: &Self| facts.boot_id == boot_id)
    }

    /// Returns the cached KVM finding that the next probe with this cache would reuse; `None` where it would probe
    /// again. `device` is the path of the KVM device.
    pub fn cached_kvm(cache: &Path, device: &Path) -> Option<KvmFinding> {
        let cached = Self::cached(cache, &host_boot_id().ok()?)?;
        is_still_valid(device, &cached.kvm, cached.kvm_device).then_some(cached.kvm)
    }

    /// Writes a cache with this KVM finding, as an earlier daemon of this boot would have. For tests.
    #[doc(hidden)]
    pub fn write_cached_kvm(cache: &Path, device: &Path, kvm: KvmFinding) -> io::Result<()> {
        let missing = || ProgramFinding::Missing { name: "none".into() };
        let facts = Self {
            boot_id: host_boot_id()?,
            kvm,
            kvm_device: Stamp::of(device).ok(),
            tsc_khz: None,
            qemu: missing(),
            firecracker: missing(),
        };
        record::write_volatile(cache, CACHE_FILE, &facts)
    }

    /// Path of the cache file.
    pub fn cache_path(cache: &Path) -> PathBuf {
        cache.join(CACHE_FILE)
    }
}

async fn find(boot_id: String, probe: &Probe, cached: Option<&HostFacts>) -> HostFacts {
    let ((kvm, kvm_device), tsc_khz, qemu, firecracker) = tokio::join!(
        kvm(&probe.shim, KVM.as_ref(), cached.map(|facts| (&facts.kvm, facts.kvm_device))),
        tsc_khz(cached.and_then(|facts| facts.tsc_khz)),
        program(QEMU, probe.qemu.as_deref(), cached.map(|facts| &facts.qemu)),
        program(FIRECRACKER, probe.firecracker.as_deref(), cached.map(|facts| &facts.firecracker)),
    );
    HostFacts { boot_id, kvm, kvm_device, tsc_khz, qemu, firecracker }
}

/// Probes KVM, or returns the cached finding; with the identity of the device node.
async fn kvm(shim: &Path, device: &Path, cached: Option<(&KvmFinding, Option<Stamp>)>) -> (KvmFinding, Option<Stamp>) {
    if let Some((found, stamp)) = cached.filter(|(found, stamp)| is_still_valid(device, found, *stamp)) {
        return (found.clone(), stamp);
    }
    // Taken before the probe: if the device is replaced meanwhile, the new one is probed the next time.
    let stamp = Stamp::of(device).ok();
    (kvm_probe::probe(shim).await, stamp)
}

/// Whether a cached finding can be reused. An absent or inaccessible device may be there a moment later, and a probe
/// that could not be carried out may succeed; how an accessible device behaved stays true as long as it is the same
/// one.
fn is_still_valid(device: &Path, found: &KvmFinding, stamp: Option<Stamp>) -> bool {
    use rustix::fs::{Access, access};
    match found {
        KvmFinding::Usable | KvmFinding::Broken { .. } => {
            stamp.is_some()
                && Stamp::of(device).ok() == stamp
                && access(device, Access::READ_OK | Access::WRITE_OK).is_ok()
        }
        KvmFinding::Absent | KvmFinding::Denied | KvmFinding::Untried { .. } => false,
    }
}

async fn tsc_khz(cached: Option<u32>) -> Option<u32> {
    match cached {
        Some(khz) => Some(khz),
        None => tokio::task::spawn_blocking(tsc::host_khz).await.ok().flatten(),
    }
}

async fn program(name: &str, configured: Option<&Path>, cached: Option<&ProgramFinding>) -> ProgramFinding {
    let path = match configured {
        Some(path) => Some(path.to_owned()).filter(|path| is_executable(path)),
        None => Program::find_on_path(name),
    };
    let Some(path) = path else {
        return ProgramFinding::Missing { name: configured.map_or_else(|| name.into(), Path::to_owned) };
    };
    match (Stamp::of(&path), cached) {
        (Ok(now), Some(ProgramFinding::Found { path: old, version, stamp })) if *old == path && *stamp == now => {
            ProgramFinding::Found { path, version: *version, stamp: now }
        }
        (Ok(stamp), _) => match version(&path).await {
            Ok(version) => ProgramFinding::Found { path, version, stamp },
            Err(reason) => ProgramFinding::Broken { path, reason },
        },
        (Err(error), _) => ProgramFinding::Broken { path, reason: error.to_string() },
    }
}

async fn version(path: &Path) -> Result<Version, String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output())
        .await
        .map_err(|_| "it does not say its version".to_owned())?
        .map_err(|error| format!("it cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("--version ended with {}", output.status));
    }
    Version::find(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| "it does not say its version".to_owned())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, version) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", Some(Version(7, 2, 22))),
            ("Firecracker v1.15.1\n\nSupported snapshot data format versions: v8.0.0", Some(Version(1, 15, 1))),
            ("QEMU emulator version 10.0", Some(Version(10, 0, 0))),
            ("no version at all.", None),
        ] {
            assert_eq!(Version::find(text), version, "{text}");
        }
    }

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn what_was_seen_of_kvm_is_believed_and_what_kept_the_probe_from_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (shim, device) = (dir.path().join("shim"), dir.path().join("kvm"));
        fs::write(&device, "").unwrap();
        script(&shim, r#"echo '{"kvm":"usable"}'"#);
        let probed = |cached: (KvmFinding, Option<Stamp>)| {
            let (shim, device) = (shim.clone(), device.clone());
            async move { kvm(&shim, &device, Some((&cached.0, cached.1))).await.0 }
        };
        let now = Stamp::of(&device).ok();
        let broken = || KvmFinding::Broken { reason: "it is only emulated".into() };
        assert_eq!(probed((broken(), now)).await, broken());
        for passing in [KvmFinding::Untried { reason: "EBUSY".into() }, KvmFinding::Denied, KvmFinding::Absent] {
            assert_eq!(probed((passing, now)).await, KvmFinding::Usable);
        }
        // From a cache without stamps, and from another loading of the module.
        assert_eq!(probed((broken(), None)).await, KvmFinding::Usable);
        fs::remove_file(&device).unwrap();
        fs::write(&device, "another").unwrap();
        assert_eq!(probed((broken(), now)).await, KvmFinding::Usable);
        // A probe that fails by itself says nothing about KVM.
        for trouble in ["exit 3", "kill -ALRM $$", "echo nonsense"] {
            script(&shim, trouble);
            let found = probed((KvmFinding::Absent, now)).await;
            assert!(matches!(&found, KvmFinding::Untried { .. }), "{trouble}: {found:?}");
        }
        fs::remove_file(&shim).unwrap();
        let found = probed((KvmFinding::Absent, now)).await;
        assert!(matches!(&found, KvmFinding::Untried { reason } if reason.contains("cannot be run")), "{found:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_replaced_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm");
        let write_script = |text: &str| script(&path, &format!("echo {text}"));
        assert!(matches!(program("vmm", Some(&path), None).await, ProgramFinding::Missing { .. }));
        write_script("version 1.2.3");
        let first = program("vmm", Some(&path), None).await;
        assert!(matches!(&first, ProgramFinding::Found { version: Version(1, 2, 3), .. }), "{first:?}");
        write_script("version 1.2.30");
        let second = program("vmm", Some(&path), Some(&first)).await;
        assert!(matches!(&second, ProgramFinding::Found { version: Version(1, 2, 30), .. }), "{second:?}");
        write_script("nothing; exit 3");
        let third = program("vmm", Some(&path), Some(&second)).await;
        assert!(matches!(&third, ProgramFinding::Broken { reason, .. } if reason.contains('3')), "{third:?}");
    }
}

//! The daemon itself and its configuration.

use crate::{size::ByteSize, words::words};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Content of the daemon's lock file, by which the CLI finds the daemon of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRecord {
    /// Process id of the daemon.
    pub pid: u32,
    /// Path of the API socket.
    pub socket: PathBuf,
    /// Version of the daemon.
    pub version: String,
}

/// Line that `bangerd --ready-fd N` writes to the inherited file descriptor N once it serves. A daemon that cannot
/// serve writes one line there instead, a [`crate::failure::Failure`] in JSON, and exits non-zero. Until then the
/// starting process reads the daemon's stderr; afterwards nobody does, so the daemon redirects it to its log.
pub const READY_LINE: &str = "ready\n";
/// Exit status of a `bangerd` that found another one holding the lock of its state directory.
pub const EXIT_LOCK_HELD: u8 = 75;

/// Answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Version {
    /// Version of the daemon.
    pub version: String,
    /// Version of the API it serves.
    pub api_version: u32,
}

/// Answer of `GET /v1/daemon`. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DaemonStatus {
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of the daemon.
    pub version: String,
    /// Version of the API it serves.
    pub api_version: u32,
    /// Path of the API socket.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub socket: PathBuf,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Number of VMs that have a VMM now.
    pub running_vms: u32,
}

/// One configuration value; an element of the answer of `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Setting {
    /// Key in `config.toml`, dotted.
    pub key: String,
    /// Value as it would be written in `config.toml`; `null` when unset.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub value: serde_json::Value,
    /// Rule that gave the value.
    pub source: SettingSource,
}

/// Rule that gave a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SettingSource {
    /// A flag of the request; never the source of a configuration value.
    Flag,
    /// An environment variable of the daemon.
    Env,
    /// `config.toml`.
    File,
    /// Derived from the size of this host.
    Host,
    /// Built in.
    Default,
}

words!(SettingSource {
    Self::Flag => "flag",
    Self::Env => "env",
    Self::File => "file",
    Self::Host => "host",
    Self::Default => "default"
});

/// Answer of `GET /v1/system/df`: disk space that banger's files take on this host. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskUsage {
    /// Usage of each kind.
    pub usage: Vec<Usage>,
    /// Bytes of all kinds.
    pub size: ByteSize,
    /// Bytes of all kinds that can be freed.
    pub reclaimable: ByteSize,
}

/// Disk space of one kind of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Kind of files.
    pub kind: UsageKind,
    /// Number of items; of files, for the cache.
    pub count: u64,
    /// Number of items in use: VMs that run, images and kernels a VM uses, layers that a pull reads.
    pub in_use: u64,
    /// Bytes allocated on this host; of sparse files only what is allocated.
    pub size: ByteSize,
    /// Bytes that `reclaim` frees.
    pub reclaimable: ByteSize,
    /// Command that frees them.
    pub reclaim: String,
}

/// Kind of files that take disk space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum UsageKind {
    /// Root file systems.
    Images,
    /// Guest kernels.
    Kernels,
    /// Work disks and console logs of VMs.
    Vms,
    /// Files that can be made again: downloads, layers, disk templates.
    Cache,
}

/// Output of `bangerd --doctor`. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// Version of the program that checked.
    pub version: String,
    /// Findings, the most important first.
    pub findings: Vec<Finding>,
}

/// Result of one check of the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the check, in words.
    pub check: String,
    /// Severity of the finding.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// Why, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// Commands that repair it; never empty unless the verdict is [`Verdict::Pass`].
    #[serde(default)]
    pub hints: Vec<String>,
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Something does not work, or not well; everything else does.
    Warn,
    /// VMs do not run.
    Fail,
}

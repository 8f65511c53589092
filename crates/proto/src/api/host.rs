//! The daemon itself and its configuration.

use crate::{size::ByteSize, words::words};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Content of the daemon's lock file: how the CLI finds the daemon of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRecord {
    /// The daemon's process.
    pub pid: u32,
    /// Where it listens.
    pub socket: PathBuf,
    /// Its version.
    pub version: String,
}

/// What `bangerd --ready-fd N` writes to file descriptor N (inherited, never closed on exec by the parent) once it
/// serves. A daemon that cannot serve writes one line there, a [`crate::failure::Failure`] in JSON, and exits non-zero.
/// Until then its stderr is read by who started it; afterwards nobody reads it, so it points it at its log.
pub const READY_LINE: &str = "ready\n";
/// Exit status of a `bangerd` that found another one holding the lock of its state directory.
pub const EXIT_LOCK_HELD: u8 = 75;

/// Answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The API it speaks.
    pub api_version: u32,
}

/// Answer of `GET /v1/daemon`. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DaemonStatus {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The API it speaks.
    pub api_version: u32,
    /// Where it listens.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub socket: PathBuf,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// VMs that have a VMM now.
    pub running_vms: u32,
}

/// One configuration value; an element of the answer of `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Setting {
    /// The key as it stands in `config.toml`, dotted.
    pub key: String,
    /// The value as it stands in `config.toml`; `null` when unset.
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

/// Answer of `GET /v1/system/df`: what banger's files take on this host. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskUsage {
    /// One per kind of thing.
    pub usage: Vec<Usage>,
    /// Bytes of all.
    pub size: ByteSize,
    /// Bytes of all that can be given back.
    pub reclaimable: ByteSize,
}

/// What one kind of thing takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Which.
    pub kind: UsageKind,
    /// How many there are; files, for the cache.
    pub count: u64,
    /// How many are in use: VMs that run, images and kernels a VM uses, layers that a pull reads.
    pub in_use: u64,
    /// Bytes allocated on this host; sparse files count what they hold.
    pub size: ByteSize,
    /// Bytes that the command gives back.
    pub reclaimable: ByteSize,
    /// The command that gives them back.
    pub reclaim: String,
}

/// A kind of thing that takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum UsageKind {
    /// Root file systems.
    Images,
    /// Guest kernels.
    Kernels,
    /// Work disks and consoles.
    Vms,
    /// What can be made again: downloads, layers, disk templates.
    Cache,
}

/// What `bangerd --doctor` prints. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// The version that looked.
    pub version: String,
    /// What it found, the most important things first.
    pub findings: Vec<Finding>,
}

/// One thing the doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check, in words.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// Why, where that needs saying.
    #[serde(default)]
    pub causes: Vec<String>,
    /// The commands that mend it; never empty unless it is [`Verdict::Pass`].
    #[serde(default)]
    pub hints: Vec<String>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Something does not work, or not well; the rest does.
    Warn,
    /// VMs do not run.
    Fail,
}

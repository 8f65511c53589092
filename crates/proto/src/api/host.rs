//! The daemon itself and its configuration.

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
    /// Which rule gave it: `env`, `file`, `host`, `default`.
    pub source: String,
}

//! The agent's HTTP API on guest port `AGENT_PORT`.
//!
//! ```text
//! GET  /healthz                   → Health
//! GET  /stats                     → Stats
//! GET  /ports                     → [Port]
//! POST /shutdown   Shutdown       → 202 once it began or where it had; sync comes first
//! GET  /archive?path=/abs/path    → a tar stream of the file or directory, entries named from its last component
//! PUT  /archive?path=/abs/dir     ← a tar stream, unpacked below that directory
//! GET  /workspace?path=…          → what is at the path (see `workspace`)
//! PUT  /workspace?path=…          ← a repository
//! GET  /exec                      → WebSocket (see `exec`)
//! CONNECT 127.0.0.1:<port>        → 200, then a byte stream to that port in the guest
//! ```
//!
//! A refused request has a [`crate::failure::Failure`] as its JSON body.

use super::{boot::Init, event::Power};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of this API. Additions keep it; a change that breaks an older peer raises it.
pub const API_VERSION: u32 = 1;
/// Longest time a guest gets to go down, in a request and as granted by agent and host.
pub const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Largest JSON body either side reads, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// Answer of `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Version of the agent.
    pub version: String,
    /// Always [`API_VERSION`].
    pub api_version: u32,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// Which init runs.
    pub init: Init,
    /// Number of processes started by exec that still run.
    pub execs: u32,
}

/// Answer of `GET /stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Busy CPU time of all processors since boot, in milliseconds.
    pub cpu_ms: u64,
    /// `MemTotal`, in bytes.
    pub memory_total: u64,
    /// `MemAvailable`, in bytes.
    pub memory_available: u64,
    /// Size of the root file system, in bytes.
    pub disk_total: u64,
    /// Free bytes of the root file system.
    pub disk_free: u64,
    /// Number of running processes, as `/proc/loadavg` counts them.
    pub processes: u32,
    /// Number of running commands, copies and connections into the guest; absent from an agent that does not count
    /// them.
    #[serde(default)]
    pub sessions: u32,
}

/// One listening socket in the guest; an element of the answer of `GET /ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// Protocol: `tcp` or `udp`.
    pub protocol: String,
    /// Address listened on.
    pub address: String,
    /// Port number.
    pub port: u16,
    /// Process id of the listener, when known.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Name of the process (`/proc/<pid>/comm`): guest text, escape it.
    #[serde(default)]
    pub process: Option<String>,
}

/// Body of `POST /shutdown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Whether to power off or reboot.
    pub verb: Power,
    /// Grace time in milliseconds: between TERM and KILL where the agent is PID 1; for the whole shutdown under an
    /// image's init that is not systemd.
    pub grace_ms: u64,
}

impl Shutdown {
    /// The grace time, at most [`MAX_GRACE`].
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms).min(MAX_GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_the_grace_that_may_be_asked_for() {
        let granted = |grace_ms| Shutdown { verb: Power::Poweroff, grace_ms }.grace();
        let hour = Duration::from_secs(3600);
        assert_eq!(granted(3_600_000), hour);
        assert_eq!(granted(86_400_000), 24 * hour);
        assert_eq!(granted(u64::MAX), MAX_GRACE);
    }
}

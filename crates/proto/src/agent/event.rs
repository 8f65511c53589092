//! Events the agent sends to the host, one JSON object a line on a stream it opens to `EVENTS_PORT`.
//!
//! The host answers each [`GuestEvent::Power`] with one line, [`POWER_ACK`], so that the guest's last message is on
//! record before the machine resets.

use super::boot::Init;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes; a longer one ends the stream.
pub const MAX_LINE: usize = 64 << 10;

/// Answer of the host to a [`GuestEvent::Power`].
pub const POWER_ACK: &str = "{\"ack\":\"power\"}\n";

/// Event of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GuestEvent {
    /// The agent serves: exec may start now.
    Ready(Ready),
    /// The image's init finished booting (systemd: `is-system-running` left `starting`).
    Booted {
        /// State as the init calls it, such as `running` or `degraded`.
        state: String,
    },
    /// The first command of this boot runs. Both times are milliseconds of CLOCK_BOOTTIME.
    Exec {
        /// When it was requested.
        asked_ms: u64,
        /// When its process existed.
        started_ms: u64,
    },
    /// The guest is about to go down.
    Power {
        /// Whether it powers off or reboots.
        verb: Power,
        /// How long it may still take, in milliseconds: after this event an init of the image that reports nothing
        /// itself stops its services. A host accepts at most [`super::http::MAX_GRACE`].
        #[serde(default)]
        within_ms: u64,
    },
    /// A problem in the guest that a person should see (a mount that failed, a bad configuration).
    Trouble {
        /// Description of the problem.
        message: String,
    },
}

/// The agent's first event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the agent API it serves ([`super::http::API_VERSION`]).
    pub api_version: u32,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Kernel release, as of `uname -r`.
    pub kernel_release: String,
    /// Which init runs; never [`Init::Auto`].
    pub init: Init,
    /// Steps of the guest's boot and their times, in order.
    #[serde(default)]
    pub phases: Vec<GuestPhase>,
}

/// One step of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPhase {
    /// Name of the step: `kernel`, `modules`, `mounts`, `agent`.
    pub name: String,
    /// When it ended, in milliseconds of CLOCK_BOOTTIME.
    pub ended_ms: u64,
}

/// How a guest goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Powers off: the VM is stopped afterwards.
    Poweroff,
    /// Reboots: the shim starts a fresh kernel.
    Reboot,
}

//! What the agent tells the host by itself, one JSON object a line on a stream it opens to `EVENTS_PORT`.
//!
//! The host answers each [`GuestEvent::Power`] with one line, [`POWER_ACK`], so that the guest's last word is on record
//! before the machine resets.

use super::boot::Init;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes; a longer one ends the stream.
pub const MAX_LINE: usize = 64 << 10;

/// The host's answer to a [`GuestEvent::Power`].
pub const POWER_ACK: &str = "{\"ack\":\"power\"}\n";

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GuestEvent {
    /// The agent serves: exec may start now.
    Ready(Ready),
    /// The image's init finished booting (systemd: `is-system-running` left `starting`).
    Booted {
        /// The init's own word for it, such as `running` or `degraded`.
        state: String,
    },
    /// The first command of this boot runs. Both times are milliseconds of CLOCK_BOOTTIME.
    Exec {
        /// When it was asked for.
        asked_ms: u64,
        /// When its process was there.
        started_ms: u64,
    },
    /// The guest is about to go down, and this is what it means.
    Power {
        /// Off for good, or a fresh kernel.
        verb: Power,
        /// How long it may take yet, in milliseconds: an init of the image's that says nothing itself stops everything
        /// after this. Never more than [`super::http::MAX_GRACE`] to a host.
        #[serde(default)]
        within_ms: u64,
    },
    /// Something in the guest went wrong that a person should see (a mount that failed, a bad configuration).
    Trouble {
        /// What, in words.
        message: String,
    },
}

/// The agent's first announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The agent's version.
    pub agent_version: String,
    /// The version of the agent API it speaks ([`super::http::API_VERSION`]).
    pub api_version: u32,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Which init runs: never [`Init::Auto`] here.
    pub init: Init,
    /// Where the guest's boot time went, in order.
    #[serde(default)]
    pub phases: Vec<GuestPhase>,
}

/// One step of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPhase {
    /// `kernel`, `modules`, `mounts`, `agent`.
    pub name: String,
    /// When it ended, in milliseconds of CLOCK_BOOTTIME.
    pub ended_ms: u64,
}

/// How a guest goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// The VM is stopped afterwards.
    Poweroff,
    /// The shim starts a fresh kernel.
    Reboot,
}

//! What the daemon and a shim say to each other, and what a shim leaves on disk.
//!
//! One unix socket per VM ([`SOCKET`] in its run directory), frames of `banger_proto::framing`. A connection begins with
//! the shim's [`ShimStatus`], then carries requests one way and [`ShimMessage`]s the other. Any number of connections may
//! be open; every one gets every event. The shim lives until its VMM has ended for good and the [`ExitRecord`] is on
//! disk, whether or not a daemon is there.

use crate::{process::ProcessIdentity, vmm::plan::LaunchPlan};
use banger_proto::{
    agent::event::{GuestEvent, Ready},
    api::vm::KillSignal,
    network::Publish,
};
use serde::{Deserialize, Serialize};

/// The control socket, in the VM's run directory.
pub const SOCKET: &str = "control.sock";
/// The hybrid-vsock socket, in the VM's run directory.
pub const VSOCK: &str = "vsock.sock";
/// The same for the daemon alone, in the same directory: what it asks of a guest waits for nobody's sessions.
pub const AGENT: &str = "agent.sock";
/// The directory a VMM may make sockets in, in the VM's run directory; there only while one does.
pub const VMM_DIR: &str = "vmm";
/// The [`Planned`] in JSON, in the VM's state directory.
pub const PLAN_FILE: &str = "launch.json";
/// The [`RuntimeRecord`] in JSON, in the VM's state directory; written before the VMM runs, removed by the daemon.
pub const RUNTIME_FILE: &str = "runtime.json";
/// The [`ExitRecord`] in JSON, in the VM's state directory; the shim's last act.
pub const EXIT_FILE: &str = "exit.json";

/// What a shim is started on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Which launch it was written for: a shim of an earlier one must not run it.
    #[serde(default)]
    pub launch: String,
    /// The machine.
    #[serde(flatten)]
    pub plan: LaunchPlan,
}

/// Who runs a VM: enough for a later daemon to find or end them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// `/proc/sys/kernel/random/boot_id` of the host: after a host reboot nothing of this is alive.
    pub host_boot_id: String,
    /// The shim.
    pub shim: ProcessIdentity,
    /// The VMM, once it runs.
    pub vmm: Option<ProcessIdentity>,
}

/// A request to a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ShimRequest {
    /// Sends a signal to the VMM. [`ExitCause::Killed`] is the end of one that dies of it.
    Signal {
        /// Which.
        signal: KillSignal,
    },
    /// Opens a port of the host; answered with [`ShimMessage::Published`] to every watcher.
    Publish {
        /// Which.
        port: Publish,
    },
    /// Closes one, as it was asked for.
    Unpublish {
        /// Which.
        port: Publish,
    },
    /// Ends the VMM now (SIGKILL) with this cause on record; the daemon's word for `stop` that ran out of grace and for
    /// `delete`.
    End,
}

/// A message from a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ShimMessage {
    /// The first message of a connection.
    Status(ShimStatus),
    /// A VMM process began; also after a reboot in the guest.
    VmmStarted {
        /// The process.
        vmm: ProcessIdentity,
        /// Milliseconds since the shim started.
        at_ms: u64,
    },
    /// The guest's agent said something.
    Guest {
        /// What.
        event: GuestEvent,
        /// Milliseconds since the shim started.
        at_ms: u64,
    },
    /// The console grew; at most one a second.
    Console {
        /// Bytes the guest has written since the VMM started.
        bytes: u64,
    },
    /// The published ports changed, or one could not be opened.
    Published {
        /// All that are open.
        published: Vec<Opened>,
        /// The one that is not.
        refused: Option<Refused>,
    },
    /// The guest rebooted: a fresh VMM follows.
    Relaunching,
    /// The VMM ended for good; the last message.
    Ended(ExitRecord),
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// As it was asked for; port 0 is one that is free.
    pub asked: Publish,
    /// As it is.
    pub at: Publish,
}

/// A port that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which.
    pub asked: Publish,
    /// Why.
    pub reason: String,
}

/// A shim's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// The shim's version.
    pub version: String,
    /// The shim itself.
    pub shim: ProcessIdentity,
    /// The VMM, while there is one.
    pub vmm: Option<ProcessIdentity>,
    /// The agent's announcement, once it came (of the current boot).
    pub ready: Option<Ready>,
    /// The image's init's word for the boot, once it came.
    pub booted: Option<String>,
    /// Bytes the guest has written to the console since the VMM started.
    pub console_bytes: u64,
    /// When the VMM started, in milliseconds since the shim did.
    #[serde(default)]
    pub vmm_started_ms: Option<u64>,
    /// When `ready` came, in milliseconds since the shim started.
    #[serde(default)]
    pub ready_ms: Option<u64>,
    /// How often the guest rebooted under this shim.
    #[serde(default)]
    pub relaunches: u32,
    /// What of the VMM's confinement is missing on this host, and why; `None` when nothing is.
    #[serde(default)]
    pub unconfined: Option<String>,
    /// Published ports.
    #[serde(default)]
    pub published: Vec<Opened>,
}

impl ShimStatus {
    /// What the status becomes when this message is sent. Shim and daemon share it, so a watcher that joined late and
    /// one that saw everything know the same.
    pub fn apply(&mut self, message: &ShimMessage) {
        match message {
            ShimMessage::Status(status) => *self = status.clone(),
            ShimMessage::VmmStarted { vmm, at_ms } => {
                self.forget_boot();
                self.vmm = Some(*vmm);
                self.vmm_started_ms = Some(*at_ms);
            }
            ShimMessage::Guest { event: GuestEvent::Ready(ready), at_ms } => {
                self.ready = Some(ready.clone());
                self.ready_ms = Some(*at_ms);
            }
            ShimMessage::Guest { event: GuestEvent::Booted { state }, .. } => self.booted = Some(state.clone()),
            ShimMessage::Guest {
                event: GuestEvent::Exec { .. } | GuestEvent::Power { .. } | GuestEvent::Trouble { .. },
                ..
            } => {}
            ShimMessage::Console { bytes } => self.console_bytes = *bytes,
            ShimMessage::Published { published, .. } => self.published.clone_from(published),
            ShimMessage::Relaunching => {
                self.forget_boot();
                self.relaunches += 1;
            }
            ShimMessage::Ended(_) => self.vmm = None,
        }
    }

    fn forget_boot(&mut self) {
        self.vmm = None;
        self.vmm_started_ms = None;
        self.ready = None;
        self.ready_ms = None;
        self.booted = None;
        self.console_bytes = 0;
    }
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Why.
    pub cause: ExitCause,
    /// In words, with evidence: exit status, the VMM's last stderr lines, a panic line from the console (escaped).
    pub reason: String,
    /// When, in seconds since 1970 (UTC).
    pub at: u64,
}

/// Why a machine ended; decides the VM's next state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The guest powered off. Next state: `stopped`.
    Poweroff,
    /// [`ShimRequest::End`]. Next state: `stopped`.
    Ended,
    /// It died of a signal that was asked for. Next state: `stopped`.
    Killed,
    /// The guest's kernel panicked or reset without a word. Next state: `failed`.
    GuestFailed,
    /// The VMM could not be started or died by itself. Next state: `failed`.
    VmmFailed,
}

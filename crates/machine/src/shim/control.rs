//! The protocol between the daemon and a shim, and the files a shim leaves on disk.
//!
//! There is one unix socket per VM ([`SOCKET`] in its run directory), with frames of `banger_proto::framing`. A
//! connection begins with the shim's [`ShimStatus`], then carries requests in one direction and [`ShimMessage`]s in the
//! other. Any number of connections may be open; every one gets every event. The shim lives until its VMM has ended for
//! good and the [`ExitRecord`] is on disk, whether or not a daemon is there.

use crate::{process::ProcessIdentity, vmm::plan::LaunchPlan};
use banger_proto::{
    agent::event::{GuestEvent, Ready},
    api::vm::KillSignal,
    network::Publish,
};
use serde::{Deserialize, Serialize};

/// Name of the control socket, in the VM's run directory.
pub const SOCKET: &str = "control.sock";
/// Name of the hybrid-vsock socket, in the VM's run directory.
pub const VSOCK: &str = "vsock.sock";
/// Name of a second hybrid-vsock socket for the daemon alone, in the same directory: requests of the daemon need not
/// wait for the user's sessions.
pub const AGENT: &str = "agent.sock";
/// Name of the directory in which a VMM may create sockets, in the VM's run directory; exists only while a VMM uses it.
pub const VMM_DIR: &str = "vmm";
/// Name of the [`Planned`] in JSON, in the VM's state directory.
pub const PLAN_FILE: &str = "launch.json";
/// Name of the [`RuntimeRecord`] in JSON, in the VM's state directory. Written before the VMM runs, removed by the
/// daemon.
pub const RUNTIME_FILE: &str = "runtime.json";
/// Name of the [`ExitRecord`] in JSON, in the VM's state directory. Writing it is the shim's last act.
pub const EXIT_FILE: &str = "exit.json";

/// A launch plan and the launch it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Id of the launch. A shim of an earlier launch must not run the plan.
    #[serde(default)]
    pub launch: String,
    /// The plan.
    #[serde(flatten)]
    pub plan: LaunchPlan,
}

/// The processes that run a VM: enough for a later daemon to find or end them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// `/proc/sys/kernel/random/boot_id` of the host. After a reboot of the host none of the processes exists.
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
    /// Sends a signal to the VMM. If the VMM dies of it, the cause of the end is [`ExitCause::Killed`].
    Signal {
        /// The signal.
        signal: KillSignal,
    },
    /// Publishes a port of the host. Every watcher gets [`ShimMessage::Published`].
    Publish {
        /// The port.
        port: Publish,
    },
    /// Closes a published port, given as it was requested.
    Unpublish {
        /// The port.
        port: Publish,
    },
    /// Ends the VMM now (SIGKILL), with [`ExitCause::Ended`] as the recorded cause. The daemon sends it for `delete`,
    /// and for a `stop` whose grace period is over.
    End,
}

/// A message from a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ShimMessage {
    /// The first message of a connection.
    Status(ShimStatus),
    /// A VMM has started; also after a reboot of the guest.
    VmmStarted {
        /// The process.
        vmm: ProcessIdentity,
        /// Milliseconds since the shim started.
        at_ms: u64,
    },
    /// An event announced by the guest's agent.
    Guest {
        /// The event.
        event: GuestEvent,
        /// Milliseconds since the shim started.
        at_ms: u64,
    },
    /// The console has grown; sent at most once a second.
    Console {
        /// Bytes the guest has written since the VMM started.
        bytes: u64,
    },
    /// The published ports have changed, or one could not be opened.
    Published {
        /// All open ports.
        published: Vec<Opened>,
        /// The port that could not be opened.
        refused: Option<Refused>,
    },
    /// The guest has rebooted: a fresh VMM follows.
    Relaunching,
    /// The VMM has ended for good; the last message.
    Ended(ExitRecord),
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The port as requested; host port 0 asks for a free one.
    pub asked: Publish,
    /// The port as opened.
    pub at: Publish,
}

/// A port that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The port as requested.
    pub asked: Publish,
    /// The reason.
    pub reason: String,
}

/// Status of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// The shim's version.
    pub version: String,
    /// The shim itself.
    pub shim: ProcessIdentity,
    /// The VMM, while one is running.
    pub vmm: Option<ProcessIdentity>,
    /// The `ready` event of the agent, once it has come in the current boot.
    pub ready: Option<Ready>,
    /// State of the boot as announced by the image's init, once it has come.
    pub booted: Option<String>,
    /// Bytes the guest has written to the console since the VMM started.
    pub console_bytes: u64,
    /// Start of the VMM, in milliseconds since the start of the shim.
    #[serde(default)]
    pub vmm_started_ms: Option<u64>,
    /// Arrival of `ready`, in milliseconds since the start of the shim.
    #[serde(default)]
    pub ready_ms: Option<u64>,
    /// Number of reboots of the guest under this shim.
    #[serde(default)]
    pub relaunches: u32,
    /// Missing parts of the VMM's confinement and the reasons; `None` when it is complete.
    #[serde(default)]
    pub unconfined: Option<String>,
    /// Published ports.
    #[serde(default)]
    pub published: Vec<Opened>,
}

impl ShimStatus {
    /// Applies a message to the status. Shim and daemon share this function, so a watcher that joined late and one that
    /// saw every message have the same state.
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
    /// Cause of the end.
    pub cause: ExitCause,
    /// Description with evidence: exit status, the VMM's last stderr lines, a panic line from the console (escaped).
    pub reason: String,
    /// Time of the end, in seconds since 1970 (UTC).
    pub at: u64,
}

/// Cause of a machine's end; decides the VM's next state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The guest powered off. Next state: `stopped`.
    Poweroff,
    /// [`ShimRequest::End`]. Next state: `stopped`.
    Ended,
    /// The VMM died of a signal that was requested. Next state: `stopped`.
    Killed,
    /// The guest's kernel panicked, or reset without a power event. Next state: `failed`.
    GuestFailed,
    /// The VMM could not be started or died by itself. Next state: `failed`.
    VmmFailed,
}

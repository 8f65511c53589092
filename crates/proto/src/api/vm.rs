//! Virtual machines.

pub use super::guest::GuestEndpoint;
use crate::{
    agent::{boot::Init, http::Stats},
    api::workspace::Workspace,
    failure::Failure,
    name::{ImageId, ImageName, KernelName, NetworkName, VmId, VmName},
    network::{Publish, Rule},
    size::ByteSize,
    words::words,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

mod network;
mod request;

pub use network::{Denied, Egress, VmPort};
pub use request::{
    CreateVm, KillSignal, KillVm, MAX_DISK, MAX_VCPU, MIN_DISK, MIN_MEMORY, RestartVm, SetVm, Start, StartVm, StopVm,
    Wait,
};

/// State of a VM.
///
/// ```text
///  created ──start──► starting ──agent ready──► running ──stop/kill──► stopping ──► stopped ──start──► starting
///                        │                         │                                   ▲
///                        └── failed ◄──────────────┴── the guest or the VMM died ──────┘ (guest powered off)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Has a disk and was never started.
    Created,
    /// The VMM is being started, or the agent has not answered yet.
    Starting,
    /// The agent answered.
    Running,
    /// Shutting down.
    Stopping,
    /// Down, on purpose.
    Stopped,
    /// Down, not on purpose; `reason` says why.
    Failed,
}

impl VmState {
    /// The state as in JSON and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether a VMM may exist in this state.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// Virtual machine monitor (VMM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// Firecracker; needs KVM.
    Firecracker,
    /// QEMU; with KVM where it works, else in software emulation.
    Qemu,
}

/// Requested VMM. Without a request the configuration decides, whose default is `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmmChoice {
    /// The one that works on this host, whatever the configuration says; decided anew at each start.
    #[default]
    Auto,
    /// Firecracker or nothing.
    Firecracker,
    /// QEMU or nothing.
    Qemu,
}

impl VmmChoice {
    /// The VMM, where one is named.
    pub fn named(self) -> Option<Vmm> {
        match self {
            Self::Auto => None,
            Self::Firecracker => Some(Vmm::Firecracker),
            Self::Qemu => Some(Vmm::Qemu),
        }
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processor, through KVM.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

words!(Vmm { Self::Firecracker => "firecracker", Self::Qemu => "qemu" });
words!(VmmChoice { Self::Auto => "auto", Self::Firecracker => "firecracker", Self::Qemu => "qemu" });
words!(Accelerator { Self::Kvm => "kvm", Self::Tcg => "tcg" });
words!(VmState {
    Self::Created => "created",
    Self::Starting => "starting",
    Self::Running => "running",
    Self::Stopping => "stopping",
    Self::Stopped => "stopped",
    Self::Failed => "failed"
});

/// One VM. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// Id of the VM; unique, never reused.
    pub id: VmId,
    /// Name of the VM; unique among existing VMs.
    pub name: VmName,
    /// State of the VM.
    pub state: VmState,
    /// Why it is `failed`, how it was stopped if not in order, or why it cannot be told whether it runs, in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Private IPv4 address; none without a NIC.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub ip: Option<Ipv4Addr>,
    /// Whether the public internet is open to it.
    #[serde(default)]
    pub nat: bool,
    /// Destinations opened to it.
    #[serde(default)]
    pub allow: Vec<Rule>,
    /// Destinations closed to it.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// Its network; `None` is the one whose VMs do not reach each other.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Published ports: the actual ones while it runs, else the requested ones.
    #[serde(default)]
    pub published: Vec<Publish>,
    /// VMM it runs on, or ran on last. Before its first start the one named for it or in the configuration, and none
    /// where that start is still to choose.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// Accelerator; known once it was started.
    #[serde(default)]
    pub accelerator: Option<Accelerator>,
    /// Why this VMM and accelerator were chosen.
    #[serde(default)]
    pub vmm_reason: Option<String>,
    /// Missing parts of the VMM's confinement and the reason; none when it is complete.
    #[serde(default)]
    pub unconfined: Option<String>,
    /// Process id of the VMM, while there is one.
    #[serde(default)]
    pub vmm_pid: Option<u32>,
    /// Process id of the shim, while there is one.
    #[serde(default)]
    pub shim_pid: Option<u32>,
    /// Name of the image when the VM was created.
    pub image: ImageName,
    /// Id of the image, whatever its name points at now.
    pub image_id: ImageId,
    /// Name of the kernel.
    pub kernel: KernelName,
    /// Number of virtual processors.
    pub vcpu: u32,
    /// Guest memory, in bytes.
    pub memory: ByteSize,
    /// Size of the work disk, in bytes.
    pub disk_size: ByteSize,
    /// Bytes the work disk takes on the host.
    #[serde(default)]
    pub disk_used: Option<ByteSize>,
    /// Rule that gave vcpu, memory and disk_size (`flag`, `config`, `host`, `default`).
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Which program is PID 1.
    pub init: Init,
    /// Names of the environment variables every exec gets; the values are not shown.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory of an exec that names none.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none.
    #[serde(default)]
    pub user: Option<String>,
    /// Time of its creation (RFC 3339, UTC).
    pub created_at: String,
    /// Time of its last start (RFC 3339, UTC).
    #[serde(default)]
    pub started_at: Option<String>,
    /// Boot id of the running kernel.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// State of the boot as the image's init reports it (`running`, `degraded`), once known.
    #[serde(default)]
    pub boot_state: Option<String>,
    /// When a command, a copy or an ssh session was last begun in it (RFC 3339, UTC).
    #[serde(default)]
    pub last_used_at: Option<String>,
    /// When it will be deleted, if it has a time to live (RFC 3339, UTC).
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Sizes that were set while the VM ran and hold from its next start on.
    #[serde(default)]
    pub pending: Vec<PendingSize>,
    /// Steps of the last start and their times, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// Repository that was imported into it.
    #[serde(default)]
    pub workspace: Option<Workspace>,
}

/// Size of a VM that takes effect at its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PendingSize {
    /// Number of virtual processors.
    Vcpu,
    /// Guest memory.
    Memory,
    /// Size of the work disk.
    DiskSize,
}

words!(PendingSize { Self::Vcpu => "vcpu", Self::Memory => "memory", Self::DiskSize => "disk_size" });

/// One step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Phase {
    /// What was prepared (`image`, `kernel-files`, `disk`, `network`, `ssh`, …), then `shim`, `vmm`, `kernel`,
    /// `modules`, `mounts`, `agent`, `files`, `exec`. There may be more.
    pub name: String,
    /// When it began, in milliseconds since the start was requested.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Answer of `GET /v1/vms/{ref}/stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmStats {
    /// CPU time of the VMM's process, in milliseconds.
    pub vmm_cpu_ms: u64,
    /// Resident memory of the VMM's process, in bytes.
    pub vmm_rss: u64,
    /// Bytes the work disk takes on the host.
    pub disk_used: u64,
    /// The guest's own statistics, when its agent answers.
    #[serde(default)]
    pub guest: Option<Stats>,
    /// Why there are none.
    #[serde(default)]
    pub guest_failure: Option<Failure>,
}

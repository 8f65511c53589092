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

/// Where a VM is in its life.
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
    /// Has a disk, was never started.
    Created,
    /// Its VMM is being started or its agent has not answered yet.
    Starting,
    /// The agent answered.
    Running,
    /// On its way down.
    Stopping,
    /// Down, on purpose.
    Stopped,
    /// Down, not on purpose; `reason` says why.
    Failed,
}

impl VmState {
    /// The state as it stands in JSON and in the store.
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

/// Which virtual machine monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// Needs KVM.
    Firecracker,
    /// With KVM where it works, in software where it does not.
    Qemu,
}

/// Which monitor is wanted. Who does not say gets what the configuration says, which says `auto` where nobody wrote
/// anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmmChoice {
    /// What works on this host, whatever the configuration says: each start looks.
    #[default]
    Auto,
    /// This one, or none.
    Firecracker,
    /// This one, or none.
    Qemu,
}

impl VmmChoice {
    /// The monitor, where one is named.
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
    /// The host's processor.
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
    /// Unique, never reused.
    pub id: VmId,
    /// Unique among VMs that exist.
    pub name: VmName,
    /// Where it is in its life.
    pub state: VmState,
    /// Why it is `failed`, how it was stopped where that was not in order, or why it cannot be told whether it runs, in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Private IPv4 address; none without a network card.
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
    /// Published ports: while it runs as they are, else as they were asked for.
    #[serde(default)]
    pub published: Vec<Publish>,
    /// The monitor it runs on, or ran on last; before its first start the one that is named, for it or in the configuration,
    /// and none where that start is still to choose.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// Known once it was started.
    #[serde(default)]
    pub accelerator: Option<Accelerator>,
    /// Why this monitor and accelerator.
    #[serde(default)]
    pub vmm_reason: Option<String>,
    /// What of the monitor's confinement this host does not give, and why; none when it is whole.
    #[serde(default)]
    pub unconfined: Option<String>,
    /// The monitor's process, while there is one.
    #[serde(default)]
    pub vmm_pid: Option<u32>,
    /// The shim's process, while there is one.
    #[serde(default)]
    pub shim_pid: Option<u32>,
    /// The image's name when the VM was made.
    pub image: ImageName,
    /// The image itself, whatever its name points at now.
    pub image_id: ImageId,
    /// The kernel.
    pub kernel: KernelName,
    /// Virtual processors.
    pub vcpu: u32,
    /// Guest memory, in bytes.
    pub memory: ByteSize,
    /// Size of the work disk, in bytes.
    pub disk_size: ByteSize,
    /// Bytes the work disk takes on the host.
    #[serde(default)]
    pub disk_used: Option<ByteSize>,
    /// Which rule gave vcpu, memory and disk_size (`flag`, `config`, `host`, `default`).
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Who is PID 1.
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
    /// When it was created (RFC 3339, UTC).
    pub created_at: String,
    /// When it was last started (RFC 3339, UTC).
    #[serde(default)]
    pub started_at: Option<String>,
    /// Boot id of the running kernel.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// What the image's init says of the boot (`running`, `degraded`), once it said it.
    #[serde(default)]
    pub boot_state: Option<String>,
    /// When a command, a copy or an ssh session was last begun in it (RFC 3339, UTC).
    #[serde(default)]
    pub last_used_at: Option<String>,
    /// When it will be deleted, if it was given a time to live (RFC 3339, UTC).
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Sizes that were set while the VM ran and hold from its next start on.
    #[serde(default)]
    pub pending: Vec<PendingSize>,
    /// Where the time of the last start went, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// The repository that was brought into it.
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
    /// What was prepared (`image`, `kernel-files`, `disk`, `network`, `ssh`, …), then `shim`, `vmm`, `kernel`, `modules`,
    /// `mounts`, `agent`, `files`, `exec`. There may be more.
    pub name: String,
    /// When it began, in milliseconds since the start was asked for.
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
    /// What the guest says of itself, when its agent answers.
    #[serde(default)]
    pub guest: Option<Stats>,
    /// Why it does not.
    #[serde(default)]
    pub guest_failure: Option<Failure>,
}

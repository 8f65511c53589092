//! Virtual machines.

pub use super::guest::GuestEndpoint;
use crate::{
    agent::{
        boot::Init,
        http::{Port, Stats},
    },
    api::workspace::Workspace,
    failure::Failure,
    name::{ImageId, ImageName, KernelName, NetworkName, VmId, VmName},
    network::{Publish, Rule},
    size::ByteSize,
    span::Span,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Least memory a VM may have.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// Most virtual processors a VM may have.
pub const MAX_VCPU: u32 = 32;
/// Largest work disk.
pub const MAX_DISK: ByteSize = ByteSize::gib(1024);
/// Smallest work disk: the file system's own structures and some room.
pub const MIN_DISK: ByteSize = ByteSize::mib(64);

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

macro_rules! words {
    ($type:ty { $($variant:path => $word:literal),+ }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($variant),)+
                    _ => Err(format!("{text:?} is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(Wait { Self::Agent => "agent", Self::Boot => "boot" });
words!(Vmm { Self::Firecracker => "firecracker", Self::Qemu => "qemu" });
words!(Accelerator { Self::Kvm => "kvm", Self::Tcg => "tcg" });
words!(VmState {
    Self::Created => "created",
    Self::Starting => "starting",
    Self::Running => "running",
    Self::Stopping => "stopping",
    Self::Stopped => "stopped",
    Self::Failed => "failed"
});

/// Body of `POST /v1/vms`. Absent values come from the configuration, then from the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Generated when absent.
    #[serde(default)]
    pub name: Option<VmName>,
    /// Pulled when it is not there.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// Pulled when it is not there; else what the image recommends.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Else chosen by probing the host.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// 1 to [`MAX_VCPU`].
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// At least [`MIN_MEMORY`].
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// [`MIN_DISK`] to [`MAX_DISK`].
    #[serde(default)]
    pub disk_size: Option<ByteSize>,
    /// Else `auto`.
    #[serde(default)]
    pub init: Option<Init>,
    /// Environment of every exec in this VM.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of an exec that names none.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none.
    #[serde(default)]
    pub user: Option<String>,
    /// Start even when the memory asked for is not free now.
    #[serde(default)]
    pub overcommit: bool,
    /// Whether the public internet is open; else what the configuration says.
    #[serde(default)]
    pub nat: Option<bool>,
    /// Opens destinations.
    #[serde(default)]
    pub allow: Vec<Rule>,
    /// Closes destinations; wins over `allow`.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// VMs on one network reach each other.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Ports of the host that lead into the guest.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Delete it, with its disk, this long after its creation, whatever it does then.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// What happens after creation.
    #[serde(default)]
    pub start: Start,
    /// What a start waits for before it says `ready` or `done`.
    #[serde(default)]
    pub wait: Wait,
}

/// Body of `PATCH /v1/vms/{ref}`: what becomes of a VM that exists. Absent values stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// From the next start on.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// From the next start on.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// From the next start on; not smaller than it is.
    #[serde(default)]
    pub disk_size: Option<ByteSize>,
    /// Whether the public internet is open; at once.
    #[serde(default)]
    pub nat: Option<bool>,
    /// In the place of the destinations that are open; at once.
    #[serde(default)]
    pub allow: Option<Vec<Rule>>,
    /// In the place of the destinations that are closed; at once.
    #[serde(default)]
    pub deny: Option<Vec<Rule>>,
    /// Ports to publish besides those that are; at once.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Published ports to take back, as they were asked for or as `vm ports` shows them; at once.
    #[serde(default)]
    pub unpublish: Vec<Publish>,
}

/// When a VM counts as started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// When its agent answers; the image's services may still be starting.
    #[default]
    Agent,
    /// When the image's init finished booting (`boot_state` is known); at once under [`Init::Agent`].
    Boot,
}

/// What `POST /v1/vms` does once the VM exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Nothing: the state is `created`.
    No,
    /// Starts it and ends with `done` when the agent answers.
    #[default]
    Yes,
    /// Starts it, says `ready` when the agent answers, and deletes it, without an orderly shutdown, when the client
    /// closes the stream: the lease behind `--rm`. A VM that never became ready is kept.
    Leased,
}

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
    /// Why it is `failed` (or what is being waited for), in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Private IPv4 address; none without a network card.
    #[serde(default)]
    pub ip: Option<String>,
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
    /// The monitor it runs on, or will.
    pub vmm: Vmm,
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
    /// What was set while it ran and holds from its next start on (`vcpu`, `memory`, `disk_size`).
    #[serde(default)]
    pub pending: Vec<String>,
    /// Where the time of the last start went, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// The repository that was brought into it.
    #[serde(default)]
    pub workspace: Option<Workspace>,
}

/// One step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Phase {
    /// `image`, `kernel-files`, `disk`, `shim`, `vmm`, `kernel`, `modules`, `mounts`, `agent`, `exec`.
    pub name: String,
    /// When it began, in milliseconds since the start was asked for.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Body of stop and restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// How long an orderly power-off may take, in milliseconds; absent: 10 s under an image's init, 2 s without.
    #[serde(default)]
    pub grace_ms: Option<u64>,
}

/// Body of kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// Sent to the VMM.
    #[serde(default)]
    pub signal: KillSignal,
}

/// The signals `vm kill` may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum KillSignal {
    /// 15.
    Term,
    /// 9.
    #[default]
    Kill,
    /// 2.
    Int,
    /// 1.
    Hup,
    /// 3.
    Quit,
    /// 10.
    Usr1,
    /// 12.
    Usr2,
    /// 6.
    Abrt,
}

words!(KillSignal {
    Self::Term => "TERM",
    Self::Kill => "KILL",
    Self::Int => "INT",
    Self::Hup => "HUP",
    Self::Quit => "QUIT",
    Self::Usr1 => "USR1",
    Self::Usr2 => "USR2",
    Self::Abrt => "ABRT"
});

/// One port of a VM; an element of the answer of `GET /v1/vms/{ref}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPort {
    /// What listens in the guest; for a published port nobody listens on, the port with no address.
    #[serde(flatten)]
    pub guest: Port,
    /// Where it is published on the host (`127.0.0.1:8080`).
    #[serde(default)]
    pub published: Vec<String>,
    /// Whether somebody listens in the guest.
    #[serde(default)]
    pub listening: bool,
}

/// Answer of `GET /v1/vms/{ref}/egress`: what a VM may reach, and what it tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Egress {
    /// Whether the public internet is open.
    pub nat: bool,
    /// Destinations opened, the configuration's first.
    pub allow: Vec<Rule>,
    /// Destinations closed, the configuration's first.
    pub deny: Vec<Rule>,
    /// Packets denied since it was started.
    pub denied_packets: u64,
    /// The latest denials.
    pub denials: Vec<Denied>,
}

/// Packets of a VM that went nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Denied {
    /// The address.
    pub to: String,
    /// The name it was resolved from, when the VM asked for one.
    #[serde(default)]
    pub name: Option<String>,
    /// `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// The port, where the protocol has such.
    #[serde(default)]
    pub port: Option<u16>,
    /// How many.
    pub packets: u64,
    /// Seconds since the last one.
    pub seconds_ago: u32,
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

//! Rows of VMs, as the store keeps them.

use banger_machine::process::ProcessIdentity;
use banger_proto::{
    agent::boot::Init,
    api::{
        vm::{Accelerator, Phase, VmState, Vmm, VmmChoice},
        workspace::Workspace,
    },
    name::{ImageId, ImageName, KernelName, NetworkName, VmId, VmName},
    network::{Publish, Rule},
    size::ByteSize,
    span::Span,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A VM: its identity, its specification and its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Unique, never reused.
    pub id: VmId,
    /// Unique among existing VMs.
    pub name: VmName,
    /// The guest's `/etc/machine-id`.
    pub machine_id: String,
    /// State of the VM.
    pub state: VmState,
    /// Reason for the state, if there is something to say.
    pub reason: Option<String>,
    /// Creation time in seconds since 1970. Only [`Store::set_created`](super::Store::set_created) changes it.
    pub created_at: u64,
    /// Creation time by the clock since the host's boot; absent in rows from before this was recorded.
    pub birth: Option<Birth>,
    /// Specification of the VM; fixed until it is set anew.
    pub spec: VmSpec,
    /// Facts of the last start.
    pub run: Run,
    /// Time of the last use, in seconds since 1970.
    pub last_used: Option<u64>,
    /// The imported repository. Only [`Store::set_workspace`](super::Store::set_workspace) writes it.
    pub workspace: Option<Workspace>,
}

/// A moment in one boot of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Boot id of the host.
    pub host_boot_id: String,
    /// Milliseconds since that boot, sleep included.
    pub at_ms: u64,
}

/// Specification of a VM, every value resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name of the image at the VM's creation.
    pub image: ImageName,
    /// Id of the image.
    pub image_id: ImageId,
    /// Name of the kernel.
    pub kernel: KernelName,
    /// The requested VMM; `None` leaves the choice to the configuration at each start.
    pub vmm: Option<VmmChoice>,
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Guest memory.
    pub memory: ByteSize,
    /// Size of the work disk.
    pub disk_size: ByteSize,
    /// Program that is process 1 of the guest.
    pub init: Init,
    /// Environment of every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of a command without one of its own.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of a command without one of its own.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether the VM may start when too little memory is free.
    #[serde(default)]
    pub overcommit: bool,
    /// Time to live, counted from the creation.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// Network, reachable destinations and published ports.
    #[serde(default)]
    pub network: NetworkSpec,
    /// The rule that gave each size, by the size's name.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
}

/// Sizes that a machine was started with. The spec's may have changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Guest memory.
    pub memory: ByteSize,
    /// Size of the work disk.
    pub disk_size: ByteSize,
}

impl VmSpec {
    /// Returns the sizes of the next start.
    pub fn sizes(&self) -> Sizes {
        Sizes { vcpu: self.vcpu, memory: self.memory, disk_size: self.disk_size }
    }
}

/// Network of a VM, as it was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Whether the public internet is reachable.
    pub nat: bool,
    /// Destinations that are allowed.
    pub allow: Vec<Rule>,
    /// Destinations that are denied.
    pub deny: Vec<Rule>,
    /// Network whose VMs reach each other; `None` for a VM on its own.
    pub name: Option<NetworkName>,
    /// Ports of the host that lead into the guest.
    pub publish: Vec<Publish>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self { nat: true, allow: Vec::new(), deny: Vec::new(), name: None, publish: Vec::new() }
    }
}

/// Facts of a VM's last start; empty before the first one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Time of the request, in seconds since 1970.
    pub started_at: Option<u64>,
    /// Sizes of the machine.
    pub sizes: Option<Sizes>,
    /// The chosen VMM.
    pub vmm: Option<Vmm>,
    /// KVM or software emulation.
    pub accelerator: Option<Accelerator>,
    /// Reason for this choice.
    pub vmm_reason: Option<String>,
    /// Missing parts of the VMM's confinement and the reason; `None` when it is complete.
    pub unconfined: Option<String>,
    /// Shim process, while there is one.
    pub shim: Option<ProcessIdentity>,
    /// VMM process, while there is one.
    pub vmm_process: Option<ProcessIdentity>,
    /// Boot id of the running guest kernel.
    pub boot_id: Option<String>,
    /// The init that runs; never `auto`.
    pub init: Option<Init>,
    /// Version of the agent's API.
    pub agent_api: Option<u32>,
    /// Boot state that the image's init reports.
    pub boot_state: Option<String>,
    /// Published ports, while there is a shim.
    pub published: Vec<Publish>,
    /// Whether the VM's deletion has begun: if it is interrupted, the next daemon completes it.
    pub deleting: bool,
    /// Durations of the parts of the start.
    pub phases: Vec<Phase>,
}

impl Run {
    /// Clears what was true of processes that have ended, and keeps what explains the last start.
    pub fn ended(&mut self) {
        self.shim = None;
        self.vmm_process = None;
        self.published.clear();
        self.forget_boot();
    }

    /// Clears what the guest reported about a boot that is over.
    pub fn forget_boot(&mut self) {
        self.boot_id = None;
        self.init = None;
        self.agent_api = None;
        self.boot_state = None;
    }
}

//! One VM as the store keeps it.

use crate::process::ProcessIdentity;
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

/// A VM: who it is, what it was asked to be, how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Unique, never reused.
    pub id: VmId,
    /// Unique among VMs that exist.
    pub name: VmName,
    /// The guest's `/etc/machine-id`.
    pub machine_id: String,
    /// Where it is in its life.
    pub state: VmState,
    /// Why it is there, when that needs saying.
    pub reason: Option<String>,
    /// When it was created, in seconds since 1970. [`Store::set_created`](super::Store::set_created) alone changes it.
    pub created_at: u64,
    /// The same by the host's own clock; absent from one that was made before that was written down.
    pub birth: Option<Birth>,
    /// What it was asked to be; fixed until somebody sets it anew.
    pub spec: VmSpec,
    /// Facts of its last start.
    pub run: Run,
    /// When it was last used, in seconds since 1970.
    pub last_used: Option<u64>,
    /// The repository in it. [`Store::set_workspace`](super::Store::set_workspace) alone writes it.
    pub workspace: Option<Workspace>,
}

/// A moment in one boot of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Which boot.
    pub host_boot_id: String,
    /// Milliseconds since it, sleep included.
    pub at_ms: u64,
}

/// What a VM was asked to be, every value resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The image's name then.
    pub image: ImageName,
    /// The image itself.
    pub image_id: ImageId,
    /// The kernel.
    pub kernel: KernelName,
    /// The monitor asked for; `None` is what the configuration says at each start.
    pub vmm: Option<VmmChoice>,
    /// Virtual processors.
    pub vcpu: u32,
    /// Guest memory.
    pub memory: ByteSize,
    /// Size of the work disk.
    pub disk_size: ByteSize,
    /// PID 1.
    pub init: Init,
    /// Environment of every exec.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of an exec that names none.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none.
    #[serde(default)]
    pub user: Option<String>,
    /// Starts even when its memory is not free.
    #[serde(default)]
    pub overcommit: bool,
    /// How long after its creation it is deleted.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// Its network, what it may reach, its published ports.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Which rule gave which value.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
}

/// The sizes a machine was started with; those of the spec may have been set anew since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Virtual processors.
    pub vcpu: u32,
    /// Guest memory.
    pub memory: ByteSize,
    /// Size of the work disk.
    pub disk_size: ByteSize,
}

impl VmSpec {
    /// The sizes of the next start.
    pub fn sizes(&self) -> Sizes {
        Sizes { vcpu: self.vcpu, memory: self.memory, disk_size: self.disk_size }
    }
}

/// What a VM was asked to be on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Whether the public internet is open.
    pub nat: bool,
    /// Destinations that are open.
    pub allow: Vec<Rule>,
    /// Destinations that are closed.
    pub deny: Vec<Rule>,
    /// VMs on one network reach each other; `None` is alone.
    pub name: Option<NetworkName>,
    /// Ports of the host that lead into the guest.
    pub publish: Vec<Publish>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self { nat: true, allow: Vec::new(), deny: Vec::new(), name: None, publish: Vec::new() }
    }
}

/// Facts of a VM's last start; empty before the first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// When it was asked for, in seconds since 1970.
    pub started_at: Option<u64>,
    /// What the machine was given.
    pub sizes: Option<Sizes>,
    /// The monitor that was chosen.
    pub vmm: Option<Vmm>,
    /// What executes the guest.
    pub accelerator: Option<Accelerator>,
    /// Why these two.
    pub vmm_reason: Option<String>,
    /// What of the monitor's confinement is missing.
    pub unconfined: Option<String>,
    /// The shim, while there is one.
    pub shim: Option<ProcessIdentity>,
    /// The monitor's process, while there is one.
    pub vmm_process: Option<ProcessIdentity>,
    /// Boot id of the running kernel.
    pub boot_id: Option<String>,
    /// Which init runs; never `auto`.
    pub init: Option<Init>,
    /// Version of the agent API its agent speaks.
    pub agent_api: Option<u32>,
    /// What the image's init says of the boot.
    pub boot_state: Option<String>,
    /// Published ports, while there is a shim.
    pub published: Vec<Publish>,
    /// Its deletion has begun: whatever dies meanwhile, the next daemon goes on with it.
    pub deleting: bool,
    /// Where the time of the start went.
    pub phases: Vec<Phase>,
}

impl Run {
    /// Forgets what was true of processes that are gone, and keeps what explains the last start.
    pub fn ended(&mut self) {
        self.shim = None;
        self.vmm_process = None;
        self.published.clear();
        self.forget_boot();
    }

    /// Forgets what the guest said of a boot that is over.
    pub fn forget_boot(&mut self) {
        self.boot_id = None;
        self.init = None;
        self.agent_api = None;
        self.boot_state = None;
    }
}

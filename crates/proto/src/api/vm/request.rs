//! Bodies of requests about VMs, and the limits of a VM's size.

use super::VmmChoice;
use crate::{
    agent::boot::Init,
    name::{ImageName, KernelName, NetworkName, VmName},
    network::{Publish, Rule},
    size::ByteSize,
    span::Span,
    words::words,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Smallest memory of a VM.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// Largest number of virtual processors of a VM.
pub const MAX_VCPU: u32 = 32;
/// Largest work disk.
pub const MAX_DISK: ByteSize = ByteSize::gib(1024);
/// Smallest work disk: room for the file system's own structures and some files.
pub const MIN_DISK: ByteSize = ByteSize::mib(64);

/// Body of `POST /v1/vms`. Absent values come from the configuration, then from the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Name; generated when absent.
    #[serde(default)]
    pub name: Option<VmName>,
    /// Image; pulled when it is missing.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// File with registry logins that replaces the daemon's own: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub logins: Option<PathBuf>,
    /// Kernel; pulled when it is missing. When absent, the one the image recommends.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// VMM; when absent, the configuration's.
    #[serde(default)]
    pub vmm: Option<VmmChoice>,
    /// Number of virtual processors, 1 to [`MAX_VCPU`].
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Guest memory, at least [`MIN_MEMORY`].
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// Size of the work disk, [`MIN_DISK`] to [`MAX_DISK`].
    #[serde(default)]
    pub disk_size: Option<ByteSize>,
    /// Which program is PID 1; when absent, `auto`.
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
    /// Start even when the requested memory is not free now.
    #[serde(default)]
    pub overcommit: bool,
    /// Whether the public internet is open; when absent, the configuration's value.
    #[serde(default)]
    pub nat: Option<bool>,
    /// Destinations to open.
    #[serde(default)]
    pub allow: Vec<Rule>,
    /// Destinations to close; wins over `allow`.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// Network; VMs on the same one reach each other.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Ports of the host to forward into the guest.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Time after its creation at which it is deleted with its disk, whatever its state.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// What happens after creation.
    #[serde(default)]
    pub start: Start,
    /// What a start waits for before it reports `ready` or `done`.
    #[serde(default)]
    pub wait: Wait,
}

/// Body of `PATCH /v1/vms/{ref}`: changes of an existing VM. Absent values stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Number of virtual processors, from the next start on.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Guest memory, from the next start on.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// Size of the work disk, from the next start on; not smaller than now.
    #[serde(default)]
    pub disk_size: Option<ByteSize>,
    /// Whether it may start when that much memory is not free.
    #[serde(default)]
    pub overcommit: Option<bool>,
    /// Whether the public internet is open; takes effect at once.
    #[serde(default)]
    pub nat: Option<bool>,
    /// Replaces the open destinations; takes effect at once.
    #[serde(default)]
    pub allow: Option<Vec<Rule>>,
    /// Replaces the closed destinations; takes effect at once.
    #[serde(default)]
    pub deny: Option<Vec<Rule>>,
    /// Further ports to publish; takes effect at once.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Published ports to close, as they were requested or as `vm ports` shows them; takes effect at once.
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
    /// When the image's init finished booting (`boot_state` is known); the same as `agent` under [`Init::Agent`].
    Boot,
}

/// What `POST /v1/vms` does once the VM exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Nothing: the state is `created`.
    No,
    /// Starts it; ends with `done` when the agent answers.
    #[default]
    Yes,
    /// Starts it, reports `ready` when the agent answers, and deletes it without an orderly shutdown when the client
    /// closes the stream: the lease behind `--rm`. A VM that never became ready is kept.
    Leased,
}

/// Body of `POST /v1/vms/{ref}/start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartVm {
    /// Start even when that much memory is not free; kept for later starts, as if given at creation. A start that is
    /// refused or has nothing to do does not keep it.
    #[serde(default)]
    pub overcommit: bool,
}

/// Body of `POST /v1/vms/{ref}/restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestartVm {
    /// Same as [`StopVm::grace_ms`].
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// Same as [`StartVm::overcommit`].
    #[serde(default)]
    pub overcommit: bool,
}

/// Body of `POST /v1/vms/{ref}/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// How long an orderly power-off may take, in milliseconds; when absent, 10 s under an image's init and 2 s
    /// without.
    #[serde(default)]
    pub grace_ms: Option<u64>,
}

/// Body of `POST /v1/vms/{ref}/kill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// Signal to send to the VMM.
    #[serde(default)]
    pub signal: KillSignal,
}

/// Signals that `vm kill` may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum KillSignal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    #[default]
    Kill,
    /// SIGINT.
    Int,
    /// SIGHUP.
    Hup,
    /// SIGQUIT.
    Quit,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGABRT.
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

words!(Wait { Self::Agent => "agent", Self::Boot => "boot" });

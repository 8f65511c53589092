//! What can be asked of VMs: the bodies of requests, and how small and how large a VM may be.

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

/// Least memory a VM may have.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// Most virtual processors a VM may have.
pub const MAX_VCPU: u32 = 32;
/// Largest work disk.
pub const MAX_DISK: ByteSize = ByteSize::gib(1024);
/// Smallest work disk: the file system's own structures and some room.
pub const MIN_DISK: ByteSize = ByteSize::mib(64);

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
    /// A file with logins that counts for that instead of the daemon's own: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub logins: Option<PathBuf>,
    /// Pulled when it is not there; else what the image recommends.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Else what the configuration says.
    #[serde(default)]
    pub vmm: Option<VmmChoice>,
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
    /// Whether it may start when that much memory is not free.
    #[serde(default)]
    pub overcommit: Option<bool>,
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

/// Body of start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartVm {
    /// Also when that much memory is not free, and so from then on, as one that was made so. A start that is refused, or
    /// has nothing to do, keeps nothing of it.
    #[serde(default)]
    pub overcommit: bool,
}

/// Body of restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestartVm {
    /// As for stop.
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// As for start.
    #[serde(default)]
    pub overcommit: bool,
}

/// Body of stop.
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

words!(Wait { Self::Agent => "agent", Self::Boot => "boot" });

//! The way to a VM's agent, and what a command in it finds.

use crate::{
    api::workspace::Workspace,
    name::{VmId, VmName},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the CLI dials a VM's agent: streams do not pass through the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestEndpoint {
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// The VM's hybrid-vsock socket: `CONNECT <port>\n` → `OK <n>\n`, then bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub socket: PathBuf,
    /// Version of the agent API that VM's agent speaks.
    pub agent_api_version: u32,
    /// The repository that was brought into it.
    #[serde(default)]
    pub workspace: Option<Workspace>,
    /// Working directory of an exec that names none; it wins over the workspace.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none.
    #[serde(default)]
    pub user: Option<String>,
}

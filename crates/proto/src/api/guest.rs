//! Access to a VM's agent, and the defaults of commands in the VM.

use crate::{
    api::workspace::Workspace,
    name::{VmId, VmName},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Endpoint at which the CLI dials a VM's agent: streams do not pass through the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestEndpoint {
    /// Id of the VM.
    pub id: VmId,
    /// Name of the VM.
    pub name: VmName,
    /// The VM's hybrid-vsock socket: `CONNECT <port>\n` → `OK <n>\n`, then bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub socket: PathBuf,
    /// Version of the agent API that the VM's agent serves.
    pub agent_api_version: u32,
    /// Repository that was imported into it.
    #[serde(default)]
    pub workspace: Option<Workspace>,
    /// Working directory of an exec that names none; takes precedence over the workspace.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none.
    #[serde(default)]
    pub user: Option<String>,
}

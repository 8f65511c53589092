//! Keys for ssh into a VM: who may enter, and how the guest proves who it is.

use serde::{Deserialize, Serialize};

/// Answer of `POST /v1/vms/{ref}/ssh`. Whoever may ask for it may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshAccess {
    /// The private key to log in with: a file on the host.
    pub identity: String,
    /// banger's own known_hosts, in which the VM's key stands from now on: a file on the host.
    pub known_hosts: String,
    /// The VM's private host key, for its sshd.
    pub host_key: String,
    /// What its sshd takes as `authorized_keys`.
    pub authorized_keys: String,
}

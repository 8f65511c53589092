//! Keys for ssh into a VM: the user's login key and the guest's host key.

use serde::{Deserialize, Serialize};

/// Answer of `POST /v1/vms/{ref}/ssh`. Whoever may ask for it may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshAccess {
    /// Path on the host of the private key to log in with.
    pub identity: String,
    /// Path on the host of banger's own known_hosts, which now contains the VM's host key.
    pub known_hosts: String,
    /// Private host key for the VM's sshd.
    pub host_key: String,
    /// Content of `authorized_keys` for the VM's sshd.
    pub authorized_keys: String,
}

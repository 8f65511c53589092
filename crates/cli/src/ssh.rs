//! ssh into VMs: the system's client, a proxy command that starts the guest's sshd for one connection, and the ssh
//! configuration for it.
//!
//! Nothing listens in the guest and nothing crosses its network: sshd runs as `sshd -i` on the streams of an exec, with
//! banger's own keys and configuration below `/run`, whatever the image has in `/etc/ssh`.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod sshd;
pub(crate) mod user_config;

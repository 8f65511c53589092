//! ssh into VMs: the system's client, a proxy that starts the guest's sshd for one connection, and what a user's
//! configuration needs to know.
//!
//! Nothing listens in the guest and nothing crosses its network: sshd runs as `sshd -i` on the streams of an exec, with
//! keys and a configuration of banger's own below `/run`, whatever the image has in `/etc/ssh`.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod guest;
pub(crate) mod user_file;

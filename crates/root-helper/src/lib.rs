//! The network helper: bridges, taps, and the firewall rules that confine guests.
//!
//! This is the only code of banger with `CAP_NET_ADMIN`, and only in banger's own network namespace (or, after a system
//! install, in the host's). It carries out the requests of `banger_proto::helper` and nothing else: names and rules are
//! derived from ids ([`names`], [`rules`]), requests are checked again ([`check`]), its objects are marked in the
//! kernel, and nothing is written to disk. It does not know what a VM is for, who asked for a policy or why.

mod apply;
pub mod check;
pub mod confine;
pub mod hold;
mod join;
pub mod names;
mod network;
pub mod rules;
pub mod serve;
pub mod status;
pub mod system;

pub use join::Namespaces;
pub use network::{Host, Tools};

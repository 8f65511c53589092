//! The names of what the helper makes, derived from who asks and which VM; nobody else chooses one.

use banger_netlink::nft::{Family, Set};
use banger_proto::name::VmId;
pub use banger_proto::network::addressing::{address, gateway, mac, tap};

/// The user the helper works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);

impl Owner {
    /// The name of this user's tables.
    pub fn table(self) -> String {
        format!("banger_{}", self.0)
    }

    /// What the names of this user's bridges begin with.
    pub fn bridges(self) -> String {
        format!("bb{}n", self.0)
    }

    /// The bridge of a network: at most 15 bytes, as an interface's name must be.
    pub fn bridge(self, network: u8) -> String {
        format!("{}{network}", self.bridges())
    }

    /// A set of this user's.
    pub fn set(self, (family, name): (Family, &str)) -> Set {
        Set { family, table: self.table(), name: name.to_owned() }
    }

    /// What is written on this user's bridges.
    pub fn bridge_alias(self, network: u8) -> String {
        format!("banger {} network {network}", self.0)
    }

    /// What is written on a VM's tap.
    pub fn tap_alias(self, vm: &VmId) -> String {
        format!("banger {} vm {vm}", self.0)
    }

    /// The VM that a tap with this alias belongs to, if it is this user's.
    pub fn vm_of(self, alias: &str) -> Option<VmId> {
        alias.strip_prefix(&format!("banger {} vm ", self.0))?.parse().ok()
    }
}

/// A set or map that one user's VMs share: the family of its table, and its name.
pub type Shared = (Family, &'static str);

/// Address → the chain that decides about a VM's packets.
pub const VMS: Shared = (Family::Inet, "vms");
/// Interfaces whose frames are looked at.
pub const TAPS: Shared = (Family::Bridge, "taps");
/// Tap, MAC and address that belong together.
pub const OWNERS: Shared = (Family::Bridge, "owners");
/// How many packets were denied to an address.
pub const DENIED_BY: Shared = (Family::Inet, "denied_by");
/// What was denied; the second of protocols without ports.
pub const DENIALS: [Shared; 2] = [(Family::Inet, "denials"), (Family::Inet, "denials_other")];
/// How fast an address fills the two.
pub const DENIAL_RATE: Shared = (Family::Inet, "denial_rate");

/// The chain for whom the public internet is open.
pub const INTERNET: &str = "internet";
/// The chain for whom nothing is.
pub const NOTHING: &str = "denied";

/// The chain with the policy of a VM that has rules of its own.
pub fn chain(vm: &VmId) -> String {
    format!("vm_{vm}")
}

/// The set of addresses learnt for a VM, every port.
pub fn learned_any(vm: &VmId) -> String {
    format!("la_{vm}")
}

/// The set of addresses and ports learnt for a VM.
pub fn learned_port(vm: &VmId) -> String {
    format!("lp_{vm}")
}

#[cfg(test)]
mod tests;

//! The names of what the helper makes, derived from who asks and which VM; nobody else chooses one.

use banger_netlink::nft::{Family, Set};
use banger_proto::{
    helper::{NETWORK_SIZE, NETWORKS},
    name::VmId,
    network::Cidr,
};
use std::net::Ipv4Addr;

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

/// The tap of a VM: 14 bytes.
pub fn tap(vm: &VmId) -> String {
    format!("bt{vm}")
}

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

/// An address of a network.
pub fn address(block: Cidr, network: u8, host: u16) -> Option<Ipv4Addr> {
    if network >= NETWORKS || u32::from(host) >= NETWORK_SIZE {
        return None;
    }
    block.nth(u32::from(network) * NETWORK_SIZE + u32::from(host))
}

/// The gateway of a network.
pub fn gateway(block: Cidr, network: u8) -> Option<Ipv4Addr> {
    address(block, network, 1)
}

/// The hardware address of whoever has an IPv4 address here: locally administered, and as unique as the address.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x62, a, b, c, d]
}

#[cfg(test)]
mod tests;

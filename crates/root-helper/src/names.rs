//! Names of the kernel objects the helper makes, derived from the user and the VM; no request chooses one.

use banger_netlink::nft::{Family, Set};
use banger_proto::name::VmId;
pub use banger_proto::network::addressing::{address, gateway, mac, tap};

/// User the helper works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);

impl Owner {
    /// Name of this user's tables.
    pub fn table(self) -> String {
        format!("banger_{}", self.0)
    }

    /// Prefix of this user's bridge names.
    pub fn bridges(self) -> String {
        format!("bb{}n", self.0)
    }

    /// Name of a network's bridge: at most 15 bytes, as for any interface.
    pub fn bridge(self, network: u8) -> String {
        format!("{}{network}", self.bridges())
    }

    /// Set in one of this user's tables.
    pub fn set(self, (family, name): (Family, &str)) -> Set {
        Set { family, table: self.table(), name: name.to_owned() }
    }

    /// Link alias that marks this user's bridges.
    pub fn bridge_alias(self, network: u8) -> String {
        format!("banger {} network {network}", self.0)
    }

    /// Link alias that marks a VM's tap.
    pub fn tap_alias(self, vm: &VmId) -> String {
        format!("banger {} vm {vm}", self.0)
    }

    /// VM of the tap with this alias, if it is this user's.
    pub fn vm_of(self, alias: &str) -> Option<VmId> {
        alias.strip_prefix(&format!("banger {} vm ", self.0))?.parse().ok()
    }
}

/// Set or map shared by all VMs of a user: family of its table, and name.
pub type Shared = (Family, &'static str);

/// Maps an address to the chain that decides about the VM's packets.
pub const VMS: Shared = (Family::Inet, "vms");
/// Interfaces whose frames are checked.
pub const TAPS: Shared = (Family::Bridge, "taps");
/// Valid combinations of tap, MAC and IP address.
pub const OWNERS: Shared = (Family::Bridge, "owners");
/// Number of packets denied to each address.
pub const DENIED_BY: Shared = (Family::Inet, "denied_by");
/// Denied destinations; the second set is for protocols without ports.
pub const DENIALS: [Shared; 2] = [(Family::Inet, "denials"), (Family::Inet, "denials_other")];
/// Limits how fast an address fills the two sets of denials.
pub const DENIAL_RATE: Shared = (Family::Inet, "denial_rate");

/// Chain of VMs with public internet access.
pub const INTERNET: &str = "internet";
/// Chain of VMs without any access.
pub const NOTHING: &str = "denied";

/// Chain of a VM with rules of its own.
pub fn chain(vm: &VmId) -> String {
    format!("vm_{vm}")
}

/// Set of addresses learned for a VM, for every port.
pub fn learned_any(vm: &VmId) -> String {
    format!("la_{vm}")
}

/// Set of addresses and ports learned for a VM.
pub fn learned_port(vm: &VmId) -> String {
    format!("lp_{vm}")
}

#[cfg(test)]
mod tests;

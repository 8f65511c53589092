//! The names of what the helper makes, derived from who asks and which VM; nobody else chooses one.

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

/// The tap of a VM: 14 bytes.
pub fn tap(vm: &VmId) -> String {
    format!("bt{vm}")
}

/// The chain with a VM's policy.
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
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_and_says_whose_it_is() {
        let vm: VmId = "0123456789ab".parse().unwrap();
        let owner = Owner(u32::MAX);
        assert!(owner.bridge(NETWORKS - 1).len() <= 15 && tap(&vm).len() <= 15);
        assert_eq!(owner.vm_of(&owner.tap_alias(&vm)), Some(vm.clone()));
        assert_eq!(Owner(1).vm_of(&Owner(11).tap_alias(&vm)), None);
        assert_eq!(Owner(1).vm_of("something else"), None);
    }

    #[test]
    fn addresses_of_networks_do_not_meet() {
        let block: Cidr = "10.213.0.0/16".parse().unwrap();
        assert_eq!(gateway(block, 0), Some(Ipv4Addr::new(10, 213, 0, 1)));
        assert_eq!(gateway(block, 63), Some(Ipv4Addr::new(10, 213, 252, 1)));
        assert_eq!(address(block, 63, 1023), Some(Ipv4Addr::new(10, 213, 255, 255)));
        assert_eq!((address(block, 64, 1), address(block, 0, 1024)), (None, None));
        assert_eq!(mac(Ipv4Addr::new(10, 213, 0, 5)), [2, 0x62, 10, 213, 0, 5]);
    }
}

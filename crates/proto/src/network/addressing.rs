//! Names and addresses derived from a VM's id, its network's number and its host number there. Daemon and helper derive
//! them independently, so that none of them is sent between the two.

use super::{Cidr, MacAddr};
use crate::{
    helper::{NETWORK_SIZE, NETWORKS},
    name::VmId,
};
use std::net::Ipv4Addr;

/// Name of a VM's tap: 14 bytes.
pub fn tap(vm: &VmId) -> String {
    format!("bt{vm}")
}

/// Address within a network; `None` if a number is out of range.
pub fn address(block: Cidr, network: u8, host: u16) -> Option<Ipv4Addr> {
    if network >= NETWORKS || u32::from(host) >= NETWORK_SIZE {
        return None;
    }
    block.nth(u32::from(network) * NETWORK_SIZE + u32::from(host))
}

/// Address of a network's gateway.
pub fn gateway(block: Cidr, network: u8) -> Option<Ipv4Addr> {
    address(block, network, 1)
}

/// Hardware address for an IPv4 address: locally administered, and as unique as the IPv4 address.
pub fn mac(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    MacAddr([0x02, 0x62, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_networks_do_not_meet() {
        let block: Cidr = "10.213.0.0/16".parse().unwrap();
        assert_eq!(gateway(block, 0), Some(Ipv4Addr::new(10, 213, 0, 1)));
        assert_eq!(gateway(block, 63), Some(Ipv4Addr::new(10, 213, 252, 1)));
        assert_eq!(address(block, 63, 1023), Some(Ipv4Addr::new(10, 213, 255, 255)));
        assert_eq!((address(block, 64, 1), address(block, 0, 1024)), (None, None));
        assert_eq!(mac(Ipv4Addr::new(10, 213, 0, 5)).to_string(), "02:62:0a:d5:00:05");
    }
}

//! Configures the NIC: address, route and MTU, over netlink, so that no program of the image is needed.

use banger_netlink::{
    Socket,
    link::{self, Link},
    route,
};
use banger_proto::agent::boot::Network;
use std::io;

/// Configures the NIC. The kernel has found it by now: its driver is built in or was loaded before.
pub(super) fn configure(network: &Network) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let card = find(&link::list(&mut socket)?, network.mac.0)?;
    link::set_mtu(&mut socket, card, network.mtu)?;
    // The address is set before the NIC is up: the kernel then announces it, and no neighbor's request is lost.
    route::add_address(&mut socket, card, network.address, network.prefix)?;
    link::set_up(&mut socket, card)?;
    route::add_default(&mut socket, card, network.gateway)
}

fn find(links: &[Link], mac: [u8; 6]) -> io::Result<u32> {
    let card = links.iter().find(|link| link.mac == Some(mac));
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the kernel has no driver for the network card");
    card.map(|link| link.index).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_is_the_one_with_the_address() {
        let link = |index, mac| Link { index, name: format!("eth{index}"), alias: None, master: None, mac: Some(mac) };
        let links = [link(1, [0; 6]), link(2, [1; 6])];
        assert_eq!(find(&links, [1; 6]).unwrap(), 2);
        assert!(find(&links, [2; 6]).unwrap_err().to_string().contains("driver"));
    }

    #[test]
    fn a_card_is_as_the_host_says() {
        if !banger_testkit::require("netns") {
            return;
        }
        let netns = banger_testkit::NetNamespace::new();
        netns.command("ip link add eth0 address 02:62:0a:d5:00:05 type veth peer name other");
        let network = Network {
            mac: "02:62:0a:d5:00:05".parse().unwrap(),
            address: "10.213.0.5".parse().unwrap(),
            prefix: 22,
            gateway: "10.213.0.1".parse().unwrap(),
            mtu: 1400,
        };
        netns.run(move || configure(&network)).unwrap();
        for (line, wanted) in [
            ("ip link show dev eth0", " mtu 1400 "),
            ("ip link show dev eth0", ",UP"),
            ("ip address show dev eth0", " 10.213.0.5/22 "),
            ("ip route show", "default via 10.213.0.1 dev eth0"),
        ] {
            let shown = netns.command(line);
            assert!(shown.contains(wanted), "{wanted:?} in {shown}");
        }
    }
}

//! A guest that spoofs addresses or sends unexpected protocols.

use crate::{
    guest::{Guest, SOON},
    sniffer::Sniffer,
    world::{INTERNET, World, attach, policy},
};
use banger_proto::helper::Base;
use banger_root_helper::names;
use banger_testkit::wait_until;
use std::net::{Ipv4Addr, UdpSocket};

pub(crate) const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [u8; 2] = [0x81, 0];
const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) fn frame(to: [u8; 6], from: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// IPv4 packet with UDP; `fragment` is the header field of that name.
pub(crate) fn packet(from: Ipv4Addr, to: Ipv4Addr, fragment: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    // UDP 1000 → 9, no checksum.
    packet.extend([3, 232, 0, 9, 0, 8, 0, 0]);
    packet
}

fn arp(mac: [u8; 6], address: Ipv4Addr, asked: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac, &address.octets(), &[0; 6], &asked.octets()].concat()
}

/// Frames dropped by the guests' chain.
fn dropped(world: &World) -> u64 {
    let listing = world.inside.command("nft -j list chain bridge banger_0 guest");
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let rules = listing["nftables"].as_array().unwrap().iter().filter_map(|entry| entry["rule"]["expr"].as_array());
    rules.flatten().filter_map(|expression| expression["counter"]["packets"].as_u64()).sum()
}

#[test]
fn a_guest_that_is_not_itself_gets_nowhere() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    for number in [0, 1] {
        world.helper.done(&attach(number, 0, policy(Base::Internet, &[], &[])));
    }
    let (guest, other) = (Guest::new(&world, 0, 0), Guest::new(&world, 1, 0));
    guest.reaches(INTERNET, 80);
    other.reaches(INTERNET, 80);
    let (outside, beside) = (Sniffer::new(&world.outside), Sniffer::new(&other.space));
    let gateway = Ipv4Addr::new(10, 213, 0, 1);
    let router = names::mac(gateway).0;
    let (me, my_mac) = (guest.address, guest.mac);
    // Each goes to another address, so that one that gets through can be identified.
    let to = |number: u8| Ipv4Addr::new(9, 9, 7, number);
    let spoofs: [(&str, Vec<u8>); 9] = [
        ("another's address", frame(router, my_mac, IPV4, &packet(other.address, to(1), 0))),
        ("another's MAC", frame(router, other.mac, IPV4, &packet(me, to(2), 0))),
        ("another's MAC and address", frame(router, other.mac, IPV4, &packet(other.address, to(3), 0))),
        ("no address yet", frame(BROADCAST, my_mac, IPV4, &packet(Ipv4Addr::UNSPECIFIED, to(4), 0))),
        ("a fragment of another's", frame(router, my_mac, IPV4, &packet(other.address, to(5), 0x2001))),
        ("ARP for the gateway", frame(BROADCAST, my_mac, ARP, &arp(my_mac, gateway, me))),
        ("ARP with another's MAC", frame(BROADCAST, my_mac, ARP, &arp(other.mac, me, gateway))),
        ("IPv6", frame([0x33, 0x33, 0, 0, 0, 1], my_mac, IPV6, &[0x60; 40])),
        ("a VLAN", frame(router, my_mac, VLAN, &[0, 1, 8, 0, 0x45])),
    ];
    for (what, frame) in spoofs {
        let before = dropped(&world);
        guest.send(&frame);
        wait_until(SOON, &format!("{what} to be dropped"), || {
            if dropped(&world) > before { Ok(()) } else { Err(format!("{before} frames")) }
        });
    }
    // A spanning-tree packet with the other VM's MAC: it is not forwarded, and must not teach the bridge anything.
    guest.send(&frame([1, 0x80, 0xc2, 0, 0, 0], other.mac, [0, 38], &[0x42, 0x42, 3]));
    // A valid packet, but to the other VM's NIC instead of the router's; and a final fragment without a first.
    guest.send(&frame(other.mac, my_mac, IPV4, &packet(me, to(6), 0)));
    guest.send(&frame(router, my_mac, IPV4, &packet(me, to(7), 0x0010)));
    // The same frame without the spoofing arrives; so do frames to the other VM.
    guest.send(&frame(router, my_mac, IPV4, &packet(me, to(200), 0)));
    outside.sees(to(200));
    other.reaches(INTERNET, 80);
    beside.sees(other.address);
    for number in 1..=7 {
        assert!(!outside.saw(to(number)) && !beside.saw(to(number)), "number {number} got through");
    }
    // Both still have their addresses.
    guest.reaches(INTERNET, 80);
    let neighbours = world.inside.command("ip neighbour show dev bb0n0");
    assert!(!neighbours.contains(&format!("{me} lladdr 02:62:0a:d5:00:03")), "{neighbours}");
    let denied = world.helper.status();
    assert!(denied.denials.iter().all(|denial| denial.from == me || denial.from == other.address), "{denied:?}");
}

/// Packets larger than the MTU are fragmented, and a rule with a port decides about all fragments.
#[test]
fn pieces_of_a_packet_go_where_the_packet_may() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&attach(0, 0, policy(Base::Nothing, &[], &["9.9.9.9:9000"])));
    let guest = Guest::new(&world, 0, 0);
    assert!(guest.space.command("ip link show dev eth0").contains(" mtu 1500 "));
    let open = world.outside.run(|| UdpSocket::bind((INTERNET, 9000)).unwrap());
    let closed = world.outside.run(|| UdpSocket::bind((INTERNET, 9001)).unwrap());
    let sender = guest.space.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let large = vec![7; 4000];
    wait_until(SOON, "the packet on record", || {
        sender.send_to(&large, (INTERNET, 9001)).unwrap();
        let denials = world.helper.status().denials;
        denials.iter().any(|denial| denial.port == 9001).then_some(()).ok_or_else(|| format!("{denials:?}"))
    });
    sender.send_to(&large, (INTERNET, 9000)).unwrap();
    let mut got = vec![0; 9000];
    open.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(open.recv(&mut got).unwrap(), large.len());
    closed.set_nonblocking(true).unwrap();
    assert_eq!(closed.recv(&mut got).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

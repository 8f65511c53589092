//! A guest whose root sends what is not its own: addresses of others, and what nobody speaks here. Frame by frame, and
//! with a witness for each: `crates/root-helper/tests/it/spoof.rs`. Here they go through a real card, out of a real
//! guest.

use super::{SOON, inside};
use crate::sh;
use banger_proto::network::addressing::mac;
use banger_testkit::{NetNamespace, TestEnv, wait_until};
use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [u8; 2] = [0x81, 0];
/// Of nobody's protocol (IEEE Std 802, for experiments).
const UNKNOWN: [u8; 2] = [0x88, 0xb5];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Where all of it is sent.
const TO: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
const PORT: u16 = 9;
/// What the one says that is not a lie.
const HONEST: u8 = 200;

/// Sends its arguments as they are, out of `eth0`.
const SENDER: &str = "
use Socket;
open(my $file, q(<), q(/sys/class/net/eth0/ifindex)) or die qq(ifindex: $!);
my $place = pack(q(S n l S C C x8), 17, 3, scalar(<$file>), 0, 0, 0);
socket(my $card, 17, SOCK_RAW, 0) or die qq(socket: $!);
for (@ARGV) { defined send($card, pack(q(H*), $_), 0, $place) or die qq(send: $!) }";

fn frame(to: [u8; 6], from: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// One byte over UDP; `fragment` is the field of that name.
fn packet(from: Ipv4Addr, fragment: u16, byte: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 29, 0, byte];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(TO.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("16 bits");
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    // UDP from a port that nobody must be root for, and no checksum.
    packet.extend([0x9c, 0x40, 0, PORT.to_be_bytes()[1], 0, 9, 0, 0, byte]);
    packet
}

fn arp(mac: [u8; 6], address: Ipv4Addr, asked: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac, &address.octets(), &[0; 6], &asked.octets()].concat()
}

/// Frames of guests that were dropped for what they are.
fn dropped(inside: &NetNamespace) -> u64 {
    let table = format!("banger_{}", rustix::process::getuid().as_raw());
    let listing = inside.command(&format!("nft -j list chain bridge {table} guest"));
    let listing: serde_json::Value = serde_json::from_str(&listing).expect("JSON");
    let rules = listing["nftables"].as_array().expect("a list").iter();
    let rules = rules.filter_map(|entry| entry["rule"]["expr"].as_array()).flatten();
    rules.filter_map(|expression| expression["counter"]["packets"].as_u64()).sum()
}

/// `m` says that it is `n`, its gateway, or nobody: none of that arrives, and both stay who they are.
#[track_caller]
pub(super) fn not_themselves(env: &TestEnv, outside: &NetNamespace) {
    let address = |vm: &str| env.vm(vm)["ip"].as_str().expect("an address").parse::<Ipv4Addr>().expect("IPv4");
    let (own, other) = (address("m"), address("n"));
    let [a, b, c, _] = own.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    let (own_mac, other_mac, router) = (mac(own).0, mac(other).0, mac(gateway).0);
    let receiver = outside.run(|| UdpSocket::bind(("0.0.0.0", PORT))).expect("a port of a namespace");
    let frames = [
        frame(router, own_mac, IPV4, &packet(other, 0, 1)),
        frame(router, other_mac, IPV4, &packet(own, 0, 2)),
        frame(router, other_mac, IPV4, &packet(other, 0, 3)),
        frame(router, own_mac, IPV4, &packet(other, 0x2000, 4)),
        frame(BROADCAST, own_mac, IPV4, &packet(Ipv4Addr::UNSPECIFIED, 0, 5)),
        frame(BROADCAST, own_mac, ARP, &arp(own_mac, gateway, own)),
        frame(BROADCAST, own_mac, ARP, &arp(other_mac, own, gateway)),
        frame(BROADCAST, own_mac, ARP, &arp(own_mac, other, gateway)),
        frame([0x33, 0x33, 0, 0, 0, 1], own_mac, IPV6, &[0x60; 40]),
        frame(router, own_mac, VLAN, &[&[0, 1, 8, 0][..], &packet(own, 0, 6)].concat()),
        frame(router, own_mac, UNKNOWN, &packet(own, 0, 7)),
        // Its length in the place of a kind.
        frame(router, own_mac, [0, 38], &[0xaa; 38]),
    ];
    for vm in ["m", "n"] {
        // A guest speaks IPv6 by itself from time to time, and that is dropped too.
        sh(env, vm, "f=/proc/sys/net/ipv6/conf/eth0/disable_ipv6; test ! -e $f || echo 1 > $f");
    }
    let inside = inside(env);
    let send = |frames: &[Vec<u8>]| {
        let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let hex: Vec<String> = frames.iter().map(hex).collect();
        sh(env, "m", &format!("perl -e '{SENDER}' {}", hex.join(" ")));
    };
    let count = frames.len() as u64;
    let mut before = dropped(&inside);
    let mut latest = before;
    send(&frames);
    wait_until(SOON, "all of it to be dropped", || {
        let now = dropped(&inside);
        if now < latest {
            // The rules were written anew, and count from there.
            before = now;
            send(&frames);
        }
        latest = now;
        match now - before {
            dropped if dropped >= count => Ok(()),
            dropped => Err(format!("{dropped} of {count}")),
        }
    });
    // The same without a lie does arrive, and nothing else does.
    receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
    let mut bytes = [0; 9];
    wait_until(SOON, "the honest one", || {
        send(&[frame(router, own_mac, IPV4, &packet(own, 0, HONEST))]);
        receiver.recv(&mut bytes).map(|length| assert_eq!((length, bytes[0]), (1, HONEST))).map_err(|e| e.to_string())
    });
    receiver.set_nonblocking(true).expect("a socket");
    while let Ok(length) = receiver.recv(&mut bytes) {
        assert_eq!((length, bytes[0]), (1, HONEST));
    }
    for vm in ["m", "n"] {
        let known = sh(env, vm, "cat /proc/net/arp");
        let of = |address: Ipv4Addr| known.lines().find(|line| line.starts_with(&format!("{address} ")));
        for (address, mac) in [(gateway, router), (other, other_mac)] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            assert!(of(address).is_none_or(|line| line.contains(&mac)), "{vm}: {known}");
        }
    }
}

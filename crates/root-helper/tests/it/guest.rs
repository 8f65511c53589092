//! A guest without a machine: a network namespace whose NIC is the tap of a VM, connected frame by frame.

use crate::world::{World, vm};
use banger_netlink::tap::{Name, Tap};
use banger_root_helper::names;
use banger_testkit::{NetNamespace, wait_until};
use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

/// Upper bound for what must happen, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Bytes before a frame on a tap with `IFF_VNET_HDR`.
pub(crate) const VNET: usize = 10;

/// Guest in a namespace.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) space: NetNamespace,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    /// The host's end of the NIC: data written here was sent by the guest.
    pub(crate) tap: File,
}

impl Guest {
    /// Guest of the attached VM with this number.
    pub(crate) fn new(world: &World, number: u16, network: u8) -> Self {
        Self::at(&world.inside, number, network)
    }

    /// The same where the bridges are in another namespace.
    pub(crate) fn at(inside: &NetNamespace, number: u16, network: u8) -> Self {
        let block = "10.213.0.0/16".parse().unwrap();
        let address = names::address(block, network, number + 2).unwrap();
        let gateway = names::gateway(block, network).unwrap();
        let mac = names::mac(address).0;
        let name = names::tap(&vm(number));
        let tap = inside.run(move || open_tap(&name));
        let space = NetNamespace::new();
        let card = space.run(|| open_tap("eth0"));
        let mac_text = mac.map(|byte| format!("{byte:02x}")).join(":");
        space.commands(&format!(
            "ip link set eth0 address {mac_text}
             ip address add {address}/22 dev eth0
             ip link set lo up
             ip link set eth0 up
             ip route add default via {gateway}"
        ));
        copy(card.try_clone().unwrap(), tap.try_clone().unwrap());
        copy(tap.try_clone().unwrap(), card);
        Self { space, address, mac, tap }
    }

    /// Checks that the guest reaches a server.
    #[track_caller]
    pub(crate) fn reaches(&self, to: Ipv4Addr, port: u16) {
        let got = self.space.run(move || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            let mut hello = [0; 5];
            stream.read_exact(&mut hello)?;
            Ok::<_, std::io::Error>(hello)
        });
        assert_eq!(
            got.unwrap_or_else(|error| panic!("{} does not reach {to}:{port}: {error}", self.address)),
            *b"hello"
        );
    }

    /// Checks that the guest's packets there are denied and recorded.
    #[track_caller]
    pub(crate) fn is_denied(&self, world: &mut World, to: Ipv4Addr, port: u16) {
        let from = self.address;
        let packets = |world: &mut World| {
            let denials = world.helper.status().denials;
            let mine = denials.iter().find(|denial| (denial.from, denial.to, denial.port) == (from, to, port));
            mine.map_or(0, |denial| denial.packets)
        };
        let before = packets(world);
        let trying = self.space.start(move || {
            TcpStream::connect_timeout(&SocketAddr::from((to, port)), SOON).map(drop).map_err(|error| error.to_string())
        });
        wait_until(SOON, &format!("a packet from {from} to {to}:{port} to be denied"), || {
            if trying.is_finished() {
                return Ok(());
            }
            if packets(world) > before { Ok(()) } else { Err("none".to_owned()) }
        });
        assert!(packets(world) > before, "{to}:{port} was reached, or never tried");
    }

    /// Sends a raw frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        let mut bytes = vec![0; VNET];
        bytes.extend_from_slice(frame);
        (&self.tap).write_all(&bytes).unwrap();
    }
}

/// Opens a tap in the network namespace of this thread; makes it if missing.
fn open_tap(name: &str) -> File {
    OwnedFd::from(Tap::make(Name::new(name).unwrap()).unwrap()).into()
}

/// Copies frames until one side is closed.
fn copy(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        // A NIC that is down refuses a frame; the next one may pass.
        while let Ok(length @ 1..) = from.read(&mut frame) {
            let _ = to.write_all(&frame[..length]);
        }
    });
}

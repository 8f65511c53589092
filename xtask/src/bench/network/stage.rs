//! A daemon with a VM in namespaces of the bench's own, and somebody who stands in for its guest.
//!
//! ```text
//!  outside: 9.9.9.9 ── veth ── host: bangerd, pasta ── banger's namespace: bridge ── veth ── guest
//!     └───────────────────────── veth ──────────────────────────────────────────────────── neighbour
//! ```
//!
//! The guest is a namespace with the VM's address, on the VM's bridge: what is measured is the host's side, not how
//! fast a guest is in software emulation. Its neighbour has no network in between.

use anyhow::{Context, Result};
use banger_testkit::{NetNamespace, TestEnv, wait_until};
use std::{net::Ipv4Addr, time::Duration};

/// Who plays the internet.
pub(super) const INTERNET: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// Where the neighbour finds `outside`.
pub(super) const NEAR: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The VM.
pub(super) const NAME: &str = "net";
const SOON: Duration = Duration::from_secs(30);

pub(super) struct Stage {
    pub(super) outside: NetNamespace,
    pub(super) guest: NetNamespace,
    pub(super) neighbour: NetNamespace,
    /// The VM's.
    pub(super) address: Ipv4Addr,
    env: TestEnv,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let [host, outside, guest, neighbour] = [(); 4].map(|()| NetNamespace::new());
        outside.commands(&format!(
            "ip link add out0 type veth peer name eth0 netns {}
             ip link add near0 type veth peer name eth0 netns {}
             ip address add 172.30.0.1/24 dev out0
             ip address add {NEAR}/24 dev near0
             ip address add {INTERNET}/32 dev lo
             ip link set lo up
             ip link set near0 up
             ip link set out0 up",
            host.path(),
            neighbour.path()
        ));
        neighbour.commands("ip address add 172.31.0.2/24 dev eth0\nip link set eth0 up");
        host.commands(
            "ip link set lo up
             ip address add 172.30.0.2/24 dev eth0
             ip link set eth0 up
             ip route add default via 172.30.0.1",
        );
        wait_until(SOON, "the host's link", || {
            let link = host.command("ip link show dev eth0");
            if link.contains("state UP") { Ok(()) } else { Err(link) }
        });
        let mut env = TestEnv::real().context("this machine cannot run VMs")?;
        env.move_into(&host);
        env.banger(["vm", "run", "-d", "--quiet", "--name", NAME, "--memory", "256M", "--init", "agent"])
            .run()
            .expect(0);
        let address: Ipv4Addr = env.vm(NAME)["ip"].as_str().context("an address")?.parse()?;
        let holders = env.processes("bangerd-root");
        let holder = holders.iter().find(|process| process.command.contains(" hold")).context("a holder")?;
        let inside = NetNamespace::of(holder.pid);
        guest.command(&format!("ip link add eth0 type veth peer name standin netns {}", inside.path()));
        guest.commands(&format!(
            "ip link set eth0 address 02:00:00:00:00:01
             ip address add {address}/22 dev eth0
             ip link set eth0 up
             ip route add default via 10.213.0.1"
        ));
        // The VM has the same address: whoever asks for it is told once and for all.
        inside.commands(&format!(
            "ip link set standin master bb0n0
             ip link set standin up
             ip neighbour replace {address} lladdr 02:00:00:00:00:01 dev bb0n0 nud permanent"
        ));
        Ok(Self { outside, guest, neighbour, address, env })
    }

    /// Gives everything back.
    pub(super) fn end(self) {
        self.env.banger(["vm", "delete", "-f", NAME]).run().expect(0);
        self.env.assert_nothing_left();
    }
}

//! The namespaces around the VMs.
//!
//! ```text
//!  outside: 9.9.9.9, 9.9.8.8, 6.6.6.6 "the internet", 9.9.9.53 and .54 its resolvers, 192.168.77.1 "the LAN",
//!     │     169.254.169.254 "metadata"
//!     │ veth
//!  host: 172.30.0.2, 5.5.5.5 "in public"; the daemon, pasta and VMs' published ports are here
//! ```

use banger_testkit::{Space, wait_until};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

pub(super) const NAME: &str = "www.example.com";
pub(super) const INTERNET: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// What the second resolver takes every name for.
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(9, 9, 8, 8);
/// How long a packet that is denied may take to be on record.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// The namespaces around the VMs.
pub(super) struct Around {
    pub(super) host: Space,
    pub(super) outside: Space,
}

impl Around {
    pub(super) fn new() -> Self {
        let (host, outside) = (Space::new(), Space::new());
        outside.commands(&format!(
            "ip link add out0 type veth peer name eth0 netns {}
             ip address add 172.30.0.1/24 dev out0
             ip address add {INTERNET}/32 dev lo
             ip address add {OTHER}/32 dev lo
             ip address add 9.9.9.53/32 dev lo
             ip address add 9.9.9.54/32 dev lo
             ip address add 6.6.6.6/32 dev lo
             ip address add 192.168.77.1/32 dev lo
             ip address add 169.254.169.254/32 dev lo
             ip link set lo up
             ip link set out0 up",
            host.path()
        ));
        host.commands(
            "ip link set lo up
             ip address add 172.30.0.2/24 dev eth0
             ip address add 5.5.5.5/32 dev eth0
             ip link set eth0 up
             ip route add default via 172.30.0.1",
        );
        // The kernel notes a while later that the cable is in.
        wait_until(SOON, "the host's link", || {
            let link = host.command("ip link show dev eth0");
            if link.contains("state UP") { Ok(()) } else { Err(link) }
        });
        outside.start(serve_hello);
        host.start(serve_hello);
        outside.start(|| serve_names("9.9.9.53:53", INTERNET));
        outside.start(|| serve_names("9.9.9.54:53", OTHER));
        Self { host, outside }
    }

    /// What must not change.
    pub(super) fn state(&self) -> String {
        ["ip -4 address", "ip -4 route show table all", "nft list ruleset"].map(|line| self.host.command(line)).concat()
    }
}

fn serve_hello() {
    let listener = TcpListener::bind(("0.0.0.0", 80)).expect("port 80 of a namespace");
    for stream in listener.incoming().flatten() {
        hello(stream);
    }
}

fn hello(mut stream: TcpStream) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
}

/// A resolver for which every name is one address.
pub(super) fn serve_names(listen: &str, address: Ipv4Addr) {
    let socket = UdpSocket::bind(listen).expect("port 53 of a namespace");
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let is_a =
            query[..length].ends_with(&[0, 1, 0, 1]) || query[..length].windows(5).any(|part| part == [0, 0, 1, 0, 1]);
        // The question as it came, without what may follow it, and one record.
        let Some(end) = query[12..length].iter().position(|byte| *byte == 0).map(|at| 12 + at + 5) else { continue };
        let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], &query[12..end]].concat();
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
            answer.extend(address.octets());
        }
        let _ = socket.send_to(&answer, from);
    }
}

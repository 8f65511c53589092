//! The namespaces around the VMs.
//!
//! ```text
//!  outside: 9.9.9.9, 9.9.8.8, 6.6.6.6 "the internet", 9.9.9.53 and .54 its resolvers, 192.168.77.1 "the LAN",
//!     │     169.254.169.254 "metadata"
//!     │ veth
//!  host: 172.30.0.2, 5.5.5.5 "in public"; the daemon, pasta and VMs' published ports are here
//! ```

use banger_testkit::{NetNamespace, wait_until};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    time::Duration,
};

pub(super) const NAME: &str = "www.example.com";
pub(super) const INTERNET: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// What the second resolver takes every name for.
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(9, 9, 8, 8);
/// How long they say that is so, in seconds: longer than a test that sees what is open meanwhile.
const TTL: u32 = 1200;
/// How long a packet that is denied may take to be on record.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// What the kernel writes among a host's settings: a count, and what it has loaded.
const KERNELS_OWN: [&str; 2] = ["nf_conntrack_count", "tcp_available_congestion_control"];

/// The namespaces around the VMs.
pub(super) struct Around {
    pub(super) host: NetNamespace,
    pub(super) outside: NetNamespace,
}

impl Around {
    pub(super) fn new() -> Self {
        let (host, outside) = (NetNamespace::new(), NetNamespace::new());
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
            // And a while after that, that nobody else has its address (which is why it is waited for).
            let addresses = host.command("ip -6 address show");
            let settled = addresses.contains("scope link") || !addresses.contains("inet6");
            let settled = settled && !addresses.contains("tentative");
            if link.contains("state UP") && settled { Ok(()) } else { Err(link + &addresses) }
        });
        outside.start(serve_hello);
        host.start(serve_hello);
        outside.start(|| serve_names("9.9.9.53:53", INTERNET));
        outside.start(|| serve_names("9.9.9.54:53", OTHER));
        outside.start(|| serve_names_over_tcp("9.9.9.54:53", Ipv4Addr::new(9, 9, 8, 9)));
        Self { host, outside }
    }

    /// What must not change.
    pub(super) fn state(&self) -> State {
        let commands = ["ip link", "ip address", "ip -4 route show table all", "ip -6 route show table all"];
        let shown = commands.into_iter().chain(["ip rule", "nft list ruleset"]).map(|line| self.host.command(line));
        State { shown: shown.collect(), settings: self.host.run(settings) }
    }

    /// Nothing of the host's is other than it was.
    #[track_caller]
    pub(super) fn assert_is(&self, before: &State) {
        let now = self.state();
        assert_eq!(now.shown, before.shown);
        // A module that is loaded meanwhile, for whomever, has settings of its own.
        let differ = before.settings.iter().filter(|(path, value)| now.settings.get(*path) != Some(*value));
        let differ: Vec<_> = differ.map(|(path, value)| (path, value, now.settings.get(path))).collect();
        assert!(differ.is_empty(), "{differ:#?}");
    }
}

/// A host's links, addresses, routes and rules, and its settings (sysctl).
pub(super) struct State {
    shown: String,
    settings: BTreeMap<PathBuf, String>,
}

/// Those of this thread's network.
fn settings() -> BTreeMap<PathBuf, String> {
    let (mut found, mut left) = (BTreeMap::new(), vec![PathBuf::from("/proc/sys/net")]);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("settings").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            } else if KERNELS_OWN.iter().all(|own| entry.file_name() != *own)
                && let Ok(value) = std::fs::read_to_string(entry.path())
            {
                found.insert(entry.path(), value);
            }
        }
    }
    assert!(found.len() > 100, "{found:#?}");
    found
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
        let _ = answer(&query[..length], address).map(|answer| socket.send_to(&answer, from));
    }
}

/// The same for who asks over TCP, one question a connection.
fn serve_names_over_tcp(listen: &str, address: Ipv4Addr) {
    let listener = TcpListener::bind(listen).expect("port 53 of a namespace");
    for mut stream in listener.incoming().flatten() {
        let mut length = [0; 2];
        let mut query = vec![0; 512];
        let read = stream.read_exact(&mut length).and_then(|()| {
            query.resize(usize::from(u16::from_be_bytes(length)), 0);
            stream.read_exact(&mut query)
        });
        if let (Ok(()), Some(answer)) = (read, answer(&query, address)) {
            let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
            let _ = stream.write_all(&[&length[..], &answer].concat());
        }
    }
}

/// The question as it came, without what may follow it, and one record.
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let is_a = query.ends_with(&[0, 1, 0, 1]) || query.windows(5).any(|part| part == [0, 0, 1, 0, 1]);
    let end = query.get(12..)?.iter().position(|byte| *byte == 0)? + 12 + 5;
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], query.get(12..end)?].concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

//! The network with real guests: what they reach, by which names, and that it outlives whoever made it.
//!
//! ```text
//!  outside: 9.9.9.9 "the internet", 9.9.9.53 its resolver, 192.168.77.1 "the LAN", 169.254.169.254 "metadata"
//!     │ veth
//!  host: 172.30.0.2, 5.5.5.5 "in public"; the daemon, pasta and VMs' published ports are here
//! ```

use crate::{BOOT, sh, start_with};
use banger_testkit::{Space, TestEnv, alone, require, wait_until};
use rustix::process::Signal;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

const NAME: &str = "www.example.com";
const INTERNET: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// How long a packet that is denied may take to be on record.
const SOON: Duration = Duration::from_secs(60);

/// The namespaces around the VMs.
struct Around {
    host: Space,
}

impl Around {
    fn new() -> Self {
        let (host, outside) = (Space::new(), Space::new());
        outside.commands(&format!(
            "ip link add out0 type veth peer name eth0 netns {}
             ip address add 172.30.0.1/24 dev out0
             ip address add {INTERNET}/32 dev lo
             ip address add 9.9.9.53/32 dev lo
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
        outside.start(serve_names);
        Self { host }
    }

    /// What must not change.
    fn state(&self) -> String {
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

/// A resolver for which every name is the internet's one server.
fn serve_names() {
    let socket = UdpSocket::bind("9.9.9.53:53").expect("port 53 of a namespace");
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let is_a =
            query[..length].ends_with(&[0, 1, 0, 1]) || query[..length].windows(5).any(|part| part == [0, 0, 1, 0, 1]);
        // The question as it came, without what may follow it, and one record.
        let Some(end) = query[12..length].iter().position(|byte| *byte == 0).map(|at| 12 + at + 5) else { continue };
        let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], &query[12..end]].concat();
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
            answer.extend(INTERNET.octets());
        }
        let _ = socket.send_to(&answer, from);
    }
}

#[track_caller]
fn reaches(env: &TestEnv, vm: &str, url: &str) {
    assert_eq!(sh(env, vm, &format!("curl -sS --retry 3 --retry-all-errors --max-time 60 {url}")), "hello", "{url}");
}

/// What is sent there is denied, and that is on record.
#[track_caller]
fn is_denied(env: &TestEnv, vm: &str, to: &str, port: u16) {
    let line = format!("curl -s --connect-timeout 2 http://{to}:{port}/ && echo reached; true");
    assert_eq!(sh(env, vm, &line), "", "{to}:{port}");
    wait_until(SOON, &format!("a denial of {to}:{port}"), || {
        let egress = env.banger(["vm", "show", "--egress", vm, "--json"]).run().expect(0).json();
        let denials = egress["denials"].as_array().cloned().unwrap_or_default();
        let found = denials.iter().any(|denial| denial["to"] == to && denial["port"] == port);
        if found { Ok(()) } else { Err(format!("{egress:#}")) }
    });
}

/// Kills a process of the environment's network with this word in its command line.
#[track_caller]
fn kill(env: &TestEnv, program: &str, word: &str) {
    let processes = env.processes(program);
    let victims: Vec<_> = processes.iter().filter(|process| process.command.contains(word)).collect();
    assert_eq!(victims.len(), 1, "{program} {word}: {processes:?}");
    assert!(victims[0].signal(Signal::KILL));
    victims[0].wait_gone(Duration::from_secs(10));
}

#[test]
fn guests_reach_what_they_may_and_their_network_outlives_everybody() {
    let _machine = alone();
    if !require("netns") || !require("pasta") {
        return;
    }
    let Some(mut env) = TestEnv::real() else { return };
    let around = Around::new();
    env.move_into(&around.host);
    env.configure_also("\n[network]\ndns = [\"9.9.9.53\"]\n");
    let before = around.state();

    start_with(&env, "db", &["--network", "lab"]);
    start_with(&env, "web", &["--network", "lab", "-p", "0:8000"]);
    assert_eq!(around.state(), before);

    // The default policy, by address and by name.
    reaches(&env, "web", "http://9.9.9.9/");
    reaches(&env, "web", &format!("http://{NAME}/"));
    for to in ["192.168.77.1", "169.254.169.254", "172.30.0.2", "5.5.5.5"] {
        is_denied(&env, "web", to, 80);
    }

    // A peer, by name; and the port, which is on the guest's loopback only.
    let listen = |address: &str| {
        format!(
            "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalAddr => \"{address}:8000\", Listen => 9, \
             ReuseAddr => 1) or die; fork and exit; close STDOUT; close STDERR; while ($c = $l->accept) {{ \
             $c->recv($_, 999); print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\"; close $c }}'"
        )
    };
    sh(&env, "db", &listen("0.0.0.0"));
    sh(&env, "web", &listen("127.0.0.1"));
    reaches(&env, "web", "http://db.vm:8000/");
    reaches(&env, "web", "http://db:8000/");
    let published = env.vm("web")["published"][0].as_str().expect("a published port").to_owned();
    let place = published.strip_suffix(":8000").expect("[ADDRESS:]HOST:GUEST").to_owned();
    let fetch = move || {
        let mut stream = TcpStream::connect(&place)?;
        stream.set_read_timeout(Some(BOOT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    assert!(around.host.run(fetch.clone()).expect("the published port").ends_with("hello"));

    // Another policy while it runs.
    env.banger(["vm", "set", "web", "--no-nat", "--allow", &format!("{NAME}:80")]).run().expect(0);
    is_denied(&env, "web", "9.9.9.9", 443);
    let refused = sh(&env, "web", "getent ahostsv4 other.example.org || echo refused");
    assert_eq!(refused, "refused\n");
    reaches(&env, "web", &format!("http://{NAME}/"));

    // Everybody dies, one after the other, then together.
    kill(&env, "bangerd-root", "serve");
    reaches(&env, "web", &format!("http://{NAME}/"));
    kill(&env, "pasta", "up0");
    reaches(&env, "web", &format!("http://{NAME}/"));
    kill(&env, "bangerd-root", "hold");
    wait_until(SOON, "another holder", || {
        let holders = env.processes("bangerd-root").iter().filter(|process| process.command.contains("hold")).count();
        if holders == 1 { Ok(()) } else { Err(format!("{holders}")) }
    });
    reaches(&env, "web", &format!("http://{NAME}/"));
    env.daemon().expect("a daemon").signal(Signal::KILL);
    kill(&env, "bangerd-root", "hold");
    kill(&env, "pasta", "up0");
    assert!(around.host.run(fetch.clone()).expect("the port needs no daemon").ends_with("hello"));
    assert_eq!(env.vm_state("web"), "running");
    wait_until(SOON, "the way out", || {
        let line = format!("curl -sS --connect-timeout 5 --max-time 20 http://{NAME}/");
        let output = env.banger(["vm", "exec", "web", "--", "sh", "-c", &line]).run();
        if output.code() == 0 { Ok(()) } else { Err(output.to_string()) }
    });
    for word in ["hold", "serve"] {
        let processes = env.processes("bangerd-root");
        let count = processes.iter().filter(|process| process.command.contains(word)).count();
        assert_eq!(count, 1, "nothing is doubled: {processes:?}");
    }
    assert_eq!(env.processes("pasta").len(), 1);

    // Ports come and go.
    env.banger(["vm", "unpublish", "web", "-p", &published]).run().expect(0);
    assert!(around.host.run(fetch).is_err());
    env.banger(["vm", "publish", "web", "-p", "8123:8000"]).run().expect(0);
    let ports = env.banger(["vm", "ports", "web", "--json"]).run().expect(0).json();
    let listed = ports.as_array().into_iter().flatten().any(|port| port["published"][0] == "127.0.0.1:8123");
    assert!(listed, "{ports:#}");
    let taken = env.banger(["vm", "publish", "db", "-p", "8123:1"]).run().expect(1);
    assert!(taken.err().contains("127.0.0.1:8123"), "{taken}");

    for vm in ["web", "db"] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
    }
    env.assert_nothing_left();
    assert_eq!(around.state(), before);
}

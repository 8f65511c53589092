//! Two ordinary users on a host that moves: nothing here is root's, and policy and names follow without a restart.

use super::{Around, INTERNET, NAME, SOON, around::serve_names, inside, is_denied, reaches};
use crate::{sh, start_with};
use banger_testkit::{Identity, TestEnv, alone, marked_processes, require, wait_until};
use std::{fs, net::Ipv4Addr, path::Path};

const USERS: [u32; 2] = [54_321, 54_322];

/// An ordinary user's home on the host, with a list of resolvers that is this test's.
fn user(around: &Around, uid: u32, resolvers: &Path) -> Option<TestEnv> {
    let mut env = TestEnv::real_as(uid)?;
    env.move_into(&around.host);
    env.bind(resolvers, "/etc/resolv.conf");
    Some(env)
}

fn uid(process: &Identity) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("Uid:\t"))?.split('\t').next()?.to_owned())
}

#[test]
fn ordinary_users_vms_follow_a_host_that_moves() {
    let _machine = alone();
    if !require("netns") || !require("pasta") {
        return;
    }
    let around = Around::new();
    let temp = tempfile::tempdir().expect("a directory");
    let resolvers = temp.path().join("resolv.conf");
    fs::write(&resolvers, "nameserver 9.9.9.53\n").expect("a list of resolvers");
    let [Some(one), Some(two)] = USERS.map(|uid| user(&around, uid, &resolvers)) else { return };
    start_with(&one, "mine", &["-p", "8123:80"]);
    // This one starts while the host leads nowhere, and gets its way out with the host.
    around.host.command("ip route delete default via 172.30.0.1");
    start_with(&two, "theirs", &[]);
    around.host.command("ip route add default via 172.30.0.1");
    // There may be one that has not taken the route yet, and ends.
    wait_until(SOON, "a way out", || {
        let line = format!("curl -sS --max-time 10 http://{INTERNET}/ 2>&1; true");
        let got = sh(&two, "theirs", &line);
        if got == "hello" { Ok(()) } else { Err(got) }
    });

    // Each has all of it, as an ordinary user, and nothing of the other's: the same address is in two worlds.
    for (env, owner) in [(&one, USERS[0]), (&two, USERS[1])] {
        for program in ["bangerd", "banger-shim", "bangerd-root", "pasta", "qemu-system-x86_64"] {
            let processes = env.processes(program);
            assert!(!processes.is_empty(), "no {program}: {:?}", marked_processes(env.home()));
        }
        for process in marked_processes(env.home()) {
            assert!(uid(&process).is_none_or(|uid| uid == owner.to_string()), "{process:?}");
        }
    }
    assert_eq!(one.vm("mine")["ip"], two.vm("theirs")["ip"]);
    assert!(two.banger(["vm", "show", "mine"]).run().expect(1).err().contains("mine"));
    assert_ne!(two.program("ls").args([&one.layout().state]).run().code(), 0);
    let taken = two.banger(["vm", "publish", "theirs", "-p", "8123:80"]).run().expect(1);
    assert!(taken.err().contains("127.0.0.1:8123"), "{taken}");

    // Names, as the host's resolver has them; another resolver, another answer.
    let remote = |env: &TestEnv, vm: &str| {
        let line = format!("curl -sS -o /dev/null -w '%{{remote_ip}}' --max-time 60 http://{NAME}/");
        sh(env, vm, &line)
    };
    assert_eq!((remote(&one, "mine"), remote(&two, "theirs")), ("9.9.9.9".to_owned(), "9.9.9.9".to_owned()));
    // A stub that is the host's own: for a guest 127.0.0.53 is another machine.
    around.host.start(|| serve_names("127.0.0.53:53", Ipv4Addr::new(6, 6, 6, 6)));
    fs::write(&resolvers, "nameserver 127.0.0.53\noptions edns0 trust-ad\n").expect("a list of resolvers");
    assert_eq!((remote(&one, "mine"), remote(&two, "theirs")), ("6.6.6.6".to_owned(), "6.6.6.6".to_owned()));
    fs::write(&resolvers, "# moved\nnameserver 9.9.9.54\n").expect("a list of resolvers");
    assert_eq!((remote(&one, "mine"), remote(&two, "theirs")), ("9.9.8.8".to_owned(), "9.9.8.8".to_owned()));

    // An address of the internet becomes the host's own.
    reaches(&one, "mine", "http://6.6.6.6/");
    // At first the helper cannot be told: its bridge does not say whose it is. That is not forgotten.
    let (inside, bridge) = (inside(&one), format!("bb{}n0", USERS[0]));
    inside.write_on(&bridge, "somebody else's");
    around.host.command("ip address add 6.6.6.6/32 dev eth0");
    wait_until(SOON, "the daemon to say so", || {
        let log = fs::read_to_string(one.layout().daemon_log()).unwrap_or_default();
        if log.contains("not closed to guests") { Ok(()) } else { Err(log) }
    });
    inside.write_on(&bridge, &format!("banger {} network 0", USERS[0]));
    wait_until(SOON, "the host's new address to be closed", || {
        let line = "curl -s --connect-timeout 2 http://6.6.6.6/ && echo reached; true";
        let got = sh(&one, "mine", line);
        if got.is_empty() { Ok(()) } else { Err(got) }
    });
    is_denied(&one, "mine", "6.6.6.6", 80);

    // Another network, and the old one is gone.
    around.outside.commands(&format!(
        "ip link add out1 type veth peer name eth1 netns {}
         ip address add 172.31.0.1/24 dev out1
         ip link set out1 up",
        around.host.path()
    ));
    around.host.commands(
        "ip address add 172.31.0.2/24 dev eth1
         ip link set eth1 up
         ip link delete eth0
         ip route add default via 172.31.0.1",
    );
    for (env, vm) in [(&one, "mine"), (&two, "theirs")] {
        reaches(env, vm, &format!("http://{INTERNET}/"));
        assert_eq!(remote(env, vm), "9.9.8.8");
        is_denied(env, vm, "172.31.0.2", 80);
    }

    // A VPN: what is behind it is private, and closed until it is opened.
    around.outside.commands(&format!(
        "ip link add tun1 type veth peer name tun0 netns {}
         ip address add 10.99.0.1/24 dev tun1
         ip link set tun1 up",
        around.host.path()
    ));
    around.host.commands("ip address add 10.99.0.2/24 dev tun0\nip link set tun0 up");
    is_denied(&one, "mine", "10.99.0.1", 80);
    one.banger(["vm", "set", "mine", "--allow", "10.99.0.1:80"]).run().expect(0);
    reaches(&one, "mine", "http://10.99.0.1/");
    is_denied(&two, "theirs", "10.99.0.1", 80);
    one.banger(["vm", "set", "mine", "--allow", "none"]).run().expect(0);
    assert_eq!(one.vm("mine")["allow"], serde_json::json!([]));
    assert_eq!(sh(&one, "mine", "curl -s --connect-timeout 2 http://10.99.0.1/ && echo reached; true"), "");

    // It goes, and everything else is as before.
    around.host.command("ip link delete tun0");
    for (env, vm) in [(&one, "mine"), (&two, "theirs")] {
        reaches(env, vm, &format!("http://{INTERNET}/"));
        assert_eq!(remote(env, vm), "9.9.8.8");
        // Port 80 is on record since before.
        is_denied(env, vm, "10.99.0.1", 81);
    }

    for (env, vm) in [(&one, "mine"), (&two, "theirs")] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
        env.assert_nothing_left();
    }
}

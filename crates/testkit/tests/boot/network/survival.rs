//! Guests of every kind reach what they may, whoever dies.

use super::{NAME, SOON, inside, is_denied, is_denied_as, is_on_record, reaches, world};
use crate::{BOOT, no_init, sh, start_with};
use banger_testkit::{TestEnv, alone, wait_until};
use rustix::process::Signal;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Kills a process of the environment's network with this word in its command line.
#[track_caller]
fn kill(env: &TestEnv, program: &str, word: &str) {
    let processes = env.processes(program);
    let victims: Vec<_> = processes.iter().filter(|process| process.command.contains(word)).collect();
    assert_eq!(victims.len(), 1, "{program} {word}: {processes:?}");
    assert!(victims[0].signal(Signal::KILL));
    victims[0].wait_gone(Duration::from_secs(10));
}

/// A card needs nothing of the image, and what the image has leaves it alone: `db` has booted systemd, `tiny` is
/// busybox.
#[track_caller]
fn kinds(env: &TestEnv) {
    let addresses = |vm: &str| sh(env, vm, "hostname -I").trim().to_owned();
    assert_eq!(addresses("db"), env.vm("db")["ip"].as_str().expect("an address"));
    assert!(sh(env, "db", "cat /etc/resolv.conf").contains("\nnameserver 10.213.0.1\n"));
    reaches(env, "db", &format!("http://{NAME}/"));
    // (A static wget cannot look up names: that is libc's business, so here each half is done by itself.)
    let answer = sh(env, "tiny", &format!("busybox nslookup {NAME}"));
    assert!(answer.contains("10.213.0.1") && answer.contains("9.9.9.9"), "{answer}");
    // Debian 12's pasta does not tell a guest that has said its last word that the other side has too: so it has not.
    let fetch = "busybox mkfifo /run/f; exec 3<>/run/f; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
                 busybox nc -w 60 9.9.9.9 80 <&3";
    assert!(sh(env, "tiny", fetch).ends_with("hello"));
    let db_address = addresses("db");
    for to in ["192.168.77.1", &db_address] {
        let line = format!("busybox nc -w 2 {to} 80 < /dev/null 2> /dev/null || busybox echo closed");
        assert_eq!(sh(env, "tiny", &line), "closed\n", "{to}");
        is_on_record(env, "tiny", to, 80);
    }
    // Who is on another network has no name here; and names are refused, not unknown, where nothing opens them.
    let asked = |name: &str| sh(env, "tiny", &format!("busybox nslookup {name} 2>&1; true"));
    assert!(asked("db.vm").contains("NXDOMAIN"), "{}", asked("db.vm"));
    env.banger(["vm", "set", "tiny", "--no-nat", "--allow", NAME]).run().expect(0);
    assert!(asked(NAME).contains("9.9.9.9"), "{}", asked(NAME));
    assert!(asked("other.example.org").contains("REFUSED"), "{}", asked("other.example.org"));
    env.banger(["vm", "set", "tiny", "--nat", "--allow", "none"]).run().expect(0);
}

/// The names of VMs are those of the VMs there are, also when VM and daemon die at once: `gone` is one that died.
#[track_caller]
fn names_vanish_with_a_crash(env: &TestEnv, asker: &str, gone: &str) {
    let answer = |name: &str| sh(env, asker, &format!("getent ahostsv4 {name}.vm || echo none"));
    let address = |name: &str| env.vm(name)["ip"].as_str().expect("an address").to_owned();
    // The daemon that was killed before has left nothing but what is true.
    assert!(answer(gone).starts_with(&address(gone)), "{}", answer(gone));
    let (daemon, vmm) = (env.daemon().expect("a daemon"), env.vm_process(gone, "vmm_pid"));
    for process in [daemon, vmm] {
        assert!(process.signal(Signal::KILL));
        process.wait_gone(SOON);
    }
    let own = address(asker);
    wait_until(SOON, "the next daemon's answers", || {
        let got = answer(asker);
        if got.starts_with(&own) { Ok(()) } else { Err(got) }
    });
    assert_eq!(answer(gone), "none\n");
    // It was no resolver that is silent.
    assert!(answer(asker).starts_with(&own));
    assert_eq!(env.vm_state(gone), "failed");
}

#[test]
fn guests_reach_what_they_may_and_their_network_outlives_everybody() {
    let _machine = alone();
    let Some((env, around)) = world() else { return };
    env.configure_also("\n[network]\ndns = [\"9.9.9.53\"]\n");
    let before = around.state();

    // One that boots its services beside the agent, one with the agent alone, and one with one program and no services.
    let db = ["vm", "run", "-d", "--quiet", "--name", "db", "--memory", "512M", "--network", "lab"];
    env.banger(db.iter().chain(&["--init", "auto", "--wait", "boot"])).run().expect(0);
    start_with(&env, "web", &["--network", "lab", "-p", "0:8000"]);
    let register = ["image", "register", "--name", "tiny", "--kernel-ref", "debian-6.1", "--rootfs"];
    env.banger(register).args([no_init::image(env.home())]).run().expect(0);
    start_with(&env, "tiny", &["--image", "tiny"]);
    around.assert_is(&before);

    kinds(&env);

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
    is_denied_as(&env, "web", "9.9.9.9", 443, Some(NAME));
    is_denied_as(&env, "web", "9.9.8.8", 80, None);
    let refused = sh(&env, "web", "getent ahostsv4 other.example.org || echo refused");
    assert_eq!(refused, "refused\n");
    reaches(&env, "web", &format!("http://{NAME}/"));
    // It is open for as long as the answer is good and ten seconds, and for nobody else under the same policy.
    let rules = inside(&env).command("nft list ruleset");
    assert!(rules.contains("9.9.9.9 . 80 timeout 20m10s"), "{rules}");
    env.banger(["vm", "set", "db", "--no-nat", "--allow", &format!("{NAME}:80")]).run().expect(0);
    is_denied(&env, "db", "9.9.9.9", 80);
    reaches(&env, "web", "http://9.9.9.9/");
    env.banger(["vm", "set", "db", "--nat", "--allow", "none"]).run().expect(0);

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
    // What was closed before everybody died is closed after it.
    is_denied(&env, "web", "9.9.9.9", 443);
    is_denied(&env, "web", "192.168.77.1", 80);
    for word in ["hold", "serve"] {
        let processes = env.processes("bangerd-root");
        let count = processes.iter().filter(|process| process.command.contains(word)).count();
        assert_eq!(count, 1, "nothing is doubled: {processes:?}");
    }
    assert_eq!(env.processes("pasta").len(), 1);
    env.assert_consistent("qemu-system-x86_64");

    // Ports come and go.
    env.banger(["vm", "unpublish", "web", "-p", &published]).run().expect(0);
    assert!(around.host.run(fetch).is_err());
    env.banger(["vm", "publish", "web", "-p", "8123:8000"]).run().expect(0);
    let ports = env.banger(["vm", "ports", "web", "--json"]).run().expect(0).json();
    let listed = ports.as_array().into_iter().flatten().find(|port| port["port"] == 8000);
    let listed = listed.unwrap_or_else(|| panic!("{ports:#}"));
    assert_eq!(
        (&listed["published"][0], &listed["address"], &listed["protocol"], &listed["listening"], &listed["process"]),
        (&"127.0.0.1:8123".into(), &"127.0.0.1".into(), &"tcp".into(), &true.into(), &"perl".into()),
        "{ports:#}"
    );
    let taken = env.banger(["vm", "publish", "db", "-p", "8123:1"]).run().expect(1);
    assert!(taken.err().contains("127.0.0.1:8123"), "{taken}");

    names_vanish_with_a_crash(&env, "web", "db");

    for vm in ["web", "db", "tiny"] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
    }
    env.assert_nothing_left();
    around.assert_is(&before);
}

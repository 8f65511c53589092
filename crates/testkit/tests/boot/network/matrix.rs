//! Destinations × policies with a real guest, changed while it runs; and the same after each of those who carry it
//! died.

use super::{NAME, SOON, around::OTHER, is_denied, reaches, spoof::not_themselves, world};
use crate::{sh, start_with};
use banger_testkit::{TestEnv, alone, wait_until};
use rustix::process::Signal;

/// What the guest asks for. The name is of an address that nothing else here has.
const DESTINATIONS: [&str; 7] =
    ["9.9.9.9", NAME, "192.168.77.1", "169.254.169.254", "172.30.0.2", "5.5.5.5", "10.213.0.1"];

/// What is said to `vm set`, and which of the destinations are open then: two on the internet, the LAN, the metadata
/// address, the host's own address in its network, its public one, the gateway.
const POLICIES: [(&[&str], [bool; 7]); 10] = [
    (&["--nat", "--allow", "none", "--deny", "none"], [true, true, false, false, false, false, false]),
    (&["--no-nat"], [false; 7]),
    (&["--no-nat", "--allow", "192.168.77.0/24"], [false, false, true, false, false, false, false]),
    (&["--no-nat", "--allow", "www.example.com:80"], [false, true, false, false, false, false, false]),
    (&["--nat", "--allow", "none", "--deny", "9.9.9.0/24"], [false, true, false, false, false, false, false]),
    (&["--nat", "--deny", "www.example.com"], [true, false, false, false, false, false, false]),
    (&["--nat", "--deny", "9.9.9.9:80", "--allow", "9.9.9.9"], [false, true, false, false, false, false, false]),
    // What listens on the host's own addresses: opened by its address, as anything else that is closed.
    (&["--deny", "none", "--allow", "172.30.0.2:80"], [true, true, false, false, true, false, false]),
    (&["--allow", "5.5.5.5", "--allow", "172.30.0.2:443"], [true, true, false, false, false, true, false]),
    (&["--deny", "9.9.9.0/24", "--allow", "172.30.0.2:80"], [false, true, false, false, true, false, false]),
];

/// All of them at once; those that answered.
fn opened(env: &TestEnv, vm: &str) -> Vec<String> {
    let list = DESTINATIONS.join(" ");
    let line = format!(
        "for d in {list}; do (test \"$(curl -s --connect-timeout 5 --max-time 30 http://$d/)\" = hello && echo $d) & done; wait"
    );
    sh(env, vm, &line).lines().map(str::to_owned).collect()
}

#[track_caller]
fn check(env: &TestEnv, vm: &str, what: &str, open: [bool; 7]) {
    wait_until(SOON, &format!("what is open under {what}"), || {
        let got = opened(env, vm);
        for (to, open) in DESTINATIONS.iter().zip(open) {
            assert!(open || !got.iter().any(|got| got == to), "{to} is open under {what}");
        }
        let missing: Vec<_> =
            DESTINATIONS.iter().zip(open).filter(|(to, open)| *open && !got.iter().any(|got| got == *to)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} closed")) }
    });
}

fn denied(env: &TestEnv, vm: &str) -> u64 {
    let egress = env.banger(["vm", "show", "--egress", vm, "--json"]).run().expect(0).json();
    egress["denied_packets"].as_u64().expect("a number")
}

/// What carries the network, one by one. (In every order: `tests/product/carriers.rs`.)
const CARRIERS: [(&str, &str); 3] = [("bangerd-root", "hold"), ("pasta", "up0"), ("bangerd-root", "serve")];

/// Those of a kind, however they are called meanwhile (pasta begins as a shell).
fn of(env: &TestEnv, (program, word): (&str, &str)) -> Vec<banger_testkit::Identity> {
    env.processes(program).into_iter().filter(|process| process.command.contains(word)).collect()
}

#[test]
fn a_guest_reaches_what_its_policy_says_whoever_died() {
    let _machine = alone();
    let Some((env, around)) = world() else { return };
    env.configure_also("\n[network]\ndns = [\"9.9.9.54\"]\n");
    let before = around.state();
    start_with(&env, "m", &["--network", "lab"]);
    start_with(&env, "n", &["--network", "lab"]);

    not_themselves(&env, &around.outside);

    let mut counted = 0;
    for (set, open) in POLICIES {
        env.banger(["vm", "set", "m"].iter().chain(set)).run().expect(0);
        check(&env, "m", &set.join(" "), open);
        let now = denied(&env, "m");
        assert!(now > counted, "what was denied is counted: {now}");
        counted = now;
        if set.contains(&"www.example.com:80") {
            keeps_what_it_learnt(&env);
        }
        if set == ["--no-nat"] {
            end_daemon(&env);
            check(&env, "m", "--no-nat, another daemon", open);
        }
    }
    around.assert_is(&before);
    let (set, open) = POLICIES[POLICIES.len() - 1];
    let what = set.join(" ");

    // The daemon alone: what is closed stays so without it, and its successor changes nothing.
    end_daemon(&env);
    check(&env, "m", &format!("{what}, another daemon"), open);

    for one in CARRIERS {
        let words = format!("{} {}", one.0, one.1);
        for process in of(&env, one) {
            process.signal(Signal::KILL);
        }
        wait_until(SOON, &format!("everybody once, after {words}"), || {
            let count = CARRIERS.map(|one| of(&env, one).len());
            if count == [1, 1, 1] { Ok(()) } else { Err(format!("holders, ways out, helpers: {count:?}")) }
        });
        check(&env, "m", &format!("{what}, after {words}"), open);
        around.assert_is(&before);
    }

    names(&env);

    for vm in ["m", "n"] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
    }
    env.assert_nothing_left();
    around.assert_is(&before);
}

fn end_daemon(env: &TestEnv) {
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
}

/// Under a policy that names a domain: what its name resolved to before the daemon died is open without asking again,
/// and nothing else is.
#[track_caller]
fn keeps_what_it_learnt(env: &TestEnv) {
    end_daemon(env);
    reaches(env, "m", &format!("http://{OTHER}/"));
    // One that nothing denied before, so that it is on record now.
    is_denied(env, "m", "9.9.9.10", 80);
    is_denied(env, "m", &OTHER.to_string(), 443);
}

/// Names over TCP, and of addresses.
#[track_caller]
fn names(env: &TestEnv) {
    let address = |vm: &str| env.vm(vm)["ip"].as_str().expect("an address").to_owned();
    let (own, peer) = (address("m"), address("n"));
    // The resolver outside has another answer for who asks over TCP, so that it is seen who did.
    let ask = |line: &str| {
        sh(env, "m", &format!("{line} || echo none")).split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(ask(&format!("getent ahostsv4 {NAME}")), "9.9.8.8");
    assert_eq!(ask(&format!("RES_OPTIONS=use-vc getent ahostsv4 {NAME}")), "9.9.8.9");
    assert_eq!(ask("RES_OPTIONS=use-vc getent ahostsv4 n.vm"), peer);
    for (address, name) in [(&own, "m.vm"), (&peer, "n.vm")] {
        let line =
            format!("perl -MSocket -e 'print scalar gethostbyaddr(inet_aton(\"{address}\"), AF_INET) // \"none\"'");
        assert!([name, name.trim_end_matches(".vm")].contains(&ask(&line).as_str()), "{address}: {}", ask(&line));
    }
    // Nobody has that one, or nobody that is to be known.
    assert_eq!(ask("getent hosts 10.213.0.77"), "none");
}

#[test]
fn without_pasta_vms_reach_each_other_and_nothing_else() {
    let _machine = alone();
    let Some((mut env, _around)) = world() else { return };
    // What is no file is no program.
    for place in ["/usr/bin/pasta", "/usr/local/bin/pasta"] {
        if std::path::Path::new(place).exists() {
            env.bind("/dev/null", place);
        }
    }
    for vm in ["m", "n"] {
        start_with(&env, vm, &["--network", "lab"]);
    }
    assert!(env.processes("pasta").is_empty());
    let doctor = env.banger(["doctor"]).run();
    assert!(doctor.out().contains("pasta is not installed"), "{doctor}");
    let line = "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalPort => 80, Listen => 9, ReuseAddr => 1) or die; \
                fork and exit; close STDOUT; close STDERR; while ($c = $l->accept) { $c->recv($_, 999); \
                print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\"; close $c }'";
    sh(&env, "n", line);
    reaches(&env, "m", "http://n.vm/");
    assert_eq!(opened(&env, "m"), Vec::<String>::new());
    for vm in ["m", "n"] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
    }
    env.assert_nothing_left();
}

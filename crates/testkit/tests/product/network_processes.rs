//! The processes of the VMs' network die, in every order and at every moment, and work that fails is retried. VMs are
//! the fake VMM's, in a namespace that plays this host; connectivity of guests is tested elsewhere.

use crate::{SOON, start, wear::Chance};
use banger_testkit::{Identity, NetNamespace, TestEnv, require, wait_until};
use rustix::process::Signal;
use std::{collections::BTreeSet, time::Duration};

/// Time for the network to recover: pauses between attempts grow.
pub(crate) const BACK: Duration = Duration::from_secs(180);
/// Number of VMs that are created and deleted, and threads that do so.
const LIVES: usize = 50;
const HANDS: usize = 5;
/// Program and a distinctive argument of each process.
pub(crate) const PROCESSES: [(&str, &str); 3] = [("bangerd-root", "hold"), ("pasta", "up0"), ("bangerd-root", "serve")];

/// Environment whose VMs have NICs, on a host with one network of its own.
pub(crate) fn networked_env() -> Option<TestEnv> {
    if !require("netns") || !require("pasta") {
        return None;
    }
    let mut env = TestEnv::fake()?;
    let host = NetNamespace::new();
    host.commands(
        "ip link set lo up
         ip link add eth0 type veth peer name nobody
         ip address add 172.30.0.2/24 dev eth0
         ip link set nobody up
         ip link set eth0 up
         ip route add default via 172.30.0.1",
    );
    env.move_into(&host);
    Some(env)
}

/// Processes of a kind, whatever they are called meanwhile (pasta begins as a shell).
pub(crate) fn of(env: &TestEnv, (program, word): (&str, &str)) -> Vec<Identity> {
    env.processes(program).into_iter().filter(|process| process.command.contains(word)).collect()
}

/// Every order in which some of the processes can die.
fn orders() -> Vec<Vec<(&'static str, &'static str)>> {
    let mut orders: Vec<Vec<_>> = PROCESSES.iter().map(|one| vec![*one]).collect();
    for length in 1..PROCESSES.len() {
        let longest: Vec<_> = orders.iter().filter(|order| order.len() == length).cloned().collect();
        for order in longest {
            orders
                .extend(PROCESSES.iter().filter(|one| !order.contains(one)).map(|one| [&order[..], &[*one]].concat()));
        }
    }
    orders
}

/// The VMs' namespace, while a process holds it.
fn inside(env: &TestEnv) -> Option<NetNamespace> {
    of(env, PROCESSES[0]).first().and_then(|holder| NetNamespace::of_any(holder.pid))
}

/// State of the network: rules without their counters, links, and whether names are resolved.
pub(crate) fn network_state(netns: &NetNamespace) -> String {
    let rules = netns.command("nft --stateless list ruleset");
    let links = netns.command("ip -o link show");
    let links = links.lines().filter_map(|line| line.split(':').nth(1)).map(str::trim).collect::<BTreeSet<_>>();
    let sockets = netns.command("ss -Hlnu");
    format!("{rules}\n{links:?}\nanswers: {}", sockets.contains("10.213.0.1:53"))
}

/// Returns the VMs' namespace and the state of the network once it is complete: a VM runs before its uplink exists.
#[track_caller]
pub(crate) fn when_complete(env: &TestEnv) -> (NetNamespace, String) {
    wait_until(BACK, "a network with a way out that answers names", || {
        let netns = inside(env).ok_or("nobody holds it")?;
        let now = network_state(&netns);
        if now.contains("answers: true") && now.contains("\"up0\"") { Ok((netns, now)) } else { Err(now) }
    })
}

#[track_caller]
pub(crate) fn id_of(env: &TestEnv, vm: &str) -> String {
    env.vm(vm)["id"].as_str().expect("an id").to_owned()
}

/// Alias that marks a VM's tap as its own.
pub(crate) fn alias(id: &str) -> String {
    format!("banger {} vm {id}", rustix::process::getuid().as_raw())
}

/// Checks that a VM has a NIC, and an address to show.
#[track_caller]
fn has_card(env: &TestEnv, netns: &NetNamespace, vm: &str) {
    let links = netns.command("ip -o link show");
    assert!(env.vm(vm)["ip"].is_string() && links.contains(&format!("bt{}", id_of(env, vm))), "{vm}: {links}");
}

/// Waits until there is one process of each kind and the network is in this state.
#[track_caller]
pub(crate) fn is_back(env: &TestEnv, what: &str, whole: &str) {
    wait_until(BACK, &format!("everything to be back, after {what}"), || {
        let count = PROCESSES.map(|one| of(env, one).len());
        if count != [1, 1, 1] {
            return Err(format!("holders, ways out, helpers: {count:?}"));
        }
        let now = inside(env).map(|netns| network_state(&netns)).unwrap_or_default();
        if now == whole { Ok(()) } else { Err(now) }
    });
}

#[test]
fn whoever_carries_the_network_may_die_in_every_order() {
    let Some(env) = networked_env() else { return };
    start(&env, "m");
    env.banger(["vm", "run", "-d", "--quiet", "--name", "n", "--network", "lab", "--no-nat", "--allow", "10.0.0.0/8"])
        .run()
        .expect(0);
    let (_, whole) = when_complete(&env);
    // At once; and as soon as the one before has a successor, which is in the middle of putting things right then.
    // With all three, the longer orders are the shorter ones too then.
    for waits in [false, true] {
        for order in orders().into_iter().filter(|order| !waits || order.len() == PROCESSES.len()) {
            let words = order.iter().map(|(program, word)| format!("{program} {word}")).collect::<Vec<_>>();
            for one in &order {
                for process in of(&env, *one) {
                    process.signal(Signal::KILL);
                    process.wait_gone(SOON);
                }
                if waits {
                    wait_until(BACK, &format!("another {one:?}"), || match of(&env, *one).len() {
                        0 => Err("none".into()),
                        _ => Ok(()),
                    });
                }
            }
            is_back(&env, &format!("{} (waiting: {waits})", words.join(", then ")), &whole);
        }
    }
    env.assert_consistent("fake-qemu");
    for vm in ["m", "n"] {
        env.banger(["vm", "delete", "-f", vm]).run().expect(0);
    }
    env.assert_nothing_left();
}

#[test]
fn what_cannot_be_taken_away_at_first_is_taken_away_later() {
    let Some(env) = networked_env() else { return };
    start(&env, "stays");
    let beside = |more: &[&str]| drop(env.banger(["vm", "run", "-d", "--quiet"]).args(more).run().expect(0));
    // Bridges of networks stay until something is put in order.
    beside(&["--name", "before", "--network", "lab"]);
    env.banger(["vm", "delete", "-f", "before"]).run().expect(0);
    let (netns, whole) = when_complete(&env);
    let in_order = whole.replace(&format!("\"bb{}n1\", ", rustix::process::getuid().as_raw()), "");
    assert_ne!(in_order, whole);
    let goes = ["--name", "goes", "--network", "lab", "--no-nat", "--allow", "10.0.0.0/8"];
    beside(&goes);
    let (id, address) = (id_of(&env, "goes"), env.vm("goes")["ip"].clone());
    let tap = format!("bt{id}");
    netns.write_on(&tap, "somebody else's");
    // Again too: it is not forgotten that something is there still.
    for _ in 0..2 {
        let out = env.banger(["vm", "delete", "-f", "goes"]).run().expect(1);
        assert!(out.err().contains("is not banger's"), "{out}");
        assert_eq!(env.vm_state("goes"), "failed");
    }
    let still = network_state(&netns);
    assert!(still.contains(&tap), "what is not banger's was taken away: {still}");
    // Its address is nobody else's meanwhile.
    beside(&["--name", "next", "--network", "lab"]);
    has_card(&env, &netns, "next");
    assert_ne!(env.vm("next")["ip"], address);
    env.banger(["vm", "delete", "-f", "next"]).run().expect(0);
    netns.write_on(&tap, &alias(&id));
    wait_until(BACK, "its link and its rules to go, and its network's bridge", || {
        let now = network_state(&netns);
        if now == in_order { Ok(()) } else { Err(now) }
    });
    // Who comes next has a bridge again.
    beside(&["--name", "next", "--network", "lab"]);
    has_card(&env, &netns, "next");
    env.banger(["vm", "delete", "goes"]).run().expect(0);
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "stays", "next"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_network_that_cannot_be_made_is_not_kept_half() {
    let Some(env) = networked_env() else { return };
    env.banger(["vm", "create", "--quiet", "--no-start", "--name", "m"]).run().expect(0);
    let host = NetNamespace::of(env.daemon().expect("a daemon").pid);
    // One more public address than can be closed to guests.
    let changes = env.home().join("addresses");
    let change = |verb: &str| {
        let one = |n| format!("address {verb} 9.9.{}.{}/32 dev eth0", n / 250, 1 + n % 250);
        std::fs::write(&changes, (0..=1024).map(one).collect::<Vec<_>>().join("\n")).expect("a file");
        host.command(&format!("ip -batch {}", changes.display()));
    };
    change("add");
    let refused = "this host has 1025 public addresses";
    let out = env.banger(["vm", "start", "m"]).patience(SOON).run().expect(0);
    assert!(out.err().contains(refused), "{out}");
    assert!(env.vm("m")["ip"].is_null(), "it has no card");
    wait_until(BACK, "the end of what was begun", || match of(&env, PROCESSES[0]).len() {
        0 => Ok(()),
        count => Err(format!("{count} holders")),
    });
    change("del");
    env.banger(["vm", "restart", "m"]).patience(SOON).run().expect(0);
    let (netns, _) = when_complete(&env);
    has_card(&env, &netns, "m");
    // Another VM that gets none is told again, for this one had one; the next after that knows it.
    change("add");
    for (name, is_told) in [("n", true), ("o", false)] {
        let out = env.banger(["vm", "run", "-d", "--name", name, "--network", "lab"]).patience(SOON).run().expect(0);
        assert_eq!(out.err().contains(refused), is_told, "{name}: {out}");
        assert!(env.vm(name)["ip"].is_null(), "{name} has no card");
    }
    change("del");
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "m", "n", "o"]).run().expect(0);
    env.assert_nothing_left();
}

/// Creates and deletes some VMs.
fn lives(env: &TestEnv, hand: usize) {
    let mut chance = Chance(0x6e65_7477 + hand as u64);
    let mut alive = Vec::new();
    let mut made = 0;
    while made < LIVES / HANDS || !alive.is_empty() {
        if made < LIVES / HANDS && (alive.is_empty() || chance.next(5) > 1) {
            let name = format!("v{hand}-{made}");
            let also: &[&str] = match chance.next(4) {
                0 => &[],
                1 => &["--network", "lab"],
                2 => &["--no-nat", "--allow", "*.example.com:443", "--allow", "10.0.0.0/8"],
                _ => &["--network", "other", "--deny", "9.9.9.0/24"],
            };
            env.banger(["vm", "run", "-d", "--quiet", "--name", &name]).args(also).patience(SOON).run().expect(0);
            alive.push(name);
            made += 1;
            continue;
        }
        let name = alive.swap_remove(chance.next(alive.len()));
        let first: &[&str] = match chance.next(4) {
            0 => &["stop"],
            1 => &["kill"],
            2 => &["restart"],
            _ => &["set", "--no-nat", "--allow", "192.168.0.0/16"],
        };
        env.banger(["vm"]).args(first).args([&name]).patience(SOON).run().expect(0);
        env.banger(["vm", "delete", "-f", &name]).patience(SOON).run().expect(0);
    }
}

#[test]
fn fifty_vms_that_come_and_go_leave_nothing_on_the_network() {
    let Some(env) = networked_env() else { return };
    start(&env, "stays");
    // Bridges of networks stay as long as the network does.
    for network in ["lab", "other"] {
        env.banger(["vm", "run", "-d", "--quiet", "--name", network, "--network", network]).run().expect(0);
    }
    env.banger(["vm", "delete", "-f", "lab", "other"]).run().expect(0);
    let (netns, whole) = when_complete(&env);
    std::thread::scope(|scope| {
        for hand in 0..HANDS {
            let env = &env;
            scope.spawn(move || lives(env, hand));
        }
    });
    env.assert_consistent("fake-qemu");
    assert_eq!(network_state(&netns), whole);
    env.banger(["vm", "delete", "-f", "stays"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn another_block_is_taken_once_nobody_is_in_the_old_one() {
    let Some(env) = networked_env() else { return };
    start(&env, "old");
    let address = env.vm("old")["ip"].clone();
    let (_, whole) = when_complete(&env);
    env.banger(["daemon", "stop"]).run().expect(0);
    env.configure_also("\n[network]\ncidr = \"10.99.0.0/16\"\n");
    let out = env.banger(["vm", "run", "-d", "--name", "new"]).patience(SOON).run().expect(0);
    assert!(out.err().contains("networks are cut from another block already"), "{out}");
    let now = network_state(&inside(&env).expect("a holder"));
    assert_eq!(now.replace("answers: false", "answers: true"), whole, "{address} is as it was");
    env.banger(["vm", "delete", "-f", "old", "new"]).run().expect(0);
    wait_until(BACK, "the old network's end", || match inside(&env) {
        Some(_) => Err("it is there".into()),
        None => Ok(()),
    });
    start(&env, "new");
    let links = inside(&env).expect("a holder").command("ip -o -4 address show");
    assert!(links.contains("10.99.0.1/22") && !links.contains("10.213."), "{links}");
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "new"]).run().expect(0);
    env.assert_nothing_left();
}

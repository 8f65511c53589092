//! What is left after much use: nothing. The same thing many times, and many things in no order.

use crate::{SOON, vms};
use banger_testkit::{Identity, TestEnv, wait_until};
use rustix::process::Signal;
use std::{collections::BTreeSet, path::Path};

const VMM: &str = "fake-qemu";
/// How often a VM is made, used and deleted.
const CYCLES: usize = 200;
/// How many of them run at once.
const HANDS: usize = 4;
/// Cycles after which the daemon has all it allocates once.
const WARM: usize = 40;

/// Descriptors and resident kibibytes of a process.
fn held_by(process: &Identity) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("its descriptors").count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident memory");
    (descriptors, line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number"))
}

/// Every file below the home but for what grows by design: the log, the database's journal.
fn listing(env: &TestEnv) -> BTreeSet<String> {
    fn walk(dir: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            into.insert(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), into);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(env.home(), &mut found);
    let grows = |path: &str| ["bangerd.log", "state.db-wal", "state.db-shm"].iter().any(|name| path.ends_with(name));
    found.retain(|path| !grows(path));
    found
}

fn cycles(env: &TestEnv, count: usize) {
    std::thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                for _ in 0..count / HANDS {
                    let args = ["run", "--rm", "--quiet", "--memory", "128M", "--disk-size", "64M", "--", "true"];
                    env.banger(args).patience(SOON).run().expect(0);
                }
            });
        }
    });
}

#[test]
fn two_hundred_vms_later_everything_is_as_it_was() {
    let Some(env) = TestEnv::fake() else { return };
    cycles(&env, WARM);
    env.assert_in_order(VMM);
    let daemon = env.daemon().expect("a daemon");
    let (before, files) = (held_by(&daemon), listing(&env));
    cycles(&env, CYCLES);
    env.assert_in_order(VMM);
    assert_eq!(listing(&env), files);
    // Sessions end a moment after their clients.
    wait_until(SOON, "the daemon to hold what it held", || {
        let (descriptors, kib) = held_by(&daemon);
        let more = kib.saturating_sub(before.1) * 100 > before.1 * 5;
        if descriptors <= before.0 && !more { Ok(()) } else { Err(format!("{before:?} -> {descriptors}, {kib} KiB")) }
    });
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

/// Numbers that look like chance and are the same in every run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).expect("a small number")
    }
}

/// One thing that is done or happens to one of the VMs. Most of it may be refused; none of it may hang or leave
/// something behind.
fn disturb(env: &TestEnv, chance: &mut Chance) {
    let name = format!("s{}", chance.next(10));
    let kill = |program: &str, chance: &mut Chance| {
        let mut all = env.processes(program);
        all.retain(|process| !process.command.contains("--guest"));
        if !all.is_empty() {
            all.swap_remove(chance.next(all.len())).signal(Signal::KILL);
        }
    };
    let on_it: &[&str] = match chance.next(20) {
        0..=4 => &["run", "-d", "--quiet", "--memory", "128M", "--disk-size", "64M", "--name"],
        5..=6 => &["vm", "start"],
        7..=8 => &["vm", "stop"],
        9 => &["vm", "restart"],
        10 => &["vm", "kill"],
        11..=12 => &["rm", "-f"],
        13..=14 => {
            env.banger(["exec", &name, "--", "true"]).patience(SOON).run();
            return;
        }
        15 => return kill("bangerd", chance),
        16 => return kill("banger-shim", chance),
        17 => return kill(VMM, chance),
        18 => return kill("banger-vsock-agent", chance),
        _ => &["vm", "set", "--vcpu", "2"],
    };
    env.banger(on_it.iter().copied().chain([name.as_str()])).patience(SOON).run();
}

#[test]
fn five_hundred_things_in_no_order_leave_a_consistent_whole() {
    let Some(env) = TestEnv::fake() else { return };
    // Several hands at once, each with its own fixed sequence; how they meet is the machine's.
    std::thread::scope(|scope| {
        for hand in 0..HANDS {
            let env = &env;
            scope.spawn(move || {
                let mut chance = Chance(0xba44_6e72 + hand as u64);
                (0..500 / HANDS).for_each(|_| disturb(env, &mut chance));
            });
        }
    });
    env.assert_in_order(VMM);
    for (name, _) in vms(&env) {
        env.banger(["rm", "-f", &name]).patience(SOON).run().expect(0);
    }
    env.assert_in_order(VMM);
    env.assert_nothing_left();
}

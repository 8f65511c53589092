//! What is left after much use: nothing. The same thing many times, and many things in no order.

use crate::{SOON, start, vms};
use banger_testkit::{Identity, Output, TestEnv, wait_until};
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Mutex,
};

const VMM: &str = "fake-qemu";
/// How often a VM is made, used and deleted.
const CYCLES: usize = 200;
/// How many of them run at once.
const HANDS: usize = 4;
/// Cycles after which the daemon has all it allocates once.
const WARM: usize = 40;

/// What any process may come to have more, in kibibytes. A twentieth is the bound for those of more than 10 MiB; of a
/// smaller one, a shim (some 5 MiB), it is a few pages of an allocator's, so there the bound is this, a tenth.
const SLACK_KIB: u64 = 512;

/// What is done and what happens in the soak.
const KINDS: [&str; 12] = [
    "run",
    "start",
    "stop",
    "restart",
    "kill",
    "rm",
    "exec",
    "set",
    "bangerd",
    "banger-shim",
    VMM,
    "banger-vsock-agent",
];

/// Descriptors and resident kibibytes of a process.
fn held_by(process: &Identity) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("its descriptors").count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident memory");
    (descriptors, line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number"))
}

/// Whoever lives as long as there is a VM: the daemon, the network's holder, its helper and its way out, and a VM's
/// shim; with what each holds.
fn lasting(env: &TestEnv) -> Vec<(Identity, (usize, u64))> {
    let programs = ["bangerd", "bangerd-root", "banger-shim", "pasta", "pasta.avx2"];
    let all = programs.iter().flat_map(|program| env.processes(program));
    all.map(|process| (held_by(&process), process)).map(|(held, process)| (process, held)).collect()
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
    // The network ends a while after the last VM; as long as this one is there, those who have it are the same.
    start(&env, "stays");
    cycles(&env, WARM);
    env.assert_consistent(VMM);
    let (before, files) = (lasting(&env), listing(&env));
    let count = |name: &str| before.iter().filter(|(process, _)| process.command.contains(name)).count();
    assert!(count("bangerd") > 0 && count("banger-shim") > 0, "{before:#?}");
    if env.vm("stays")["ip"].is_string() {
        assert!(count("bangerd-root") > 0 && count("pasta") > 0, "{before:#?}");
    }
    cycles(&env, CYCLES);
    env.assert_consistent(VMM);
    assert_eq!(listing(&env), files);
    for (process, before) in &before {
        // Sessions end a moment after their clients.
        wait_until(SOON, &format!("{} to hold what it held", process.command), || {
            if !process.is_alive() {
                return Err("it is gone".into());
            }
            let (descriptors, kib) = held_by(process);
            let more = kib.saturating_sub(before.1) > (before.1 * 5 / 100).max(SLACK_KIB);
            if descriptors <= before.0 && !more {
                Ok(())
            } else {
                Err(format!("{before:?} -> {descriptors}, {kib} KiB"))
            }
        });
    }
    env.banger(["vm", "delete", "-f", "stays"]).patience(SOON).run().expect(0);
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

/// Numbers that look like chance and are the same in every run (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).expect("a small number")
    }
}

/// One thing that is done or happens to one of the VMs, and whether it was done. Much of it may be refused; none of it
/// may hang, break, or leave something behind.
fn disturb(env: &TestEnv, chance: &mut Chance) -> (&'static str, bool) {
    let name = format!("s{}", chance.next(10));
    let kill = |program: &'static str, chance: &mut Chance| {
        let mut all = env.processes(program);
        all.retain(|process| !process.command.contains("--guest"));
        // A command that an agent starts has the agent's command line between fork(2) and execve(2), and would end with
        // 137 as if it had been killed itself.
        let pids: Vec<u32> = all.iter().map(|process| process.pid).collect();
        all.retain(|process| !process.parent().is_some_and(|parent| pids.contains(&parent)));
        (program, !all.is_empty() && all.swap_remove(chance.next(all.len())).signal(Signal::KILL))
    };
    let done = |what: &'static str, output: &Output| {
        // Refused, or without a daemon half-way; anything else is a client that broke.
        assert!(matches!(output.code(), 0 | 1 | 125), "{what}: {output}");
        assert!(output.code() == 0 || output.err().contains("error: "), "{what}: {output}");
        (what, output.code() == 0)
    };
    let on_it: &[&str] = match chance.next(32) {
        0..=6 => &["run", "-d", "--quiet", "--memory", "128M", "--disk-size", "64M", "--name"],
        7..=10 => &["vm", "start"],
        11..=12 => &["vm", "stop"],
        13..=14 => &["vm", "restart"],
        15..=17 => &["vm", "kill"],
        18..=19 => &["rm", "-f"],
        20..=25 => {
            return done("exec", &env.banger(["exec", &name, "--", "true"]).patience(SOON).run());
        }
        26 => return kill("bangerd", chance),
        27 => return kill("banger-shim", chance),
        28 => return kill(VMM, chance),
        29 => return kill("banger-vsock-agent", chance),
        _ => &["vm", "set", "--vcpu", "2"],
    };
    let output = env.banger(on_it.iter().copied().chain([name.as_str()])).patience(SOON).run();
    done(if on_it[0] == "vm" { on_it[1] } else { on_it[0] }, &output)
}

#[test]
fn five_hundred_things_in_no_order_leave_a_consistent_whole() {
    let Some(env) = TestEnv::fake() else { return };
    let tally = Mutex::new(BTreeMap::<&str, (u32, u32)>::new());
    // Several hands at once, each with its own fixed sequence; how they meet is the machine's.
    std::thread::scope(|scope| {
        for hand in 0..HANDS {
            let (env, tally) = (&env, &tally);
            scope.spawn(move || {
                let mut chance = Chance(0xba44_6e72 + hand as u64);
                for _ in 0..500 / HANDS {
                    let (what, done) = disturb(env, &mut chance);
                    let mut tally = tally.lock().expect("no hand panicked");
                    let of_a_kind = tally.entry(what).or_insert((0, 0));
                    *of_a_kind = (of_a_kind.0 + u32::from(done), of_a_kind.1 + 1);
                }
            });
        }
    });
    let tally = tally.into_inner().expect("no hand panicked");
    assert_eq!(tally.values().map(|(_, all)| all).sum::<u32>(), 500, "{tally:?}");
    // Everything was done and happened, and not once by luck: a soak in which all is refused would show nothing.
    assert_eq!(tally.len(), KINDS.len(), "{tally:?}");
    for kind in KINDS {
        assert!(tally.get(kind).is_some_and(|(done, _)| *done >= 3), "{kind} of {tally:?}");
    }
    assert!(tally.values().map(|(done, _)| done).sum::<u32>() >= 150, "{tally:?}");
    env.assert_consistent(VMM);
    for (name, _) in vms(&env) {
        env.banger(["rm", "-f", &name]).patience(SOON).run().expect(0);
    }
    env.assert_consistent(VMM);
    env.assert_nothing_left();
}

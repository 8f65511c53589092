//! VMs that do not go down in order: each is ended all the same, says so by its name, and keeps the reason.

use crate::{SOON, start};
use banger_testkit::{Identity, TestEnv, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const FORCED: &str = "the guest did not power off within 0.7 s";
/// A VM beside those that are not.
const GOOD: &str = "good";

#[test]
fn of_several_each_that_outlives_its_grace_says_so_and_why_is_kept() {
    let Some(env) = TestEnv::fake() else { return };
    // Both say that they power off, and do not.
    let stubborn = ["hostile-stubborn", "hostile-fickle"];
    for name in stubborn {
        start(&env, name);
    }
    env.banger(["vm", "create", "--no-start", "--name", GOOD]).run().expect(0);
    let stop = ["vm", "stop", "--json", "--timeout", "700ms", stubborn[0], GOOD, stubborn[1]];
    let out = env.banger(stop).patience(SOON).run().expect(0);
    let reports = out.json();
    let events: Vec<Value> = out.err().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = |name: &str| {
        let of = events.iter().filter(|event| event["event"] == "notice" && event["vm"] == name);
        of.map(|event| event["text"].clone()).collect::<Vec<_>>()
    };
    let kept = format!("{FORCED}: its machine was ended by force");
    for (number, name) in stubborn.iter().enumerate() {
        assert!(said(name).contains(&FORCED.into()), "{name}: {out}");
        let vm = &reports[2 * number]["vm"];
        assert_eq!((&vm["name"], &vm["reason"]), (&Value::from(*name), &Value::from(kept.clone())), "{reports:#}");
        assert_eq!(env.exit_cause(name), "ended");
        let shown = env.banger(["vm", "show", name]).run().expect(0);
        assert!(shown.out().contains(&kept), "{shown}");
    }
    assert!(reports[1]["vm"]["reason"].is_null() && said(GOOD).is_empty(), "{out}");
    // It is how the last life ended, and nothing of the next.
    env.banger(["vm", "start", stubborn[0]]).run().expect(0);
    assert!(env.vm(stubborn[0])["reason"].is_null());
    env.banger(["vm", "delete", "-f", stubborn[0], GOOD, stubborn[1]]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_guest_that_takes_what_is_asked_and_is_never_heard_again_holds_up_nobody_for_ever() {
    let Some(env) = TestEnv::fake() else { return };
    let name = "hostile-stuck";
    start(&env, name);
    start(&env, GOOD);
    std::fs::write(env.home().join("home/note"), "a note\n").expect("a file");
    let mut left = env.banger(["exec", name, "--", "true"]).spawn();
    let stays = env.banger(["exec", name, "--", "true"]).spawn();
    std::thread::scope(|scope| {
        for (from, to) in [("hostile-stuck:/place", "got"), ("note", "hostile-stuck:/place")] {
            let env = &env;
            scope.spawn(move || {
                let out = env.banger(["cp", from, to]).patience(SOON * 3).run().expect(1);
                assert!(out.err().contains("error: ") && out.err().contains("stands still"), "{out}");
            });
        }
        scope.spawn(|| env.banger(["exec", GOOD, "--", "echo", "fine"]).patience(SOON).run().expect(0));
    });
    // A command may be silent for as long as it likes; who waits for it may leave.
    wait_until(SOON, "the end of a session that is left", || {
        if left.has_ended() {
            return Ok(());
        }
        if let Some(process) = Identity::of(left.pid()) {
            process.signal(Signal::INT);
        }
        Err("it goes on".into())
    });
    left.finish(SOON).expect(130);
    let out = env.banger(["vm", "stop", name]).patience(SOON * 2).run().expect(0);
    let words = "the guest did not write its data to its disk within 30 s";
    assert!(out.err().contains(words), "{out}");
    let vm = env.vm(name);
    assert_eq!(vm["state"], "stopped");
    assert_eq!(vm["reason"], format!("{words}: its machine was ended by force"), "{vm:#}");
    let out = stays.finish(SOON).expect(125);
    assert!(out.err().contains("error: "), "{out}");
    env.banger(["rm", "-f", name, GOOD]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_shim_or_a_monitor_that_was_stopped_is_woken_to_be_stopped_in_order() {
    let Some(env) = TestEnv::fake() else { return };
    for who in ["shim_pid", "vmm_pid"] {
        start(&env, "s");
        let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
        let stopped = if who == "shim_pid" { &shim } else { &vmm };
        assert!(stopped.signal(Signal::STOP));
        let out = env.banger(["vm", "stop", "s"]).patience(SOON).run().expect(0);
        assert!(out.err().contains(&format!("(pid {}) was stopped: it is woken", stopped.pid)), "{out}");
        shim.wait_gone(SOON);
        vmm.wait_gone(SOON);
        let vm = env.vm("s");
        // It ended as any other does: nothing was given up.
        assert_eq!((&vm["state"], &vm["reason"]), (&"stopped".into(), &Value::Null), "{vm:#}");
        assert_eq!(env.exit_cause("s"), "poweroff");
        crate::delete(&env, "s");
    }
}

#[test]
fn a_kill_and_a_deletion_end_everything_whoever_was_stopped() {
    let Some(env) = TestEnv::fake() else { return };
    for verb in [&["vm", "kill", "s"][..], &["vm", "kill", "--signal", "TERM", "s"], &["vm", "delete", "-f", "s"]] {
        start(&env, "s");
        let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
        for process in [&shim, &vmm] {
            assert!(process.signal(Signal::STOP));
        }
        env.banger(verb).patience(SOON).run().expect(0);
        shim.wait_gone(SOON);
        vmm.wait_gone(SOON);
        if verb.contains(&"kill") {
            let vm = env.vm("s");
            assert_eq!((&vm["state"], &vm["reason"]), (&"stopped".into(), &Value::Null), "{verb:?}: {vm:#}");
            assert_eq!(env.exit_cause("s"), "killed", "{verb:?}");
            crate::delete(&env, "s");
        }
    }
    env.assert_nothing_left();
}

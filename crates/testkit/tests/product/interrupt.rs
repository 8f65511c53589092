//! Ctrl-C at every phase of `vm run`: nothing half-made stays, and a shell sees the interrupt.

use crate::{SOON, vms};
use banger_testkit::{TestEnv, require, wait_until};
use rustix::process::Signal;

const INTERRUPTED: i32 = 130;

#[test]
fn while_it_pulls_a_kernel() {
    if !require("apt") {
        return;
    }
    let env = TestEnv::empty();
    interrupted_at(&env, "package lists");
    assert_eq!(env.banger(["kernel", "list", "--json"]).run().expect(0).json(), serde_json::json!([]));
    env.assert_nothing_left();
}

#[test]
fn while_it_makes_an_image() {
    if !require("apt") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["image", "delete", "debian-bookworm"]).run().expect(0);
    interrupted_at(&env, "downloading the base system");
    assert_eq!(env.banger(["image", "list", "--json"]).run().expect(0).json(), serde_json::json!([]));
    env.assert_nothing_left();
}

/// Interrupts a run when it has said `phase`; no VM is left, and no program that was pulling.
#[track_caller]
fn interrupted_at(env: &TestEnv, phase: &str) {
    let run = env.banger(["vm", "run", "--rm", "--", "true"]).spawn();
    run.wait_stderr(phase, SOON);
    run.signal(Signal::INT);
    run.finish(SOON).expect(INTERRUPTED);
    assert_eq!(vms(env), []);
    wait_until(SOON, "the end of the pull", || {
        let helpers: Vec<_> = banger_testkit::marked_processes(env.home())
            .into_iter()
            .filter(|process| !process.command.contains("bangerd"))
            .collect();
        if helpers.is_empty() { Ok(()) } else { Err(format!("{helpers:#?}")) }
    });
}

#[test]
fn while_it_boots() {
    let Some(env) = TestEnv::fake() else { return };
    let run = env.banger(["vm", "run", "--rm", "--name", "b", "--", "true"]).env("FAKE_QEMU_READY", "never").spawn();
    wait_until(SOON, "a VMM that is being waited for", || {
        let vm = vms(&env);
        if vm == [("b".to_owned(), "starting".to_owned())] { Ok(()) } else { Err(format!("{vm:?}")) }
    });
    run.signal(Signal::INT);
    run.finish(SOON).expect(INTERRUPTED);
    wait_until(SOON, "the VM's deletion", || {
        let vms = vms(&env);
        if vms.is_empty() { Ok(()) } else { Err(format!("{vms:?}")) }
    });
    env.assert_nothing_left();
}

#[test]
fn while_the_command_runs() {
    let Some(env) = TestEnv::fake() else { return };
    let args = ["vm", "run", "--rm", "--name", "r", "--", "sh", "-c", "echo up; exec sleep 1000"];
    let run = env.banger(args).spawn();
    run.wait_stdout("up\n", SOON);
    run.signal(Signal::INT);
    run.finish(SOON).expect(INTERRUPTED);
    wait_until(SOON, "the VM's deletion", || {
        let vms = vms(&env);
        if vms.is_empty() { Ok(()) } else { Err(format!("{vms:?}")) }
    });
    env.assert_nothing_left();
}

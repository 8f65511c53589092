//! What is waited for, and what becomes of a VM when the wait ends before that came.

use crate::{SOON, delete, start, vms};
use banger_testkit::{Session, TestEnv, wait_until};
use serde_json::Value;
use std::time::Duration;

/// A VM whose agent answers and whose init never finishes booting.
const UNBOOTED: &str = "hostile-unbooted";
/// Longer than a guest may show no progress.
const SILENCE: Duration = Duration::from_secs(240);

/// `run --wait boot`, once the agent has answered.
fn waiting(env: &TestEnv) -> Session {
    let session = env.banger(["vm", "run", "-d", "--wait", "boot", "--name", UNBOOTED]).spawn();
    wait_until(SOON, "the VM to run", || match vms(env).as_slice() {
        [(_, state)] if state == "running" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    session
}

/// How the machine ended, as its shim wrote it down.
#[track_caller]
fn end_of(env: &TestEnv, name: &str) -> String {
    let id = env.vm(name)["id"].as_str().expect("an id").parse().expect("a valid one");
    let record = std::fs::read(env.layout().vm(&id).join("exit.json")).expect("an exit record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    record["cause"].as_str().expect("a cause").to_owned()
}

#[test]
fn a_stop_while_services_are_waited_for_is_an_orderly_one() {
    let Some(env) = TestEnv::fake() else { return };
    let session = waiting(&env);
    env.banger(["vm", "stop", UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!((env.vm_state(UNBOOTED).as_str(), end_of(&env, UNBOOTED).as_str()), ("stopped", "poweroff"));
    let out = session.finish(SOON).expect(125);
    assert!(out.err().contains("the wait for its services was cut short"), "{out}");
    delete(&env, UNBOOTED);
}

#[test]
fn a_kill_or_a_deletion_need_not_wait_for_services() {
    let Some(env) = TestEnv::fake() else { return };
    let session = waiting(&env);
    env.banger(["vm", "kill", UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!((env.vm_state(UNBOOTED).as_str(), end_of(&env, UNBOOTED).as_str()), ("stopped", "killed"));
    session.finish(SOON).expect(125);
    env.banger(["rm", UNBOOTED]).run().expect(0);
    let session = waiting(&env);
    env.banger(["rm", "-f", UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!(vms(&env), []);
    session.finish(SOON).expect(125);
    env.assert_nothing_left();
}

#[test]
fn services_that_never_come_are_no_reason_to_take_a_vm_down() {
    let Some(env) = TestEnv::fake() else { return };
    let session = waiting(&env);
    let vmm = env.vm_process(UNBOOTED, "vmm_pid");
    let out = session.finish(SILENCE).expect(125);
    for words in ["VM hostile-unbooted runs, but its services are not up", "no progress for 90 s", "banger vm stop"] {
        assert!(out.err().contains(words), "{words}: {out}");
    }
    assert!(vmm.is_alive(), "the VMM is another");
    assert_eq!(env.vm_state(UNBOOTED), "running");
    env.banger(["vm", "stop", UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!(end_of(&env, UNBOOTED), "poweroff");
    delete(&env, UNBOOTED);
}

#[test]
fn a_guest_that_outlives_its_grace_is_ended_and_that_is_said() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "hostile-stubborn");
    let vmm = env.vm_process("hostile-stubborn", "vmm_pid");
    let out = env.banger(["vm", "stop", "--timeout", "700ms", "hostile-stubborn"]).patience(SOON).run().expect(0);
    assert!(out.err().contains("the guest did not power off within 0.7 s"), "{out}");
    vmm.wait_gone(SOON);
    assert_eq!(
        (env.vm_state("hostile-stubborn").as_str(), end_of(&env, "hostile-stubborn").as_str()),
        ("stopped", "ended")
    );
    delete(&env, "hostile-stubborn");
}

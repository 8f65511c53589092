//! What is waited for, and what becomes of a VM when the wait ends before that came.

use crate::{SOON, delete, start, vms};
use banger_testkit::{Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::time::Duration;

/// A VM whose agent answers and whose init never finishes booting.
const UNBOOTED: &str = "hostile-unbooted";
/// Longer than a guest may show no progress, on a host that is too busy for it.
const SILENCE: Duration = Duration::from_secs(400);

/// Longer than a guest that powers off takes for it on a busy host.
const GRACE: &str = "50s";

/// `run --wait boot`, once the agent has answered.
fn waiting(env: &TestEnv) -> Session {
    let session = env.banger(["vm", "run", "-d", "--wait", "boot", "--name", UNBOOTED]).spawn();
    wait_until(SOON, "the VM to run", || match vms(env).as_slice() {
        [(_, state)] if state == "running" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    session
}

#[test]
fn a_stop_while_services_are_waited_for_is_an_orderly_one() {
    let Some(env) = TestEnv::fake() else { return };
    let session = waiting(&env);
    env.banger(["vm", "stop", "--timeout", GRACE, UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!((env.vm_state(UNBOOTED).as_str(), env.exit_cause(UNBOOTED).as_str()), ("stopped", "poweroff"));
    let out = session.finish(SOON).expect(125);
    assert!(out.err().contains("the wait for its services was cut short"), "{out}");
    delete(&env, UNBOOTED);
}

#[test]
fn a_vm_whose_services_are_waited_for_is_one_that_runs() {
    let Some(env) = TestEnv::fake() else { return };
    let mut session = waiting(&env);
    env.banger(["vm", "start", UNBOOTED]).patience(SOON).run().expect(0);
    env.banger(["vm", "set", UNBOOTED, "--vcpu", "3"]).patience(SOON).run().expect(0);
    env.banger(["vm", "publish", UNBOOTED, "-p", "0:80"]).patience(SOON).run().expect(0);
    let vm = env.vm(UNBOOTED);
    let published = vm["published"][0].as_str().expect("a published port").to_owned();
    env.banger(["vm", "unpublish", UNBOOTED, "-p", &published]).patience(SOON).run().expect(0);
    assert_eq!((vm["vcpu"].as_u64(), env.vm(UNBOOTED)["published"].as_array().map(Vec::len)), (Some(3), Some(0)));
    assert!(!session.has_ended(), "the wait is over");
    // None of it ended the wait; who waits may go, and the VM, whose creation was not told of yet, goes along.
    session.signal(Signal::KILL);
    session.finish(SOON);
    wait_until(SOON, "the VM's deletion", || {
        let left = vms(&env);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    env.assert_nothing_left();
}

#[test]
fn a_kill_or_a_deletion_need_not_wait_for_services() {
    let Some(env) = TestEnv::fake() else { return };
    let session = waiting(&env);
    env.banger(["vm", "kill", UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!((env.vm_state(UNBOOTED).as_str(), env.exit_cause(UNBOOTED).as_str()), ("stopped", "killed"));
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
    env.banger(["vm", "stop", "--timeout", GRACE, UNBOOTED]).patience(SOON).run().expect(0);
    assert_eq!(env.exit_cause(UNBOOTED), "poweroff");
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
        (env.vm_state("hostile-stubborn").as_str(), env.exit_cause("hostile-stubborn").as_str()),
        ("stopped", "ended")
    );
    let reason = env.vm("hostile-stubborn")["reason"].clone();
    assert_eq!(reason, "the guest did not power off within 0.7 s: its machine was ended by force");
    delete(&env, "hostile-stubborn");
}

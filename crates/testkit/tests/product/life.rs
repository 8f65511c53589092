//! What a VM goes through, and what is refused in which state.

use crate::{delete, start, vms};
use banger_testkit::TestEnv;
use std::collections::BTreeSet;

#[test]
fn created_started_stopped_started_deleted() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "v"]).run().expect(0);
    assert_eq!(env.vm_state("v"), "created");
    env.banger(["vm", "start", "v"]).run().expect(0);
    assert_eq!(env.vm_state("v"), "running");
    env.banger(["vm", "start", "v"]).run().expect(0);
    env.banger(["vm", "stop", "v"]).run().expect(0);
    assert_eq!(env.vm_state("v"), "stopped");
    env.banger(["vm", "stop", "v"]).run().expect(0);
    env.banger(["vm", "start", "v"]).run().expect(0);
    let before = ["vmm_pid", "shim_pid"].map(|process| env.vm_process("v", process));
    assert!(env.vm("v")["started_at"].is_string());
    env.banger(["vm", "restart", "v"]).run().expect(0);
    assert_eq!(env.vm_state("v"), "running");
    let after = ["vmm_pid", "shim_pid"].map(|process| env.vm_process("v", process));
    for (before, after) in before.iter().zip(&after) {
        before.wait_gone(crate::SOON);
        assert_ne!(before, after, "a restart is another machine");
    }
    let refused = env.banger(["vm", "delete", "v"]).run().expect(1);
    insta::assert_snapshot!(env.filtered(&refused));
    delete(&env, "v");
}

#[test]
fn kill_ends_in_stopped() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "k");
    env.banger(["vm", "kill", "k"]).run().expect(0);
    let vm = env.vm("k");
    assert_eq!((vm["state"].as_str(), &vm["vmm_pid"]), (Some("stopped"), &serde_json::Value::Null), "{vm:#}");
    delete(&env, "k");
}

#[test]
fn refs_are_names_ids_and_unique_prefixes() {
    let Some(env) = TestEnv::fake() else { return };
    for name in ["one", "two"] {
        env.banger(["vm", "create", "--no-start", "--name", name]).run().expect(0);
    }
    let id = env.vm("one")["id"].as_str().expect("an id").to_owned();
    assert_eq!(env.vm(&id)["name"], "one");
    assert_eq!(env.vm(&id[..8])["name"], "one");
    env.banger(["vm", "show", "on"]).run().expect(1);
    // Resolved all first: one bad ref, and nothing is deleted.
    env.banger(["vm", "delete", "one", "three", "two"]).run().expect(1);
    assert_eq!(vms(&env).len(), 2);
    env.banger(["vm", "delete", "one", "two"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_name_is_taken_once_and_free_again() {
    let Some(env) = TestEnv::fake() else { return };
    let create = ["vm", "create", "--no-start", "--name", "n"];
    env.banger(create).run().expect(0);
    let refused = env.banger(create).run().expect(1);
    insta::assert_snapshot!(env.filtered(&refused));
    env.banger(["vm", "delete", "n"]).run().expect(0);
    env.banger(create).run().expect(0);
    delete(&env, "n");
}

#[test]
fn every_signal_of_the_set_ends_in_stopped_and_no_other_is_taken() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "k"]).run().expect(0);
    for signal in ["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT"] {
        env.banger(["vm", "start", "k"]).run().expect(0);
        env.banger(["vm", "kill", "--signal", signal, "k"]).run().expect(0);
        assert_eq!(env.vm_state("k"), "stopped", "after {signal}");
    }
    for bad in ["STOP", "WINCH", "0", "SIG", ""] {
        env.banger(["vm", "kill", "--signal", bad, "k"]).run().expect(2);
    }
    let refused = env.banger(["vm", "kill", "k"]).run().expect(1);
    assert!(refused.err().contains("VM k is not running"), "{refused}");
    delete(&env, "k");
}

#[test]
fn a_vmm_that_outlives_its_signal_goes_on_running() {
    let Some(mut env) = TestEnv::fake() else { return };
    env.set_variable("FAKE_QEMU_DEAF", "yes");
    start(&env, "deaf");
    let out = env.banger(["vm", "kill", "--signal", "TERM", "deaf"]).run().expect(1);
    assert!(out.err().contains("VM deaf still runs 2 s after SIGTERM") && out.err().contains("hint:"), "{out}");
    assert_eq!(env.vm_state("deaf"), "running");
    env.banger(["vm", "kill", "deaf"]).run().expect(0);
    assert_eq!(env.vm_state("deaf"), "stopped");
    delete(&env, "deaf");
}

#[test]
fn verbs_take_several_and_report_each() {
    let Some(env) = TestEnv::fake() else { return };
    for name in ["a", "b"] {
        env.banger(["vm", "create", "--no-start", "--name", name]).run().expect(0);
    }
    for verb in ["start", "restart", "stop", "start"] {
        assert_eq!(env.banger(["vm", verb, "a", "b"]).run().expect(0).out(), "a\nb\n", "{verb}");
    }
    env.banger(["vm", "stop", "a"]).run().expect(0);
    // One fails, the other is done all the same, and the status says that one failed.
    let out = env.banger(["vm", "kill", "a", "b"]).run().expect(1);
    assert!(out.out() == "b\n" && out.err().contains("VM a is not running"), "{out}");
    let reports = env.banger(["vm", "kill", "--json", "a", "b"]).run().expect(1).json();
    let codes: Vec<_> = reports.as_array().expect("a list").iter().map(|it| it["failure"]["code"].clone()).collect();
    assert_eq!(codes, ["conflict", "conflict"], "{reports:#}");
    let reports = env.banger(["vm", "start", "--json", "a", "b"]).run().expect(0).json();
    assert_eq!(reports[1]["vm"]["state"], "running", "{reports:#}");
    // `rm` is `delete`, and one that is named twice is deleted once.
    assert_eq!(env.banger(["rm", "-f", "a", "b", "a"]).run().expect(0).out(), "a\nb\n");
    env.assert_nothing_left();
}

#[test]
fn a_vm_without_a_name_gets_one_of_its_own() {
    let Some(env) = TestEnv::fake() else { return };
    for _ in 0..3 {
        env.banger(["vm", "create", "--no-start"]).run().expect(0);
    }
    let names: BTreeSet<String> = vms(&env).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        let words = name.split('-').filter(|word| !word.is_empty()).count();
        assert!(words >= 2 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        env.banger(["rm", name]).run().expect(0);
    }
    env.assert_nothing_left();
}

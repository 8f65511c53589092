//! What a VM goes through, and what is refused in which state.

use crate::{delete, start, vms};
use banger_testkit::TestEnv;

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
    let before = env.vm("v")["started_at"].clone();
    env.banger(["vm", "restart", "v"]).run().expect(0);
    assert_eq!(env.vm_state("v"), "running");
    assert!(before.is_string());
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

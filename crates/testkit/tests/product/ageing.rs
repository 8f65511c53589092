//! What time does to VMs: a time to live, and nobody using them.

use crate::{SOON, delete, start, vms};
use banger_testkit::{TestEnv, wait_until};

#[test]
fn a_vm_with_a_time_to_live_goes_when_it_is_over_and_others_stay() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "stays");
    env.banger(["vm", "create", "--name", "young", "--ttl", "1h"]).run().expect(0);
    env.banger(["vm", "run", "-d", "--name", "brief", "--ttl", "2s"]).run().expect(0);
    wait_until(SOON, "the end of its time", || {
        let names: Vec<String> = vms(&env).into_iter().map(|(name, _)| name).collect();
        if names == ["stays", "young"] { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert!(env.vm("young")["expires_at"].is_string() && env.vm("stays")["expires_at"].is_null());
    env.banger(["vm", "delete", "-f", "stays"]).run().expect(0);
    delete(&env, "young");
}

#[test]
fn a_time_to_live_ends_also_while_no_daemon_runs() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "late", "--ttl", "1s"]).run().expect(0);
    env.banger(["daemon", "stop"]).run().expect(0);
    wait_until(SOON, "its deletion by the next daemon", || {
        let left = vms(&env);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    env.banger(["vm", "create", "--ttl", "0"]).run().expect(1);
    env.banger(["vm", "create", "--ttl", "soon"]).run().expect(2);
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn a_vm_nobody_uses_is_stopped_and_one_with_a_session_is_not() {
    let Some(env) = TestEnv::fake() else { return };
    env.configure_also("auto_stop_after = \"1s\"\n");
    start(&env, "used");
    let mut session = env.banger(["vm", "exec", "used", "--", "cat"]).spawn();
    session.write("in\n");
    session.wait_stdout("in\n", SOON);
    start(&env, "unused");
    env.wait_state("unused", "stopped", SOON);
    let reason = env.vm("unused")["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("auto_stop_after")), "{reason}");
    // It was as idle for as long, but for the session; and then it is alone too.
    assert_eq!(env.vm_state("used"), "running");
    session.close_stdin();
    session.finish(SOON).expect(0);
    env.wait_state("used", "stopped", SOON);
    env.banger(["vm", "delete", "used"]).run().expect(0);
    delete(&env, "unused");
}

#[test]
fn the_last_use_is_shown_and_a_look_is_none() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    env.banger(["vm", "health", "v"]).run().expect(0);
    env.banger(["vm", "stats", "v"]).run().expect(0);
    assert_eq!(env.vm("v")["last_used_at"], serde_json::Value::Null);
    env.banger(["vm", "exec", "v", "--", "true"]).run().expect(0);
    wait_until(SOON, "a last use", || {
        let vm = env.vm("v");
        if vm["last_used_at"].is_string() { Ok(()) } else { Err(format!("{vm:#}")) }
    });
    delete(&env, "v");
}

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
fn a_copy_or_a_connection_that_is_open_is_a_use() {
    let Some(env) = TestEnv::fake() else { return };
    env.configure_also("auto_stop_after = \"1s\"\n");
    // The guest is a process of this host: what it connects to is here.
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let publish = format!("0:{}", server.local_addr().expect("its address").port());
    env.banger(["vm", "run", "-d", "--quiet", "--name", "called", "-p", &publish]).run().expect(0);
    let at = env.vm("called")["published"][0].as_str().expect("a published port").to_owned();
    let (place, _) = at.rsplit_once(':').expect("ADDRESS:HOST:GUEST");
    let call = std::net::TcpStream::connect(place).expect("the published port");
    let (answered, _) = server.accept().expect("the guest's connection");
    start(&env, "copied");
    let mut copying = env.banger(["cp", "-", &format!("copied:{}", env.home().join("home").display())]).spawn();
    copying.write([0; 1 << 10]);
    start(&env, "unused");
    env.wait_state("unused", "stopped", SOON);
    assert_eq!([env.vm_state("called"), env.vm_state("copied")], ["running", "running"]);
    // And once they are over, they are no use any more.
    drop((call, answered));
    copying.close_stdin();
    copying.finish(SOON).expect(0);
    for name in ["called", "copied"] {
        env.wait_state(name, "stopped", SOON);
        env.banger(["vm", "delete", name]).run().expect(0);
    }
    delete(&env, "unused");
}

#[test]
fn a_guest_that_computes_is_not_idle() {
    let Some(mut env) = TestEnv::fake() else { return };
    env.configure_also("auto_stop_after = \"1s\"\n");
    env.set_variable("FAKE_QEMU_SPIN", "yes");
    start(&env, "computes");
    // What a VM does is its VMM's variable, and VMMs have it of the daemon that started them.
    env.banger(["daemon", "stop"]).run().expect(0);
    env.set_variable("FAKE_QEMU_SPIN", "no");
    start(&env, "unused");
    env.wait_state("unused", "stopped", SOON);
    assert_eq!(env.vm_state("computes"), "running");
    env.banger(["vm", "delete", "-f", "computes"]).run().expect(0);
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

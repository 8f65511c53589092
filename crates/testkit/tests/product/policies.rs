//! What VMs may reach when the configuration changes under them, or their policy cannot be what it was.

use crate::{
    SOON,
    network_processes::{BACK, PROCESSES, alias, id_of, is_back, network_state, networked_env, of, when_complete},
    start,
};
use banger_testkit::wait_until;
use serde_json::json;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

#[test]
fn a_way_out_that_was_open_is_closed_when_there_is_to_be_none() {
    let Some(mut env) = networked_env() else { return };
    start(&env, "m");
    let (_, whole) = when_complete(&env);
    let holder = of(&env, PROCESSES[0]);
    for (uplink, has_card) in [("none", true), ("off", false)] {
        env.banger(["daemon", "stop"]).run().expect(0);
        env.set_variable("BANGER_UPLINK", uplink);
        start(&env, uplink);
        assert_eq!(env.vm(uplink)["ip"].is_string(), has_card);
        wait_until(BACK, "the way out to be closed", || match of(&env, PROCESSES[1]).len() {
            0 => Ok(()),
            count => Err(format!("{count} ways out under {uplink}")),
        });
        assert_eq!(of(&env, PROCESSES[0]), holder, "the network is the one it was");
        env.banger(["vm", "delete", "-f", uplink]).run().expect(0);
        // There is one again when there may be.
        env.banger(["daemon", "stop"]).run().expect(0);
        env.set_variable("BANGER_UPLINK", "auto");
        env.banger(["vm", "list"]).run().expect(0);
        is_back(&env, uplink, &whole);
    }
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "m"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_vm_with_too_many_rules_costs_the_others_nothing() {
    let Some(env) = networked_env() else { return };
    let many = (0..62).flat_map(|n| ["--allow".to_owned(), format!("10.77.{n}.0/24")]);
    env.banger(["vm", "run", "-d", "--quiet", "--name", "many"]).args(many).run().expect(0);
    start(&env, "few");
    when_complete(&env);
    env.banger(["daemon", "stop"]).run().expect(0);
    env.configure_also("\n[network]\nallow = [\"10.78.0.0/24\", \"10.78.1.0/24\", \"10.78.2.0/24\"]\n");
    start(&env, "next");
    assert!(env.vm("next")["ip"].is_string(), "it has a card");
    let (netns, _) = when_complete(&env);
    let chain = |vm: &str| netns.command(&format!("nft list chain inet banger_{} vm_{}", uid(), id_of(&env, vm)));
    for vm in ["few", "next"] {
        assert!(chain(vm).contains("10.78.2.0/24"), "the new rules for whom they are no more than there may be");
    }
    let kept = chain("many");
    assert!(kept.contains("10.77.61.0/24") && !kept.contains("10.78."), "it has those it had: {kept}");
    // It is said when it starts, and not only in the log; nor does a machine go that could not come back.
    let refused = env.banger(["vm", "restart", "many"]).run().expect(1);
    assert!(refused.err().contains("at most 64 rules"), "{refused}");
    assert_eq!(env.vm_state("many"), "running");
    env.banger(["vm", "stop", "many"]).run().expect(0);
    let refused = env.banger(["vm", "start", "many"]).run().expect(1);
    assert!(refused.err().contains("at most 64 rules"), "{refused}");
    assert_eq!(env.vm_state("many"), "stopped");
    env.banger(["vm", "set", "many", "--allow", "10.77.0.0/24"]).run().expect(0);
    env.banger(["vm", "start", "many"]).patience(SOON).run().expect(0);
    assert!(chain("many").contains("10.78.2.0/24"));
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "many", "few", "next"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_policy_that_cannot_be_taken_back_is_the_one_that_is_shown() {
    let Some(mut env) = networked_env() else { return };
    let points = env.home().join("points");
    std::fs::create_dir(&points).expect("a directory for points");
    env.set_variable("BANGER_FAILPOINTS", &points);
    start(&env, "m");
    let taken = "127.0.0.9:8080:80";
    env.banger(["vm", "run", "-d", "--quiet", "--name", "n", "-p", taken]).run().expect(0);
    let (netns, _) = when_complete(&env);
    let id = id_of(&env, "m");
    let tap = format!("bt{id}");

    // Its policy changes, its port is another's, and then the way back is barred.
    std::fs::write(points.join("set.changed"), "").expect("an armed point");
    let body = json!({"nat": false, "publish": [taken]}).to_string();
    let mut client = UnixStream::connect(env.layout().daemon_socket()).expect("a daemon");
    let length = body.len();
    let head = "PATCH /v1/vms/m HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(client, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").expect("it listens");
    let held = points.join("set.changed.hit");
    wait_until(SOON, "the change", || if held.exists() { Ok(()) } else { Err("not there".into()) });
    netns.write_on(&tap, "somebody else's");
    std::fs::remove_file(held).expect("a point that was hit");
    let mut answer = String::new();
    client.set_read_timeout(Some(SOON)).expect("a time");
    client.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.contains("cannot be published") && answer.contains("the policy could not be taken back"),
        "{answer}"
    );
    let vm = env.vm("m");
    assert_eq!((&vm["nat"], &vm["published"]), (&json!(false), &json!([])), "{vm:#}");

    netns.write_on(&tap, &alias(&id));
    env.banger(["vm", "set", "m", "--nat"]).run().expect(0);
    assert_eq!(env.vm("m")["nat"], true);
    assert!(!network_state(&netns).contains(&format!("vm_{id}")), "the rules are those of everybody");
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "m", "n"]).run().expect(0);
    env.assert_nothing_left();
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

//! Attachments of VMs to the network: client, daemon and helper agree on them, whichever of them ends meanwhile.

use crate::{
    SOON,
    network_processes::{BACK, PROCESSES, alias, id_of, network_state, networked_env, of, when_complete},
    start,
};
use banger_testkit::{Identity, NetNamespace, wait_until};
use rustix::{
    io::ioctl_fionread,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open},
};
use std::{io::Write, os::unix::net::UnixStream};

/// Bytes a process has not yet read from its stdin.
fn unread(process: &Identity) -> u64 {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a pid");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
    let stdin = pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty()).expect("its stdin");
    ioctl_fionread(stdin).expect("a count")
}

#[test]
fn the_answer_of_a_client_that_hung_up_is_nobody_elses() {
    let Some(env) = networked_env() else { return };
    start(&env, "m");
    let (netns, _) = when_complete(&env);
    let id = id_of(&env, "m");
    let tap = format!("bt{id}");
    let helper = of(&env, PROCESSES[2]).pop().expect("a helper");
    assert!(helper.signal(Signal::STOP));
    let mut client = UnixStream::connect(env.layout().daemon_socket()).expect("a daemon");
    client.write_all(b"GET /v1/vms/m/egress HTTP/1.1\r\nhost: x\r\n\r\n").expect("it listens");
    wait_until(SOON, "the helper to be asked", || match unread(&helper) {
        0 => Err("nothing".into()),
        _ => Ok(()),
    });
    drop(client);
    // Who comes later is answered after that was noticed.
    env.banger(["vm", "list"]).run().expect(0);
    netns.write_on(&tap, "somebody else's");
    // On a very slow host it was given up by now: its successor refuses as well.
    helper.signal(Signal::CONT);
    let out = env.banger(["vm", "set", "m", "--no-nat"]).run().expect(1);
    assert!(out.err().contains("is not banger's"), "{out}");
    assert_eq!(env.vm("m")["nat"], true);
    netns.write_on(&tap, &alias(&id));
    env.banger(["vm", "set", "m", "--no-nat"]).run().expect(0);
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "m"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn who_ends_while_a_daemon_begins_is_off_the_network() {
    let Some(mut env) = networked_env() else { return };
    let points = env.home().join("points");
    std::fs::create_dir(&points).expect("a directory for points");
    env.set_variable("BANGER_FAILPOINTS", &points);
    let vms = ["m", "n"];
    for vm in vms {
        start(&env, vm);
    }
    when_complete(&env);
    let vmms = vms.map(|vm| env.vm_process(vm, "vmm_pid"));
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    // The next one has found both, and is kept from going on with one; then both end, and it has not written down that
    // the other did when it goes on.
    for point in ["adopt.found", "down.released"] {
        std::fs::write(points.join(point), "").expect("an armed point");
    }
    let held = |point: &str| points.join(format!("{point}.hit"));
    let reached = |point: &str| {
        wait_until(SOON, point, || if held(point).exists() { Ok(()) } else { Err("not there".into()) });
    };
    let pass = |point: &str| std::fs::remove_file(held(point)).expect("a point that was hit");
    let list = env.banger(["vm", "list"]).spawn();
    reached("adopt.found");
    wait_until(SOON, "the other to be adopted", || {
        let log = std::fs::read_to_string(env.layout().daemon_log()).unwrap_or_default();
        if log.contains("adopted") { Ok(()) } else { Err(log) }
    });
    for vmm in vmms {
        assert!(vmm.signal(Signal::KILL));
        vmm.wait_gone(SOON);
    }
    reached("down.released");
    pass("adopt.found");
    list.finish(SOON).expect(0);
    pass("down.released");
    for vm in vms {
        env.wait_state(vm, "failed", SOON);
    }
    // Who is on the network would keep it when the daemon goes.
    env.banger(["daemon", "stop"]).run().expect(0);
    wait_until(BACK, "the network's end", || {
        let left: Vec<_> = PROCESSES.iter().flat_map(|one| of(&env, *one)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    env.banger(["vm", "delete", "m", "n"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn an_address_that_the_host_gets_while_the_network_is_made_is_closed() {
    let Some(env) = networked_env() else { return };
    env.banger(["vm", "create", "--quiet", "--no-start", "--name", "m"]).run().expect(0);
    let host = NetNamespace::of(env.daemon().expect("a daemon").pid);
    let starting = env.banger(["vm", "start", "m"]).spawn();
    let helper = wait_until(SOON, "a helper", || of(&env, PROCESSES[2]).pop().ok_or_else(|| "none".into()));
    // It was told of the host's addresses when it began, and nobody listens for more before it has done that.
    assert!(helper.signal(Signal::STOP));
    host.command("ip address add 6.6.6.6/32 dev eth0");
    helper.signal(Signal::CONT);
    starting.finish(SOON).expect(0);
    let (netns, _) = when_complete(&env);
    wait_until(BACK, "the host's new address to be closed", || {
        let now = network_state(&netns);
        if now.contains("6.6.6.6") { Ok(()) } else { Err(now) }
    });
    env.assert_consistent("fake-qemu");
    env.banger(["vm", "delete", "-f", "m"]).run().expect(0);
    env.assert_nothing_left();
}

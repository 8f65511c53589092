//! Who dies, who cleans: the rows of the table that need a real VMM.

use crate::{BOOT, STAYS, delete, sh, start};
use banger_testkit::{Identity, TestEnv, require, shared, wait_until};
use rustix::process::Signal;
use std::time::Duration;

/// What the VMs of these tests run in.
const VMM: &str = "qemu-system-x86_64";

#[test]
fn a_killed_daemon_is_replaced_and_the_vm_and_its_session_go_on() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "goes-on");
    let vmm = env.vm_process("goes-on", "vmm_pid");
    let mut session = env.banger(["vm", "exec", "goes-on", "--", "cat"]).spawn();
    session.write("before\n");
    session.wait_stdout("before\n", BOOT);

    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(Duration::from_secs(10));
    session.write("without a daemon\n");
    session.wait_stdout("without a daemon\n", BOOT);

    assert_eq!(sh(&env, "goes-on", "echo adopted"), "adopted\n");
    let adopted = env.vm("goes-on");
    assert_eq!(adopted["state"], "running", "{adopted:#}");
    assert_eq!(adopted["vmm_pid"], vmm.pid, "{adopted:#}");
    assert_ne!(env.daemon().expect("a new daemon"), daemon);
    env.assert_consistent(VMM);
    session.close_stdin();
    session.finish(BOOT).expect(0);
    env.banger(["vm", "stop", "goes-on"]).run().expect(0);
    assert!(!vmm.is_alive());
    env.assert_consistent(VMM);
    delete(&env, "goes-on");
}

#[test]
fn a_login_session_that_ends_takes_neither_daemon_nor_vm_along() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    // As in a login shell: the terminal is the controlling one, and jobs have groups of their own.
    let banger = banger_testkit::bin_dir().join("banger");
    let run = format!("{} vm run --name stays-up {}", banger.display(), STAYS.join(" "));
    let shell = env
        .program("bash")
        .args(["-c", &format!("set -m; {run}; echo up $?; exec sleep 1000")])
        .spawn_on_terminal(80, 24);
    shell.wait_for("up 0", BOOT);
    let login = Identity::of(shell.leader()).expect("the leader");
    let (shim, vmm) = (env.vm_process("stays-up", "shim_pid"), env.vm_process("stays-up", "vmm_pid"));
    let daemon = env.daemon().expect("a daemon");
    for process in [&daemon, &shim, &vmm] {
        assert_ne!(process.stat(6), login.stat(6), "{process:?} is of the login's session");
        assert_eq!(process.stat(7), 0, "{process:?} has the terminal");
    }
    // A line that drops is a HUP for the session's leader; with its end the kernel takes the terminal from everybody.
    assert!(login.signal(Signal::HUP));
    assert_eq!(shell.finish(BOOT).code(), 128 + 1);
    assert_eq!(sh(&env, "stays-up", "echo goes on"), "goes on\n");
    let vm = env.vm("stays-up");
    assert_eq!((&vm["vmm_pid"], &vm["shim_pid"]), (&vmm.pid.into(), &shim.pid.into()), "{vm:#}");
    assert_eq!(env.daemon(), Some(daemon));
    env.assert_consistent(VMM);
    delete(&env, "stays-up");
}

#[test]
fn ssh_goes_on_without_a_daemon_and_with_the_next() {
    let _machine = shared();
    if !require("ssh") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    start(&env, "login");
    let mut session = env.banger(["vm", "ssh", "login", "--", "cat"]).spawn();
    session.write("before\n");
    session.wait_stdout("before\n", BOOT);
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(Duration::from_secs(10));
    session.write("without a daemon\n");
    session.wait_stdout("without a daemon\n", BOOT);
    assert_eq!(env.vm_state("login"), "running");
    session.write("with the next\n");
    session.wait_stdout("with the next\n", BOOT);
    session.close_stdin();
    session.finish(BOOT).expect(0);
    env.assert_consistent(VMM);
    delete(&env, "login");
}

#[test]
fn a_command_that_ignores_its_clients_end_is_killed_with_all_it_started() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "deaf");
    let line = "trap '' HUP TERM; setsid sleep 98765 & sleep 98765 & echo up; wait";
    let session = env.banger(["vm", "exec", "deaf", "--", "sh", "-c", line]).spawn();
    session.wait_stdout("up\n", BOOT);
    // Bracketed, so that the search does not find itself.
    let left = || sh(&env, "deaf", "grep -ls '9876[5]' /proc/[0-9]*/cmdline | wc -l").trim().to_owned();
    assert_eq!(left(), "3", "the shell and both that it started");
    session.signal(Signal::KILL);
    wait_until(BOOT, "the end of the command's processes", || match left().as_str() {
        "0" => Ok(()),
        some => Err(format!("{some} are left")),
    });
    assert_eq!(sh(&env, "deaf", "echo others live"), "others live\n");
    delete(&env, "deaf");
}

#[test]
fn a_killed_shim_takes_its_vmm_along() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "shimless");
    let (shim, vmm) = (env.vm_process("shimless", "shim_pid"), env.vm_process("shimless", "vmm_pid"));
    assert!(shim.signal(Signal::KILL));
    vmm.wait_gone(BOOT);
    env.wait_state("shimless", "failed", BOOT);
    env.assert_consistent(VMM);
    delete(&env, "shimless");
}

#[test]
fn a_killed_client_of_a_throw_away_vm_leaves_nothing() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let args = ["vm", "run", "--rm", "--name", "leased", "--memory", "256M", "--", "sh", "-c", "echo up; exec cat"];
    let session = env.banger(args).spawn();
    session.wait_stdout("up\n", BOOT);
    let vmm = env.vm_process("leased", "vmm_pid");
    session.signal(Signal::KILL);
    vmm.wait_gone(BOOT);
    wait_until(BOOT, "the VM's deletion", || {
        let list = env.banger(["vm", "list", "--json"]).run().expect(0).json();
        if list == serde_json::json!([]) { Ok(()) } else { Err(format!("{list:#}")) }
    });
    env.assert_consistent(VMM);
    env.assert_nothing_left();
}

#[test]
fn a_guest_that_panics_has_failed_and_says_so() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "panic");
    let (shim, vmm) = (env.vm_process("panic", "shim_pid"), env.vm_process("panic", "vmm_pid"));
    // The session ends with the guest; what it says of that is another test's business.
    env.banger(["vm", "exec", "panic", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]).run();
    env.wait_state("panic", "failed", BOOT);
    vmm.wait_gone(BOOT);
    shim.wait_gone(BOOT);
    let vm = env.vm("panic");
    assert!(vm["reason"].as_str().is_some_and(|reason| reason.to_lowercase().contains("panic")), "{vm:#}");
    assert!(
        env.banger(["logs", "--tail", "200", "panic"]).run().expect(0).out().contains("sysrq"),
        "its console stays"
    );
    env.banger(["vm", "start", "panic"]).run().expect(0);
    env.assert_consistent(VMM);
    delete(&env, "panic");
}

#[test]
fn a_host_that_forbids_user_namespaces_runs_vms_all_the_same_and_says_what_is_missing() {
    let _machine = shared();
    if !require("userns") {
        return;
    }
    let Some(mut env) = TestEnv::real() else { return };
    // The daemon cannot make its network's namespace either.
    env.set_variable("BANGER_UPLINK", "off");
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let banger = banger_testkit::bin_dir().join("banger");
    env.program("unshare")
        .args(["--user", "--map-root-user", "--", "sh", "-c", forbid, "sh"])
        .args([&banger])
        .args(["vm", "run", "--name", "bare"])
        .args(STAYS)
        .run()
        .expect(0);
    let vm = env.vm("bare");
    let lack = vm["unconfined"].as_str().unwrap_or_default();
    assert!(lack.starts_with("this host allows no namespaces of its own"), "{vm:#}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm["vmm_pid"])).expect("it runs");
    for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t0000000000000000\n"] {
        assert!(status.contains(line), "{line:?}: {status}");
    }
    assert_eq!(sh(&env, "bare", "echo works"), "works\n");
    delete(&env, "bare");
}

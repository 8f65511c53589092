//! The table "who dies, who cleans", row by row.

use crate::{SOON, delete, start, vms};
use banger_testkit::{Identity, Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

#[track_caller]
fn wait_no_vm(env: &TestEnv) {
    wait_until(SOON, "the VM's deletion", || {
        let left = vms(env);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn the_client_dies_and_its_throw_away_vm_goes() {
    let Some(env) = TestEnv::fake() else { return };
    let args = ["vm", "run", "--rm", "--name", "c", "--", "sh", "-c", "echo up; exec cat"];
    let session = env.banger(args).spawn();
    session.wait_stdout("up\n", SOON);
    let vmm = env.vm_process("c", "vmm_pid");
    session.signal(Signal::KILL);
    vmm.wait_gone(SOON);
    wait_no_vm(&env);
    env.assert_nothing_left();
}

#[test]
fn the_client_of_an_exec_dies_and_its_command_gets_a_hangup() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "h");
    let note = env.home().join("hangup");
    let line = format!("trap 'echo hup > {}; exit' HUP; echo up; while :; do sleep 0.1; done", note.display());
    let session = env.banger(["vm", "exec", "h", "--", "sh", "-c", &line]).spawn();
    session.wait_stdout("up\n", SOON);
    session.signal(Signal::KILL);
    wait_until(SOON, "the command's last word", || std::fs::read_to_string(&note).map_err(|error| error.to_string()));
    assert_eq!(env.vm_state("h"), "running");
    delete(&env, "h");
}

#[test]
fn the_login_session_ends_and_daemon_and_vm_stay() {
    let Some(env) = TestEnv::fake() else { return };
    // As in a login shell: the terminal is the controlling one, and jobs have groups of their own.
    let banger = banger_testkit::bin_dir().join("banger");
    let line = format!("set -m; {} vm run -d --quiet --name n; echo up $?; exec sleep 1000", banger.display());
    let shell = env.program("bash").args(["-c", &line]).spawn_on_terminal(80, 24);
    shell.wait_for("up 0", SOON);
    let login = Identity::of(shell.leader()).expect("the leader");
    let (shim, vmm) = (env.vm_process("n", "shim_pid"), env.vm_process("n", "vmm_pid"));
    let daemon = env.daemon().expect("a daemon");
    for process in [&daemon, &shim, &vmm] {
        let session = |process: &Identity| process.stat(6);
        assert_ne!(session(process), session(&login), "{process:?}");
        assert_eq!(process.stat(7), 0, "{process:?} has the terminal");
    }
    // A line that drops is a HUP for the session's leader; with its end the kernel takes the terminal from everybody.
    assert!(login.signal(Signal::HUP));
    assert_eq!(shell.finish(SOON).code(), 128 + 1);
    let vm = env.vm("n");
    assert_eq!((&vm["state"], &vm["vmm_pid"], &vm["shim_pid"]), (&"running".into(), &vmm.pid.into(), &shim.pid.into()));
    assert_eq!(env.daemon().map(|daemon| daemon.pid), Some(daemon.pid));
    env.banger(["vm", "exec", "n", "--", "true"]).run().expect(0);
    delete(&env, "n");
}

#[test]
fn the_users_manager_ends_and_the_guest_powers_off() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "m");
    let (shim, vmm) = (env.vm_process("m", "shim_pid"), env.vm_process("m", "vmm_pid"));
    // What a scope's end is, for every process of it, in whatever order.
    for process in [&vmm, &shim] {
        assert!(process.signal(Signal::WINCH));
    }
    env.wait_state("m", "stopped", SOON);
    assert_eq!(env.exit_cause("m"), "poweroff");
    env.banger(["vm", "start", "m"]).run().expect(0);
    delete(&env, "m");
}

#[test]
fn the_daemon_dies_and_everything_goes_on() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "d");
    let (shim, vmm) = (env.vm_process("d", "shim_pid"), env.vm_process("d", "vmm_pid"));
    let mut session = env.banger(["vm", "exec", "d", "--", "cat"]).spawn();
    session.write("one\n");
    session.wait_stdout("one\n", SOON);
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    session.write("two\n");
    session.wait_stdout("two\n", SOON);
    let vm = env.vm("d");
    assert_eq!((&vm["state"], &vm["vmm_pid"], &vm["shim_pid"]), (&"running".into(), &vmm.pid.into(), &shim.pid.into()));
    session.close_stdin();
    session.finish(SOON).expect(0);
    env.banger(["vm", "stop", "d"]).run().expect(0);
    assert_eq!(env.vm_state("d"), "stopped");
    delete(&env, "d");
}

#[test]
fn the_daemon_dies_while_files_are_copied_and_they_arrive() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "c");
    let there = env.home().join("home/there");
    std::fs::create_dir(&there).expect("a directory");
    let mut archive = tar::Builder::new(Vec::new());
    let bytes = vec![7; 3 << 20];
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "file", bytes.as_slice()).expect("an archive in memory");
    let archive = archive.into_inner().expect("an archive in memory");
    let mut session = env.banger(["cp", "-", &format!("c:{}", there.display())]).spawn();
    session.write(&archive[..1 << 20]);
    wait_until(SOON, "the beginning of the file", || {
        let found = std::fs::read_dir(&there).into_iter().flatten().flatten().count();
        if found > 0 { Ok(()) } else { Err("nothing".into()) }
    });
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    assert_eq!(env.vm_state("c"), "running", "a new daemon is there");
    session.write(&archive[1 << 20..]);
    session.close_stdin();
    session.finish(SOON).expect(0);
    assert!(std::fs::read(there.join("file")).expect("the file") == bytes, "it is another");
    delete(&env, "c");
}

#[test]
fn the_daemon_dies_while_a_throw_away_vm_runs_and_it_still_goes() {
    let Some(env) = TestEnv::fake() else { return };
    let args = ["vm", "run", "--rm", "--name", "l", "--", "sh", "-c", "echo up; exec cat"];
    let mut session = env.banger(args).spawn();
    session.wait_stdout("up\n", SOON);
    let (daemon, vmm) = (env.daemon().expect("a daemon"), env.vm_process("l", "vmm_pid"));
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    session.close_stdin();
    session.finish(SOON);
    // Any command brings a daemon, which finds the lease of a client that is gone.
    wait_no_vm(&env);
    assert!(!vmm.is_alive());
    env.assert_nothing_left();
}

#[test]
fn the_shim_dies_and_the_vm_has_failed() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "s");
    let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
    assert!(shim.signal(Signal::KILL));
    vmm.wait_gone(SOON);
    env.wait_state("s", "failed", SOON);
    env.banger(["vm", "start", "s"]).run().expect(0);
    assert_eq!(env.vm_state("s"), "running");
    delete(&env, "s");
}

#[test]
fn the_shim_dies_while_no_daemon_looks() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "u");
    let (shim, vmm) = (env.vm_process("u", "shim_pid"), env.vm_process("u", "vmm_pid"));
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    assert!(shim.signal(Signal::KILL));
    vmm.wait_gone(SOON);
    assert_eq!(env.vm_state("u"), "failed");
    delete(&env, "u");
}

#[test]
fn a_shim_that_was_stopped_is_woken_by_the_next_daemon_and_keeps_its_vm() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "s");
    let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    assert!(shim.signal(Signal::STOP));
    let vm = env.vm("s");
    assert_eq!((&vm["state"], &vm["vmm_pid"], &vm["shim_pid"]), (&"running".into(), &vmm.pid.into(), &shim.pid.into()));
    env.banger(["vm", "exec", "s", "--", "true"]).run().expect(0);
    delete(&env, "s");
}

#[test]
fn a_shim_that_stands_still_while_the_daemon_restarts_keeps_its_vm() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "s");
    let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
    let (list, places) = wait_for_shim(&env, "s");
    drop(places);
    list.finish(SOON).expect(0);
    let vm = env.vm("s");
    assert_eq!((&vm["state"], &vm["vmm_pid"], &vm["shim_pid"]), (&"running".into(), &vmm.pid.into(), &shim.pid.into()));
    env.banger(["vm", "exec", "s", "--", "true"]).run().expect(0);
    delete(&env, "s");
}

#[test]
fn a_daemon_that_waits_for_a_shim_which_stands_still_ends_when_it_is_told() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "s");
    let (shim, vmm) = (env.vm_process("s", "shim_pid"), env.vm_process("s", "vmm_pid"));
    let (list, places) = wait_for_shim(&env, "s");
    let daemons = env.processes("bangerd");
    let [waiting] = &daemons[..] else { panic!("one daemon: {daemons:?}") };
    assert!(waiting.signal(Signal::TERM));
    // One that goes on would give the shim up first, and end it.
    waiting.wait_gone(SOON);
    drop(places);
    // The command has another daemon started.
    list.finish(SOON).expect(0);
    let vm = env.vm("s");
    assert_eq!((&vm["state"], &vm["vmm_pid"], &vm["shim_pid"]), (&"running".into(), &vmm.pid.into(), &shim.pid.into()));
    delete(&env, "s");
}

/// More watchers than a shim has places for.
const PLACES: usize = 40;

/// Has another daemon look for a shim that does not answer it, for others have every place; gives the command that
/// started it and those others.
#[track_caller]
fn wait_for_shim(env: &TestEnv, name: &str) -> (Session, Vec<UnixStream>) {
    let socket = control_socket(env, name);
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    let places = taken_places(&socket);
    let list = env.banger(["vm", "list"]).spawn();
    wait_until(SOON, "a daemon that tries again", || {
        let log = std::fs::read_to_string(env.layout().daemon_log()).unwrap_or_default();
        if log.contains("a shim lives and does not answer yet") { Ok(()) } else { Err(log) }
    });
    (list, places)
}

pub(crate) fn control_socket(env: &TestEnv, name: &str) -> PathBuf {
    let id = env.vm(name)["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    env.layout().vm_run(&id).join("control.sock")
}

/// Every place that a shim has for those who watch it: it lives, and answers nobody else as long as these are kept.
pub(crate) fn taken_places(socket: &Path) -> Vec<UnixStream> {
    (0..PLACES).map(|_| UnixStream::connect(socket).expect("a shim")).collect()
}

#[test]
fn the_vmm_dies_and_the_reason_is_kept() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    assert!(env.vm_process("v", "vmm_pid").signal(Signal::KILL));
    env.wait_state("v", "failed", SOON);
    let vm = env.vm("v");
    assert_eq!(vm["reason"], "the VMM ended by itself: signal: 9 (SIGKILL)", "{vm:#}");
    assert_eq!((&vm["vmm_pid"], &vm["shim_pid"]), (&serde_json::Value::Null, &serde_json::Value::Null), "{vm:#}");
    wait_until(SOON, "the shim's end", || {
        let shims = env.processes("banger-shim");
        if shims.is_empty() { Ok(()) } else { Err(format!("{shims:?}")) }
    });
    delete(&env, "v");
}

#[test]
fn a_session_in_a_vm_that_dies_ends_with_a_failure_of_bangers() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "x");
    let session = env.banger(["vm", "exec", "x", "--", "sh", "-c", "echo up; exec sleep 1000"]).spawn();
    session.wait_stdout("up\n", SOON);
    assert!(env.vm_process("x", "vmm_pid").signal(Signal::KILL));
    let out = session.finish(SOON).expect(125);
    assert!(out.err().contains("error: "), "{out}");
    delete(&env, "x");
}

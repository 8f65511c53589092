//! One daemon per home, started by who needs it first.

use crate::{SOON, delete, start};
use banger_testkit::TestEnv;
use rustix::process::Signal;

#[test]
fn racing_clients_start_one_daemon() {
    let env = TestEnv::empty();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| env.banger(["ps"]).patience(SOON).run().expect(0));
        }
    });
    env.daemon().expect("exactly one daemon");
    env.assert_nothing_left();
}

#[test]
fn status_and_stop() {
    let env = TestEnv::empty();
    let down = env.banger(["daemon", "status"]).run();
    insta::assert_snapshot!(env.filtered(&down));
    env.banger(["ps"]).run().expect(0);
    let status = env.banger(["daemon", "status", "--json"]).run().expect(0).json();
    assert_eq!(status["pid"], env.daemon().expect("a daemon").pid, "{status:#}");
    for key in ["version", "socket", "uptime_s"] {
        assert!(!status[key].is_null(), "{key} in {status:#}");
    }
    env.banger(["daemon", "stop"]).run().expect(0);
    assert!(env.daemon().is_none());
    env.assert_nothing_left();
}

#[test]
fn the_socket_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let env = TestEnv::empty();
    env.banger(["ps"]).run().expect(0);
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&env.layout().daemon_socket()), 0o600);
    assert_eq!(mode(&env.layout().run), 0o700);
    assert_eq!(mode(&env.layout().state), 0o700);
    env.assert_nothing_left();
}

#[test]
fn a_daemon_that_was_killed_is_replaced() {
    let env = TestEnv::empty();
    env.banger(["ps"]).run().expect(0);
    let first = env.daemon().expect("a daemon");
    assert!(first.signal(Signal::KILL));
    first.wait_gone(SOON);
    env.banger(["ps"]).run().expect(0);
    assert_ne!(env.daemon().expect("another"), first);
    env.assert_nothing_left();
}

#[test]
fn a_daemon_whose_socket_was_taken_away_makes_room_for_another() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    let first = env.daemon().expect("a daemon");
    std::fs::remove_file(env.layout().daemon_socket()).expect("its socket");
    env.banger(["ps"]).patience(SOON).run().expect(0);
    first.wait_gone(SOON);
    env.daemon().expect("another");
    assert_eq!(env.vm_state("v"), "running");
    delete(&env, "v");
}

#[test]
fn a_run_directory_that_was_taken_away_takes_no_vm_along() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    let (first, vmm) = (env.daemon().expect("a daemon"), env.vm_process("v", "vmm_pid"));
    let mut session = env.banger(["exec", "v", "--", "cat"]).spawn();
    session.write("one\n");
    session.wait_stdout("one\n", SOON);
    // At one blow: what is taken away bit by bit the shim makes anew meanwhile.
    let gone = env.home().join("gone");
    std::fs::rename(&env.layout().run, &gone).expect("the directory of sockets");
    std::fs::remove_dir_all(&gone).expect("its files");
    env.banger(["ps"]).patience(SOON).run().expect(0);
    first.wait_gone(SOON);
    let vm = env.vm("v");
    assert_eq!((&vm["state"], &vm["vmm_pid"]), (&"running".into(), &vmm.pid.into()), "{vm:#}");
    assert_eq!(env.banger(["exec", "v", "--", "echo", "fine"]).run().expect(0).out(), "fine\n");
    session.write("two\n");
    session.wait_stdout("two\n", SOON);
    session.close_stdin();
    session.finish(SOON).expect(0);
    env.banger(["vm", "stop", "v"]).run().expect(0);
    assert_eq!(env.exit_cause("v"), "poweroff");
    delete(&env, "v");
}

#[test]
fn a_daemon_with_another_run_directory_finds_the_vms_of_the_one_before() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    let vmm = env.vm_process("v", "vmm_pid");
    env.banger(["daemon", "stop"]).run().expect(0);
    // The same home by a name that is too long for sockets: a daemon there has its own elsewhere.
    let long = env.home().join("x".repeat(150));
    std::os::unix::fs::symlink(env.home(), &long).expect("a link");
    let banger = |args: &[&str]| env.banger(args).env("BANGER_HOME", &long).patience(SOON).run().expect(0);
    let vm = banger(&["vm", "show", "v", "--json"]).json();
    assert_eq!((&vm["state"], &vm["vmm_pid"]), (&"running".into(), &vmm.pid.into()), "{vm:#}");
    let status = banger(&["daemon", "status", "--json"]).json();
    let socket = status["socket"].as_str().map(std::path::Path::new);
    assert!(socket.is_some_and(|socket| !socket.starts_with(env.home())), "{status:#}");
    assert_eq!(banger(&["exec", "v", "--", "echo", "fine"]).out(), "fine\n");
    banger(&["vm", "stop", "v"]);
    banger(&["daemon", "stop"]);
    assert_eq!(env.exit_cause("v"), "poweroff");
    delete(&env, "v");
}

#[test]
fn an_unknown_key_in_the_configuration_is_named_with_its_line() {
    let env = TestEnv::empty();
    env.configure("log_level = \"info\"\nnonsense = 1\n");
    let out = env.banger(["ps"]).run().expect(1);
    insta::assert_snapshot!(env.filtered(&out));
    env.configure("");
    env.banger(["ps"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_home_with_a_long_path_works() {
    let env = TestEnv::empty();
    let long = env.home().join("x".repeat(150));
    let run = |args: &[&str]| env.banger(args).env("BANGER_HOME", &long).run().expect(0);
    run(&["ps"]);
    run(&["daemon", "stop"]);
}

#[test]
fn completion_says_nothing_when_the_daemon_is_down() {
    let env = TestEnv::empty();
    let out = env.banger(["completion", "bash"]).run().expect(0);
    assert!(out.out().contains("banger"), "{out}");
    assert!(env.daemon().is_none(), "completing starts no daemon");
}

//! Starts that are preempted: by another request, by the daemon's end, by a shim of an earlier start.

use crate::{SOON, delete, vms};
use banger_testkit::{Identity, Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::{fs, path::PathBuf};

/// Environment with fail-points, whose VMs get a file once their agent answers.
struct Setup {
    env: TestEnv,
    points: PathBuf,
    /// Path of the copied file: the fake VMM's guests are processes of this host.
    arrived: PathBuf,
}

impl Setup {
    fn new() -> Option<Self> {
        let setup = Self::without_files()?;
        let guest = setup.arrived.display();
        setup.env.configure_also(&format!("[[file_sync]]\nhost = \"~/note\"\nguest = \"{guest}\"\n"));
        Some(setup)
    }

    fn without_files() -> Option<Self> {
        let mut env = TestEnv::fake()?;
        let (points, home) = (env.home().join("points"), env.home().join("home"));
        fs::create_dir(&points).expect("a directory for points");
        fs::write(home.join("note"), "a note\n").expect("a file");
        env.set_variable("BANGER_FAILPOINTS", &points);
        let arrived = home.join("arrived");
        Some(Self { env, points, arrived })
    }

    fn arm(&self, point: &str) {
        fs::write(self.points.join(point), "").expect("an armed point");
    }

    /// Waits for a file of a fail-point: `NAME.hit` is halted, `NAME.seen` was passed.
    #[track_caller]
    fn wait(&self, file: &str) {
        let file = self.points.join(file);
        wait_until(SOON, &format!("{}", file.display()), || if file.exists() { Ok(()) } else { Err("no".into()) });
    }

    fn go_on(&self, point: &str) {
        fs::remove_file(self.points.join(format!("{point}.hit"))).expect("it is held");
    }

    fn kill_daemon(&self) {
        let daemon = self.env.daemon().expect("a daemon");
        daemon.signal(Signal::KILL);
        daemon.wait_gone(SOON);
    }

    /// Waits until the daemon has seen a client leave.
    fn client_left(&self) {
        self.clients_left(1);
    }

    fn clients_left(&self, count: usize) {
        wait_until(SOON, "the daemon to notice", || {
            let log = fs::read_to_string(self.env.layout().daemon_log()).unwrap_or_default();
            if log.matches("the client went away").count() >= count { Ok(()) } else { Err(log) }
        });
    }

    /// Starts a VM whose guest has announced itself and accepts no file.
    fn silent(&self) -> Session {
        let session = self.env.banger(["vm", "run", "-d", "--name", "hostile-mute"]).spawn();
        self.wait("start.ready.seen");
        session
    }
}

#[track_caller]
fn is_cut_short(session: Session, by: &str) {
    let out = session.finish(SOON).expect(125);
    for words in ["the start of VM hostile-mute was cut short", by] {
        assert!(out.err().contains(words), "{words}: {out}");
    }
}

#[test]
fn a_guest_that_takes_no_files_holds_up_no_stop_no_kill_and_no_deletion() {
    let Some(setup) = Setup::new() else { return };
    let env = &setup.env;
    let session = setup.silent();
    // It powers off at once, and may be slow about it on a busy host.
    env.banger(["vm", "stop", "--timeout", "50s", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(env.exit_cause("hostile-mute"), "poweroff", "it was not asked");
    is_cut_short(session, "a stop of the VM");
    env.banger(["rm", "hostile-mute"]).run().expect(0);
    fs::remove_file(setup.points.join("start.ready.seen")).expect("it was passed");

    let session = setup.silent();
    env.banger(["vm", "kill", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(env.exit_cause("hostile-mute"), "killed");
    is_cut_short(session, "a kill of the VM");
    env.banger(["rm", "hostile-mute"]).run().expect(0);
    fs::remove_file(setup.points.join("start.ready.seen")).expect("it was passed");

    let session = setup.silent();
    env.banger(["rm", "-f", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(vms(env), []);
    is_cut_short(session, "a delete of the VM");
    env.assert_nothing_left();
}

#[test]
fn a_vm_that_is_stopped_while_it_is_made_is_there_and_stopped() {
    let Some(setup) = Setup::without_files() else { return };
    let env = &setup.env;
    for verb in ["stop", "kill"] {
        setup.arm("start.directories");
        let run = env.banger(["vm", "run", "-d", "--name", "new"]).spawn();
        setup.wait("start.directories.hit");
        let down = env.banger(["vm", verb, "new"]).spawn();
        // It is told what is in progress as soon as it is heard.
        wait_until(SOON, "the daemon to hear of it", || {
            let log = fs::read_to_string(env.layout().daemon_log()).unwrap_or_default();
            let asked = format!("asked=\"{verb}\"");
            if log.contains(&asked) { Ok(()) } else { Err(log) }
        });
        setup.go_on("start.directories");
        down.finish(SOON).expect(0);
        let out = run.finish(SOON).expect(125);
        assert!(out.err().contains(&format!("a {verb} of the VM was asked for meanwhile")), "{out}");
        assert_eq!(env.vm_state("new"), "stopped", "{verb}");
        env.assert_consistent("fake-qemu");
        delete(env, "new");
    }
}

#[test]
fn a_start_goes_on_after_its_daemon_or_its_client() {
    let Some(setup) = Setup::new() else { return };
    let env = &setup.env;
    setup.arm("start.ready");
    let session = env.banger(["vm", "run", "-d", "--name", "f"]).spawn();
    setup.wait("start.ready.hit");
    setup.kill_daemon();
    setup.go_on("start.ready");
    session.finish(SOON);
    env.wait_state("f", "running", SOON);
    assert_eq!(fs::read(&setup.arrived).expect("a file"), b"a note\n");

    env.banger(["vm", "stop", "f"]).run().expect(0);
    fs::remove_file(&setup.arrived).expect("a file");
    setup.arm("start.ready");
    let session = env.banger(["vm", "start", "f"]).spawn();
    setup.wait("start.ready.hit");
    session.signal(Signal::KILL);
    setup.client_left();
    setup.go_on("start.ready");
    session.finish(SOON);
    env.wait_state("f", "running", SOON);
    assert_eq!(fs::read(&setup.arrived).expect("a file"), b"a note\n");
    env.assert_consistent("fake-qemu");
    delete(env, "f");
}

#[test]
fn a_start_that_is_interrupted_leaves_the_vm_as_it_was() {
    let Some(setup) = Setup::without_files() else { return };
    let env = &setup.env;
    env.banger(["vm", "create", "--no-start", "--name", "new"]).run().expect(0);
    env.banger(["vm", "run", "-d", "--name", "old"]).run().expect(0);
    assert!(env.vm_process("old", "shim_pid").signal(Signal::KILL));
    env.wait_state("old", "failed", SOON);
    for (count, name) in [(1, "new"), (2, "old")] {
        let before = env.vm(name);
        setup.arm("start.planned");
        let session = env.banger(["vm", "start", name]).spawn();
        setup.wait("start.planned.hit");
        session.signal(Signal::INT);
        let out = session.finish(SOON).expect(128 + 2);
        assert!(out.err().contains("the start is taken back, unless the guest was up already"), "{out}");
        setup.clients_left(count);
        setup.go_on("start.planned");
        env.wait_state(name, before["state"].as_str().expect("a state"), SOON);
        let after = env.vm(name);
        for key in ["reason", "vmm", "accelerator", "phases", "started_at"] {
            assert_eq!(after[key], before[key], "{key}: {after:#}");
        }
        env.assert_consistent("fake-qemu");
    }
    assert!(env.vm("old")["reason"].is_string());
    env.banger(["vm", "delete", "new"]).run().expect(0);
    delete(env, "old");
}

#[test]
fn a_shim_that_comes_late_runs_no_later_starts_plan() {
    let Some(setup) = Setup::new() else { return };
    let env = &setup.env;
    setup.arm("shim.begun");
    let session = env.banger(["vm", "run", "-d", "--name", "f"]).spawn();
    setup.wait("shim.begun.hit");
    // The one that waits is what is left of this daemon's start.
    setup.kill_daemon();
    session.finish(SOON);
    env.wait_state("f", "failed", SOON);
    let late: Vec<Identity> = env.processes("banger-shim");
    assert!(!late.is_empty(), "no shim is on its way");
    setup.arm("launch.planned");
    let session = env.banger(["vm", "start", "f"]).spawn();
    setup.wait("launch.planned.hit");
    setup.go_on("shim.begun");
    for shim in &late {
        shim.wait_gone(SOON);
    }
    setup.go_on("launch.planned");
    session.finish(SOON).expect(0);
    assert_eq!(env.vm_state("f"), "running");
    env.assert_consistent("fake-qemu");
    delete(env, "f");
}

/// Error of a start whose guest refuses files.
const REFUSED: &str = "cannot copy the files of [[file_sync]] into the guest";

#[test]
fn a_start_that_failed_after_the_agent_answered_has_failed_whoever_leaves_meanwhile() {
    let Some(setup) = Setup::new() else { return };
    let env = &setup.env;
    env.banger(["vm", "create", "--no-start", "--name", "hostile-fickle"]).run().expect(0);
    setup.arm("stop.asked");
    let session = env.banger(["vm", "start", "hostile-fickle"]).spawn();
    setup.wait("stop.asked.hit");
    session.signal(Signal::KILL);
    session.finish(SOON);
    setup.client_left();
    setup.go_on("stop.asked");
    // Another try would be taken: whoever had the start go on would have it run.
    env.wait_state("hostile-fickle", "failed", SOON);
    let vm = env.vm("hostile-fickle");
    assert!(vm["reason"].as_str().is_some_and(|reason| reason.contains("507")), "{vm:#}");

    // A stop that comes meanwhile is carried out at once, and what failed is told.
    setup.arm("stop.asked");
    let session = env.banger(["vm", "start", "hostile-fickle"]).spawn();
    setup.wait("stop.asked.hit");
    env.banger(["vm", "stop", "--timeout", "0s", "hostile-fickle"]).patience(SOON).run().expect(0);
    assert_eq!(env.vm_state("hostile-fickle"), "stopped");
    let out = session.finish(SOON);
    assert!(out.code() != 0 && out.err().contains(REFUSED), "{out}");
    assert!(!out.err().contains("cut short"), "{out}");
    delete(env, "hostile-fickle");
}

#[test]
fn whoever_dies_once_a_guest_was_asked_to_power_off_a_second_stop_ends_it() {
    let Some(setup) = Setup::without_files() else { return };
    let env = &setup.env;
    let name = "hostile-stubborn";
    for victim in ["daemon", "client", "shim_pid", "vmm_pid", "guest"] {
        env.banger(["vm", "run", "-d", "--name", name]).run().expect(0);
        let session = env.banger(["vm", "stop", "--timeout", "10m", name]).spawn();
        setup.wait("stop.asked.seen");
        match victim {
            "daemon" => setup.kill_daemon(),
            "client" => session.signal(Signal::KILL),
            // Its kernel panics: its agent is gone.
            "guest" => {
                let mut agents = env.processes("hostile-agent");
                agents.retain(|process| !process.command.contains("--guest"));
                let [agent] = &agents[..] else { panic!("one guest: {agents:?}") };
                assert!(agent.signal(Signal::KILL));
            }
            field => drop(env.vm_process(name, field).signal(Signal::KILL)),
        }
        let out = session.finish(SOON);
        if victim == "client" {
            // It is stopped all the same, and takes its time: who cannot wait kills.
            assert_eq!(env.vm_state(name), "stopping");
            env.banger(["vm", "kill", name]).run().expect(0);
        } else if victim == "daemon" {
            env.wait_state(name, "running", SOON);
        } else {
            out.expect(0);
            let vm = env.vm(name);
            let how = if victim == "guest" { "the guest's kernel panicked: " } else { "VMM" };
            assert_eq!(vm["state"], "stopped", "{victim}: {vm:#}");
            assert!(vm["reason"].as_str().is_some_and(|reason| reason.contains(how)), "{victim}: {vm:#}");
        }
        env.banger(["vm", "stop", "--timeout", "0s", name]).patience(SOON).run().expect(0);
        assert_eq!(env.vm_state(name), "stopped", "{victim}");
        fs::remove_file(setup.points.join("stop.asked.seen")).expect("it was passed");
        env.assert_consistent("fake-qemu");
        delete(env, name);
    }
}

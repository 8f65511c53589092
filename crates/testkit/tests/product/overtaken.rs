//! Starts that something comes in the way of: another request, the daemon's end, a shim of an earlier one.

use crate::{SOON, delete, vms};
use banger_testkit::{Identity, Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::{fs, path::PathBuf};

/// An environment with points to be held at, whose VMs get a file once their agent answers.
struct Bench {
    env: TestEnv,
    points: PathBuf,
    /// Where the file goes: the fake VMM's guests are processes of this host.
    arrived: PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        let mut env = TestEnv::fake()?;
        let (points, home) = (env.home().join("points"), env.home().join("home"));
        fs::create_dir(&points).expect("a directory for points");
        fs::write(home.join("note"), "a note\n").expect("a file");
        env.set_variable("BANGER_FAILPOINTS", &points);
        let arrived = home.join("arrived");
        env.configure_also(&format!("[[file_sync]]\nhost = \"~/note\"\nguest = \"{}\"\n", arrived.display()));
        Some(Self { env, points, arrived })
    }

    fn arm(&self, point: &str) {
        fs::write(self.points.join(point), "").expect("an armed point");
    }

    /// Waits for a file of the points': `NAME.hit` is held, `NAME.seen` was passed.
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

    /// A start that waits for a guest which has announced itself and takes no file.
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
    let Some(bench) = Bench::new() else { return };
    let env = &bench.env;
    let session = bench.silent();
    // It powers off at once, and may be slow about it on a busy host.
    env.banger(["vm", "stop", "--timeout", "50s", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(env.exit_cause("hostile-mute"), "poweroff", "it was not asked");
    is_cut_short(session, "a stop of the VM");
    env.banger(["rm", "hostile-mute"]).run().expect(0);
    fs::remove_file(bench.points.join("start.ready.seen")).expect("it was passed");

    let session = bench.silent();
    env.banger(["vm", "kill", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(env.exit_cause("hostile-mute"), "killed");
    is_cut_short(session, "a kill of the VM");
    env.banger(["rm", "hostile-mute"]).run().expect(0);
    fs::remove_file(bench.points.join("start.ready.seen")).expect("it was passed");

    let session = bench.silent();
    env.banger(["rm", "-f", "hostile-mute"]).patience(SOON).run().expect(0);
    assert_eq!(vms(env), []);
    is_cut_short(session, "a delete of the VM");
    env.assert_nothing_left();
}

#[test]
fn a_start_goes_on_after_its_daemon_or_its_client() {
    let Some(bench) = Bench::new() else { return };
    let env = &bench.env;
    bench.arm("start.ready");
    let session = env.banger(["vm", "run", "-d", "--name", "f"]).spawn();
    bench.wait("start.ready.hit");
    bench.kill_daemon();
    bench.go_on("start.ready");
    session.finish(SOON);
    env.wait_state("f", "running", SOON);
    assert_eq!(fs::read(&bench.arrived).expect("a file"), b"a note\n");

    env.banger(["vm", "stop", "f"]).run().expect(0);
    fs::remove_file(&bench.arrived).expect("a file");
    bench.arm("start.ready");
    let session = env.banger(["vm", "start", "f"]).spawn();
    bench.wait("start.ready.hit");
    session.signal(Signal::KILL);
    wait_until(SOON, "the daemon to notice", || {
        let log = fs::read_to_string(env.layout().daemon_log()).unwrap_or_default();
        if log.contains("the client went away") { Ok(()) } else { Err(log) }
    });
    bench.go_on("start.ready");
    session.finish(SOON);
    env.wait_state("f", "running", SOON);
    assert_eq!(fs::read(&bench.arrived).expect("a file"), b"a note\n");
    env.assert_in_order("fake-qemu");
    delete(env, "f");
}

#[test]
fn a_shim_that_comes_late_runs_no_later_starts_plan() {
    let Some(bench) = Bench::new() else { return };
    let env = &bench.env;
    bench.arm("shim.begun");
    let session = env.banger(["vm", "run", "-d", "--name", "f"]).spawn();
    bench.wait("shim.begun.hit");
    // The one that waits is what is left of this daemon's start.
    bench.kill_daemon();
    session.finish(SOON);
    env.wait_state("f", "failed", SOON);
    let late: Vec<Identity> = env.processes("banger-shim");
    assert!(!late.is_empty(), "no shim is on its way");
    bench.arm("launch.planned");
    let session = env.banger(["vm", "start", "f"]).spawn();
    bench.wait("launch.planned.hit");
    bench.go_on("shim.begun");
    for shim in &late {
        shim.wait_gone(SOON);
    }
    bench.go_on("launch.planned");
    session.finish(SOON).expect(0);
    assert_eq!(env.vm_state("f"), "running");
    env.assert_in_order("fake-qemu");
    delete(env, "f");
}

//! The fault matrix: at every point between two steps of create, start, stop, restart, set, delete and adopt, whoever may die there
//! dies; afterwards a new daemon comes, and everything is exactly what the states say.
//!
//! A point is armed by a file, reached by an ordinary command, and held while the victim is killed (see
//! `banger_daemon::failpoint`). A point that is not reached fails the test, so this table cannot fall behind the code.

use crate::SOON;
use banger_testkit::{Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::path::PathBuf;

const VMM: &str = "fake-qemu";
const NAME: &str = "f";

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Client,
    Shim,
    Vmm,
    /// The guest's kernel panics: its agent is gone.
    Guest,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `vm run -d`: create and start.
    Run,
    /// `vm run --rm -- cat`: the same with a lease.
    RunLeased,
    /// `vm start` of a VM that was stopped.
    Start,
    Stop,
    /// `vm restart` of one that runs.
    Restart,
    /// `vm set` of one that runs.
    Set,
    /// `vm publish` of one that runs.
    Publish,
    /// `vm unpublish` of one that runs.
    Unpublish,
    /// `vm delete -f` of one that runs.
    Delete,
    /// A new daemon finds one that runs.
    Adopt,
    /// A new daemon finds one whose shim died meanwhile.
    AdoptDead,
}

use Act::{Adopt, AdoptDead, Delete, Publish, Restart, Run, RunLeased, Set, Start, Stop, Unpublish};
use Victim::{Client, Daemon, Guest, Shim, Vmm};

/// Where, while what is done, who may die there, and what the VM may be afterwards (`gone` when it is not).
type Row = (&'static str, Act, &'static [(Victim, &'static [&'static str])]);

const GONE: &[&str] = &["gone"];
const FAILED: &[&str] = &["failed"];
const RUNNING: &[&str] = &["running"];
const STOPPED: &[&str] = &["stopped"];
/// A daemon that comes back finds it made and not started, or not made.
const UNSTARTED: &[&str] = &["failed", "stopped", "created"];
/// Nobody is left who wanted it: the client is dead and the daemon noticed.
const UNWANTED: &[(Victim, &[&str])] = &[(Daemon, GONE), (Client, GONE)];
const BEFORE_MACHINE: &[(Victim, &[&str])] = &[(Daemon, UNSTARTED), (Client, GONE)];
/// A client that dies takes its VM along until it was told that it runs.
const WITH_MACHINE: &[(Victim, &[&str])] =
    &[(Daemon, RUNNING), (Client, GONE), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// The VM is up and the client need not be.
const UP: &[(Victim, &[&str])] =
    &[(Daemon, RUNNING), (Client, &["gone", "running"]), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// A client that dies takes it down again, unless it is up already.
const UP_AGAIN: &[(Victim, &[&str])] =
    &[(Daemon, RUNNING), (Client, &["running", "stopped"]), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// What is set is set, whoever is left: who asked need not be.
const SETTING: &[(Victim, &[&str])] =
    &[(Daemon, RUNNING), (Client, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
const GOING_DOWN: &[(Victim, &[&str])] = &[
    (Daemon, &["running", "stopped"]),
    (Client, STOPPED),
    (Shim, &["stopped", "failed"]),
    (Vmm, &["stopped", "failed"]),
    (Guest, &["stopped", "failed"]),
];
const DOWN: &[(Victim, &[&str])] = &[(Daemon, &["stopped", "failed"]), (Client, STOPPED)];
const GOING: &[(Victim, &[&str])] =
    &[(Daemon, &["gone", "running", "failed", "stopped"]), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
const GOING_FOR_GOOD: &[(Victim, &[&str])] = &[(Daemon, &["gone", "stopped", "failed"]), (Client, GONE)];

const MATRIX: &[Row] = &[
    ("create.named", Run, UNWANTED),
    ("create.leased", RunLeased, UNWANTED),
    ("create.claimed", Run, UNWANTED),
    ("create.directory", Run, UNWANTED),
    ("create.furnished", Run, &[(Daemon, &["created"]), (Client, GONE)]),
    ("start.recorded", Run, BEFORE_MACHINE),
    ("start.claimed", Run, BEFORE_MACHINE),
    ("start.directories", Start, &[(Daemon, UNSTARTED), (Client, STOPPED)]),
    ("start.planned", Run, BEFORE_MACHINE),
    ("start.launched", Run, WITH_MACHINE),
    // From here on it is chance whether its end is seen before the word that the VM runs is written.
    ("start.ready", Run, UP),
    ("start.ready", RunLeased, &[(Daemon, &["gone", "running"]), (Client, GONE)]),
    ("start.saved", Run, UP),
    ("stop.recorded", Stop, GOING_DOWN),
    ("stop.ended", Stop, DOWN),
    ("release.processes", Stop, DOWN),
    ("release.shim", Stop, DOWN),
    ("release.capabilities", Stop, DOWN),
    ("release.run", Stop, DOWN),
    ("down.released", Stop, DOWN),
    // What was to go down anyway may die there: the way up begins all the same.
    (
        "stop.recorded",
        Restart,
        &[
            (Daemon, &["running", "stopped"]),
            (Client, &["running", "stopped"]),
            (Shim, RUNNING),
            (Vmm, RUNNING),
            (Guest, RUNNING),
        ],
    ),
    ("stop.ended", Restart, DOWN),
    ("down.released", Restart, DOWN),
    ("start.recorded", Restart, &[(Daemon, UNSTARTED), (Client, STOPPED)]),
    ("start.launched", Restart, UP_AGAIN),
    ("start.ready", Restart, UP_AGAIN),
    ("set.saved", Set, SETTING),
    ("set.recorded", Publish, SETTING),
    ("set.changed", Publish, SETTING),
    ("set.recorded", Unpublish, SETTING),
    ("set.changed", Unpublish, SETTING),
    ("delete.begun", Delete, GOING),
    ("delete.ended", Delete, GOING_FOR_GOOD),
    ("release.processes", Delete, GOING_FOR_GOOD),
    ("release.shim", Delete, GOING_FOR_GOOD),
    ("release.capabilities", Delete, GOING_FOR_GOOD),
    ("release.run", Delete, GOING_FOR_GOOD),
    ("release.state", Delete, GOING_FOR_GOOD),
    ("adopt.row", Adopt, &[(Daemon, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)]),
    ("adopt.found", Adopt, &[(Daemon, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)]),
    ("adopt.row", AdoptDead, &[(Daemon, FAILED)]),
    ("adopt.released", AdoptDead, &[(Daemon, FAILED)]),
];

/// One environment for all cases of one victim: what a case leaves behind would show in the next one too.
struct Bench {
    env: TestEnv,
    points: PathBuf,
    /// A published port of this bench's: on a loopback address that nobody else has, so that it is free whenever no VM
    /// has it.
    port: String,
}

impl Bench {
    fn new(victim: Victim) -> Option<Self> {
        let mut env = TestEnv::fake()?;
        let points = env.home().join("points");
        std::fs::create_dir(&points).expect("a directory for points");
        env.set_variable("BANGER_FAILPOINTS", &points);
        let [.., high, low] = std::process::id().to_be_bytes();
        Some(Self { env, points, port: format!("127.{}.{high}.{low}:18093:80", 100 + victim as u8) })
    }

    fn run(&self, args: &[&str]) -> banger_testkit::Output {
        self.env.banger(args).run()
    }

    fn spawn(&self, args: &[&str]) -> Session {
        self.env.banger(args).spawn()
    }

    fn end_daemon(&self) {
        if let Some(daemon) = self.env.daemon() {
            daemon.signal(Signal::KILL);
            daemon.wait_gone(SOON);
        }
    }

    fn case(&self, point: &str, act: Act, victim: Victim, allowed: &[&str]) {
        let what = format!("{victim:?} dies at {point} of {act:?}");
        self.prepare(act);
        std::fs::write(self.points.join(point), "").expect("an armed point");
        let hit = self.points.join(format!("{point}.hit"));
        let run = ["vm", "run", "-d", "--name", NAME, "-p", &self.port];
        let another = self.port.replace(":18093:", ":18094:");
        let publish = ["vm", "publish", NAME, "-p", &another];
        let unpublish = ["vm", "unpublish", NAME, "-p", &self.port];
        let run_leased = ["vm", "run", "--rm", "--name", NAME, "-p", &self.port, "--", "cat"];
        let session = self.spawn(match act {
            Run => &run[..],
            RunLeased => &run_leased,
            Start => &["vm", "start", NAME],
            Stop => &["vm", "stop", NAME],
            Restart => &["vm", "restart", NAME],
            Set => &["vm", "set", NAME, "--vcpu", "3"],
            Publish => &publish,
            Unpublish => &unpublish,
            Delete => &["vm", "delete", "-f", NAME],
            Adopt | AdoptDead => &["vm", "list"],
        });
        wait_until(SOON, &format!("{what}: the point"), || if hit.exists() { Ok(()) } else { Err("not there".into()) });
        let noticed = self.ends_of_clients();
        self.kill(victim, &session);
        if victim == Client {
            // Otherwise it is chance whether a start is over before anybody knows that nobody wants it.
            wait_until(SOON, &format!("{what}: the daemon to notice"), || match self.ends_of_clients() {
                more if more > noticed => Ok(()),
                same => Err(format!("{same} clients went away so far")),
            });
        }
        // What is held goes on, if it is still there.
        std::fs::remove_file(&hit).expect("the point that was hit");
        session.finish(SOON);
        if victim != Daemon {
            // What a client's end leads to is the daemon's to do, before it is ended itself.
            self.env.assert_in_order(VMM);
        }
        self.end_daemon();
        self.env.assert_in_order(VMM);
        let state = self.state();
        assert!(allowed.contains(&state.as_str()), "{what}: it is {state}, not one of {allowed:?}");
        if state != "gone" {
            self.run(&["vm", "delete", "-f", NAME]).expect(0);
        }
        self.env.assert_in_order(VMM);
        assert_eq!(self.state(), "gone", "{what}");
    }

    /// How many clients the daemons have seen leave.
    fn ends_of_clients(&self) -> usize {
        let log = std::fs::read_to_string(self.env.layout().daemon_log()).expect("the daemon's log");
        log.matches("the client went away").count()
    }

    fn prepare(&self, act: Act) {
        if matches!(act, Run | RunLeased) {
            return;
        }
        self.run(&["vm", "run", "-d", "--quiet", "--name", NAME, "-p", &self.port]).expect(0);
        match act {
            Start => drop(self.run(&["vm", "stop", NAME]).expect(0)),
            Adopt => self.end_daemon(),
            AdoptDead => {
                let shim = self.env.vm_process(NAME, "shim_pid");
                self.end_daemon();
                shim.signal(Signal::KILL);
                shim.wait_gone(SOON);
            }
            _ => {}
        }
    }

    fn kill(&self, victim: Victim, session: &Session) {
        let program = match victim {
            Client => return session.signal(Signal::KILL),
            Daemon => "bangerd",
            Shim => "banger-shim",
            Vmm => VMM,
            Guest => "banger-vsock-agent",
        };
        let found = wait_until(SOON, "the victim", || {
            let mut all = self.env.processes(program);
            all.retain(|process| !process.command.contains("--guest"));
            all.pop().ok_or_else(|| format!("no {program}"))
        });
        found.signal(Signal::KILL);
        found.wait_gone(SOON);
    }

    fn state(&self) -> String {
        let list = self.run(&["vm", "list", "--json"]).expect(0).json();
        let vms = list.as_array().expect("a list");
        vms.first().map_or_else(|| "gone".to_owned(), |vm| vm["state"].as_str().expect("a state").to_owned())
    }
}

fn everywhere(victim: Victim) {
    let Some(bench) = Bench::new(victim) else { return };
    let cases = MATRIX.iter().flat_map(|(point, act, victims)| victims.iter().map(move |case| (point, act, case)));
    let mut count = 0;
    for (point, act, (dies, allowed)) in cases.filter(|(_, _, (dies, _))| *dies == victim) {
        bench.case(point, *act, *dies, allowed);
        count += 1;
    }
    assert!(count > 0, "nobody dies");
    bench.env.assert_nothing_left();
}

#[test]
fn the_daemon_may_die_at_every_point() {
    everywhere(Daemon);
}

#[test]
fn the_client_may_die_at_every_point() {
    everywhere(Client);
}

#[test]
fn the_shim_may_die_wherever_there_is_one() {
    everywhere(Shim);
}

#[test]
fn the_vmm_may_die_wherever_there_is_one() {
    everywhere(Vmm);
}

#[test]
fn the_guest_may_panic_wherever_there_is_one() {
    everywhere(Guest);
}

//! The fault matrix: at every point between two steps of create, start, stop, restart, set, delete and adopt, whoever may die there
//! dies; afterwards a new daemon comes, and everything is exactly what the states say.
//!
//! A point is armed by a file, reached by an ordinary command, and held while the victim is killed (see
//! `banger_daemon::failpoint`). A point that is not reached fails the test, and so does one that is passed, or stands in the
//! source, and has no row: this table cannot fall behind the code. Points of images have a test of their own.

mod again;

use crate::SOON;
use banger_testkit::{Session, TestEnv, wait_until};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const VMM: &str = "fake-qemu";
const NAME: &str = "f";

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    /// The same, and the next daemon has brought everything to order before what was held goes on: a shim that a daemon
    /// started and did not live to follow.
    DaemonLongAgo,
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
    /// `vm create --no-start`.
    Create,
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
    /// A new daemon finds one whose start, stop or deletion was cut short with the daemon before.
    AdoptStarting,
    AdoptStopping,
    AdoptDeleting,
    /// `vm kill` of one that runs.
    Kill,
}

use Act::{
    Adopt, AdoptDead, AdoptDeleting, AdoptStarting, AdoptStopping, Create, Delete, Kill, Publish, Restart, Run,
    RunLeased, Set, Start, Stop, Unpublish,
};
use Victim::{Client, Daemon, DaemonLongAgo, Guest, Shim, Vmm};

/// What the VM may be afterwards (`gone` when it is not).
type States = &'static [&'static str];
/// Who may die.
type Cases = &'static [(Victim, States)];
/// Where, and while what is done.
type Row = (&'static str, Act, Cases);

const GONE: States = &["gone"];
const CREATED: States = &["created"];
const FAILED: States = &["failed"];
const RUNNING: States = &["running"];
const STOPPED: States = &["stopped"];
/// A shim that lost its starter comes up before the next daemon looks, or does not.
const BY_CHANCE: States = &["failed", "running"];
/// Nobody is left who wanted it: the client is dead and the daemon noticed.
const UNWANTED: Cases = &[(Daemon, GONE), (Client, GONE)];
const BEFORE_MACHINE: Cases = &[(Daemon, FAILED), (Client, GONE)];
/// The shim is not there yet, or nobody can know it.
const BEFORE_SHIM: Cases = &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (Client, GONE)];
const IN_SHIM: Cases = &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (Client, GONE), (Shim, FAILED)];
const IN_SHIM_WITH_VMM: Cases =
    &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (Client, GONE), (Shim, FAILED), (Vmm, FAILED)];
/// A client that dies takes its VM along until it was told that it runs.
const WITH_MACHINE: Cases = &[(Daemon, RUNNING), (Client, GONE), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// A client that dies takes it down again, unless it is up already.
const ON_ITS_WAY_AGAIN: Cases =
    &[(Daemon, RUNNING), (Client, &["running", "stopped"]), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// It is up, and stays so without whoever asked.
const UP: Cases = &[(Daemon, RUNNING), (Client, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// What is to go down has not been told yet: without a daemon it stays, and what dies of it has stopped.
const GOING_DOWN: Cases = &[(Daemon, RUNNING), (Client, STOPPED), (Shim, STOPPED), (Vmm, STOPPED), (Guest, STOPPED)];
const DOWN: Cases = &[(Daemon, STOPPED), (Client, STOPPED)];
/// A deletion that has begun ends, whoever dies.
const GOING: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
const GOING_FOR_GOOD: Cases = &[(Daemon, GONE), (Client, GONE)];
/// Whose client, the one that had the daemon started, waits for an answer and may go without one.
const FOUND: Cases = &[(Daemon, RUNNING), (Client, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
const FOUND_DEAD: Cases = &[(Daemon, FAILED), (Client, FAILED)];

const MATRIX: &[Row] = &[
    ("create.settled", Run, UNWANTED),
    ("create.named", Run, UNWANTED),
    ("create.leased", RunLeased, UNWANTED),
    ("create.claimed", Run, UNWANTED),
    ("create.directory", Run, UNWANTED),
    ("create.furnished", Run, &[(Daemon, CREATED), (Client, GONE)]),
    ("create.furnished", Create, &[(Daemon, CREATED), (Client, GONE)]),
    ("start.recorded", Run, BEFORE_MACHINE),
    ("start.claimed", Run, BEFORE_MACHINE),
    // How it ended last time is how it is still.
    ("start.directories", Start, DOWN),
    ("start.planned", Run, BEFORE_MACHINE),
    ("launch.planned", Run, BEFORE_MACHINE),
    ("launch.spawned", Run, &[(Daemon, BY_CHANCE), (Client, GONE)]),
    ("shim.begun", Run, BEFORE_SHIM),
    ("shim.staged", Run, IN_SHIM),
    ("shim.claimed", Run, IN_SHIM),
    ("shim.recorded", Run, IN_SHIM),
    ("shim.listening", Run, IN_SHIM),
    ("shim.launched", Run, IN_SHIM_WITH_VMM),
    ("shim.running", Run, IN_SHIM_WITH_VMM),
    ("launch.detached", Run, WITH_MACHINE),
    ("start.launched", Run, WITH_MACHINE),
    ("start.ready", Run, WITH_MACHINE),
    ("start.ready", RunLeased, UNWANTED),
    ("start.saved", Run, WITH_MACHINE),
    ("stop.recorded", Stop, GOING_DOWN),
    // The guest goes by itself from here on, and its VMM and its shim with it.
    ("stop.asked", Stop, DOWN),
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
        &[(Daemon, RUNNING), (Client, RUNNING), (Shim, RUNNING), (Vmm, RUNNING), (Guest, RUNNING)],
    ),
    ("stop.ended", Restart, DOWN),
    ("down.released", Restart, DOWN),
    ("restart.down", Restart, DOWN),
    ("start.recorded", Restart, DOWN),
    ("start.launched", Restart, ON_ITS_WAY_AGAIN),
    ("start.ready", Restart, UP),
    ("set.saved", Set, UP),
    ("set.recorded", Publish, UP),
    ("set.changed", Publish, UP),
    ("set.recorded", Unpublish, UP),
    ("set.changed", Unpublish, UP),
    ("delete.begun", Delete, GOING),
    ("delete.ended", Delete, GOING_FOR_GOOD),
    ("release.processes", Delete, GOING_FOR_GOOD),
    ("release.shim", Delete, GOING_FOR_GOOD),
    ("release.capabilities", Delete, GOING_FOR_GOOD),
    ("release.run", Delete, GOING_FOR_GOOD),
    ("release.state", Delete, GOING_FOR_GOOD),
    ("adopt.row", Adopt, FOUND),
    ("adopt.found", Adopt, FOUND),
    ("adopt.row", AdoptDead, FOUND_DEAD),
    ("adopt.released", AdoptDead, FOUND_DEAD),
];

/// What a VM's start needs from the host, in order: after each of them there is a point.
const CAPABILITIES: &[&str] =
    &["root-image", "work-disk", "kernel-files", "nat", "dns", "ports", "boot-config", "ssh", "file-sync"];
/// The one before which there is no VM yet.
const FIRST: &str = "root-image";

/// Every row: those of the table, and those between two capabilities.
fn rows() -> Vec<(String, Act, Cases)> {
    let mut rows: Vec<_> =
        MATRIX.iter().chain(again::ROWS).map(|(point, act, cases)| ((*point).to_owned(), *act, *cases)).collect();
    for name in CAPABILITIES {
        let made: Cases = if *name == FIRST { UNWANTED } else { &[(Daemon, CREATED), (Client, GONE)] };
        rows.extend([
            (format!("create.prepared.{name}"), Run, made),
            (format!("start.contributed.{name}"), Run, BEFORE_MACHINE),
            (format!("start.followed.{name}"), Run, WITH_MACHINE),
            (format!("release.{name}"), Stop, DOWN),
            (format!("release.{name}"), Delete, GOING_FOR_GOOD),
        ]);
    }
    rows
}

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
            Create => &["vm", "create", "--no-start", "--name", NAME],
            Start => &["vm", "start", NAME],
            Stop => &["vm", "stop", NAME],
            Restart => &["vm", "restart", NAME],
            Set => &["vm", "set", NAME, "--vcpu", "3"],
            Publish => &publish,
            Unpublish => &unpublish,
            Delete => &["vm", "delete", "-f", NAME],
            Kill => &["vm", "kill", NAME],
            Adopt | AdoptDead | AdoptStarting | AdoptStopping | AdoptDeleting => &["vm", "list"],
        });
        wait_until(SOON, &format!("{what}: the point"), || if hit.exists() { Ok(()) } else { Err("not there".into()) });
        let noticed = self.ends_of_clients();
        self.kill(victim, &session);
        if victim == DaemonLongAgo {
            self.run(&["vm", "list"]).expect(0);
        }
        // A daemon that is still on its way up has no clients.
        let is_coming_up = matches!(act, Adopt | AdoptDead | AdoptStarting | AdoptStopping | AdoptDeleting);
        if victim == Client && !is_coming_up {
            // Otherwise it is chance whether a start is over before anybody knows that nobody wants it.
            wait_until(SOON, &format!("{what}: the daemon to notice"), || match self.ends_of_clients() {
                more if more > noticed => Ok(()),
                same => Err(format!("{same} clients went away so far")),
            });
        }
        // What is held goes on, if it is still there.
        std::fs::remove_file(&hit).expect("the point that was hit");
        session.finish(SOON);
        if !matches!(victim, Daemon | DaemonLongAgo) {
            // What a client's end leads to is the daemon's to do, before it is ended itself.
            self.env.assert_in_order(VMM);
        }
        self.end_daemon();
        self.env.assert_in_order(VMM);
        // A leased one goes a moment after a new daemon has found that its client is gone.
        let state = wait_until(SOON, &format!("{what}: one of {allowed:?}"), || {
            let state = self.state();
            if allowed.contains(&state.as_str()) { Ok(state) } else { Err(state) }
        });
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
        let run = ["vm", "run", "-d", "--quiet", "--name", NAME, "-p", &self.port];
        match act {
            Run | RunLeased | Create => return,
            AdoptStarting => return self.cut_short("start.launched", &run),
            _ => drop(self.run(&run).expect(0)),
        }
        match act {
            AdoptStopping => self.cut_short("stop.recorded", &["vm", "stop", NAME]),
            AdoptDeleting => self.cut_short("delete.begun", &["vm", "delete", "-f", NAME]),
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

    /// Has the daemon die while it does something.
    fn cut_short(&self, point: &str, args: &[&str]) {
        let (armed, hit) = (self.points.join(point), self.points.join(format!("{point}.hit")));
        std::fs::write(armed, "").expect("an armed point");
        let session = self.spawn(args);
        wait_until(SOON, point, || if hit.exists() { Ok(()) } else { Err("not there".into()) });
        self.end_daemon();
        std::fs::remove_file(&hit).expect("the point that was hit");
        session.finish(SOON);
    }

    fn kill(&self, victim: Victim, session: &Session) {
        let program = match victim {
            Client => return session.signal(Signal::KILL),
            Daemon | DaemonLongAgo => "bangerd",
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
    let rows = rows();
    let mut count = 0;
    for (point, act, cases) in &rows {
        for (dies, allowed) in cases.iter().filter(|(dies, _)| *dies == victim) {
            bench.case(point, *act, *dies, allowed);
            count += 1;
        }
    }
    assert!(count > 0, "nobody dies");
    let known: BTreeSet<&str> = rows.iter().map(|(point, ..)| point.as_str()).collect();
    let files = std::fs::read_dir(&bench.points).expect("the points").flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let unknown: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".seen").map(str::to_owned))
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "points that were passed and have no row: {unknown:?}");
    bench.env.assert_nothing_left();
}

/// The names of points in the source below `dir`, as far as they are written out.
fn written(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the source").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            written(&entry.path(), into);
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for call in ["failpoint::hit(", "failpoint::hit_and_block("] {
            let calls = text.split(call).skip(1);
            into.extend(calls.map(|rest| rest.split('"').nth(1).expect("a name").to_owned()));
        }
    }
}

#[test]
fn every_point_in_the_source_has_a_row() {
    let mut points = BTreeSet::new();
    written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/src"), &mut points);
    assert!(points.len() > 30, "{points:?}");
    let rows = rows();
    let has_row = |point: &String| match point.strip_suffix(".{}") {
        // One for each capability.
        Some(loop_of) => CAPABILITIES.iter().all(|name| rows.iter().any(|row| row.0 == format!("{loop_of}.{name}"))),
        None => rows.iter().any(|row| row.0 == *point),
    };
    points.retain(|point| !has_row(point) && !crate::killed_images::POINTS.contains(&point.as_str()));
    assert!(points.is_empty(), "no row for {points:?}");
}

#[test]
fn the_daemon_may_die_at_every_point() {
    everywhere(Daemon);
}

#[test]
fn the_next_daemon_may_be_done_before_a_shim_is_up() {
    everywhere(DaemonLongAgo);
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

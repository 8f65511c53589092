//! Runs one case of the matrix.

use super::{
    Act::{
        self, Adopt, AdoptClosed, AdoptDead, AdoptDeleting, AdoptHalf, AdoptLeased, AdoptLeasedDead, AdoptLeasedFailed,
        AdoptPublishing, AdoptSilent, AdoptStarting, AdoptStopping, AdoptStray, AdoptUnpublishing, Create, CreateLeft,
        Delete, Kill, KillDeaf, Publish, Restart, Run, RunLeased, RunLeasedLost, RunLeft, RunLost, RunNamed,
        RunStopped, Set, SetPolicy, Start, StartLeft, Stop, StopForced, StopUntold, Unpublish,
    },
    Victim::{self, Client, Daemon, DaemonInTime, DaemonLongAgo, Guest, Shim, Vmm},
};
use crate::{SOON, who_dies};
use banger_testkit::{Output, Session, TestEnv, wait_until};
use rusqlite::Connection;
use rustix::process::Signal;
use std::{
    cell::RefCell,
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
};

const VMM: &str = "fake-qemu";
/// Point at the end of a shim that ends by itself after its VMM.
const AT_ITS_END: &str = "shim.over";
/// Point after which a shim can be found, whoever started it.
const FINDABLE: &str = "shim.recorded";
/// Point at which a creation halts that a stop preempts.
const OVERTAKEN: &str = "start.directories";
/// Point at which a shim halts that was asked to open a port.
const DEAF: &str = "shim.opened";

/// Environment for all cases of one victim: leftovers of one case would show in the next.
pub(super) struct CaseRunner {
    env: TestEnv,
    points: PathBuf,
    /// Ports to be published, on a loopback address nobody else uses, so that they are free whenever no VM has them.
    port: String,
    another: String,
    /// Sockets bound in place of those of a shim that must answer no daemon.
    places: RefCell<Vec<UnixStream>>,
}

impl Act {
    /// Name of the VM. One whose guest does not power off is known by it.
    fn vm(self) -> &'static str {
        if self == StopForced { "hostile-stubborn" } else { "f" }
    }

    /// Program whose end is the guest kernel's.
    fn agent(self) -> &'static str {
        if self == StopForced { "hostile-agent" } else { "banger-vsock-agent" }
    }

    /// Point and victim of an earlier death, because of which something is undone.
    fn before(self) -> Option<(&'static str, Victim)> {
        match self {
            CreateLeft | RunLeft => Some(("create.furnished", Client)),
            StartLeft => Some(("start.launched", Client)),
            // Before its shim listens to the guest.
            RunLost | RunLeasedLost => Some(("shim.running", Vmm)),
            _ => None,
        }
    }
}

impl CaseRunner {
    /// `None` where the fake VMM cannot be had; the test is then recorded as skipped.
    pub(super) fn new() -> Option<Self> {
        TestEnv::fake().map(Self::of)
    }

    pub(super) fn of(mut env: TestEnv) -> Self {
        static RUNNERS: AtomicU8 = AtomicU8::new(100);
        let points = env.home().join("points");
        fs::create_dir(&points).expect("a directory for points");
        env.set_variable("BANGER_FAILPOINTS", &points);
        let [.., high, low] = std::process::id().to_be_bytes();
        let own = RUNNERS.fetch_add(1, Ordering::Relaxed);
        let port = |port: u16| format!("127.{own}.{high}.{low}:{port}:80");
        Self { env, points, port: port(18093), another: port(18094), places: RefCell::default() }
    }

    /// Points passed so far.
    pub(super) fn passed(&self) -> Vec<String> {
        let files = fs::read_dir(&self.points).expect("the points").flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".seen").map(str::to_owned)).collect()
    }

    /// Checks the environment after the last case.
    pub(super) fn end(&self) {
        self.env.assert_nothing_left();
    }

    /// `victim` dies at `point` while `act` is done; afterwards the VM is in one of the states that are allowed.
    pub(super) fn run_case(&self, point: &str, act: Act, victim: Victim, allowed: &[&str]) {
        let what = format!("{victim:?} dies at {point} of {act:?}");
        let lease = self.prepare(act);
        let before = act.before();
        let goes_by_itself = victim == Shim
            && match point {
                "stop.asked" => act == Stop,
                "end.asked" | "kill.sent" => true,
                _ => false,
            };
        if goes_by_itself {
            self.arm(AT_ITS_END);
        }
        if victim == DaemonInTime {
            self.arm(FINDABLE);
        }
        self.arm(before.map_or(if act == RunStopped { OVERTAKEN } else { point }, |(first, _)| first));
        let command = self.command(act).unwrap_or_else(|| vec!["vm", "list"]);
        let invocation = self.env.banger(&command);
        let invocation = match act {
            AdoptClosed => invocation.env("BANGER_UPLINK", "none"),
            // A guest that is up by the time its VMM is killed would leave word of that, and the start be over. The
            // daemon of this client hands the variable on.
            RunLost | RunLeasedLost => {
                self.end_daemon();
                invocation.env("FAKE_QEMU_READY", "never")
            }
            _ => invocation,
        };
        let session = invocation.spawn();
        if let Some((first, dies)) = before {
            self.reached(first, &what);
            self.kill(dies, act, &session);
            self.arm(point);
            self.go_on(first);
        }
        let overtaking = (act == RunStopped).then(|| self.overtake(point));
        self.reached(point, &what);
        if goes_by_itself {
            self.reached(AT_ITS_END, &what);
        }
        self.kill(victim, act, lease.as_ref().unwrap_or(&session));
        if victim == DaemonLongAgo {
            self.run(&["vm", "list"]).expect(0);
        }
        // A halted process continues, if it still exists.
        self.go_on(point);
        if victim == DaemonInTime {
            self.reached(FINDABLE, &what);
            self.go_on(FINDABLE);
        }
        if goes_by_itself {
            self.go_on(AT_ITS_END);
        }
        session.finish(SOON);
        if let Some(stop) = overtaking {
            stop.finish(SOON);
        }
        if act == KillDeaf {
            self.go_on(DEAF);
        }
        if !matches!(victim, Daemon | DaemonLongAgo | DaemonInTime) {
            // The daemon must handle a client's end before it is killed itself.
            self.env.assert_consistent(VMM);
        }
        let mut lease = lease;
        if victim != Daemon
            && let Some(over) = lease.take()
        {
            // Its machine and its session are over, which saw its VM off; or it is the one that died.
            over.finish(SOON);
        }
        self.end_daemon();
        self.env.assert_consistent(VMM);
        self.is_one_of(allowed, &what);
        if let Some(holder) = lease {
            // The last of the daemons has taken it over.
            holder.signal(Signal::KILL);
            holder.finish(SOON);
            self.is_one_of(&["gone"], &what);
        }
        if self.state() != "gone" {
            self.run(&["vm", "delete", "-f", act.vm()]).expect(0);
        }
        self.env.assert_consistent(VMM);
        assert_eq!(self.state(), "gone", "{what}");
    }

    /// Waits for one of the states: a leased VM is deleted a moment after a new daemon has found that its client is
    /// gone.
    fn is_one_of(&self, allowed: &[&str], what: &str) {
        wait_until(SOON, &format!("{what}: one of {allowed:?}"), || {
            let state = self.state();
            if allowed.contains(&state.as_str()) { Ok(()) } else { Err(state) }
        });
    }

    /// Command of an operation. An operation of a new daemon is done by the first command that needs a daemon.
    fn command(&self, act: Act) -> Option<Vec<&str>> {
        let vm = act.vm();
        Some(match act {
            Run | RunLeft | RunLost | RunStopped => vec!["vm", "run", "-d", "--name", vm, "-p", &self.port],
            RunLeased | RunLeasedLost => {
                vec!["vm", "run", "--rm", "--name", vm, "-p", &self.port, "--", "sh", "-c", "echo up; exec cat"]
            }
            RunNamed => vec!["vm", "run", "-d", "--name", vm, "--network", "lab"],
            SetPolicy => vec!["vm", "set", vm, "--allow", "10.77.0.0/24"],
            Create | CreateLeft => vec!["vm", "create", "--no-start", "--name", vm],
            Start | StartLeft => vec!["vm", "start", vm],
            // The guest powers off at once, which may take long on a busy host.
            Stop | StopUntold => vec!["vm", "stop", "--timeout", "50s", vm],
            StopForced => vec!["vm", "stop", "--timeout", "0s", vm],
            Restart => vec!["vm", "restart", vm],
            Set => vec!["vm", "set", vm, "--vcpu", "3"],
            Publish => vec!["vm", "publish", vm, "-p", &self.another],
            Unpublish => vec!["vm", "unpublish", vm, "-p", &self.port],
            Delete => vec!["vm", "delete", "-f", vm],
            Kill | KillDeaf => vec!["vm", "kill", vm],
            Adopt | AdoptClosed | AdoptDead | AdoptSilent | AdoptStray | AdoptHalf | AdoptStarting | AdoptStopping
            | AdoptDeleting | AdoptPublishing | AdoptUnpublishing | AdoptLeased | AdoptLeasedDead
            | AdoptLeasedFailed => return None,
        })
    }

    /// Prepares an operation. Returns the client whose VM was found, if that client lives on.
    fn prepare(&self, act: Act) -> Option<Session> {
        self.places.take();
        match act {
            Run | RunNamed | RunStopped | RunLeft | RunLost | RunLeased | RunLeasedLost | Create | CreateLeft => {}
            AdoptHalf => self.cut_short("create.directory", Run),
            AdoptStarting => self.cut_short("start.launched", Run),
            AdoptLeasedFailed => self.cut_short("start.recorded", RunLeased),
            AdoptLeased => return Some(self.lease()),
            AdoptLeasedDead => {
                let client = self.lease();
                client.signal(Signal::KILL);
                client.finish(SOON);
            }
            _ => {
                self.run(&["vm", "run", "-d", "--quiet", "--name", act.vm(), "-p", &self.port]).expect(0);
                self.prepare_running(act);
            }
        }
        None
    }

    fn prepare_running(&self, act: Act) {
        match act {
            Start | StartLeft => drop(self.run(&["vm", "stop", act.vm()]).expect(0)),
            AdoptStopping => self.cut_short("stop.recorded", Stop),
            AdoptDeleting => self.cut_short("delete.begun", Delete),
            AdoptPublishing => self.cut_short("set.recorded", Publish),
            AdoptUnpublishing => self.cut_short("set.recorded", Unpublish),
            Adopt | AdoptClosed => self.end_daemon(),
            AdoptDead => {
                let shim = self.env.vm_process(act.vm(), "shim_pid");
                self.end_daemon();
                shim.signal(Signal::KILL);
                shim.wait_gone(SOON);
            }
            AdoptSilent => {
                let socket = who_dies::control_socket(&self.env, act.vm());
                self.end_daemon();
                self.places.replace(who_dies::taken_places(&socket));
            }
            AdoptStray => {
                self.end_daemon();
                self.forget();
            }
            KillDeaf => {
                self.arm(DEAF);
                let publish = self.spawn(&self.command(Publish).expect("a command"));
                self.reached(DEAF, "a shim that stands still");
                publish.finish(SOON);
            }
            StopUntold => self.untold(act),
            _ => {}
        }
    }

    /// Creates a running VM with a lease, and ends the daemon; returns the client.
    fn lease(&self) -> Session {
        let client = self.spawn(&self.command(RunLeased).expect("a command"));
        client.wait_stdout("up\n", SOON);
        self.end_daemon();
        client
    }

    /// Makes a daemon unable to tell whether a VM runs, whose shim then answers nobody.
    fn untold(&self, act: Act) {
        let socket = who_dies::control_socket(&self.env, act.vm());
        let id = self.env.vm(act.vm())["id"].as_str().expect("an id").parse().expect("an id");
        let record = self.env.layout().vm(&id).join("runtime.json");
        let aside = record.with_extension("aside");
        self.end_daemon();
        fs::rename(&record, &aside).expect("the record");
        fs::create_dir(&record).expect("what cannot be read");
        self.places.replace(who_dies::taken_places(&socket));
        self.run(&["vm", "list"]).expect(0);
        fs::remove_dir(&record).expect("what cannot be read");
        fs::rename(&aside, &record).expect("the record");
    }

    /// Has a stop preempt a creation that halts before it has a machine.
    fn overtake(&self, point: &str) -> Session {
        self.reached(OVERTAKEN, "a creation");
        let heard = self.in_log("asked=\"stop\"");
        let stop = self.spawn(&self.command(Stop).expect("a command"));
        wait_until(SOON, "the daemon to hear of a stop", || match self.in_log("asked=\"stop\"") {
            more if more > heard => Ok(()),
            same => Err(format!("{same} so far")),
        });
        self.arm(point);
        self.go_on(OVERTAKEN);
        stop
    }

    /// Kills the daemon during an operation.
    fn cut_short(&self, point: &str, act: Act) {
        self.arm(point);
        let session = self.spawn(&self.command(act).expect("a command"));
        self.reached(point, "what is cut short");
        self.end_daemon();
        self.go_on(point);
        session.finish(SOON);
    }

    /// Removes the VM from the store, as if the store had been lost.
    fn forget(&self) {
        let database = Connection::open(self.env.layout().database()).expect("the store");
        let tables = ["leases", "resources", "addresses", "networks", "vms"];
        let statements = tables.map(|table| format!("DELETE FROM {table};")).concat();
        database.execute_batch(&statements).expect("nobody else has it open");
    }

    fn arm(&self, point: &str) {
        fs::write(self.points.join(point), "").expect("an armed point");
    }

    fn reached(&self, point: &str, what: &str) {
        let hit = self.points.join(format!("{point}.hit"));
        let what = format!("{what}: the point {point}");
        wait_until(SOON, &what, || if hit.exists() { Ok(()) } else { Err("not there".into()) });
    }

    fn go_on(&self, point: &str) {
        fs::remove_file(self.points.join(format!("{point}.hit"))).expect("the point that was hit");
    }

    fn run(&self, args: &[&str]) -> Output {
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

    fn kill(&self, victim: Victim, act: Act, client: &Session) {
        let program = match victim {
            Client => return self.kill_client(act, client),
            Daemon | DaemonLongAgo | DaemonInTime => "bangerd",
            Shim => "banger-shim",
            Vmm => VMM,
            Guest => act.agent(),
        };
        let found = wait_until(SOON, "the victim", || {
            let mut all = self.env.processes(program);
            all.retain(|process| !process.command.contains("--guest"));
            all.pop().ok_or_else(|| format!("no {program}"))
        });
        found.signal(Signal::KILL);
        found.wait_gone(SOON);
    }

    fn kill_client(&self, act: Act, client: &Session) {
        let noticed = self.ends_of_clients();
        client.signal(Signal::KILL);
        // A daemon that is still starting has no clients.
        if self.command(act).is_some() {
            // Otherwise it would be chance whether the start is over before the daemon knows that nobody wants it.
            wait_until(SOON, "the daemon to notice", || match self.ends_of_clients() {
                more if more > noticed => Ok(()),
                same => Err(format!("{same} clients went away so far")),
            });
        }
    }

    /// Number of clients the daemons have seen leave.
    fn ends_of_clients(&self) -> usize {
        self.in_log("the client went away")
    }

    fn in_log(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.env.layout().daemon_log()).expect("the daemon's log");
        log.matches(words).count()
    }

    fn state(&self) -> String {
        let list = self.run(&["vm", "list", "--json"]).expect(0).json();
        let vms = list.as_array().expect("a list");
        vms.first().map_or_else(|| "gone".to_owned(), |vm| vm["state"].as_str().expect("a state").to_owned())
    }
}

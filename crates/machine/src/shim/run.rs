//! Runs one machine: one VMM after another, and an exit record at the end.
//!
//! ```text
//! claim, plan, runtime.json ─► sockets ─► ┌ memory, VMM, runtime.json ─► follow ─► verdict ┐ ─► exit.json ─► Ended
//!                                        └──────────────── relaunch ◄────────────────────┘
//! ```
//!
//! Everything runs on the main thread, because the VMM dies with the thread that started it.

use super::{
    boot::{Boot, BootOutcome},
    claim::Claim,
    console::Log,
    control::{
        AGENT, EXIT_FILE, ExitCause, ExitRecord, PLAN_FILE, Planned, RUNTIME_FILE, RuntimeRecord, SOCKET, ShimMessage,
        ShimRequest, ShimStatus, VSOCK,
    },
    detach::StartReporter,
    guest::GuestBudget,
    hub::Hub,
    ports::Ports,
    server,
    verdict::{self, Evidence, Verdict},
    vsock::{self, Caller},
};
use crate::{
    clock, failpoint,
    process::{ProcessIdentity, host_boot_id},
    random,
    record::{self, Staged},
    shim::sockets::{self, ServedSocket},
    vmm::{self, LaunchError, Machine, Resources, Start, launch::Namespace, memory::Memory, plan::LaunchPlan},
};
use banger_artifacts::initramfs::renew_moment;
use banger_link::Dialer;
use banger_proto::agent::boot::Moment;
use rustix::fs::Mode;
use std::{
    error::Error,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Capacity of the queue of requests.
const REQUESTS: usize = 16;
/// Number of bytes for the guest's entropy pool, which key its generator.
const ENTROPY: usize = 64;
/// Time limit for watchers to read the end of the machine.
const END_DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the machine was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{what}")]
    Setup { what: &'static str, source: io::Error },
    #[error("port {} cannot be published", port.host)]
    Port { port: banger_proto::network::Publish, source: io::Error },
    #[error("another shim of this VM runs")]
    Locked,
    #[error("there is no launch plan in {}", .0.display())]
    NoPlan(PathBuf),
    #[error("the launch plan in {} is of another start", .0.display())]
    OtherPlan(PathBuf),
    #[error("telling the guest what time it is: {0}")]
    Moment(String),
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Setup { what, source }
}

/// Joins an error and its causes into one line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Runs the machine planned in `state_dir` to its end, if the plan is for this launch; `None` accepts any.
pub(super) fn run(state_dir: &Path, launch: Option<&OsStr>, reporter: &mut StartReporter) -> Result<(), RunError> {
    let started = Instant::now();
    // Sockets and files must be private to this user from the moment they exist.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let shim = ProcessIdentity::current()
        .ok_or(RunError::Setup { what: "reading /proc", source: io::ErrorKind::NotFound.into() })?;
    let host_boot_id = host_boot_id().map_err(setup("reading the host's boot id"))?;
    let runtime = RuntimeRecord { host_boot_id, shim, vmm: None };
    failpoint::hit_and_block("shim.begun");
    // A later daemon must be able to find this process before it may do anything ([`claim`](super::claim)).
    let record = Staged::new(state_dir, RUNTIME_FILE, &runtime).map_err(setup("writing the runtime record"))?;
    failpoint::hit_and_block("shim.staged");
    let _claim = Claim::take_soon(state_dir).map_err(setup("locking the VM's directory"))?.ok_or(RunError::Locked)?;
    failpoint::hit_and_block("shim.claimed");
    let planned: Planned = record::read(state_dir, PLAN_FILE)
        .map_err(setup("reading the launch plan"))?
        .ok_or_else(|| RunError::NoPlan(state_dir.to_owned()))?;
    if launch.is_some_and(|launch| launch != planned.launch.as_str()) {
        return Err(RunError::OtherPlan(state_dir.to_owned()));
    }
    record.publish().map_err(setup("writing the runtime record"))?;
    failpoint::hit_and_block("shim.recorded");
    let executor =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(setup("starting the runtime"))?;
    executor.block_on(async {
        let runner = Runner::start(planned.plan, runtime, started)?;
        runner.run(reporter).await;
        Ok(())
    })
}

/// Signals to the shim itself. A host that shuts down sends them; ignoring them would delay the shutdown.
pub(super) struct Signals {
    immediate: [Signal; 3],
    graceful: Signal,
}

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndMode {
    Immediate,
    /// On SIGWINCH, which systemd sends to stop the shim's scope, and which VMMs ignore.
    Graceful,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let immediate = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [terminate, interrupt, hangup] = immediate;
        Ok(Self { immediate: [terminate?, interrupt?, hangup?], graceful: signal(SignalKind::window_change())? })
    }

    /// Waits for the next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> EndMode {
        let [terminate, interrupt, hangup] = &mut self.immediate;
        tokio::select! {
            biased;
            _ = terminate.recv() => EndMode::Immediate,
            _ = interrupt.recv() => EndMode::Immediate,
            _ = hangup.recv() => EndMode::Immediate,
            _ = self.graceful.recv() => EndMode::Graceful,
        }
    }
}

struct Runner {
    plan: LaunchPlan,
    namespace: Option<Namespace>,
    ports: Ports,
    runtime: RuntimeRecord,
    hub: Arc<Hub>,
    requests: mpsc::Receiver<ShimRequest>,
    session: watch::Sender<Option<Dialer>>,
    signals: Signals,
    watchers: TaskTracker,
    sockets: Vec<ServedSocket>,
}

impl Runner {
    /// Opens the sockets. From then on the shim serves requests.
    fn start(plan: LaunchPlan, runtime: RuntimeRecord, started: Instant) -> Result<Self, RunError> {
        let status = ShimStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shim: runtime.shim,
            vmm: None,
            ready: None,
            booted: None,
            console_bytes: 0,
            vmm_started_ms: None,
            ready_ms: None,
            relaunches: 0,
            unconfined: None,
            published: Vec::new(),
        };
        let hub = Arc::new(Hub::new(started, status));
        let holder = plan.network.as_ref().map(|network| network.holder);
        let namespace = holder.map(Namespace::of).transpose().map_err(setup("opening the network namespace"))?;
        let signals = Signals::new().map_err(setup("watching signals"))?;
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (session, sessions) = watch::channel(None);
        let watchers = TaskTracker::new();
        let control = {
            let (hub, watchers, slots) = (hub.clone(), watchers.clone(), server::watcher_slots());
            ServedSocket::open(plan.run_dir.join(SOCKET), move |listener| {
                tokio::spawn(server::serve(listener, slots.clone(), hub.clone(), sender.clone(), watchers.clone()))
            })
            .map_err(setup("opening the control socket"))?
        };
        failpoint::hit_and_block("shim.askable");
        let guest = to_guest(&plan, VSOCK, Caller::User, &sessions).map_err(setup("opening the guest socket"))?;
        failpoint::hit_and_block("shim.guest");
        let agent = to_guest(&plan, AGENT, Caller::Daemon, &sessions).map_err(setup("opening the agent socket"))?;
        failpoint::hit_and_block("shim.agent");
        let ports = Ports::new(sessions);
        for port in &plan.ports {
            ports.open(*port).map_err(|source| RunError::Port { port: *port, source })?;
            failpoint::hit_and_block("shim.port");
        }
        hub.amend(|status| status.published = ports.all());
        let sockets = vec![control, guest, agent];
        failpoint::hit_and_block("shim.listening");
        Ok(Self { plan, namespace, ports, runtime, hub, requests, session, signals, watchers, sockets })
    }

    /// Launches and follows VMMs until the machine has ended, writes the exit record and publishes it.
    async fn run(mut self, reporter: &mut StartReporter) {
        let mut sockets = std::mem::take(&mut self.sockets);
        let (cause, reason) = tokio::select! {
            end = self.boots(reporter) => end,
            never = sockets::keep_open(&mut sockets) => match never {},
        };
        failpoint::hit_and_block("shim.over");
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let end = ExitRecord { cause, reason, at };
        if let Err(error) = record::write(&self.plan.state_dir, EXIT_FILE, &end) {
            // Watchers are told nevertheless. A later daemon finds a machine that is gone.
            print_error(&format!("the exit record cannot be written: {error}"));
        }
        failpoint::hit_and_block("shim.exited");
        self.hub.publish(&ShimMessage::Ended(end));
        self.watchers.close();
        let _ = timeout(END_DELIVERY_TIMEOUT, self.watchers.wait()).await;
        sockets.into_iter().for_each(ServedSocket::close);
    }

    async fn boots(&mut self, reporter: &mut StartReporter) -> (ExitCause, String) {
        let mut log = Log::open(&self.plan.console);
        failpoint::hit_and_block("shim.console");
        let (mut was_ready, mut bad_timers) = (true, 0);
        let budget = Arc::new(GuestBudget::new());
        loop {
            let machine = match self.launch(bad_timers).await {
                Ok(machine) => machine,
                Err(error) => {
                    let reason = with_causes(&error);
                    reporter.failed(&reason);
                    return (ExitCause::VmmFailed, reason);
                }
            };
            if !reporter.ready() {
                return (ExitCause::Ended, "whoever started the machine went away before it ran".to_owned());
            }
            let boot = Boot {
                hub: &self.hub,
                requests: &mut self.requests,
                signals: &mut self.signals,
                session: &self.session,
                ports: &self.ports,
                budget: &budget,
            };
            let BootOutcome { end, requested, power, overdue, findings, log: same_log } =
                boot.follow(machine, log).await;
            log = same_log;
            let ready = self.hub.ready_init();
            let end = match end {
                Ok(end) => end,
                Err(error) => return (ExitCause::VmmFailed, format!("the VMM was lost sight of: {error}")),
            };
            bad_timers = verdict::bad_timers(bad_timers, findings.bad_timer, power);
            let panic = findings.panic.as_deref();
            let evidence = Evidence { requested, end: &end, power, overdue, panic, bad_timers, ready, was_ready };
            match verdict::decide(&evidence) {
                Verdict::End(cause, reason) => return (cause, reason),
                Verdict::Relaunch => {
                    was_ready = verdict::was_ready(was_ready, ready, bad_timers);
                    budget.begin(tokio::time::Instant::now());
                    self.hub.publish(&ShimMessage::Relaunching);
                }
            }
        }
    }

    async fn launch(&mut self, bad_timers: u32) -> Result<Box<dyn Machine>, RunError> {
        let driver = vmm::driver(self.plan.vmm);
        driver.check(&self.plan).map_err(LaunchError::from)?;
        let moment = moment(verdict::timer_tries(self.plan.vmm, self.plan.accelerator, bad_timers));
        renew_moment(&self.plan.initramfs, &moment).map_err(|error| RunError::Moment(with_causes(&error)))?;
        failpoint::hit_and_block("shim.dated");
        let memory = Memory::fresh(self.plan.memory.bytes()).map_err(setup("making guest memory"))?;
        failpoint::hit_and_block("shim.memory");
        let resources = Resources { memory, start: Start::Kernel, namespace: self.namespace.clone() };
        let machine = driver.launch(&self.plan, resources).await?;
        failpoint::hit_and_block("shim.launched");
        self.runtime.vmm = Some(machine.process());
        record::write_volatile(&self.plan.state_dir, RUNTIME_FILE, &self.runtime)
            .map_err(setup("writing the runtime record"))?;
        failpoint::hit_and_block("shim.running");
        self.hub.amend(|status| status.unconfined = machine.unconfined().map(str::to_owned));
        self.hub.publish(&ShimMessage::VmmStarted { vmm: machine.process(), at_ms: self.hub.now_ms() });
        Ok(machine)
    }
}

/// Opens a hybrid-vsock socket.
fn to_guest(
    plan: &LaunchPlan,
    name: &str,
    caller: Caller,
    sessions: &watch::Receiver<Option<Dialer>>,
) -> io::Result<ServedSocket> {
    let (sessions, slots) = (sessions.clone(), Caller::slots(caller));
    ServedSocket::open(plan.run_dir.join(name), move |listener| {
        tokio::spawn(vsock::serve(listener, slots.clone(), caller, sessions.clone()))
    })
}

/// The time and entropy for a boot of the guest.
fn moment(timer_tries: u32) -> Moment {
    Moment { clock_ns: clock::now_ns(), entropy: random::hex(ENTROPY), timer_tries }
}

/// Prints a message on stderr.
pub(super) fn print_error(message: &str) {
    use std::io::Write;
    // There is nowhere else to report this failure.
    let _ = writeln!(io::stderr(), "{}{message}", super::PREFIX);
}

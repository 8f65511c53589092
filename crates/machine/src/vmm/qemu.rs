//! QEMU's `microvm` machine, with KVM or in software.
//!
//! [`argv`] renders its command line and [`qmp`] talks to it; this file starts the process and follows it to its end.

pub mod argv;
pub mod qmp;

use super::{
    Capabilities, Channel, Driver, LaunchError, Machine, MachineEnd, PlanError, Resources, ShutdownReason, Snapshot,
    confine::{Reach, Rules},
    launch::{Child, Launch, Launched, Nic},
    pipes::{self, DRAIN_TIMEOUT, StderrTail, socket_pair},
    plan::LaunchPlan,
};
use crate::process::ProcessIdentity;
use argv::Descriptors;
use banger_proto::api::vm::{Accelerator, Vmm};
use futures_util::future::BoxFuture;
use qmp::{Qmp, QmpError};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

/// Time limit for saving or loading the device state. It has some ten KiB.
const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between queries of a migration's progress.
const STATE_TICK: Duration = Duration::from_millis(2);
/// Bandwidth of a migration in bytes per second. QEMU's low default spares a network; this migration goes to a file.
const STATE_BANDWIDTH: u64 = 1 << 40;

/// The driver.
#[derive(Debug, Clone, Copy)]
pub struct Qemu;

impl Driver for Qemu {
    fn kind(&self) -> Vmm {
        Vmm::Qemu
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { emulates: true, snapshots: true, powers_off: true }
    }

    fn check(&self, plan: &LaunchPlan) -> Result<(), PlanError> {
        argv::check(plan)
    }

    fn launch<'a>(
        &'a self,
        plan: &'a LaunchPlan,
        resources: Resources,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, LaunchError>> {
        Box::pin(std::future::ready(start(plan, &resources)))
    }
}

fn start(plan: &LaunchPlan, resources: &Resources) -> Result<Box<dyn Machine>, LaunchError> {
    argv::check(plan)?;
    let (monitor, qemu_monitor) = socket_pair("monitor")?;
    let (console, qemu_console) = pipes::console()?;
    let (channel, qemu_channel) = socket_pair("guest channel")?;
    let nic = match (&plan.network, &resources.namespace) {
        (Some(network), Some(namespace)) => {
            let failed = |source| LaunchError::Prepare { what: "network card", source };
            Some(Nic::prepare(namespace, network).map_err(failed)?)
        }
        _ => None,
    };
    let fds = Descriptors {
        network: nic.as_ref().and_then(Nic::fd),
        monitor: qemu_monitor.as_raw_fd(),
        console: qemu_console.as_raw_fd(),
        channel: qemu_channel.as_raw_fd(),
        memory: resources.memory.file.as_raw_fd(),
    };
    let monitor =
        Qmp::begin(monitor).map_err(|error| LaunchError::Prepare { what: "monitor", source: error.into() })?;
    let rules = reach(plan).map_err(|source| LaunchError::Program { program: plan.program.clone(), source })?;
    let inherited = [&qemu_monitor, &qemu_console, &qemu_channel, &resources.memory.file];
    let Launched { child, stderr, unconfined, view: _ } = Launch {
        plan,
        rules: &rules,
        args: &|view| argv::render(plan, &fds, view, resources.start, resources.memory.shared),
        inherited: inherited.map(AsFd::as_fd).into(),
        nic,
        stdout: None,
    }
    .spawn()?;
    Ok(Box::new(Running {
        child,
        qmp: Some(monitor),
        reported: None,
        console: Some(console),
        channel: Some(channel),
        stderr: StderrTail::of(stderr)?,
        unconfined,
    }))
}

/// The files QEMU may reach. There is no directory to write to: QEMU writes only to disks and inherited descriptors.
fn reach(plan: &LaunchPlan) -> io::Result<Rules> {
    let mut rules = Rules::default();
    rules.allow_program(&plan.program)?;
    // The machine's firmware; distributions put parts of it into separate packages, behind symbolic links.
    let prefix = plan.program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    for name in ["qemu", "seabios", "qboot"] {
        rules.allow(prefix.join("share").join(name), Reach::Read);
    }
    rules.allow("/dev/urandom", Reach::Read).allow("/dev/null", Reach::Device);
    if plan.accelerator == Accelerator::Kvm {
        rules.allow("/dev/kvm", Reach::Device);
    }
    rules.allow_machine(plan);
    Ok(rules)
}

/// A QEMU process.
#[derive(Debug)]
struct Running {
    child: Child,
    /// `None` once the connection has ended.
    qmp: Option<Qmp>,
    reported: Option<ShutdownReason>,
    console: Option<OwnedFd>,
    channel: Option<UnixStream>,
    stderr: StderrTail,
    unconfined: Option<String>,
}

impl Machine for Running {
    fn process(&self) -> ProcessIdentity {
        self.child.identity()
    }

    fn signal(&self, signal: Signal) -> io::Result<bool> {
        self.child.signal(signal)
    }

    fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    fn take_channel(&mut self) -> Option<Channel> {
        self.channel.take().map(Channel::Pipe)
    }

    fn unconfined(&self) -> Option<&str> {
        self.unconfined.as_deref()
    }

    fn ended(&mut self) -> BoxFuture<'_, io::Result<MachineEnd>> {
        Box::pin(self.wait())
    }

    fn snapshot(&mut self) -> Option<&mut dyn Snapshot> {
        Some(self)
    }
}

impl Running {
    async fn wait(&mut self) -> io::Result<MachineEnd> {
        let status = tokio::select! {
            status = self.child.wait() => status?,
            never = async { listen(&mut self.qmp, &mut self.reported).await; std::future::pending().await } => never,
        };
        // The last messages are still in the pipes, whose other ends are closed. Waiting for the end is bounded
        // nevertheless, in case another process still holds one open.
        let _ = timeout(DRAIN_TIMEOUT, listen(&mut self.qmp, &mut self.reported)).await;
        let stderr = self.stderr.read().await;
        Ok(MachineEnd { status, reported: self.reported, stderr })
    }

    async fn command(&mut self, command: &'static str, arguments: Value) -> io::Result<Value> {
        Ok(self.monitor()?.execute(command, arguments).await?)
    }

    fn monitor(&mut self) -> io::Result<&mut Qmp> {
        self.qmp.as_mut().ok_or_else(|| QmpError::Closed.into())
    }

    /// Saves or loads the device state through a descriptor; memory that QEMU shares with the shim stays in place.
    async fn move_state(&mut self, command: &'static str, file: OwnedFd) -> io::Result<()> {
        const NAME: &str = "state";
        let capability = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.command("migrate-set-capabilities", capability).await?;
        self.command("migrate-set-parameters", json!({ "max-bandwidth": STATE_BANDWIDTH })).await?;
        self.monitor()?.send_fd(NAME, file.as_fd()).await?;
        self.command(command, json!({ "uri": format!("fd:{NAME}") })).await?;
        let moved = async {
            loop {
                let progress = self.command("query-migrate", json!({})).await?;
                match progress["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some(status @ ("failed" | "cancelled" | "colo")) => {
                        let reason = progress["error-desc"].as_str().unwrap_or("QEMU does not say why");
                        return Err(io::Error::other(format!(
                            "the machine's state was not moved ({status}): {reason}"
                        )));
                    }
                    _ => tokio::time::sleep(STATE_TICK).await,
                }
            }
        };
        timeout(STATE_TIMEOUT, moved).await?
    }
}

/// Keeps the first reason QEMU reports, until the connection ends. Cancel safe.
async fn listen(qmp: &mut Option<Qmp>, reported: &mut Option<ShutdownReason>) {
    while let Some(talking) = qmp {
        match talking.shutdown().await {
            Ok(reason) => *reported = reported.or(Some(reason)),
            Err(error) => {
                if !matches!(error, QmpError::Closed) {
                    tracing::debug!(%error, "QEMU's monitor is not listened to any more");
                }
                *qmp = None;
            }
        }
    }
}

impl Snapshot for Running {
    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { self.command("stop", json!({})).await.map(drop) })
    }

    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { self.command("cont", json!({})).await.map(drop) })
    }

    fn save(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.move_state("migrate", file))
    }

    fn restore(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.move_state("migrate-incoming", file))
    }
}

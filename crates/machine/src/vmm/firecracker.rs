//! Firecracker, where KVM runs guests.
//!
//! [`calls`] says what it is told and [`client`] how; this file starts the process and follows it to its end.
//! Firecracker keeps its own seccomp filter, and is confined like every VMM.
//!
//! Firecracker allocates guest memory itself, so the file of [`Resources::memory`] is only the target and the source of
//! a snapshot's memory. Its vsock does not support half-closed connections: when one side closes, both directions end.
//! So a single connection carries everything, with the same sessions as over QEMU's virtio-serial port.

pub mod api;
pub mod calls;
pub mod client;
mod sockets;

use super::{
    Capabilities, Channel, Driver, LaunchError, Machine, MachineEnd, PlanError, Resources, ShutdownReason, Snapshot,
    Start,
    confine::{Reach, Rules, View},
    launch::{Child, Launch, Launched, Nic},
    pipes::{self, StderrTail, ended_early},
    plan::LaunchPlan,
};
use crate::process::ProcessIdentity;
use api::{
    BackendType, Call, MemoryBackend, SnapshotCreateParams, SnapshotLoadParams, SnapshotType, Vm as VmBody, VmState,
};
use banger_proto::api::vm::Vmm;
use futures_util::future::BoxFuture;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::Signal,
};
pub use sockets::Guest;
use sockets::Sockets;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Time limit until the API answers, and the interval between attempts.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// See [`START_TIMEOUT`].
const START_TICK: Duration = Duration::from_millis(1);
/// Upper bound for the device state of a machine, in bytes; it is some fifteen KiB.
const MAX_STATE: u64 = 16 << 20;
/// Exit code after a SIGHUP, the only signal of `vm kill` that Firecracker handles rather than dies of.
const SIGHUP_EXIT: i32 = 156;
/// The directory for sockets in Firecracker's root.
const RUN: &str = "/run";

/// The driver.
#[derive(Debug, Clone, Copy)]
pub struct Firecracker;

impl Driver for Firecracker {
    fn kind(&self) -> Vmm {
        Vmm::Firecracker
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { emulates: false, snapshots: true, powers_off: false }
    }

    fn check(&self, plan: &LaunchPlan) -> Result<(), PlanError> {
        calls::check(plan)
    }

    fn launch<'a>(
        &'a self,
        plan: &'a LaunchPlan,
        resources: Resources,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, LaunchError>> {
        Box::pin(async {
            self.check(plan)?;
            let start = resources.start;
            let mut running = Running::spawn(plan, resources)?;
            let configured = running.configure(plan, start).await;
            match configured {
                Ok(()) => Ok(Box::new(running) as Box<dyn Machine>),
                Err(source) => Err(LaunchError::Rejected(source)),
            }
        })
    }
}

/// The files Firecracker may reach, with their names in its root.
fn reach(plan: &LaunchPlan, sockets: &Sockets) -> io::Result<Rules> {
    let mut rules = Rules::default();
    rules.allow_program(&plan.program)?;
    rules.allow("/dev/kvm", Reach::Device).allow("/dev/urandom", Reach::Read).allow("/dev/null", Reach::Device);
    if plan.network.is_some() {
        // Firecracker opens its tap by name. It can attach only to its own tap; creating another one takes a
        // capability.
        rules.allow("/dev/net/tun", Reach::Device);
    }
    rules.allow_machine(plan).allow_as(sockets.dir(), RUN, Reach::Sockets);
    Ok(rules)
}

fn arguments(plan: &LaunchPlan, view: &View, sockets: &Sockets) -> Vec<OsString> {
    let socket = view.path(sockets.dir()).join(sockets::API);
    // Its standard output is the guest's console; its own messages go to stderr.
    let log = view.descriptor(libc::STDERR_FILENO);
    let pairs: [(&str, OsString); 4] = [
        ("--id", plan.id.as_str().into()),
        ("--api-sock", socket.into()),
        ("--log-path", log.into()),
        ("--level", "Warn".into()),
    ];
    pairs.into_iter().flat_map(|(option, value)| [option.into(), value]).collect()
}

/// A Firecracker process.
#[derive(Debug)]
struct Running {
    child: Child,
    sockets: Arc<Sockets>,
    view: View,
    console: Option<OwnedFd>,
    guest: Option<Guest>,
    stderr: StderrTail,
    unconfined: Option<String>,
    /// The file for the memory of a snapshot.
    memory: OwnedFd,
    /// The file for the device state of a snapshot.
    state: OwnedFd,
}

impl Running {
    fn spawn(plan: &LaunchPlan, resources: Resources) -> Result<Self, LaunchError> {
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let memory = resources.memory.file;
        let state =
            memfd_create("banger-state", MemfdFlags::CLOEXEC).map_err(|error| prepare("state")(error.into()))?;
        let sockets = Arc::new(Sockets::make(&plan.run_dir).map_err(prepare("sockets"))?);
        let guest = Guest::listen(&sockets).map_err(prepare("guest channel"))?;
        let (console, output) = pipes::console()?;
        let rules =
            reach(plan, &sockets).map_err(|source| LaunchError::Program { program: plan.program.clone(), source })?;
        let Launched { child, stderr, unconfined, view } = Launch {
            plan,
            rules: &rules,
            args: &|view| arguments(plan, view, &sockets),
            inherited: [&memory, &state].map(AsFd::as_fd).into(),
            nic: resources.namespace.as_ref().filter(|_| plan.network.is_some()).map(Nic::by_name),
            stdout: Some(output.as_fd()),
        }
        .spawn()?;
        let stderr = StderrTail::of(stderr)?;
        let (console, guest) = (Some(console), Some(guest));
        Ok(Self { child, sockets, view, console, guest, stderr, unconfined, memory, state })
    }

    /// Sends the configuration, up to the start of the guest.
    async fn configure(&mut self, plan: &LaunchPlan, start: Start) -> io::Result<()> {
        self.wait_until_ready().await?;
        if start == Start::Restored {
            return Ok(());
        }
        for call in calls::configuration(plan, &self.view, &self.view.path(self.sockets.dir())) {
            self.call(&call).await?;
        }
        Ok(())
    }

    /// Waits until the API answers; if the process ends instead, the error contains the tail of its stderr.
    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let answered = async {
            while client::info(&self.sockets).await.is_err() {
                sleep(START_TICK).await;
            }
        };
        let ended = tokio::select! {
            answered = timeout(START_TIMEOUT, answered) => return answered.map_err(io::Error::from),
            ended = self.child.wait() => ended?,
        };
        Err(ended_early(ended, &self.stderr.read().await))
    }

    async fn call(&self, call: &Call) -> io::Result<()> {
        Ok(client::call(&self.sockets, call).await?)
    }

    async fn set(&self, state: VmState) -> io::Result<()> {
        self.call(&Call::Vm(VmBody { state })).await
    }

    fn path(&self, fd: &OwnedFd) -> PathBuf {
        self.view.descriptor(fd.as_raw_fd())
    }

    async fn save_to(&self, file: OwnedFd) -> io::Result<()> {
        let call = Call::CreateSnapshot(SnapshotCreateParams {
            snapshot_type: SnapshotType::Full,
            snapshot_path: self.path(&self.state),
            mem_file_path: self.path(&self.memory),
        });
        self.call(&call).await?;
        copy_state(&mut File::from(self.state.try_clone()?), &mut File::from(file))
    }

    async fn restore_from(&self, file: OwnedFd) -> io::Result<()> {
        // Duplicates of a descriptor share one offset, so reading starts where the caller has positioned it.
        copy_state_from_offset(&mut File::from(file), &mut File::from(self.state.try_clone()?))?;
        let mem_backend = MemoryBackend { backend_type: BackendType::File, backend_path: self.path(&self.memory) };
        let snapshot_path = self.path(&self.state);
        self.call(&Call::LoadSnapshot(SnapshotLoadParams { snapshot_path, mem_backend, resume_vm: false })).await
    }

    async fn wait(&mut self) -> io::Result<MachineEnd> {
        let status = self.child.wait().await?;
        let stderr = self.stderr.read().await;
        // Firecracker reports no reason, but a successful exit has only one: the guest's reset line.
        let reported = match status.code() {
            Some(0) => Some(ShutdownReason::GuestReset),
            Some(SIGHUP_EXIT) => Some(ShutdownReason::Host),
            _ => None,
        };
        Ok(MachineEnd { status, reported, stderr })
    }
}

/// Copies all of our own state file.
fn copy_state(from: &mut File, to: &mut File) -> io::Result<()> {
    from.rewind()?;
    copy_state_from_offset(from, to)
}

fn copy_state_from_offset(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    from.take(MAX_STATE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STATE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the machine's state is too large"));
    }
    to.write_all(&bytes)
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
        self.guest.take().map(Channel::Vsock)
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

impl Snapshot for Running {
    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.set(VmState::Paused))
    }

    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.set(VmState::Resumed))
    }

    fn save(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.save_to(file))
    }

    fn restore(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.restore_from(file))
    }
}

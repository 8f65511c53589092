//! Virtual machine monitors (VMMs): the drivers that start one, and the machines they make.
//!
//! A [`Driver`] turns a [`LaunchPlan`] into a running [`Machine`], and reports beforehand, without touching anything,
//! why it cannot. It does not decide what the end of a machine means ([`crate::shim`] does) nor which driver is used
//! ([`select`] does).

pub mod confine;
pub mod firecracker;
pub mod host;
pub mod kvm_probe;
pub mod launch;
pub mod memory;
mod pipes;
pub mod plan;
pub mod qemu;
pub mod select;
pub mod tsc;

use crate::process::ProcessIdentity;
use banger_proto::api::vm::Vmm;
use futures_util::future::BoxFuture;
use plan::LaunchPlan;
use rustix::process::Signal;
use std::{io, os::fd::OwnedFd, path::PathBuf, process::ExitStatus};
use tokio::net::UnixStream;

/// Starts machines under one kind of VMM.
pub trait Driver: Send + Sync {
    /// The VMM that this driver starts.
    fn kind(&self) -> Vmm;

    /// Features common to all machines of this driver.
    fn capabilities(&self) -> Capabilities;

    /// Checks that this driver can launch the plan. Pure: reads nothing but the plan.
    fn check(&self, plan: &LaunchPlan) -> Result<(), PlanError>;

    /// Starts the VMM; the guest runs when this returns. Must be called within a Tokio runtime, and from the thread
    /// whose death shall also end the VMM.
    fn launch<'a>(
        &'a self,
        plan: &'a LaunchPlan,
        resources: Resources,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, LaunchError>>;
}

/// Features common to all machines of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Guests can run in software emulation, without KVM.
    pub emulates: bool,
    /// Machines implement [`Machine::snapshot`].
    pub snapshots: bool,
    /// A power-off by the guest ends the VMM, even when the agent has not announced it.
    pub powers_off: bool,
}

/// Resources a machine is given in addition to its plan.
#[derive(Debug)]
pub struct Resources {
    /// Guest memory: a memfd, or the memory file of a snapshot.
    pub memory: memory::Memory,
    /// Initial state of the machine.
    pub start: Start,
    /// The network namespace of the NIC, when the plan has one.
    pub namespace: Option<launch::Namespace>,
}

/// Initial state of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Boots the kernel from its entry point.
    Kernel,
    /// Stopped until the state of another machine is loaded ([`Snapshot::restore`]).
    Restored,
}

/// A running machine. Dropping it kills the VMM.
pub trait Machine: Send {
    /// The process of the VMM.
    fn process(&self) -> ProcessIdentity;

    /// Sends a signal to the VMM; `false` when it has already ended.
    fn signal(&self, signal: Signal) -> io::Result<bool>;

    /// Takes the read end of the serial console, a non-blocking pipe. `None` once taken.
    fn take_console(&mut self) -> Option<OwnedFd>;

    /// Takes the channel to the guest. `None` once taken.
    fn take_channel(&mut self) -> Option<Channel>;

    /// Describes the parts of the confinement that this host cannot provide, and why; `None` when it is complete.
    fn unconfined(&self) -> Option<&str>;

    /// Waits until the VMM has ended. Cancel safe.
    fn ended(&mut self) -> BoxFuture<'_, io::Result<MachineEnd>>;

    /// Access to saving and restoring, when the driver supports it.
    fn snapshot(&mut self) -> Option<&mut dyn Snapshot> {
        None
    }
}

/// The channel to the guest. Sessions of `banger_link` run over the byte stream of either variant.
#[derive(Debug)]
pub enum Channel {
    /// One fixed byte stream (virtio-serial).
    Pipe(UnixStream),
    /// Streams that can be dialled (vsock), again after one broke.
    Vsock(firecracker::Guest),
}

/// How a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEnd {
    /// Exit status of the process.
    pub status: ExitStatus,
    /// The reason the VMM reported before it ended, if it reports any.
    pub reported: Option<ShutdownReason>,
    /// The last few KiB the VMM wrote to stderr, unescaped.
    pub stderr: String,
}

/// Reason a VMM reports for shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// The guest powered off.
    GuestOff,
    /// The guest reset. A reset ends the VMM here.
    GuestReset,
    /// The guest reported a panic through a device.
    GuestPanic,
    /// A signal or a management command.
    Host,
}

/// Saving and restoring a machine; optional for a driver.
pub trait Snapshot: Send {
    /// Stops the virtual CPUs.
    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Starts the virtual CPUs, again or for the first time after a restore.
    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Writes the device state of a paused machine to `file`. Guest memory is not included: it stays in
    /// [`Resources::memory`].
    fn save(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>>;

    /// Loads the state written by [`Snapshot::save`] into a machine that was started with [`Start::Restored`]; it stays
    /// paused.
    fn restore(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>>;
}

/// Why a driver refuses a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The plan is for another VMM.
    #[error("the plan is for {0}")]
    OtherVmm(Vmm),
    /// The kernel has no entry point for direct boot.
    #[error("this kernel has no PVH entry, which QEMU's microvm machine starts it by")]
    NoPvhEntry,
    /// The kernel has no way to discover its virtio devices, and would find no disk.
    #[error("this kernel finds virtio devices neither through ACPI nor on its command line")]
    NoDeviceDiscovery,
    /// The kernel has no vsock driver, so the guest could not reach the host.
    #[error("this kernel has no driver for virtio sockets, by which a guest reaches its host under Firecracker")]
    NoVsock,
    /// A kernel argument is empty or contains characters that would split or garble it.
    #[error("{0:?} is no word for a kernel's command line")]
    KernelWord(String),
    /// The command line is longer than what the kernel reads.
    #[error("the kernel's command line has {length} bytes, and {limit} is the most")]
    CommandLineTooLong {
        /// Length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The VMM has no software emulation.
    #[error("Firecracker needs KVM")]
    NeedsKvm,
    /// The memory size is not a whole number of MiB.
    #[error("{0} bytes of memory are not a whole number of MiB")]
    OddMemory(u64),
    /// The machine has too few device slots.
    #[error("{count} disks, and {limit} is the most")]
    TooManyDisks {
        /// Number of disks in the plan.
        count: usize,
        /// The most that fit.
        limit: usize,
    },
}

/// Why a VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The driver refuses the plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A resource for the VMM could not be made.
    #[error("preparing the VMM's {what}")]
    Prepare {
        /// The resource, such as `console`.
        what: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// A step between fork and exec failed.
    #[error("the VMM's start failed at {step:?}")]
    Step {
        /// Name of the step.
        step: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The VMM started and then rejected its configuration.
    #[error("the VMM did not take the machine")]
    Rejected(#[source] io::Error),
    /// The program could not be executed.
    #[error("cannot run {}", program.display())]
    Program {
        /// The file.
        program: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The driver for a VMM.
pub fn driver(vmm: Vmm) -> &'static dyn Driver {
    match vmm {
        Vmm::Qemu => &qemu::Qemu,
        Vmm::Firecracker => &firecracker::Firecracker,
    }
}

//! Virtual machine monitors: what a machine is made of, and the drivers that make one.
//!
//! A [`Driver`] turns a [`LaunchPlan`] into a running [`Machine`] and says beforehand, without touching anything, why it
//! cannot. It does not decide what a machine's end means ([`crate::shim`] does) nor which driver to use ([`select`] does).

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

/// Makes machines of one kind.
pub trait Driver: Send + Sync {
    /// Which monitor it drives.
    fn kind(&self) -> Vmm;

    /// What its machines can do, before there is one.
    fn capabilities(&self) -> Capabilities;

    /// Why it would not launch this plan. Pure: it looks at the plan only.
    fn check(&self, plan: &LaunchPlan) -> Result<(), PlanError>;

    /// Starts the monitor; the guest runs when this returns. Must be called within a runtime, and from the thread whose
    /// end shall be the monitor's end too.
    fn launch<'a>(
        &'a self,
        plan: &'a LaunchPlan,
        resources: Resources,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, LaunchError>>;
}

/// What machines of a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Runs guests in software where KVM does not.
    pub emulates: bool,
    /// Its machines have [`Machine::snapshot`].
    pub snapshots: bool,
    /// The guest's own power-off ends the monitor, also without a word from the agent.
    pub powers_off: bool,
}

/// What a machine is given besides its plan.
#[derive(Debug)]
pub struct Resources {
    /// Guest memory: a memfd, or the memory file of a snapshot.
    pub memory: memory::Memory,
    /// Where the machine begins.
    pub start: Start,
    /// The namespace its network card is in, when the plan has one.
    pub namespace: Option<launch::Namespace>,
}

/// Where a machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the kernel's entry.
    Kernel,
    /// Stopped, waiting for the state of another machine ([`Snapshot::restore`]).
    Restored,
}

/// Something that runs. Dropping it ends the monitor.
pub trait Machine: Send {
    /// The monitor's process.
    fn process(&self) -> ProcessIdentity;

    /// Sends a signal to the monitor; `false` when it has ended.
    fn signal(&self, signal: Signal) -> io::Result<bool>;

    /// The serial console's output: a pipe that never blocks. There once.
    fn take_console(&mut self) -> Option<OwnedFd>;

    /// The way to the guest. There once.
    fn take_channel(&mut self) -> Option<Channel>;

    /// What of its confinement is missing on this host, and why; `None` when nothing is.
    fn unconfined(&self) -> Option<&str>;

    /// Waits for the monitor's end. Cancelling loses nothing.
    fn ended(&mut self) -> BoxFuture<'_, io::Result<MachineEnd>>;

    /// The power to be saved and restored, where the driver has it.
    fn snapshot(&mut self) -> Option<&mut dyn Snapshot> {
        None
    }
}

/// The way to the guest. Either way sessions of `banger_link` go over a byte pipe.
#[derive(Debug)]
pub enum Channel {
    /// The pipe (virtio-serial).
    Pipe(UnixStream),
    /// A pipe can be dialled (vsock), and another when it broke.
    Vsock(firecracker::Guest),
}

/// How a monitor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEnd {
    /// The process's status.
    pub status: ExitStatus,
    /// The reason the monitor gave before, if it gives one.
    pub reported: Option<ShutdownReason>,
    /// The last it wrote to stderr, a few KiB, as it is.
    pub stderr: String,
}

/// Why a monitor says that it shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// The guest powered off.
    GuestOff,
    /// The guest reset (and resets end a monitor here).
    GuestReset,
    /// The guest reported a panic through a device.
    GuestPanic,
    /// A signal, or a command.
    Host,
}

/// The optional power of a machine to be saved and restored.
pub trait Snapshot: Send {
    /// Stops the guest's processors.
    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Lets them run (on).
    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Writes the state of a paused machine's devices to `file`. Its memory is [`Resources::memory`] and not in there.
    fn save(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>>;

    /// Reads what [`Snapshot::save`] wrote into a machine that was started with [`Start::Restored`]; it stays paused.
    fn restore(&mut self, file: OwnedFd) -> BoxFuture<'_, io::Result<()>>;
}

/// Why a driver does not launch a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The plan is for another monitor.
    #[error("the plan is for {0}")]
    OtherVmm(Vmm),
    /// The kernel cannot be started directly.
    #[error("this kernel has no PVH entry, which QEMU's microvm machine starts it by")]
    NoPvhEntry,
    /// The kernel would find no disk.
    #[error("this kernel finds virtio devices neither through ACPI nor on its command line")]
    NoDeviceDiscovery,
    /// The guest would have no way to its host.
    #[error("this kernel has no driver for virtio sockets, by which a guest reaches its host under Firecracker")]
    NoVsock,
    /// A word of the kernel's command line would be more than one, or unreadable.
    #[error("{0:?} is no word for a kernel's command line")]
    KernelWord(String),
    /// The kernel would cut its command line off.
    #[error("the kernel's command line has {length} bytes, and {limit} is the most")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// It has no software emulation.
    #[error("Firecracker needs KVM")]
    NeedsKvm,
    /// Memory comes in whole mebibytes.
    #[error("{0} bytes of memory are not a whole number of MiB")]
    OddMemory(u64),
    /// The machine has only so many slots for devices.
    #[error("{count} disks, and {limit} is the most")]
    TooManyDisks {
        /// How many the plan has.
        count: usize,
        /// How many fit.
        limit: usize,
    },
}

/// Why a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The plan itself.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something it was to be given could not be made.
    #[error("preparing the VMM's {what}")]
    Prepare {
        /// Such as `console`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A step between fork and exec failed.
    #[error("the VMM's start failed at {step:?}")]
    Step {
        /// The step's name.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ran, and would not start the machine.
    #[error("the VMM did not take the machine")]
    Rejected(#[source] io::Error),
    /// The program could not be executed.
    #[error("cannot run {}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The driver of a monitor.
pub fn driver(vmm: Vmm) -> &'static dyn Driver {
    match vmm {
        Vmm::Qemu => &qemu::Qemu,
        Vmm::Firecracker => &firecracker::Firecracker,
    }
}

//! The launch plan: everything a shim needs to start one machine, as data.
//!
//! The daemon fills it (each capability contributes its part), writes it as `launch.json` into the VM's directory and
//! starts the shim on it; a driver renders it into QEMU's arguments or Firecracker's calls. Nothing in it is looked up
//! again later, so a reboot inside the guest starts the same machine.

use crate::process::ProcessIdentity;
use banger_proto::{
    api::vm::{Accelerator, Vmm},
    name::{VmId, VmName},
    network::Publish,
    size::ByteSize,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One machine to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The VM.
    pub id: VmId,
    /// Its name, for process titles and logs.
    pub name: VmName,
    /// Which monitor.
    pub vmm: Vmm,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// The monitor's program.
    pub program: PathBuf,
    /// Virtual processors.
    pub vcpu: u32,
    /// Guest memory; the shim makes it as a memfd.
    pub memory: ByteSize,
    /// The kernel and how it boots.
    pub kernel: KernelFile,
    /// The initramfs with this VM's configuration appended, mode 0600. Needed again on a guest's reboot.
    pub initramfs: PathBuf,
    /// Words for the kernel's command line beyond what the driver itself needs.
    pub kernel_args: Vec<String>,
    /// Rate of the host's time-stamp counter, in kHz ([`HostFacts::tsc_khz`](super::host::HostFacts::tsc_khz)). A guest
    /// in software emulation hangs on a busy host without it.
    #[serde(default)]
    pub tsc_khz: Option<u32>,
    /// Disks, in the order the guest sees them: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// Where the serial console is kept.
    pub console: Console,
    /// The VM's durable directory; the shim writes its runtime and exit records there.
    pub state_dir: PathBuf,
    /// The VM's directory of sockets, made by the daemon with mode 0700.
    pub run_dir: PathBuf,
    /// The network card; `None` is a machine without one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Ports of the host that lead to ports of the guest, from the shim.
    #[serde(default)]
    pub ports: Vec<Publish>,
}

/// A network card: a tap that stands in banger's network namespace, with its rules around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The tap's name.
    pub tap: String,
    /// The card's hardware address.
    pub mac: String,
    /// A process in that namespace. Looked up once, when the shim starts: it may end before the machine does.
    pub holder: ProcessIdentity,
}

/// A kernel on disk.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFile {
    /// The ELF file.
    pub path: PathBuf,
    /// Has a PVH entry note.
    pub pvh: bool,
    /// Finds virtio-mmio devices through ACPI (`LNRO0005`).
    pub acpi: bool,
    /// Finds virtio-mmio devices named on its command line (`VIRTIO_MMIO_CMDLINE_DEVICES`).
    pub mmio_cmdline: bool,
    /// Ticks of its timer in a second, when that is known.
    #[serde(default)]
    pub hz: Option<u32>,
    /// May have a driver for virtio sockets: `false` where it is known to have none.
    #[serde(default = "yes")]
    pub vsock: bool,
}

/// What plans from before this was written down are taken for.
fn yes() -> bool {
    true
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// A raw file.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// The serial console's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The file; `<path>.1` holds what was rotated out.
    pub path: PathBuf,
    /// Most bytes the two files take together, whatever the guest writes.
    pub cap: ByteSize,
}

//! The launch plan: everything a shim needs to start one machine, as data.
//!
//! The daemon fills it in (each capability contributes a part), writes it as `launch.json` into the VM's directory and
//! starts the shim on it; a driver renders it into QEMU's arguments or Firecracker's API calls. Nothing in it is looked
//! up again later, so a reboot inside the guest starts the same machine.

use crate::process::ProcessIdentity;
use banger_proto::{
    api::vm::{Accelerator, Vmm},
    name::{VmId, VmName},
    network::{MacAddr, Publish},
    size::ByteSize,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The launch plan of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Id of the VM.
    pub id: VmId,
    /// Name of the VM, for process titles and logs.
    pub name: VmName,
    /// The VMM to run.
    pub vmm: Vmm,
    /// How guest code is executed: KVM or software emulation.
    pub accelerator: Accelerator,
    /// Executable of the VMM.
    pub program: PathBuf,
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Size of guest memory. The shim allocates it as a memfd.
    pub memory: ByteSize,
    /// The kernel and its boot features.
    pub kernel: KernelFile,
    /// The initramfs with this VM's configuration appended, mode 0600. Needed again whenever the guest reboots.
    pub initramfs: PathBuf,
    /// Arguments for the kernel's command line in addition to those of the driver.
    pub kernel_args: Vec<String>,
    /// Rate of the host's time-stamp counter, in kHz ([`HostFacts::tsc_khz`](super::host::HostFacts::tsc_khz)). A guest
    /// in software emulation hangs on a busy host without it.
    #[serde(default)]
    pub tsc_khz: Option<u32>,
    /// Disks, in the order the guest sees them: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// The log of the serial console.
    pub console: Console,
    /// The VM's persistent directory; the shim writes its runtime and exit records there.
    pub state_dir: PathBuf,
    /// The VM's directory of sockets, created by the daemon with mode 0700.
    pub run_dir: PathBuf,
    /// The NIC; `None` for a machine without one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Ports of the host that the shim forwards to ports of the guest.
    #[serde(default)]
    pub ports: Vec<Publish>,
}

/// A NIC: a tap device inside banger's network namespace, with the firewall rules for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Name of the tap device.
    pub tap: String,
    /// MAC address of the NIC.
    pub mac: MacAddr,
    /// A process in that namespace. Looked up once, when the shim starts: it may end before the machine does.
    pub holder: ProcessIdentity,
}

/// A kernel on disk.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFile {
    /// The ELF image.
    pub path: PathBuf,
    /// Has a PVH entry note.
    pub pvh: bool,
    /// Finds virtio-mmio devices through ACPI (`LNRO0005`).
    pub acpi: bool,
    /// Finds virtio-mmio devices named on its command line (`VIRTIO_MMIO_CMDLINE_DEVICES`).
    pub mmio_cmdline: bool,
    /// Timer frequency (`CONFIG_HZ`), when it is known.
    #[serde(default)]
    pub hz: Option<u32>,
    /// Whether the kernel may have a vsock driver: `false` where it is known to have none.
    #[serde(default = "yes")]
    pub vsock: bool,
}

/// Default of `vsock` for plans written before the field existed.
fn yes() -> bool {
    true
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The raw image file.
    pub path: PathBuf,
    /// Whether the guest has read access only.
    pub read_only: bool,
}

/// The log of the serial console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The current file; `<path>.1` holds the rotated part.
    pub path: PathBuf,
    /// Upper bound for the size of both files together, whatever the guest writes.
    pub cap: ByteSize,
}

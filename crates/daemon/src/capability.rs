//! Capabilities: everything a VM's start needs from this host, one file each.
//!
//! A capability holds exactly the services it uses and contributes its part of the launch. Capabilities run in the
//! order of the list that `wire_services` builds and are released in reverse order. A new one is a file here and a line
//! there.

mod boot_config;
mod dns;
mod file_sync;
mod kernel_files;
mod nat;
pub(crate) mod ports;
mod root_image;
mod ssh;
mod work_disk;

pub(crate) use boot_config::BootConfigCapability;
pub(crate) use dns::DnsCapability;
pub(crate) use file_sync::FileSyncCapability;
pub(crate) use kernel_files::KernelFilesCapability;
pub(crate) use nat::NatCapability;
pub(crate) use ports::PortsCapability;
pub(crate) use root_image::RootImageCapability;
pub(crate) use ssh::SshCapability;
pub(crate) use work_disk::{Syncing, WorkDiskCapability};

use crate::{
    network::{GuestNames, NetworkInterface},
    operation::Operation,
    store::{VmRow, VmSpec},
};
use banger_machine::vmm::plan::{Disk, KernelFile};
use banger_proto::{
    agent::{
        boot::{ImageDefaults, Mount},
        event::Ready,
    },
    failure::Failure,
    layout::Layout,
    name::VmId,
    network::Publish,
};
use futures_util::future::BoxFuture;
use std::{path::PathBuf, sync::Arc};

/// Future returned by a capability's hook.
pub(crate) type Hook<'a> = BoxFuture<'a, Result<(), Failure>>;

/// One requirement of a VM. A hook that a capability does not override does nothing.
pub(crate) trait Capability: Send + Sync {
    /// Name of the capability.
    fn name(&self) -> &'static str;

    /// Phase of a start that its work counts as.
    fn phase(&self) -> &'static str;

    /// Checks whether this host can provide it, before anything of the VM is touched, and pulls what can be pulled.
    fn preflight<'a>(&'a self, spec: &'a VmSpec, operation: &'a Operation) -> Hook<'a> {
        let _ = (spec, operation);
        nothing()
    }

    /// Acquires what lasts as long as the VM. Idempotent.
    fn prepare<'a>(&'a self, vm: &'a VmRow, operation: &'a Operation) -> Hook<'a> {
        let _ = (vm, operation);
        nothing()
    }

    /// Waits for work begun by [`Self::prepare`] that a machine need not wait for, before the VM is reported as
    /// created.
    fn settle<'a>(&'a self, vm: &'a VmId) -> Hook<'a> {
        let _ = vm;
        nothing()
    }

    /// Adds its part to the launch of one start.
    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        let _ = (vm, launch, operation);
        nothing()
    }

    /// Runs when the agent answers.
    fn after_start<'a>(&'a self, vm: &'a VmRow, ready: &'a Ready) -> Hook<'a> {
        let _ = (vm, ready);
        nothing()
    }

    /// Releases what a start acquired, or everything. Idempotent; nothing need have been acquired.
    fn release<'a>(&'a self, vm: &'a VmId, depth: Depth) -> Hook<'a> {
        let _ = (vm, depth);
        nothing()
    }
}

/// How much to release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Resources of a running machine; the VM stays and can start again.
    Machine,
    /// Everything: the VM is deleted.
    Everything,
}

fn nothing() -> Hook<'static> {
    Box::pin(std::future::ready(Ok(())))
}

/// All capabilities, in the order they contribute.
pub(crate) type Capabilities = Arc<[Box<dyn Capability>]>;

/// Launch of one start, while it is being put together.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    /// Disks, in the order the guest sees them.
    pub(crate) disks: Vec<Disk>,
    /// Device name of the root file system image in the guest.
    pub(crate) image: Option<String>,
    /// The image's defaults for commands.
    pub(crate) image_defaults: ImageDefaults,
    /// Device name of the work disk in the guest.
    pub(crate) work: Option<String>,
    /// Kernel to boot.
    pub(crate) kernel: Option<KernelFile>,
    /// Arguments for the kernel's command line.
    pub(crate) kernel_args: Vec<String>,
    /// Part of the initramfs this VM shares with others.
    pub(crate) shared_initramfs: Option<PathBuf>,
    /// Mounts besides the root.
    pub(crate) mounts: Vec<Mount>,
    /// NIC, its host and its guest side.
    pub(crate) nic: Option<NetworkInterface>,
    /// Host name and resolver of the guest.
    pub(crate) names: Option<GuestNames>,
    /// Ports of the host to forward into the guest.
    pub(crate) ports: Vec<Publish>,
    /// Initramfs with this VM's configuration.
    pub(crate) initramfs: Option<PathBuf>,
}

impl Launch {
    /// Attaches a disk and returns its device name in the guest.
    pub(crate) fn attach(&mut self, disk: Disk) -> String {
        let letter = u8::try_from(self.disks.len()).ok().filter(|n| *n < 26).expect("no VM has 26 disks");
        self.disks.push(disk);
        format!("/dev/vd{}", char::from(b'a' + letter))
    }
}

/// Paths of the files the daemon makes in a VM's durable directory.
pub(crate) struct VmFiles;

impl VmFiles {
    /// Work disk.
    pub(crate) fn work_disk(layout: &Layout, vm: &VmId) -> PathBuf {
        layout.vm(vm).join("work.ext4")
    }

    /// Initramfs with the VM's configuration.
    pub(crate) fn initramfs(layout: &Layout, vm: &VmId) -> PathBuf {
        layout.vm(vm).join("initramfs.cpio")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_in_the_order_they_are_attached() {
        let mut launch = Launch::default();
        let names: Vec<String> =
            ["/a", "/b", "/c"].map(|path| launch.attach(Disk { path: path.into(), read_only: true })).into();
        assert_eq!(names, ["/dev/vda", "/dev/vdb", "/dev/vdc"]);
    }
}

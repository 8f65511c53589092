//! What a VM's start needs from this host, one capability a file.
//!
//! A capability holds exactly the services it uses and contributes its part of the launch. They run in the order of the
//! list that `wire_services` builds, and are released in the reverse one. Adding one is a file here and a line there.

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
    vmm::plan::{Disk, KernelFile},
};
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
use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc};

/// What a hook returns.
pub(crate) type Hook<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One thing a VM needs. Hooks that a capability has no use for do nothing.
pub(crate) trait Capability: Send + Sync {
    /// Its own name.
    fn name(&self) -> &'static str;

    /// The phase of a start its work counts as.
    fn phase(&self) -> &'static str;

    /// Whether this host can give it, before anything of the VM is touched. What can be pulled is pulled here.
    fn preflight<'a>(&'a self, spec: &'a VmSpec, operation: &'a Operation) -> Hook<'a> {
        let _ = (spec, operation);
        nothing()
    }

    /// Takes what lasts as long as the VM. Doing it again changes nothing.
    fn prepare<'a>(&'a self, vm: &'a VmRow, operation: &'a Operation) -> Hook<'a> {
        let _ = (vm, operation);
        nothing()
    }

    /// Waits for what [`Self::prepare`] began and a machine need not wait for, before anybody is told that the VM exists.
    fn settle<'a>(&'a self, vm: &'a VmId) -> Hook<'a> {
        let _ = vm;
        nothing()
    }

    /// Adds its part to the launch of one start.
    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        let _ = (vm, launch, operation);
        nothing()
    }

    /// The agent answers.
    fn after_start<'a>(&'a self, vm: &'a VmRow, ready: &'a Ready) -> Hook<'a> {
        let _ = (vm, ready);
        nothing()
    }

    /// Gives back what a start took, or everything. Idempotent, and does not mind what was never taken.
    fn release<'a>(&'a self, vm: &'a VmId, depth: Depth) -> Hook<'a> {
        let _ = (vm, depth);
        nothing()
    }
}

/// How much is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What a running machine holds; the VM stays and can start again.
    Machine,
    /// The VM goes.
    Everything,
}

fn nothing() -> Hook<'static> {
    Box::pin(std::future::ready(Ok(())))
}

/// All capabilities, in the order they contribute.
pub(crate) type Capabilities = Arc<[Box<dyn Capability>]>;

/// One launch being put together.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    /// Disks, in the order the guest sees them.
    pub(crate) disks: Vec<Disk>,
    /// The guest's name of the root file system image.
    pub(crate) image: Option<String>,
    /// How the image's commands want to be run.
    pub(crate) image_defaults: ImageDefaults,
    /// The guest's name of the work disk.
    pub(crate) work: Option<String>,
    /// The kernel.
    pub(crate) kernel: Option<KernelFile>,
    /// Words for its command line.
    pub(crate) kernel_args: Vec<String>,
    /// The part of the initramfs this VM shares with others.
    pub(crate) shared_initramfs: Option<PathBuf>,
    /// Mounts besides the root.
    pub(crate) mounts: Vec<Mount>,
    /// The network card, on both sides.
    pub(crate) nic: Option<NetworkInterface>,
    /// Who the guest is, and whom it asks for names.
    pub(crate) names: Option<GuestNames>,
    /// Ports of the host that lead into the guest.
    pub(crate) ports: Vec<Publish>,
    /// The initramfs with this VM's configuration.
    pub(crate) initramfs: Option<PathBuf>,
}

impl Launch {
    /// Attaches a disk and returns the guest's name of it.
    pub(crate) fn attach(&mut self, disk: Disk) -> String {
        let letter = u8::try_from(self.disks.len()).ok().filter(|n| *n < 26).expect("no VM has 26 disks");
        self.disks.push(disk);
        format!("/dev/vd{}", char::from(b'a' + letter))
    }
}

/// Names of the files in a VM's durable directory that the daemon makes.
pub(crate) struct VmFiles;

impl VmFiles {
    /// The work disk.
    pub(crate) fn work_disk(layout: &Layout, vm: &VmId) -> PathBuf {
        layout.vm(vm).join("work.ext4")
    }

    /// The initramfs with the VM's configuration.
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

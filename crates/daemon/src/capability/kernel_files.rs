//! The kernel, the disk with its modules, and the part of the initramfs shared by all VMs of that kernel.

use super::{Capability, Hook, Launch};
use crate::{
    images::ImageService,
    operation::Operation,
    store::{VmRow, VmSpec},
};
use banger_machine::vmm::plan::{Disk, KernelFile};
use banger_proto::agent::{boot::Mount, driver::VSOCK_DRIVER};
use std::sync::Arc;

pub(crate) struct KernelFilesCapability {
    pub(crate) images: Arc<ImageService>,
}

impl Capability for KernelFilesCapability {
    fn name(&self) -> &'static str {
        "kernel-files"
    }

    fn phase(&self) -> &'static str {
        "kernel-files"
    }

    /// Pulls a kernel again that was deleted.
    fn preflight<'a>(&'a self, spec: &'a VmSpec, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            self.images.kernel(&spec.kernel, false, operation).await?;
            Ok(())
        })
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let kernel = self.images.kernel(&vm.spec.kernel, false, operation).await?;
            let boots = kernel.manifest.boots;
            let vsock = !kernel.manifest.missing_drivers.iter().any(|driver| driver == VSOCK_DRIVER);
            let files = self.images.boot_files(kernel, operation).await?;
            launch.kernel = Some(KernelFile {
                path: files.vmlinux,
                pvh: boots.pvh,
                acpi: boots.acpi,
                mmio_cmdline: boots.mmio_cmdline,
                hz: boots.hz,
                vsock,
            });
            if let Some(path) = files.modules_image {
                let device = launch.attach(Disk { path, read_only: true });
                launch.mounts.push(Mount::Modules { device, release: files.kernel_version });
            }
            launch.shared_initramfs = Some(files.initramfs);
            Ok(())
        })
    }
}

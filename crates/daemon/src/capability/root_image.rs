//! The read-only root file system, shared by every VM of one image.

use super::{Capability, Hook, Launch};
use crate::{
    images::ImageService,
    operation::Operation,
    store::{VmRow, VmSpec},
};
use banger_machine::vmm::plan::Disk;
use banger_proto::agent::boot::ImageDefaults;
use std::sync::Arc;

pub(crate) struct RootImageCapability {
    pub(crate) images: Arc<ImageService>,
}

impl Capability for RootImageCapability {
    fn name(&self) -> &'static str {
        "root-image"
    }

    fn phase(&self) -> &'static str {
        "image"
    }

    fn preflight<'a>(&'a self, spec: &'a VmSpec, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            self.images.image_by_id(&spec.image_id, operation).await?;
            Ok(())
        })
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let image = self.images.image_by_id(&vm.spec.image_id, operation).await?;
            if let Some(config) = image.manifest.config {
                let command = config.entrypoint.into_iter().chain(config.cmd).collect();
                launch.image_defaults =
                    ImageDefaults { env: config.env, workdir: config.workdir, user: config.user, command };
            }
            launch.image = Some(launch.attach(Disk { path: image.rootfs, read_only: true }));
            Ok(())
        })
    }
}

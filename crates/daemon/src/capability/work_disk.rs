//! The VM's own disk: a sparse file that holds everything its guest changes.

use super::{Capability, Depth, Hook, Launch, VmFiles};
use crate::{
    failures::{self, Explain},
    operation::Operation,
    store::VmRow,
    vmm::plan::Disk,
};
use banger_artifacts::disk::WorkDisks;
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use std::{io, sync::Arc};

pub(crate) struct WorkDiskCapability {
    pub(crate) layout: Layout,
    pub(crate) disks: WorkDisks,
}

impl Capability for WorkDiskCapability {
    fn phase(&self) -> &'static str {
        "disk"
    }

    fn prepare<'a>(&'a self, vm: &'a VmRow, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let path = VmFiles::work_disk(&self.layout, &vm.id);
            if path.exists() {
                return Ok(());
            }
            let (disks, size) = (self.disks.clone(), vm.spec.disk_size);
            crate::operation::blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
                disks.create(&path, size, job.cancel)
            })
            .await
            .map_err(Explain::explain)?;
            Ok(())
        })
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let path = VmFiles::work_disk(&self.layout, &vm.id);
            // A new one would be empty: whoever lost the data should hear of it.
            let length = std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(|error| {
                Failure::new(Code::NotFound, format!("the work disk of VM {} is gone", vm.name))
                    .cause(format!("{}: {error}", path.display()))
                    .hint(format!("`banger vm delete {}` deletes the VM", vm.name))
            })?;
            // The guest's own kernel makes the file system as large as its disk: what a guest wrote is not for
            // programs of this host to parse.
            if length < vm.spec.disk_size.bytes() {
                let grown = std::fs::File::options().write(true).open(&path);
                grown
                    .and_then(|file| file.set_len(vm.spec.disk_size.bytes()))
                    .map_err(|error| failures::io("grow", &path, &error))?;
            }
            launch.work = Some(launch.attach(Disk { path, read_only: false }));
            Ok(())
        })
    }

    fn release<'a>(&'a self, vm: &'a VmId, depth: Depth) -> Hook<'a> {
        Box::pin(async move {
            if depth == Depth::Machine {
                return Ok(());
            }
            let path = VmFiles::work_disk(&self.layout, vm);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failures::io("remove", &path, &error)),
                _ => Ok(()),
            }
        })
    }
}

//! The VM's own disk: a sparse file that holds everything its guest changes.

use super::{Capability, Depth, Hook, Launch, VmFiles};
use crate::{
    failures::{self, Explain},
    operation::Operation,
    store::VmRow,
    vmm::plan::Disk,
};
use banger_artifacts::disk::{self, DiskError, WorkDisks};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;

pub(crate) struct WorkDiskCapability {
    pub(crate) layout: Layout,
    pub(crate) disks: WorkDisks,
    /// New disks on their way to the host's disk, which no machine has to wait for.
    pub(crate) syncing: Syncing,
}

/// Syncs under way, by VM.
#[derive(Debug, Default)]
pub(crate) struct Syncing(Mutex<HashMap<VmId, JoinHandle<Result<(), DiskError>>>>);

impl Syncing {
    fn begin(&self, vm: &VmId, path: std::path::PathBuf) {
        let task = tokio::task::spawn_blocking(move || disk::sync(&path));
        self.tasks().insert(vm.clone(), task);
    }

    fn take(&self, vm: &VmId) -> Option<JoinHandle<Result<(), DiskError>>> {
        self.tasks().remove(vm)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, JoinHandle<Result<(), DiskError>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Capability for WorkDiskCapability {
    fn name(&self) -> &'static str {
        "work-disk"
    }

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
            self.syncing.begin(&vm.id, VmFiles::work_disk(&self.layout, &vm.id));
            Ok(())
        })
    }

    fn settle<'a>(&'a self, vm: &'a VmId) -> Hook<'a> {
        Box::pin(async {
            let Some(sync) = self.syncing.take(vm) else { return Ok(()) };
            sync.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(Explain::explain)
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
            drop(self.syncing.take(vm));
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

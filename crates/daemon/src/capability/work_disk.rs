//! The VM's work disk: a sparse file with everything its guest writes.

use super::{Capability, Depth, Hook, Launch, VmFiles};
use crate::{
    failures::{self, Explain},
    operation::Operation,
    store::VmRow,
};
use banger_artifacts::disk::{self, WorkDisks};
use banger_machine::{record, vmm::plan::Disk};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

pub(crate) struct WorkDiskCapability {
    pub(crate) layout: Layout,
    pub(crate) disks: WorkDisks,
    /// Running syncs of new disks, which a machine need not wait for.
    pub(crate) syncing: Syncing,
}

/// File in a VM's directory that records how the sync of its disk failed.
const LOST: &str = "work.lost";

/// Running syncs and their outcomes, by VM. A caller that stops waiting leaves the outcome to the next. A failure is
/// kept, also for later daemons: the kernel reports a write error once and then treats the lost data as written.
#[derive(Debug, Default)]
pub(crate) struct Syncing(Mutex<HashMap<VmId, watch::Receiver<Outcome>>>);

/// Outcome of a sync; `None` while it runs.
type Outcome = Option<Result<(), Failure>>;

impl Syncing {
    /// Starts a sync in the background. `dir` is the VM's directory.
    fn begin(&self, vm: &VmId, dir: PathBuf, sync: impl FnOnce() -> Result<(), Failure> + Send + 'static) {
        let (sender, receiver) = watch::channel(None);
        tokio::task::spawn_blocking(move || {
            let outcome = sync().inspect_err(|failure| remember(&dir, failure));
            // Nobody may be waiting any more.
            let _ = sender.send(Some(outcome));
        });
        self.all().insert(vm.clone(), receiver);
    }

    async fn settle(&self, vm: &VmId, dir: &Path) -> Result<(), Failure> {
        let sync = self.all().get(vm).cloned();
        let Some(mut sync) = sync else { return recall(dir) };
        let lost = || {
            Failure::new(
                Code::Internal,
                "cannot tell whether the new work disk was written: the daemon lost track of it",
            )
        };
        let outcome = sync.wait_for(Option::is_some).await.map_or_else(|_| None, |outcome| outcome.clone());
        if outcome == Some(Ok(())) {
            self.forget(vm);
        }
        outcome.unwrap_or_else(|| Err(lost()))
    }

    fn forget(&self, vm: &VmId) {
        self.all().remove(vm);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<VmId, watch::Receiver<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records a failure for later daemons, synced if possible. The disk may be failing: an unsynced record is better than
/// none.
fn remember(dir: &Path, failure: &Failure) {
    let written = record::write(dir, LOST, failure).or_else(|_| record::write_volatile(dir, LOST, failure));
    if let Err(error) = written {
        tracing::error!(dir = %dir.display(), %error, "that a new work disk was lost cannot be written down");
    }
}

/// Reads the failure that an earlier daemon recorded.
fn recall(dir: &Path) -> Result<(), Failure> {
    match record::read::<Failure>(dir, LOST) {
        Ok(lost) => lost.map_or(Ok(()), Err),
        Err(error) => Err(failures::io("read", &dir.join(LOST), &error)),
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
            let path = VmFiles::work_disk(&self.layout, &vm.id);
            let again = "nobody knows what is lost of it; once the host's disk works, make the VM again";
            let hint = format!("{again}: `banger vm delete {}` first", vm.name);
            self.syncing.begin(&vm.id, self.layout.vm(&vm.id), move || {
                disk::sync(&path).map_err(|error| error.explain().hint(hint))
            });
            Ok(())
        })
    }

    fn settle<'a>(&'a self, vm: &'a VmId) -> Hook<'a> {
        Box::pin(async { self.syncing.settle(vm, &self.layout.vm(vm)).await })
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let path = VmFiles::work_disk(&self.layout, &vm.id);
            // A new disk would be empty: the user has to know that the data is lost.
            let length = std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(|error| {
                Failure::new(Code::NotFound, format!("the work disk of VM {} is gone", vm.name))
                    .cause(format!("{}: {error}", path.display()))
                    .hint(format!("`banger vm delete {}` deletes the VM", vm.name))
            })?;
            // The guest's own kernel grows the file system to the size of its disk: no program of the host should parse
            // what a guest wrote.
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
            self.syncing.forget(vm);
            let path = VmFiles::work_disk(&self.layout, vm);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failures::io("remove", &path, &error)),
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_sync_that_is_not_waited_for_to_its_end_is_the_next_ones_to_wait_for() {
        let (syncing, vm, temp) = (Syncing::default(), crate::random::vm_id(), tempfile::tempdir().unwrap());
        let dir = temp.path();
        assert_eq!(syncing.settle(&vm, dir).await, Ok(()), "nothing is under way");
        let (go_on, gate) = mpsc::channel::<()>();
        let failure = Failure::new(Code::Internal, "the disk is broken");
        let result = Err(failure.clone());
        syncing.begin(&vm, dir.to_owned(), move || {
            gate.recv().unwrap();
            result
        });
        let cut_short = tokio::time::timeout(std::time::Duration::ZERO, syncing.settle(&vm, dir)).await;
        assert!(cut_short.is_err(), "{cut_short:?}");
        go_on.send(()).unwrap();
        for _ in 0..2 {
            assert_eq!(syncing.settle(&vm, dir).await, Err(failure.clone()), "however often it is started");
        }
        assert_eq!(Syncing::default().settle(&vm, dir).await, Err(failure), "also by another daemon");
        syncing.forget(&vm);
        temp.close().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(syncing.settle(&vm, dir).await, Ok(()), "it is deleted");
        syncing.begin(&vm, dir.to_owned(), || Ok(()));
        assert_eq!(syncing.settle(&vm, dir).await, Ok(()));
        assert!(syncing.all().is_empty(), "what went well is done with");
    }
}

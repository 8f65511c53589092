//! Release: gives back what a VM holds. The one clean-up path of failed creates, stops, deletes and a daemon's start.
//!
//! Every step runs whatever happened to the others, and each may run again. What could not be given back stays recorded
//! for the next attempt.

use super::{service::Parts, sockets};
use crate::{capability::Depth, failures, store::ResourceKind};
use banger_machine::{
    failpoint,
    shim::{self, control::VMM_DIR, revoke},
};
use banger_proto::{
    failure::{Code, Failure},
    name::VmId,
};
use std::{collections::BTreeSet, fs, io, path::Path, time::Duration};

/// Time that a killed process may take to end: it may have much memory to free.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Hint for a machine that does not end.
pub(super) const HELD_HINT: &str =
    "this host's kernel has not let go of its processes, as while a disk does not answer: try again later";

/// Number of attempts to remove a directory into which files are put meanwhile.
const MAX_PASSES: u32 = 8;

/// Gives back what `vm` holds: its machine, or everything.
pub(super) async fn release(parts: &Parts, vm: &VmId, depth: Depth) -> Result<(), Failure> {
    let mut errors = Vec::new();
    let store = &parts.store;
    let (state_dir, run_dir) = (parts.layout.vm(vm), parts.layout.vm_run(vm));
    // Read before the plan, which names this directory, is removed with the shim.
    let machines = sockets::directory(&parts.layout, vm);

    let ended = end_shim(&state_dir).await;
    failpoint::hit("release.processes").await;
    let ended = keep_error(&mut errors, ended);
    if ended {
        keep_error(&mut errors, store.unclaim(vm, ResourceKind::Shim, vm.as_str()).await.map_err(Failure::from));
    }
    failpoint::hit("release.shim").await;
    for capability in parts.capabilities.iter().rev() {
        keep_error(&mut errors, capability.release(vm, depth).await);
        failpoint::hit(&format!("release.{}", capability.name())).await;
    }
    keep_error(&mut errors, remove_unfinished(&state_dir));
    failpoint::hit("release.capabilities").await;
    let mut removed = true;
    // Once the plan is gone, sockets that stay in another run directory are swept by a daemon that uses that directory.
    for dir in BTreeSet::from([machines, run_dir]) {
        removed &= keep_error(&mut errors, remove_sockets(&dir).await);
        failpoint::hit("release.sockets").await;
    }
    if removed {
        keep_error(
            &mut errors,
            store.unclaim(vm, ResourceKind::RunDirectory, vm.as_str()).await.map_err(Failure::from),
        );
    }
    failpoint::hit("release.run").await;
    if depth == Depth::Everything {
        // These files tell who may still run, so they stay until all processes have ended.
        let removed = ended && keep_error(&mut errors, remove_flat(&state_dir));
        failpoint::hit("release.directory").await;
        let gone = removed && {
            let unclaimed = store.unclaim(vm, ResourceKind::StateDirectory, vm.as_str()).await;
            keep_error(&mut errors, unclaimed.map_err(Failure::from))
        };
        // The row is the starting point of the next attempt: it stays as long as anything else does.
        failpoint::hit("release.state").await;
        if gone && errors.is_empty() {
            errors.extend(store.delete_vm(vm).await.map_err(Failure::from).err());
            // The client has not been told yet.
            failpoint::hit("release.row").await;
        }
    }
    joined(errors)
}

/// Whether a process of a machine of `vm` may run; `true` where that cannot be told.
pub(super) async fn holds_machine(parts: &Parts, vm: &VmId) -> bool {
    let held = parts.store.resources(vm).await;
    held.map_or(true, |held| held.iter().any(|resource| resource.kind == ResourceKind::Shim))
}

/// Keeps the error of a step. Returns whether the step succeeded.
fn keep_error(errors: &mut Vec<Failure>, result: Result<(), Failure>) -> bool {
    let good = result.is_ok();
    errors.extend(result.err());
    good
}

/// Ends the processes of the VM, including a shim that was started and has not yet begun to run the machine.
async fn end_shim(state_dir: &Path) -> Result<(), Failure> {
    match revoke(state_dir, KILL_TIMEOUT).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let limit = KILL_TIMEOUT.as_secs();
            let who = shim::living(state_dir).map_or_else(String::new, |pids| format!(" ({pids})"));
            Err(Failure::new(
                Code::Timeout,
                format!("the VM's processes{who} were killed and not gone {limit} s later"),
            ))
        }
        Err(error) => Err(failures::because(Code::Internal, "cannot end the VM's processes", &error)),
    }
}

/// Removes files that a daemon was writing when it died: until they are complete, their names begin with a dot.
fn remove_unfinished(directory: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().first() == Some(&b'.') {
            fs::remove_file(entry.path())
                .or_else(unless_gone)
                .map_err(|error| failures::io("remove", &entry.path(), &error))?;
        }
    }
    Ok(())
}

/// Removes a VM's directory of sockets, and the VMM's directory in it.
pub(super) async fn remove_sockets(directory: &Path) -> Result<(), Failure> {
    remove_flat(&directory.join(VMM_DIR))?;
    failpoint::hit("release.vmm").await;
    remove_flat(directory)
}

/// Removes a directory of plain files. A subdirectory was not made by banger, so it stays and is an error.
pub(super) fn remove_flat(directory: &Path) -> Result<(), Failure> {
    let failed = |error: &io::Error| failures::io("remove", directory, error);
    for _ in 0..MAX_PASSES {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        let mut first = None;
        for entry in entries {
            let removed = entry.and_then(|entry| fs::remove_file(entry.path()));
            if let Err(error) = removed.or_else(unless_gone) {
                first.get_or_insert(error);
            }
        }
        match first.map_or_else(|| fs::remove_dir(directory).or_else(unless_gone), Err) {
            // A shim that comes too late to run anything still creates a log file.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed.map_err(|error| failed(&error)),
        }
    }
    Err(failed(&io::ErrorKind::DirectoryNotEmpty.into()))
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Joins failures into the first one, with the others as its causes.
fn joined(errors: Vec<Failure>) -> Result<(), Failure> {
    let mut errors = errors.into_iter();
    let Some(mut first) = errors.next() else { return Ok(()) };
    for error in errors {
        first = first.cause(format!("also: {error}"));
        for hint in error.hints {
            if !first.hints.contains(&hint) {
                first.hints.push(hint);
            }
        }
    }
    Err(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_directory_goes_and_a_deep_one_stays() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("vm");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("work.ext4"), "").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.join("link")).unwrap();
        remove_flat(&directory).unwrap();
        remove_flat(&directory).unwrap();
        assert!(Path::new("/etc/hostname").exists());
        fs::create_dir_all(directory.join("precious")).unwrap();
        fs::write(directory.join("precious/file"), "").unwrap();
        fs::write(directory.join("work.ext4"), "").unwrap();
        remove_flat(&directory).unwrap_err();
        assert!(directory.join("precious/file").exists() && !directory.join("work.ext4").exists());
    }

    #[test]
    fn what_was_being_written_goes_and_the_rest_stays() {
        let temp = tempfile::tempdir().unwrap();
        for name in [".initramfs-x", "work.ext4"] {
            fs::write(temp.path().join(name), "").unwrap();
        }
        remove_unfinished(temp.path()).unwrap();
        assert!(temp.path().join("work.ext4").exists() && !temp.path().join(".initramfs-x").exists());
        remove_unfinished(&temp.path().join("missing")).unwrap();
    }

    #[test]
    fn errors_are_joined_and_none_is_lost() {
        let failure = |text: &str| Failure::new(Code::Internal, text).hint("h");
        let joined = joined(vec![failure("a"), failure("b").cause("c")]).unwrap_err();
        assert_eq!((joined.to_string().as_str(), joined.hints.len()), ("a: also: b: c", 1));
    }
}

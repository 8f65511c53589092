//! The cgroup of one exec, which ends everything that the exec started, even if it left the process group.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
};
use std::{fs, io, path::PathBuf};

const PARENT: &str = "/sys/fs/cgroup/banger/exec";

/// Cgroup of one exec. Dropping it removes it if it is empty; otherwise it stays and is retried later.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    /// `cgroup.procs`, in which the child enters itself.
    pub(super) procs: OwnedFd,
}

impl Group {
    pub(super) fn make(number: u64) -> io::Result<Self> {
        let path = PathBuf::from(format!("{PARENT}/{number}"));
        fs::create_dir(&path)?;
        let procs = open(path.join("cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path, procs })
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }
}

/// Returns the highest number in use by an earlier agent, whose processes go on without their streams, as do background
/// processes of a command. Empty cgroups are removed.
pub(in crate::server) fn highest_taken() -> u64 {
    let mut highest = 0;
    for entry in fs::read_dir(PARENT).into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else { continue };
        if fs::remove_dir(entry.path()).is_err() {
            highest = number.max(highest);
        }
    }
    highest
}

impl Drop for Group {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            return;
        }
        // Other groups that outlived their command may be empty by now.
        for entry in fs::read_dir(PARENT).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

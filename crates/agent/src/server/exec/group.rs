//! The cgroup of one exec: what ends everything it started, however it hid.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
};
use std::{fs, io, path::PathBuf};

const PARENT: &str = "/sys/fs/cgroup/banger/exec";

/// One exec's cgroup. Removed when it is dropped and empty; one that is not empty stays, and is tried again later.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    /// `cgroup.procs`, for the child to write itself into.
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

/// The highest number that is taken: by what an agent before this one started. It goes on, without its streams, as what
/// is left in the background of a command does; what has ended is cleared away.
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
        // Others that outlived their command may be empty by now.
        for entry in fs::read_dir(PARENT).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

//! `generic-6.12` as `make kernel` builds it, built once and shared by every test.

use crate::binaries::repository;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Returns a directory with `vmlinux` and `config`. `None`, with the test recorded as skipped, on a host that cannot
/// build it.
#[track_caller]
pub fn generic_kernel() -> Option<PathBuf> {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    crate::require("kernel").then(|| KERNEL.get_or_init(cached).clone())
}

/// Returns the kernel from the user's cache; building it takes minutes.
fn cached() -> PathBuf {
    let repository = repository();
    let found = Command::new("scripts/cached-kernel.sh")
        .current_dir(&repository)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/cached-kernel.sh can be run");
    assert!(found.status.success(), "scripts/cached-kernel.sh failed");
    PathBuf::from(String::from_utf8(found.stdout).expect("a directory").trim_end())
}

/// Checks that the kernel is cached or can be built.
pub(crate) fn probe() -> Result<(), String> {
    let check = Command::new("scripts/cached-kernel.sh").arg("--check").current_dir(repository()).output();
    let check = check.map_err(|error| error.to_string())?;
    if check.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&check.stderr).trim().to_owned()) }
}

//! Filesystem small enough to be filled.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Tmpfs that is unmounted when dropped. Ask for the capability `mount` first.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir(path).unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path).status();
        assert!(status.unwrap().success());
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

//! Kernel modules of the initramfs, loaded in the order of their names.

use super::say;
use banger_proto::agent::boot::MODULES_DIR;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    system::finit_module,
};
use std::{fs, path::PathBuf};

/// Loads every module. One that fails is reported and passed over: what misses it will fail by name.
pub(super) fn load_all() {
    let Ok(entries) = fs::read_dir(MODULES_DIR) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        let loaded = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|module| finit_module(&module, c"", 0));
        match loaded {
            // The initramfs is memory: a module that is loaded need not be kept as a file, too.
            Ok(()) | Err(Errno::EXIST) => drop(fs::remove_file(&path)),
            Err(error) => say(&format!("module {} does not load: {error}", path.display())),
        }
    }
}

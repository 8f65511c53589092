//! Kernel modules of the initramfs, loaded in the order of their names.

use super::{device, say};
use banger_proto::agent::boot::MODULES_DIR;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    system::finit_module,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Loads every module. One that fails is reported and passed over: what misses it will fail by name.
pub(super) fn load_all() {
    let Ok(entries) = fs::read_dir(MODULES_DIR) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        // They come last, so that whether there is such a device is known, and cost time where there is none.
        if is_vsock(&path) && !device::has_vsock() {
            continue;
        }
        let loaded = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|module| finit_module(&module, c"", 0));
        match loaded {
            // The initramfs is memory: a module that is loaded need not be kept as a file, too.
            Ok(()) | Err(Errno::EXIST) => drop(fs::remove_file(&path)),
            Err(error) => say(&format!("module {} does not load: {error}", path.display())),
        }
    }
}

/// Whether it is one of the modules of vsock, by its name `<number>-<module>.ko`.
fn is_vsock(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split_once('-').is_some_and(|(_, module)| module.starts_with("vsock") || module.starts_with("vmw_vsock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_vsock_are_known_by_their_names() {
        for (name, is) in [
            ("013-vsock.ko", true),
            ("015-vmw_vsock_virtio_transport.ko", true),
            ("001-virtio_mmio.ko", false),
            ("vsock", false),
        ] {
            assert_eq!(is_vsock(&Path::new("/m").join(name)), is, "{name}");
        }
    }
}

//! Loads the kernel modules in the initramfs: the drivers that this machine needs, in the order of their names.

use super::{device, say};
use banger_proto::agent::{boot::MODULES_DIR, driver::DRIVERS};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    system::finit_module,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Loads every driver that this machine has a device for. The drivers of the device bus come first, so that the devices
/// are known afterwards.
pub(super) fn load_all() {
    let drivers = sorted(Path::new(MODULES_DIR)).unwrap_or_default();
    for driver in drivers.iter().filter(|driver| is_needed(driver, device::is_there)) {
        for module in sorted(driver).unwrap_or_default() {
            load(&module);
        }
    }
}

/// Loads one module. A failure is reported and ignored: whatever needs the module will fail by name.
fn load(path: &Path) {
    let loaded =
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).and_then(|module| finit_module(&module, c"", 0));
    match loaded {
        // The initramfs is in memory, so the file of a loaded module is deleted.
        Ok(()) | Err(Errno::EXIST) => drop(fs::remove_file(path)),
        Err(error) => say(&format!("module {} does not load: {error}", path.display())),
    }
}

/// Whether a machine with the devices for which `is_there` holds needs the driver in `directory`, named
/// `<number>-<driver>`.
fn is_needed(directory: &Path, is_there: impl Fn(u16) -> bool) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let known = name.split_once('-').and_then(|(_, name)| DRIVERS.iter().find(|driver| driver.name == name));
    known.and_then(|driver| driver.device).is_none_or(is_there)
}

fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_loads_the_drivers_of_its_devices() {
        let qemu = |number| [2, 3].contains(&number);
        let firecracker = |number| [1, 2, 0x13].contains(&number);
        for (name, expected) in [
            ("00-virtio_mmio", [true, true]),
            ("01-ext4", [true, true]),
            ("03-virtio_blk", [true, true]),
            ("04-virtio_net", [false, true]),
            ("05-virtio_console", [true, false]),
            ("06-vmw_vsock_virtio_transport", [false, true]),
            ("07-of_a_newer_host", [true, true]),
        ] {
            let path = Path::new("/banger/modules").join(name);
            assert_eq!([is_needed(&path, qemu), is_needed(&path, firecracker)], expected, "{name}");
        }
    }
}

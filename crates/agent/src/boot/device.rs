//! Detects devices, and waits for disks to appear.

use super::{Attempt, BootError, say};
use banger_proto::agent::driver;
use std::{
    io,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time limit for a disk to appear after its driver was loaded.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(20);
/// Time after which the console reports what is waited for.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// Waits until the node of `device` exists. devtmpfs creates it when the driver has found the disk, which for a
/// built-in driver is long before this.
pub(super) fn wait_for(device: &str) -> Result<(), BootError> {
    let start = Instant::now();
    let mut reported = false;
    while !Path::new(device).exists() {
        let waited = start.elapsed();
        if waited > APPEAR_TIMEOUT {
            let error: io::Error = io::ErrorKind::TimedOut.into();
            return Err(error).attempt(|| format!("waiting for the disk {device}; there are: {}", disks()));
        }
        if waited > REPORT_AFTER && !reported {
            say(&format!("waiting for the disk {device}"));
            reported = true;
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether this machine has a vsock, as far as the bus was probed.
pub(crate) fn has_vsock() -> bool {
    is_there(driver::VSOCK)
}

/// Whether the machine has a virtio device of this number, as far as the bus was probed.
pub(super) fn is_there(number: u16) -> bool {
    const BUS: &str = "/sys/bus/virtio/devices";
    let number = format!("{number:#06x}");
    let devices = std::fs::read_dir(BUS).into_iter().flatten().flatten();
    devices.map(|device| device.path().join("device")).any(|kind| {
        let kind = std::fs::read_to_string(kind).unwrap_or_default();
        kind.trim() == number
    })
}

fn disks() -> String {
    let names = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

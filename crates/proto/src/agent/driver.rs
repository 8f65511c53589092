//! The drivers a guest starts with: what the host packs into the initramfs where the kernel has them as modules, and which
//! of them a machine needs.

/// A driver, by its module's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// The module, with `_` for `-`.
    pub name: &'static str,
    /// The kind of virtio device it drives: a machine without one does not load it. `None` is loaded everywhere.
    pub device: Option<u16>,
}

/// In the order they load: first what devices are found by, then what every guest mounts, then what depends on the machine.
/// All monitors give their devices as virtio over mmio; none has a PCI bus.
pub const DRIVERS: [Driver; 7] = [
    Driver { name: "virtio_mmio", device: None },
    Driver { name: "ext4", device: None },
    Driver { name: "overlay", device: None },
    Driver { name: "virtio_blk", device: Some(2) },
    Driver { name: "virtio_net", device: Some(NETWORK) },
    Driver { name: "virtio_console", device: Some(3) },
    Driver { name: VSOCK_DRIVER, device: Some(VSOCK) },
];

/// The driver of virtio sockets.
pub const VSOCK_DRIVER: &str = "vmw_vsock_virtio_transport";
/// The number of virtio sockets among virtio devices.
pub const VSOCK: u16 = 0x13;
/// The number of network cards.
const NETWORK: u16 = 1;

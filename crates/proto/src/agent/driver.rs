//! Drivers a guest starts with: the host packs those the kernel has as modules into the initramfs, and the guest loads
//! those its machine needs.

/// Driver, by the name of its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// Name of the module, with `_` for `-`.
    pub name: &'static str,
    /// Type of the virtio device it drives; a machine without one does not load it. `None` is loaded everywhere.
    pub device: Option<u16>,
}

/// Drivers in load order: first the bus, then file systems every guest mounts, then what depends on the machine. All
/// VMMs present their devices as virtio over MMIO; none has a PCI bus.
pub const DRIVERS: [Driver; 7] = [
    Driver { name: "virtio_mmio", device: None },
    Driver { name: "ext4", device: None },
    Driver { name: "overlay", device: None },
    Driver { name: "virtio_blk", device: Some(2) },
    Driver { name: "virtio_net", device: Some(NETWORK) },
    Driver { name: "virtio_console", device: Some(3) },
    Driver { name: VSOCK_DRIVER, device: Some(VSOCK) },
];

/// Driver of virtio sockets.
pub const VSOCK_DRIVER: &str = "vmw_vsock_virtio_transport";
/// Virtio device type of sockets.
pub const VSOCK: u16 = 0x13;
/// Virtio device type of NICs.
const NETWORK: u16 = 1;

//! The guest's configuration: `banger/config.json` in the initramfs, and beside it `banger/moment.json`, which is new
//! at every boot. `/init` is told nothing else.

use crate::{network::MacAddr, words::words};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Path of the configuration in the initramfs.
pub const CONFIG_PATH: &str = "/banger/config.json";
/// Path of the [`Moment`] of this boot in the initramfs.
pub const MOMENT_PATH: &str = "/banger/moment.json";
/// Largest `moment.json`, in bytes.
pub const MAX_MOMENT: usize = 4 << 10;
/// Directory of the kernel modules in the initramfs. It has one directory `<number>-<driver>` for each of
/// [`super::driver::DRIVERS`] that is not built in, with that driver and its dependencies. Directories and the files in
/// them are loaded in the order of their names.
pub const MODULES_DIR: &str = "/banger/modules";
/// Largest configuration, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;
/// Message of `/init` on the console before it resets a machine without a working timer, on which a sleeping process
/// would never wake up. Another boot may succeed.
pub const NO_TIMER: &str = "the kernel of this machine found no timer";
/// Message of `/init` before it resets a machine whose timer would always fire late. Another boot may succeed.
pub const LATE_TIMER: &str = "the kernel of this machine measured its timer wrong";
/// Version this crate writes; a guest refuses a newer one.
pub const CONFIG_VERSION: u32 = 1;

/// Everything a guest must know before its agent can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// Always [`CONFIG_VERSION`].
    pub version: u32,
    /// Host name; `/etc/hosts` maps it to 127.0.1.1.
    pub hostname: String,
    /// Which program becomes PID 1.
    pub init: Init,
    /// The root file system and everything mounted under it, in order.
    pub mounts: Vec<Mount>,
    /// Content of `/etc/machine-id`: 32 lower-case hexadecimal digits, one per VM.
    pub machine_id: String,
    /// Content of `/etc/resolv.conf`; `None` leaves the image's own.
    #[serde(default)]
    pub resolv_conf: Option<String>,
    /// The image's defaults for commands; values of the VM and of an exec take precedence.
    #[serde(default)]
    pub image: ImageDefaults,
    /// Environment of every exec in this VM (`--env` at creation).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of an exec that names none.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User of an exec that names none (`name`, `uid`, `name:group`, `uid:gid`).
    #[serde(default)]
    pub user: Option<String>,
    /// Addresses of the NIC; `None` when the VM has no NIC.
    #[serde(default)]
    pub network: Option<Network>,
}

/// Configuration of `eth0`. There is no DHCP: the host knows all of it before the guest exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Hardware address, which identifies the NIC.
    pub mac: MacAddr,
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// Prefix length of the network.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// MTU, in bytes.
    pub mtu: u32,
}

/// Values of one boot only. A guest that reboots gets new ones: with the old ones its clock would go back and its
/// random numbers would repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Host wall clock when the machine was launched, in nanoseconds since 1970 (UTC).
    pub clock_ns: u64,
    /// Fresh random bytes for the guest's entropy pool, in hexadecimal.
    pub entropy: String,
    /// How many more boots there will be if the kernel of this one measures its timer wrong; 0 where the host does not
    /// know the right value.
    #[serde(default)]
    pub timer_tries: u32,
}

/// An image's defaults for commands in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// User: `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// Command to run where none was given and the image has no shell.
    #[serde(default)]
    pub command: Vec<String>,
}

/// One file system to mount. `device` is the guest's name of a disk; the host attaches disks in the order of this list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mount {
    /// The root: an overlay of the writable disk over the read-only image.
    Root {
        /// Disk with the read-only root file system (ext4).
        image: String,
        /// The VM's own disk (ext4), with the overlay's upper directory and the bind-mounted directories.
        work: String,
        /// Directories that live on the work disk itself instead of on the overlay, each seeded once from the image.
        binds: Vec<String>,
    },
    /// The kernel's modules, read-only, at `/lib/modules/<release>`.
    Modules {
        /// Read-only disk with the module tree (ext4).
        device: String,
        /// `uname -r` of the kernel the modules belong to.
        release: String,
    },
}

/// Which program is PID 1 in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The image's init if it has one, else the agent.
    Auto,
    /// The image's init; an image without one fails to boot and says so.
    Image,
    /// The agent: fastest start, without the image's services.
    Agent,
}

words!(Init { Self::Auto => "auto", Self::Image => "image", Self::Agent => "agent" });

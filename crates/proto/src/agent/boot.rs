//! The guest's configuration: `banger/config.json` in the initramfs, and beside it `banger/moment.json`, which is another
//! at every boot. Nothing else is told to `/init`.

use crate::{network::MacAddr, words::words};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Where the configuration stands in the initramfs.
pub const CONFIG_PATH: &str = "/banger/config.json";
/// Where the [`Moment`] of this boot stands in the initramfs.
pub const MOMENT_PATH: &str = "/banger/moment.json";
/// Largest moment, in bytes.
pub const MAX_MOMENT: usize = 4 << 10;
/// Where the kernel modules stand in the initramfs: one directory for each of [`super::driver::DRIVERS`] that is not built
/// in, `<number>-<driver>`, with that driver and all it needs. Directories and the files in them are loaded in the order of
/// their names.
pub const MODULES_DIR: &str = "/banger/modules";
/// Largest configuration, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;
/// What `/init` says on the console before it resets a machine on which nothing would ever wake it. Another boot may do
/// better.
pub const NO_TIMER: &str = "the kernel of this machine found no timer";
/// What it says before it resets one that would be woken late for as long as it runs. Another boot may do better.
pub const LATE_TIMER: &str = "the kernel of this machine measured its timer wrong";
/// The version this crate writes; a guest refuses a newer one.
pub const CONFIG_VERSION: u32 = 1;

/// Everything a guest must know before it can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// [`CONFIG_VERSION`].
    pub version: u32,
    /// Host name; also what `/etc/hosts` maps to 127.0.1.1.
    pub hostname: String,
    /// What becomes PID 1.
    pub init: Init,
    /// The root file system and everything mounted under it, in order.
    pub mounts: Vec<Mount>,
    /// `/etc/machine-id`: 32 lower-case hexadecimal digits, one per VM.
    pub machine_id: String,
    /// Content of `/etc/resolv.conf`; `None` leaves the image's own.
    #[serde(default)]
    pub resolv_conf: Option<String>,
    /// How the image's commands want to be run; what the VM and an exec say goes before it.
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
    /// The network card's place; `None` when there is no card.
    #[serde(default)]
    pub network: Option<Network>,
}

/// What `eth0` becomes. There is no DHCP: the host knows it all before the guest exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The card, by its hardware address (`02:62:0a:d5:00:05`).
    pub mac: MacAddr,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// How many leading bits of it its neighbours share.
    pub prefix: u8,
    /// Where everything else goes.
    pub gateway: Ipv4Addr,
    /// The largest packet.
    pub mtu: u32,
}

/// What holds for one boot only: a guest that reboots gets a new one, or it would wake up in the past with the same dice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Host wall clock when the machine was launched, in nanoseconds since 1970 (UTC).
    pub clock_ns: u64,
    /// Fresh random bytes for the guest's pool, in hexadecimal.
    pub entropy: String,
    /// How many more boots there will be if the kernel of this one measured its timer wrong; none where the host does not
    /// know what is right.
    #[serde(default)]
    pub timer_tries: u32,
}

/// What an image says about the commands in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// What runs where no command was given and the image has no shell.
    #[serde(default)]
    pub command: Vec<String>,
}

/// One thing to mount. `device` is the guest's name of it; the host attaches disks in the order of this list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mount {
    /// The root: an overlay of the writable disk over the read-only image.
    Root {
        /// Read-only image with the root file system (ext4).
        image: String,
        /// The VM's own disk (ext4); holds the overlay's upper directory and the bind-mounted directories.
        work: String,
        /// Directories that live on the work disk itself instead of on the overlay, each seeded once from the image.
        binds: Vec<String>,
    },
    /// The kernel's modules, read-only, at `/lib/modules/<release>`.
    Modules {
        /// Read-only disk with the module tree (ext4).
        device: String,
        /// `uname -r` of the kernel they belong to.
        release: String,
    },
}

/// Who is PID 1 in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The image's init if it has one, else the agent.
    Auto,
    /// The image's init; an image without one fails to boot, saying so.
    Image,
    /// The agent: the fastest start, no services of the image.
    Agent,
}

words!(Init { Self::Auto => "auto", Self::Image => "image", Self::Agent => "agent" });

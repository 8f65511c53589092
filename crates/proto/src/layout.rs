//! Paths of banger's files.
//!
//! A pure function of the environment: it names paths and creates none. The daemon makes the directories (0700) and
//! checks their owner.

use crate::name::{ImageId, KernelName, VmId};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Longest path a unix socket can be bound to (`sun_path` is 108 bytes with its NUL, unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// The four base directories and the file names below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Directory of `config.toml`.
    pub config: PathBuf,
    /// Files that must survive: database, kernels, images, VMs' disks.
    pub state: PathBuf,
    /// Files that can be made again.
    pub cache: PathBuf,
    /// Sockets and secrets of this login or boot; short enough for every socket path below it.
    pub run: PathBuf,
}

impl Layout {
    /// Reads `BANGER_HOME`, else `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `XDG_CACHE_HOME`, `XDG_RUNTIME_DIR` and `HOME`.
    /// `None` when not even `HOME` is set. Relative values are ignored, as the XDG Base Directory spec asks.
    pub fn resolve(env: impl Fn(&str) -> Option<OsString>, uid: u32) -> Option<Self> {
        let dir = |key: &str| env(key).map(PathBuf::from).filter(|path| path.is_absolute());
        let fallback_run = Self::fallback_run(uid);
        if let Some(home) = dir("BANGER_HOME") {
            let run = home.join("run");
            let run = if fits(&run) { run } else { fallback_run.join(short_hash(&home)) };
            return Some(Self {
                config: home.join("config"),
                state: home.join("state"),
                cache: home.join("cache"),
                run,
            });
        }
        let home = dir("HOME");
        let xdg = |key: &str, below: &str| {
            dir(key).or_else(|| home.as_ref().map(|home| home.join(below))).map(|path| path.join("banger"))
        };
        let run =
            dir("XDG_RUNTIME_DIR").map(|path| path.join("banger")).filter(|run| fits(run)).unwrap_or(fallback_run);
        Some(Self {
            config: xdg("XDG_CONFIG_HOME", ".config")?,
            state: xdg("XDG_STATE_HOME", ".local/state")?,
            cache: xdg("XDG_CACHE_HOME", ".cache")?,
            run,
        })
    }

    /// Run directory for a user without one of their own, or with one whose path is too long. Its parent is writable
    /// for everybody: the directory may be another user's, and the owner of this level can swap those below it.
    pub fn fallback_run(uid: u32) -> PathBuf {
        PathBuf::from(format!("/tmp/banger-{uid}"))
    }

    /// Configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The daemon's database.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// Lock file of the one daemon of this state directory (flock); its content is an `api::host::DaemonRecord` in
    /// JSON.
    pub fn daemon_lock(&self) -> PathBuf {
        self.state.join("bangerd.lock")
    }

    /// The daemon's log.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// The daemon's API socket.
    pub fn daemon_socket(&self) -> PathBuf {
        self.run.join("bangerd.sock")
    }

    /// Directory of all kernels.
    pub fn kernels(&self) -> PathBuf {
        self.state.join("kernels")
    }

    /// Directory of one kernel.
    pub fn kernel(&self, name: &KernelName) -> PathBuf {
        self.kernels().join(name.as_str())
    }

    /// Directory of all images.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Directory of one image.
    pub fn image(&self, id: &ImageId) -> PathBuf {
        self.images().join(id.as_str())
    }

    /// Directory of the ssh login key and the VMs' host keys.
    pub fn ssh(&self) -> PathBuf {
        self.state.join("ssh")
    }

    /// Host keys of VMs, in ssh's known_hosts format.
    pub fn known_hosts(&self) -> PathBuf {
        self.ssh().join("known_hosts")
    }

    /// File that the user's ssh configuration includes.
    pub fn ssh_config(&self) -> PathBuf {
        self.ssh().join("config")
    }

    /// Directory of all VMs' durable directories.
    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// Durable directory of one VM: work disk, console log, launch plan, exit record.
    pub fn vm(&self, id: &VmId) -> PathBuf {
        self.vms().join(id.as_str())
    }

    /// Directory of one VM's sockets.
    pub fn vm_run(&self, id: &VmId) -> PathBuf {
        self.run.join("v").join(id.as_str())
    }
}

/// Whether the longest socket path banger makes below `run` fits.
fn fits(run: &Path) -> bool {
    run.as_os_str().len() + "/v/0123456789ab/vsock.sock_65535".len() <= MAX_SOCKET_PATH
}

/// FNV-1a, 64 bits: tells the homes of one user apart, nothing more.
fn short_hash(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(vars: &[(&str, &str)]) -> Option<Layout> {
        Layout::resolve(|key| vars.iter().find(|(k, _)| *k == key).map(|(_, v)| v.into()), 1000)
    }

    #[test]
    fn xdg_defaults() {
        let layout = resolve(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")]).unwrap();
        assert_eq!(layout.config_file(), Path::new("/home/u/.config/banger/config.toml"));
        assert_eq!(layout.database(), Path::new("/home/u/.local/state/banger/state.db"));
        assert_eq!(layout.daemon_socket(), Path::new("/run/user/1000/banger/bangerd.sock"));
    }

    #[test]
    fn without_a_runtime_dir_sockets_go_to_tmp() {
        assert_eq!(resolve(&[("HOME", "/home/u")]).unwrap().run, Path::new("/tmp/banger-1000"));
    }

    #[test]
    fn one_home_for_all() {
        let layout = resolve(&[("HOME", "/home/u"), ("BANGER_HOME", "/t")]).unwrap();
        assert_eq!((layout.state.as_path(), layout.run.as_path()), (Path::new("/t/state"), Path::new("/t/run")));
    }

    #[test]
    fn sockets_fit_whatever_the_home_is() {
        let long = format!("/{}", "x".repeat(200));
        for vars in
            [[("HOME", "/h"), ("BANGER_HOME", long.as_str())], [("HOME", "/h"), ("XDG_RUNTIME_DIR", long.as_str())]]
        {
            let layout = resolve(&vars).unwrap();
            let socket = layout.vm_run(&"0123456789ab".parse().unwrap()).join("vsock.sock_65535");
            assert!(socket.as_os_str().len() <= MAX_SOCKET_PATH, "{}", socket.display());
        }
        let other = format!("{long}y");
        assert_ne!(resolve(&[("BANGER_HOME", &long)]).unwrap().run, resolve(&[("BANGER_HOME", &other)]).unwrap().run);
    }

    #[test]
    fn relative_values_are_ignored() {
        assert_eq!(resolve(&[("XDG_STATE_HOME", "x")]), None);
    }
}

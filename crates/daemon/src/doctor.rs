//! `bangerd --doctor`: checks what banger needs of this host, one check a file.
//!
//! It only reads, takes no lock, and works whether or not a daemon runs. A check gets the [`Host`] and returns findings
//! with a verdict and the command that repairs it. The purpose counts: a program that only one feature needs is a
//! warning, not a failure. A new check is one file and one line in [`checks`].

mod artifacts;
mod config;
mod confinement;
mod daemon;
mod directories;
mod disk_space;
mod limits;
mod login_session;
mod memory;
mod network;
mod own_programs;
mod programs;
mod subordinate_ids;
mod user_namespaces;
mod vmm;

use crate::{
    config::{Config, ConfigError, File},
    wire::Programs,
};
use banger_proto::{
    api::host::{Doctor, Finding, Verdict},
    failure::Failure,
    layout::Layout,
};
use futures_util::future::BoxFuture;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The host as the checks see it; tests use another one.
pub(crate) struct Host {
    /// Paths of banger's files.
    layout: Layout,
    /// User that must own them.
    uid: u32,
    /// Group of the user.
    gid: u32,
    /// Directories of `PATH`.
    path: Vec<PathBuf>,
    /// Programs that belong to banger.
    programs: Programs,
    /// The configuration, or why it cannot be used.
    config: Result<Config, ConfigError>,
    /// Directory with `/proc`, `/run`, `/etc` and `/var`.
    root: PathBuf,
    /// Name of the user, if the environment has it.
    user: Option<String>,
}

impl Host {
    /// This host.
    fn current(layout: Layout, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = env("PATH").unwrap_or_default();
        let config = File::read(&layout.config_file())
            .and_then(|file| Config::resolve(file, &env, crate::config::Host::detect()));
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            path: std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect(),
            programs: Programs::find(),
            config,
            root: "/".into(),
            user: env("USER").or_else(|| env("LOGNAME")).and_then(|name| name.into_string().ok()),
            layout,
        }
    }

    /// Path of a system file.
    fn system(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Finds a program in `PATH` or where administrators' programs are.
    fn program(&self, name: &str) -> Option<PathBuf> {
        let administrators = ["/usr/sbin", "/sbin"].map(|dir| self.system(dir));
        self.path.iter().chain(&administrators).map(|dir| dir.join(name)).find(|file| is_executable(file))
    }
}

/// Whether a program can be run from there: a regular file with an execute bit.
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Check of one requirement.
pub(crate) trait Check: Send + Sync {
    /// Runs the check. All findings carry the check's name.
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>>;
}

/// All checks, the most important first.
fn checks() -> [Box<dyn Check>; 14] {
    [
        Box::new(own_programs::OwnPrograms),
        Box::new(config::Configuration),
        Box::new(directories::Directories),
        Box::new(daemon::Daemon),
        Box::new(vmm::VmmCheck),
        Box::new(confinement::Confinement),
        Box::new(programs::HostPrograms),
        Box::new(network::Network),
        Box::new(subordinate_ids::SubordinateIds),
        Box::new(memory::Memory),
        Box::new(disk_space::DiskSpace),
        Box::new(artifacts::Artifacts),
        Box::new(limits::Limits),
        Box::new(login_session::LoginSession),
    ]
}

/// Runs all checks concurrently.
async fn examine(host: &Host) -> Doctor {
    let checks = checks();
    let found = futures_util::future::join_all(checks.iter().map(|check| check.run(host))).await;
    Doctor { version: env!("CARGO_PKG_VERSION").to_owned(), findings: found.into_iter().flatten().collect() }
}

/// Runs `bangerd --doctor`; returns the findings as JSON.
pub fn run() -> Result<String, Failure> {
    let env = |key: &str| std::env::var_os(key);
    let layout = Layout::resolve(env, rustix::process::geteuid().as_raw()).ok_or(crate::daemon::StartError::NoHome)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(crate::daemon::StartError::Runtime)?;
    let doctor = runtime.block_on(async { examine(&Host::current(layout, env)).await });
    Ok(serde_json::to_string(&doctor).expect("findings serialize"))
}

/// Everything is as it should be.
fn pass(check: &str, message: impl Into<String>) -> Finding {
    finding(check, Verdict::Pass, message)
}

/// Something does not work, or not well; the rest does.
fn warn(check: &str, message: impl Into<String>) -> Finding {
    finding(check, Verdict::Warn, message)
}

/// VMs do not run.
fn fail(check: &str, message: impl Into<String>) -> Finding {
    finding(check, Verdict::Fail, message)
}

fn finding(check: &str, verdict: Verdict, message: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), verdict, message: message.into(), causes: Vec::new(), hints: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    /// A host with nothing wrong, in a temporary directory, for a test to break.
    pub(super) struct Bench {
        pub(super) temp: tempfile::TempDir,
        pub(super) host: Host,
    }

    impl Bench {
        pub(super) fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let root = temp.path();
            let dir = |name: &str| {
                fs::create_dir_all(root.join(name)).unwrap();
                fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o700)).unwrap();
                root.join(name)
            };
            let layout = Layout { config: dir("c"), state: dir("s"), cache: dir("a"), run: dir("r") };
            let bin = dir("usr/sbin");
            let ours = |name: &str| program(&bin, name, &format!("{name} {}", env!("CARGO_PKG_VERSION")));
            let (shim, agent) = (ours("banger-shim"), ours("banger-vsock-agent"));
            let root_helper = ours("bangerd-root");
            let config = Config::resolve(File::default(), |_| None, crate::config::Host::detect());
            let host = Host {
                layout,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
                path: vec![bin],
                programs: Programs { shim, agent, root_helper },
                config,
                root: root.to_owned(),
                user: Some("u".into()),
            };
            Self { temp, host }
        }

        pub(super) async fn run(&self, check: &dyn Check) -> Vec<(Verdict, String)> {
            let found = check.run(&self.host).await;
            found.into_iter().map(|found| (found.verdict, format!("{found:?}"))).collect()
        }

        /// Writes a system file.
        pub(super) fn write(&self, path: &str, text: &str) {
            let path = self.temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(super) fn install(&self, name: &str, says: &str) -> PathBuf {
            program(&self.temp.path().join("usr/sbin"), name, says)
        }
    }

    fn program(dir: &Path, name: &str, says: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn every_check_finds_something_and_what_is_not_well_says_how_it_is_mended() {
        let bench = Bench::new();
        for check in checks() {
            let found = check.run(&bench.host).await;
            assert!(!found.is_empty());
            for finding in found.iter().filter(|finding| finding.verdict != Verdict::Pass) {
                assert!(!finding.hints.is_empty(), "{finding:?}");
            }
            assert!(found.iter().all(|finding| finding.check == found[0].check), "{found:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_written() {
        let bench = Bench::new();
        let listing = || {
            let mut all: Vec<_> = ["c", "s", "a", "r"]
                .iter()
                .flat_map(|dir| fs::read_dir(bench.temp.path().join(dir)).unwrap())
                .map(|entry| entry.unwrap().path())
                .collect();
            all.sort();
            all
        };
        let before = listing();
        examine(&bench.host).await;
        assert_eq!(listing(), before);
    }
}

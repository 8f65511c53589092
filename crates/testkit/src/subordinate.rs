//! An ordinary user with subordinate ids, and a check for what that user's programs leave behind.
//!
//! The host's own files stay as they are: the user's programs see other files mounted over them, and a directory of the
//! test's at `/var/tmp`.

use crate::{Identity, TestEnv};
use std::{
    fs,
    ops::Range,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Subordinate ids, which no host assigns.
pub(crate) const IDS: Range<u32> = 1_900_000_000..1_900_065_536;
/// Directory mounted at [`TEMPORARY`] for the user's programs.
const OWN: &str = "var-tmp";
const TEMPORARY: &str = "/var/tmp";

impl TestEnv {
    /// Gives the environment's ordinary user a name and 65,536 subordinate ids, before anything runs. Only one test per
    /// user at a time.
    #[track_caller]
    pub fn with_subordinate_ids(&mut self, uid: u32) {
        let name = format!("u{uid}");
        let known = fs::read_to_string("/etc/passwd").expect("a host with users");
        let range = format!("{name}:{}:{}\n", IDS.start, IDS.len());
        for (file, content) in [
            ("passwd", format!("{known}{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n")),
            ("subuid", range.clone()),
            ("subgid", range),
        ] {
            let path = self.home().join(file);
            fs::write(&path, content).expect("room");
            self.bind(path, Path::new("/etc").join(file));
        }
        let own = self.home().join(OWN);
        fs::create_dir(&own).expect("a directory");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o1777)).expect("this is root");
        self.bind(own, TEMPORARY);
    }

    /// Lists files, processes and mounts of this user and its subordinate ids, except the home and the daemon.
    pub fn left_by(&self, uid: u32) -> Vec<String> {
        let is_theirs = |owner: u32| owner == uid || IDS.contains(&owner);
        let (own, tmp) = (self.home().join(OWN), std::env::temp_dir());
        let mut left: Vec<String> = names(&own).iter().map(|path| path.display().to_string()).collect();
        let elsewhere = [tmp.as_path(), Path::new("/tmp"), Path::new(TEMPORARY)];
        left.extend(elsewhere.into_iter().flat_map(names).filter_map(|path| {
            let owner = path.symlink_metadata().ok()?.uid();
            (path != self.home() && is_theirs(owner)).then(|| path.display().to_string())
        }));
        let daemon = self.daemon();
        let is_daemon = |process: &Identity| daemon.as_ref().is_some_and(|daemon| daemon.pid == process.pid);
        left.extend(
            all_processes()
                .filter(|(owner, process)| is_theirs(*owner) && !is_daemon(process))
                .map(|(owner, process)| format!("process {} of {owner}: {}", process.pid, process.command)),
        );
        // Its programs run in a mount namespace of their own.
        let mounts = daemon.map(|daemon| fs::read_to_string(format!("/proc/{}/mounts", daemon.pid)));
        let mounts = mounts.and_then(Result::ok).unwrap_or_default();
        let below = format!(" {TEMPORARY}/");
        left.extend(mounts.lines().filter(|line| line.contains(&below)).map(str::to_owned));
        left
    }
}

/// Entries of a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Every process of this host that has not ended, and its owner.
fn all_processes() -> impl Iterator<Item = (u32, Identity)> {
    let pids = fs::read_dir("/proc").expect("/proc can be read").flatten();
    pids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let owner = status.lines().find_map(|line| line.strip_prefix("Uid:\t"))?.split('\t').next()?.parse().ok()?;
        Some((owner, Identity::of(pid)?))
    })
}

//! The base directories: made with mode 0700, and refused unless they are this user's alone.

use super::StartError;
use banger_proto::layout::Layout;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, statat},
    io::Errno,
    process::Uid,
};
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Directory the daemon requires, and its conditions.
#[derive(Debug)]
pub(crate) struct RequiredDir {
    pub(crate) path: PathBuf,
    /// Permission bits others must not have.
    closed: Mode,
    /// Whether the path may be a link.
    links: AtFlags,
}

/// Why a directory cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    NoDirectory,
    Link,
    Stranger,
    Open,
}

impl Unfit {
    fn describe(self) -> &'static str {
        match self {
            Self::NoDirectory => "it is not a directory",
            Self::Link => "it is not a directory but a link",
            Self::Stranger => "it belongs to another user",
            Self::Open => "others may use it (chmod 700 closes it)",
        }
    }
}

/// The required directories, in the order in which they are made. The run directory holds sockets: it must be closed to
/// others and must not be a link. State and cache must only be the user's own and may be behind the user's links.
pub(crate) fn required_dirs(layout: &Layout, uid: Uid) -> Vec<RequiredDir> {
    let mut dirs = vec![RequiredDir::own(&layout.state), RequiredDir::own(&layout.cache)];
    // The fallback may have two levels, and both must be this user's.
    let fallback = Layout::fallback_run(uid.as_raw());
    if layout.run.starts_with(&fallback) && layout.run != fallback {
        dirs.push(RequiredDir::private(&fallback));
    }
    dirs.push(RequiredDir::private(&layout.run));
    dirs
}

/// Makes missing directories and checks existing ones.
pub(super) fn make(layout: &Layout, uid: Uid) -> Result<(), StartError> {
    for dir in required_dirs(layout, uid) {
        create(&dir.path)?;
        let checked = dir.check(uid).map_err(|error| StartError::io("examine", &dir.path)(error.into()))?;
        checked.map_err(|unfit| StartError::NotOurs { path: dir.path, rule: unfit.describe() })?;
    }
    create(&layout.vms())?;
    create(&layout.run.join("v"))
}

fn create(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StartError::io("create", path))
}

impl RequiredDir {
    /// Directory that nobody else may write to.
    pub(crate) fn own(path: &Path) -> Self {
        Self { path: path.into(), closed: Mode::WGRP | Mode::WOTH, links: AtFlags::empty() }
    }

    /// Directory that nobody else may enter, and that is not a link.
    fn private(path: &Path) -> Self {
        Self { path: path.into(), closed: Mode::RWXG | Mode::RWXO, links: AtFlags::SYMLINK_NOFOLLOW }
    }

    /// Checks a directory against the conditions.
    pub(crate) fn check(&self, uid: Uid) -> Result<Result<(), Unfit>, Errno> {
        let stat = statat(CWD, &self.path, self.links)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Err(Unfit::Link),
            FileType::Directory if stat.st_uid != uid.as_raw() => Err(Unfit::Stranger),
            FileType::Directory if Mode::from_raw_mode(stat.st_mode).intersects(self.closed) => Err(Unfit::Open),
            FileType::Directory => Ok(()),
            _ => Err(Unfit::NoDirectory),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    fn layout(root: &Path) -> Layout {
        let dir = |name: &str| root.join(name);
        Layout { config: dir("config"), state: dir("state"), cache: dir("cache"), run: dir("run") }
    }

    #[test]
    fn directories_are_made_closed() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path());
        let uid = rustix::process::geteuid();
        make(&layout, uid).unwrap();
        make(&layout, uid).unwrap();
        for path in [&layout.state, &layout.run, &layout.vms()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn what_others_may_use_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path());
        let uid = rustix::process::geteuid();
        make(&layout, uid).unwrap();
        fs::set_permissions(&layout.run, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(make(&layout, uid), Err(StartError::NotOurs { rule, .. }) if rule.contains("others")));
        fs::set_permissions(&layout.run, fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Uid::from_raw(uid.as_raw() + 1);
        assert!(matches!(make(&layout, stranger), Err(StartError::NotOurs { rule, .. }) if rule.contains("another")));
    }

    #[test]
    fn a_linked_state_is_the_users_choice_and_a_linked_run_directory_nobodys() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path());
        let elsewhere = temp.path().join("elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        symlink(&elsewhere, &layout.state).unwrap();
        make(&layout, rustix::process::geteuid()).unwrap();
        assert!(elsewhere.join("vms").exists());
        fs::remove_dir_all(&layout.run).unwrap();
        symlink(&elsewhere, &layout.run).unwrap();
        let error = make(&layout, rustix::process::geteuid()).unwrap_err();
        assert!(matches!(error, StartError::NotOurs { rule: "it is not a directory but a link", .. }), "{error:?}");
    }
}

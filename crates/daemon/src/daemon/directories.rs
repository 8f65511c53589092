//! The directories everything else is in: made 0700, and refused when they are not this user's alone.

use super::StartError;
use banger_proto::layout::Layout;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, statat},
    process::Uid,
};
use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

/// Makes what is absent and checks what is there. The run directory holds sockets and must be closed to others and be no
/// link; state and cache need only be the user's own, wherever a link of theirs puts them.
pub(super) fn make(layout: &Layout, uid: Uid) -> Result<(), StartError> {
    let others_write = Mode::WGRP | Mode::WOTH;
    let others = Mode::RWXG | Mode::RWXO;
    for path in [&layout.state, &layout.cache] {
        create(path)?;
        check(path, uid, others_write, AtFlags::empty())?;
    }
    // It may have two levels, and both must be ours.
    let fallback = Layout::fallback_run(uid.as_raw());
    if layout.run.starts_with(&fallback) {
        create(&fallback)?;
        check(&fallback, uid, others, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    create(&layout.run)?;
    check(&layout.run, uid, others, AtFlags::SYMLINK_NOFOLLOW)?;
    create(&layout.vms())?;
    create(&layout.run.join("v"))
}

fn create(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StartError::io("create", path))
}

fn check(path: &Path, uid: Uid, closed: Mode, links: AtFlags) -> Result<(), StartError> {
    let stat = statat(CWD, path, links).map_err(|error| StartError::io("examine", path)(error.into()))?;
    verdict(&stat, uid, closed).map_err(|rule| StartError::NotOurs { path: path.to_owned(), rule })
}

fn verdict(stat: &rustix::fs::Stat, uid: Uid, closed: Mode) -> Result<(), &'static str> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        Err("it is not a directory")
    } else if stat.st_uid != uid.as_raw() {
        Err("it belongs to another user")
    } else if Mode::from_raw_mode(stat.st_mode).intersects(closed) {
        Err("others may use it (chmod 700 closes it)")
    } else {
        Ok(())
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
        assert!(matches!(error, StartError::NotOurs { rule: "it is not a directory", .. }), "{error:?}");
    }
}

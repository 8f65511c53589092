//! The directories everything else is in: made 0700, and refused when they are not this user's alone.

use super::StartError;
use banger_proto::layout::Layout;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, statat},
    process::Uid,
};
use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

/// Makes what is absent and checks what is there. State and run directories hold secrets and sockets and must be closed
/// to others; configuration and cache need only be the user's own.
pub(super) fn make(layout: &Layout, uid: Uid) -> Result<(), StartError> {
    for path in [&layout.state, &layout.cache] {
        create(path)?;
        check(path, uid, Mode::WGRP | Mode::WOTH)?;
    }
    // The fallback below /tmp comes in two levels, and both must be ours: who owns the upper can swap the lower.
    if let Some(parent) = layout.run.parent().filter(|parent| parent.parent() == Some(Path::new("/tmp"))) {
        create(parent)?;
        check(parent, uid, Mode::RWXG | Mode::RWXO)?;
    }
    create(&layout.run)?;
    check(&layout.run, uid, Mode::RWXG | Mode::RWXO)?;
    let sockets = layout.run.join("v");
    for path in [&layout.vms(), &sockets] {
        create(path)?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StartError::io("create", path))
}

fn check(path: &Path, uid: Uid, closed: Mode) -> Result<(), StartError> {
    let refused = |rule| StartError::NotOurs { path: path.to_owned(), rule };
    let stat =
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| StartError::io("examine", path)(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        // A link is for the user to make and to answer for, but not below /tmp, where anybody could have made it.
        if path.starts_with("/tmp") {
            return Err(refused("it is not a directory"));
        }
        let stat =
            statat(CWD, path, AtFlags::empty()).map_err(|error| StartError::io("examine", path)(error.into()))?;
        return verdict(&stat, uid, closed).map_err(refused);
    }
    verdict(&stat, uid, closed).map_err(refused)
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
    fn a_link_below_tmp_is_refused() {
        let temp = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let layout = layout(temp.path());
        fs::create_dir(temp.path().join("elsewhere")).unwrap();
        symlink(temp.path().join("elsewhere"), &layout.run).unwrap();
        let error = make(&layout, rustix::process::geteuid()).unwrap_err();
        assert!(matches!(error, StartError::NotOurs { rule: "it is not a directory", .. }), "{error:?}");
    }
}

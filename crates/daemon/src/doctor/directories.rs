//! The directories are the user's own and closed to others, as far as they exist.

use super::{Check, Host, Look, fail, pass};
use banger_proto::api::host::Finding;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, statat},
    io::Errno,
};
use std::path::Path;

const NAME: &str = "directories";

pub(super) struct Directories;

impl Check for Directories {
    fn look<'a>(&'a self, host: &'a Host) -> Look<'a> {
        let layout = &host.layout;
        // What the daemon insists on: who can enter the sockets' directory can connect, and files are closed by themselves.
        let places = [
            (&layout.state, Mode::WGRP | Mode::WOTH),
            (&layout.run, Mode::RWXG | Mode::RWXO),
            (&layout.cache, Mode::WGRP | Mode::WOTH),
            (&layout.config, Mode::WGRP | Mode::WOTH),
        ];
        let bad: Vec<Finding> = places.iter().filter_map(|(path, closed)| judge(path, *closed, host.uid)).collect();
        let found = if bad.is_empty() {
            let state = layout.state.display();
            vec![pass(NAME, format!("state in {state}, sockets in {}", layout.run.display()))]
        } else {
            bad
        };
        Box::pin(std::future::ready(found))
    }
}

/// What is wrong with `path`; the daemon makes it when it is not there.
fn judge(path: &Path, closed: Mode, uid: u32) -> Option<Finding> {
    let shown = path.display();
    let stat = match statat(CWD, path, AtFlags::empty()) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return None,
        Err(error) => {
            let mut finding = fail(NAME, format!("{shown} cannot be looked at: {error}"));
            finding.hints.push(format!("ls -ld {shown}"));
            return Some(finding);
        }
    };
    let (what, mend) = if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        ("is not a directory", format!("mv {shown} {shown}.old"))
    } else if stat.st_uid != uid {
        ("belongs to another user", format!("sudo chown -R {uid} {shown}"))
    } else if Mode::from_raw_mode(stat.st_mode).intersects(closed) {
        ("may be used by others", format!("chmod go-rwx {shown}"))
    } else {
        return None;
    };
    let mut finding = fail(NAME, format!("{shown} {what}"));
    finding.hints.push(mend);
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[tokio::test]
    async fn what_others_may_use_is_found() {
        let mut bench = Bench::new();
        fs::remove_dir(&bench.host.layout.cache).unwrap();
        assert_eq!(bench.look(&Directories).await[0].0, Verdict::Pass, "one that is not there yet is fine");
        fs::set_permissions(&bench.host.layout.run, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir(&bench.host.layout.state).unwrap();
        fs::write(&bench.host.layout.state, "").unwrap();
        let found = bench.look(&Directories).await;
        assert_eq!(found.len(), 2);
        assert!(found[0].1.contains("not a directory") && found[1].1.contains("chmod go-rwx"), "{found:?}");
        bench.host.uid += 1;
        assert!(bench.look(&Directories).await.iter().any(|(_, text)| text.contains("chown")));
    }
}

//! Check: the directories, as far as they exist, are as a daemon requires.

use super::{Check, Host, fail, pass};
use crate::daemon::directories::{RequiredDir, Unfit, required_dirs};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;
use rustix::{io::Errno, process::Uid};
use std::{os::unix::fs::MetadataExt as _, path::Path};

const NAME: &str = "directories";
const ELSEWHERE: &str = "let BANGER_HOME, or XDG_STATE_HOME, XDG_CACHE_HOME, XDG_CONFIG_HOME and XDG_RUNTIME_DIR, name directories of yours";

pub(super) struct Directories;

impl Check for Directories {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        let layout = &host.layout;
        let uid = Uid::from_raw(host.uid);
        // The configuration directory is the user's to make, and only read.
        let dirs = required_dirs(layout, uid).into_iter().chain([RequiredDir::own(&layout.config)]);
        let bad: Vec<Finding> = dirs.filter_map(|dir| judge(&dir, uid)).collect();
        let found = if bad.is_empty() {
            let state = layout.state.display();
            vec![pass(NAME, format!("state in {state}, sockets in {}", layout.run.display()))]
        } else {
            bad
        };
        Box::pin(std::future::ready(found))
    }
}

/// Finding about an unfit directory; a missing one is made by the daemon.
fn judge(dir: &RequiredDir, uid: Uid) -> Option<Finding> {
    let shown = dir.path.display();
    let (what, mend) = match dir.check(uid) {
        Ok(Ok(())) | Err(Errno::NOENT) => return None,
        Ok(Err(Unfit::NoDirectory)) => ("is not a directory".to_owned(), format!("mv {shown} {shown}.old")),
        Ok(Err(Unfit::Link)) => {
            ("is a link: whoever can change it could take over the sockets".to_owned(), format!("rm {shown}"))
        }
        // If the parent is another user's too, the directory is theirs and not a leftover of `sudo banger`.
        Ok(Err(Unfit::Stranger)) if is_in_ones_own(&dir.path, uid) => {
            ("belongs to another user".to_owned(), format!("sudo chown -R {} {shown}", uid.as_raw()))
        }
        Ok(Err(Unfit::Stranger)) => ("belongs to another user".to_owned(), ELSEWHERE.to_owned()),
        Ok(Err(Unfit::Open)) => ("may be used by others".to_owned(), format!("chmod go-rwx {shown}")),
        Err(error) => (format!("cannot be looked at: {error}"), format!("ls -ld {shown}")),
    };
    let mut finding = fail(NAME, format!("{shown} {what}"));
    finding.hints.push(mend);
    Some(finding)
}

fn is_in_ones_own(path: &Path, uid: Uid) -> bool {
    path.parent().and_then(|above| above.metadata().ok()).is_some_and(|above| above.uid() == uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::{api::host::Verdict, layout::Layout};
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[tokio::test]
    async fn what_others_may_use_is_found() {
        let mut bench = Bench::new();
        fs::remove_dir(&bench.host.layout.cache).unwrap();
        assert_eq!(bench.run(&Directories).await[0].0, Verdict::Pass, "one that is not there yet is fine");
        fs::set_permissions(&bench.host.layout.run, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir(&bench.host.layout.state).unwrap();
        fs::write(&bench.host.layout.state, "").unwrap();
        let found = bench.run(&Directories).await;
        assert_eq!(found.len(), 2);
        assert!(found[0].1.contains("not a directory") && found[1].1.contains("chmod go-rwx"), "{found:?}");
        bench.host.uid += 1;
        let found = bench.run(&Directories).await;
        assert!(found.iter().any(|(_, text)| text.contains("BANGER_HOME") && !text.contains("chown")), "{found:?}");
    }

    #[test]
    fn what_root_left_in_ones_own_directory_is_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let mine = Uid::from_raw(temp.path().metadata().unwrap().uid());
        assert!(is_in_ones_own(&temp.path().join("banger"), mine));
        assert!(!is_in_ones_own(&temp.path().join("banger"), Uid::from_raw(mine.as_raw() + 1)));
    }

    #[tokio::test]
    async fn a_run_directory_that_no_daemon_starts_with_is_found() {
        let mut bench = Bench::new();
        let run = bench.host.layout.run.clone();
        let elsewhere = bench.temp.path().join("elsewhere");
        fs::rename(&run, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &run).unwrap();
        let (verdict, text) = bench.run(&Directories).await.remove(0);
        assert!(verdict == Verdict::Fail && text.contains("is a link") && text.contains("rm "), "{text}");
        // The state directory may be a link.
        fs::remove_file(&run).unwrap();
        fs::rename(&elsewhere, &run).unwrap();
        let state = bench.host.layout.state.clone();
        fs::rename(&state, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &state).unwrap();
        assert_eq!(bench.run(&Directories).await[0].0, Verdict::Pass);
        // Of two levels the upper one matters too: its owner can swap the one below.
        let somebody = u32::MAX - std::process::id();
        let upper = Layout::fallback_run(somebody);
        let name = upper.file_name().unwrap();
        let _another = tempfile::Builder::new().prefix(name).rand_bytes(0).tempdir_in(upper.parent().unwrap()).unwrap();
        bench.host.uid = somebody;
        bench.host.layout.run = upper.join("0123456789abcdef");
        let found = bench.run(&Directories).await;
        let upper = format!("{} belongs to another user", upper.display());
        assert!(found.iter().any(|(verdict, text)| *verdict == Verdict::Fail && text.contains(&upper)), "{found:?}");
    }
}

//! Exchanges that complete, that fail half way and that are killed.

use super::{
    lock::{lock, recover},
    *,
};
use banger_proto::failure::Code;
use std::collections::BTreeMap;

fn repository(root: &Path) -> Repository {
    let git_dir = root.join(".git");
    Repository { root: root.to_owned(), common_dir: git_dir.clone(), git_dir }
}

/// Makes a working tree with `files`, a staging tree over `touched`, and the set of touched paths.
fn stage(files: &[(&str, &str)], touched: &[&str]) -> (tempfile::TempDir, Stage, BTreeSet<RepoPath>) {
    let temp = tempfile::tempdir().unwrap();
    let repository = repository(temp.path());
    fs::create_dir(&repository.git_dir).unwrap();
    for (name, content) in files {
        write(&repository.root, name, content);
    }
    let touched = touched.iter().map(|path| path.as_bytes().to_vec()).collect();
    let stage = Stage::beside(&repository, &touched).unwrap();
    (temp, stage, touched)
}

fn write(root: &Path, name: &str, content: &str) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    // git replaces files and does not write into them.
    let _ = fs::remove_file(root.join(name));
    fs::write(root.join(name), content).unwrap();
}

fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_name() != ".git") {
            let name = entry.path().strip_prefix(root).unwrap().display().to_string();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
                found.insert(name + "/", String::new());
            } else {
                found.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

/// Every kind of change, made in the staging tree.
fn everything() -> (tempfile::TempDir, Stage, BTreeSet<RepoPath>) {
    let files = [("same", "s"), ("changed", "old"), ("gone/deep/x", "g"), ("was", "w"), ("dir/x", "d"), ("dir/y", "d")];
    let touched = ["changed", "gone/deep/x", "new/a", "was", "was/in", "dir", "dir/x", "dir/y", "made/here/b"];
    let (temp, stage, touched) = stage(&files, &touched);
    fs::create_dir_all(temp.path().join("new/a")).unwrap();
    let staging = stage.tree();
    for path in ["gone/deep/x", "was", "dir/x", "dir/y"] {
        fs::remove_file(staging.join(path)).unwrap();
    }
    fs::remove_dir(staging.join("dir")).unwrap();
    for (name, content) in
        [("changed", "new"), ("new/a", "a"), ("was/in", "i"), ("dir", "a file"), ("made/here/b", "b")]
    {
        write(&staging, name, content);
    }
    (temp, stage, touched)
}

#[test]
fn files_change_places() {
    for plain in [false, true] {
        let (temp, mut stage, touched) = everything();
        stage.renames.without_flags = plain;
        stage.swap(&touched).unwrap();
        let is = tree(temp.path());
        let expected = [
            ("changed", "new"),
            ("dir", "a file"),
            ("made/", ""),
            ("made/here/", ""),
            ("made/here/b", "b"),
            ("new/", ""),
            ("new/a", "a"),
            ("same", "s"),
            ("was/", ""),
            ("was/in", "i"),
        ];
        assert_eq!(is, expected.map(|(name, content)| (name.to_owned(), content.to_owned())).into());
        assert_eq!(fs::read_dir(temp.path().join(".git")).unwrap().count(), 0);
    }
}

/// Stops after so many renames, as if killed; returns whether the exchange completed.
fn killed_after(steps: usize, stage: Stage, touched: &BTreeSet<RepoPath>) -> bool {
    let journal = Journal::plan(&stage.dirs, touched).unwrap();
    journal.write(&stage.dirs).unwrap();
    stage.renames.remaining.set(Some(steps));
    let ended = stage.exchange(&journal).is_ok();
    let _ = stage.keep();
    ended
}

/// Kills the exchange after every rename, and the recovery as well.
#[test]
fn one_that_is_killed_is_taken_back_by_the_next() {
    for plain in [false, true] {
        let mut steps = 0;
        loop {
            let (temp, mut stage, touched) = everything();
            let (before, repository) = (tree(temp.path()), repository(temp.path()));
            stage.renames.without_flags = plain;
            if killed_after(steps, stage, &touched) {
                break;
            }
            for again in 0.. {
                let renames = Renames { without_flags: plain, ..Renames::default() };
                renames.remaining.set(Some(again));
                if let Ok(rolled_back) = recover(&repository, &renames) {
                    assert!(rolled_back);
                    break;
                }
            }
            assert_eq!(tree(temp.path()), before, "after {steps} steps, {plain}");
            assert_eq!(fs::read_dir(&repository.git_dir).unwrap().count(), 0);
            assert!(!ApplyLock::take(&repository).unwrap().1);
            steps += 1;
        }
        assert!(steps >= 8, "{steps}");
    }
}

/// An exchange that cannot be taken back now is left for the next process.
#[test]
fn one_that_is_stuck_is_kept() {
    let (temp, stage, touched) = everything();
    let (before, repository) = (tree(temp.path()), repository(temp.path()));
    stage.renames.remaining.set(Some(3));
    let SwapError::RollbackFailed { kept, .. } = stage.swap(&touched).unwrap_err() else { panic!("it is taken back") };
    assert!(tree(temp.path()) != before && kept.join("journal").exists());
    assert!(ApplyLock::take(&repository).unwrap().1);
    assert_eq!((tree(temp.path()), kept.exists()), (before, false));
}

#[test]
fn what_was_not_begun_or_was_all_done_is_only_cleared_away() {
    let (temp, stage, _) = everything();
    let repository = repository(temp.path());
    let before = tree(temp.path());
    let _ = stage.keep();
    assert!(!ApplyLock::take(&repository).unwrap().1);
    assert_eq!((tree(temp.path()), fs::read_dir(&repository.git_dir).unwrap().count()), (before, 0));
}

#[test]
fn two_do_not_work_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let repository = repository(temp.path());
    fs::create_dir(&repository.git_dir).unwrap();
    let held = ApplyLock::take(&repository).unwrap();
    let mut times = 0;
    let refused = ApplyLock::take_with(&repository, lock, || {
        times += 1;
        times < 3
    });
    assert_eq!((refused.unwrap_err().code, times), (Code::Conflict, 3));
    // A waiting process gets the lock when the other releases it.
    let mut held = Some(held);
    ApplyLock::take_with(&repository, lock, || held.take().is_some()).unwrap();
}

/// Without locks an unfinished exchange is left alone and reported.
#[test]
fn without_locks_what_was_begun_is_refused() {
    let (temp, stage, touched) = everything();
    let repository = repository(temp.path());
    let unlocked =
        || ApplyLock::take_with(&repository, |_| Err(rustix::io::Errno::BADF.into()), || panic!("nobody has it"));
    assert!(!unlocked().unwrap().1, "nothing is begun");
    let kept = stage.dir.path().to_owned();
    killed_after(3, stage, &touched);
    let before = tree(temp.path());
    let failure = unlocked().unwrap_err();
    assert!(failure.causes.concat().contains("Bad file descriptor"), "{failure:?}");
    assert!(failure.hints.concat().contains(&format!("{}/tree", kept.display())), "{failure:?}");
    assert_eq!(tree(temp.path()), before);
    assert!(ApplyLock::take(&repository).unwrap().1);
}

/// A file that somebody wrote since is not overwritten, and the old one is kept.
#[test]
fn what_somebody_did_since_is_left_and_said() {
    for (name, edit) in [("changed", "written anew"), ("changed", "in place"), ("gone/deep/x", "written anew")] {
        let (temp, stage, touched) = everything();
        let (repository, kept) = (repository(temp.path()), stage.dir.path().to_owned());
        assert!(killed_after(100, stage, &touched));
        let file = temp.path().join(name);
        if edit == "in place" {
            io::Write::write_all(&mut fs::File::options().append(true).open(&file).unwrap(), b"more").unwrap();
        } else {
            write(temp.path(), name, "mine");
        }
        let mine = fs::read_to_string(&file).unwrap();
        let failure = ApplyLock::take(&repository).unwrap_err();
        assert!(failure.causes.concat().contains(name), "{failure:?}");
        assert!(failure.hints.concat().contains(&format!("{}/tree", kept.display())), "{failure:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), mine, "{name} {edit}");
        // Once that file is removed, the rest is taken back.
        fs::remove_file(&file).unwrap();
        assert!(ApplyLock::take(&repository).unwrap().1);
        assert_eq!(fs::read_to_string(&file).unwrap(), if name == "changed" { "old" } else { "g" });
    }
}

/// A repository that comes with a journal moves nothing out of its tree or into the git directory.
#[test]
fn a_strangers_journal_leads_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("repo");
    let (repository, stage) = (repository(&root), root.join(".git/banger-apply-x"));
    fs::create_dir_all(stage.join("away")).unwrap();
    fs::create_dir(stage.join("tree")).unwrap();
    symlink("..", root.join("up")).unwrap();
    for path in ["../out", "/tmp/banger-out", ".git/hooks/pre-commit", "up/out", "a/../../out"] {
        fs::write(stage.join("away/0"), "evil").unwrap();
        fs::write(stage.join("journal"), format!("old - {path}\0end\0")).unwrap();
        let failure = ApplyLock::take(&repository).unwrap_err();
        assert!(failure.causes.concat().contains(path), "{failure:?}");
        assert!(stage.join("away/0").exists() && !temp.path().join("out").exists(), "{path}");
    }
    for garbage in ["", "old - x\0", "old x\0end\0", "old 1:2:3 x\0end\0", "what - x\0end\0", "end\0end\0"] {
        fs::write(stage.join("journal"), garbage).unwrap();
        assert!(ApplyLock::take(&repository).is_err(), "{garbage:?}");
    }
    fs::write(stage.join("journal"), "old - file\0end\0").unwrap();
    assert!(ApplyLock::take(&repository).unwrap().1);
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "evil");
}

/// Nor does a stranger's staging directory that is a link, or a link that appears in its own way.
#[test]
fn a_strangers_stage_brings_nothing_in() {
    let temp = tempfile::tempdir().unwrap();
    let (root, home) = (temp.path().join("repo"), temp.path().join("home"));
    let (repository, stage) = (repository(&root), root.join(".git/banger-apply-x"));
    for name in [".ssh/key", "0"] {
        write(&home, name, "secret");
    }
    let is_kept = |what: &str| {
        assert!(ApplyLock::take(&repository).is_err(), "{what}");
        assert_eq!(tree(&home), [".ssh/", "", ".ssh/key", "secret", "0", "secret"].chunks(2).map(pair).collect());
        assert!(!root.join(".ssh/key").exists(), "{what}");
        fs::remove_dir_all(&root).unwrap();
    };
    for (name, target) in [("tree", "../../../home"), ("tree/.ssh", "../../../../home/.ssh"), ("away", "../../../home")]
    {
        for dir in ["away", "tree"] {
            fs::create_dir_all(stage.join(dir)).unwrap();
        }
        fs::create_dir(root.join(".ssh")).unwrap();
        let _ = fs::remove_dir(stage.join(name));
        symlink(target, stage.join(name)).unwrap();
        fs::write(stage.join("journal"), "old 1:2:3:4 .ssh/key\0end\0").unwrap();
        is_kept(name);
    }
    // The last entry is taken back first.
    fs::create_dir_all(stage.join("away")).unwrap();
    fs::write(stage.join("away/0"), "evil").unwrap();
    symlink("../home", stage.join("away/1")).unwrap();
    fs::write(stage.join("journal"), "old - up/out\0old - up\0end\0").unwrap();
    is_kept("a link");
}

fn pair(pair: &[&str]) -> (String, String) {
    (pair[0].to_owned(), pair[1].to_owned())
}

#[test]
fn a_directory_that_became_a_link_is_taken_back() {
    let (temp, stage, touched) = stage(&[("d/f", "x")], &["d", "d/f"]);
    let (before, staging) = (tree(temp.path()), stage.tree());
    fs::remove_dir_all(staging.join("d")).unwrap();
    symlink("elsewhere", staging.join("d")).unwrap();
    assert!(killed_after(100, stage, &touched) && temp.path().join("d").is_symlink());
    assert!(ApplyLock::take(&repository(temp.path())).unwrap().1);
    assert_eq!(tree(temp.path()), before);
}

/// With the git directory on another file system, a directory in the tree that looks like a staging directory counts
/// only if the git directory names it.
#[test]
fn a_stage_in_the_tree_is_believed_where_gits_directory_names_it() {
    let (temp, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    if temp.path().metadata().unwrap().dev() == elsewhere.path().metadata().unwrap().dev() {
        return;
    }
    let git_dir = elsewhere.path().to_owned();
    let repository = Repository { root: temp.path().to_owned(), common_dir: git_dir.clone(), git_dir };
    for (name, content) in [("banger-apply-x/journal", "old - file\0end\0"), ("banger-apply-x/away/0", "0"), ("a", "a")]
    {
        write(temp.path(), name, content);
    }
    let before = tree(temp.path());
    assert!(!ApplyLock::take(&repository).unwrap().1);
    assert_eq!(tree(temp.path()), before);

    let touched = [b"a".to_vec()].into();
    for killed in [true, false] {
        let stage = Stage::beside(&repository, &touched).unwrap();
        write(&stage.tree(), "a", "new");
        if killed {
            assert!(killed_after(100, stage, &touched));
            assert!(ApplyLock::take(&repository).unwrap().1);
            assert_eq!(tree(temp.path()), before);
        } else {
            stage.swap(&touched).unwrap();
            assert_eq!((tree(temp.path()).len(), tree(temp.path())["a"].as_str()), (before.len(), "new"));
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}

/// Somebody saves a file while the new ones are made: it stays, and is named.
#[test]
fn what_somebody_saves_meanwhile_is_not_lost() {
    for (name, edit) in [
        ("changed", "anew"),
        ("changed", "in place"),
        ("changed", "gone"),
        ("gone/deep/x", "anew"),
        ("made/here/b", "anew"),
    ] {
        for plain in [false, true] {
            let (temp, mut stage, touched) = everything();
            stage.renames.without_flags = plain;
            let file = temp.path().join(name);
            match edit {
                "anew" => write(temp.path(), name, "mine"),
                "gone" => fs::remove_file(&file).unwrap(),
                _ => io::Write::write_all(&mut fs::File::options().append(true).open(&file).unwrap(), b"more").unwrap(),
            }
            let before = tree(temp.path());
            let SwapError::RolledBack(error) = stage.swap(&touched).unwrap_err() else { panic!("it is stuck") };
            assert!(error.to_string().contains(&format!("{name} was changed meanwhile")), "{edit}: {error}");
            assert_eq!(tree(temp.path()), before, "{name} {edit}");
            assert_eq!(fs::read_dir(temp.path().join(".git")).unwrap().count(), 0);
        }
    }
}

#[test]
fn what_was_done_is_taken_back() {
    let files = [("a", "old"), ("gone", "g"), ("z/untracked", "u")];
    let (temp, stage, touched) = stage(&files, &["a", "gone", "new/deep/b", "z"]);
    let staging = stage.tree();
    fs::remove_file(staging.join("gone")).unwrap();
    for (name, content) in [("a", "new"), ("new/deep/b", "b"), ("z", "in the way of it is somebody's file")] {
        write(&staging, name, content);
    }
    let before = tree(temp.path());
    let SwapError::RolledBack(error) = stage.swap(&touched).unwrap_err() else { panic!("it is stuck") };
    assert!(error.to_string().contains("/z: "), "{error}");
    assert_eq!(tree(temp.path()), before);
    assert_eq!(fs::read_dir(temp.path().join(".git")).unwrap().count(), 0);
}

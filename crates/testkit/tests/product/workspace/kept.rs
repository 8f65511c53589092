//! A workspace that comes again over what the guest made there: nothing of the guest's breaks, and what is lost was
//! named.

use super::{corpus, git, place, prepare, refresh::with_submodule, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Commits one after the other, each of another content.
fn move_on(env: &TestEnv, repo: &Path, commits: usize) {
    for n in 0..commits {
        let old = fs::read_to_string(repo.join("line")).unwrap_or_default();
        fs::write(repo.join("line"), format!("{old}{n}\n")).expect("a file");
        says(env, repo, &["add", "-A"]);
        says(env, repo, &["commit", "-q", "-m", &n.to_string()]);
    }
}

fn repository(env: &TestEnv, commits: usize) -> PathBuf {
    let repo = place(env, "src-long");
    fs::create_dir(&repo).expect("a directory");
    says(env, &repo, &["init", "-q", "-b", "main"]);
    move_on(env, &repo, commits);
    repo
}

#[track_caller]
fn count(env: &TestEnv, copy: &Path, of: &str) -> usize {
    says(env, copy, &["rev-list", of]).split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

/// The guest's branches and reflogs hold commits whose parents were never brought, however often it comes.
#[test]
fn history_that_was_brought_earlier_stays_cut_off_where_it_was() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (repository(&env, 30), place(&env, "guest"));
    let whole = |what: &str| {
        for args in [["gc", "-q"].as_slice(), &["fsck", "--no-dangling"], &["log", "--all", "--oneline"]] {
            git(&env, &copy, args).expect(0);
        }
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"", "{what}");
        assert_eq!(says(&env, &copy, &["rev-parse", "HEAD"]), says(&env, &repo, &["rev-parse", "HEAD"]), "{what}");
    };
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    says(&env, &copy, &["branch", "mine"]);
    says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "in the reflog"]);
    move_on(&env, &repo, 12);
    prepare(&env, "w", &repo, &copy, &["--force"]).expect(0);
    whole("moved on");
    assert_eq!((count(&env, &copy, "mine"), count(&env, &copy, "main")), (10, 10));
    // Two histories without a common commit are no fault.
    git(&env, &copy, &["merge-base", "main", "mine"]).expect(1);

    says(&env, &repo, &["checkout", "-q", "-b", "other", "HEAD~20"]);
    move_on(&env, &repo, 1);
    let exec = ["vm", "exec", "--quiet", "--auto-prepare", "w", "--", "git", "log", "-1", "--format=%H"];
    let head = env.banger(exec).run().expect(0);
    assert_eq!(head.stdout, says(&env, &repo, &["rev-parse", "HEAD"]), "{head}");
    whole("another branch");
    // Back again, a little further on. What the other branch brought is behind the guest's own, too.
    says(&env, &repo, &["checkout", "-q", "main"]);
    move_on(&env, &repo, 3);
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    whole("a little further");
    assert_eq!((count(&env, &copy, "mine"), count(&env, &copy, "main")), (17, 13));

    prepare(&env, "w", &repo, &copy, &["--mode", "full"]).expect(0);
    whole("all of it");
    assert!(!copy.join(".git/shallow").exists());
    assert_eq!((count(&env, &copy, "mine"), count(&env, &copy, "main")), (30, 45));
    delete(&env, "w");
}

/// What arrives is cut off nowhere that the guest knows more of.
#[test]
fn a_branch_of_the_guests_loses_no_history_while_the_repository_moves_on() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (repository(&env, 30), place(&env, "guest"));
    let whole = |commits: usize| {
        says(&env, &copy, &["fsck", "--no-dangling"]);
        assert_eq!(says(&env, &copy, &["rev-parse", "main"]), says(&env, &repo, &["rev-parse", "main"]));
        assert_eq!(count(&env, &copy, "mine"), commits);
    };
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    says(&env, &copy, &["branch", "mine"]);
    for _ in 0..3 {
        move_on(&env, &repo, 1);
        prepare(&env, "w", &repo, &copy, &[]).expect(0);
        whole(10);
    }
    prepare(&env, "w", &repo, &copy, &["--mode", "full"]).expect(0);
    move_on(&env, &repo, 1);
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    whole(30);
    assert!(!copy.join(".git/shallow").exists());
    delete(&env, "w");
}

/// What git cannot add is in nobody's way: it stands there still, and branches that are only the guest's, too.
#[test]
fn what_git_cannot_look_at_loses_nothing() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    for (mode, dirty) in [("overlay", false), ("full", false), ("overlay", true), ("full", true)] {
        let copy = place(&env, &format!("guest-{mode}-{dirty}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        if dirty {
            fs::write(repo.join("counter"), format!("dirty {mode}\n")).expect("a file");
        }
        again(&[]).expect(0);
        let mine = says(&env, &copy, &["rev-parse", "HEAD~2"]);
        says(&env, &copy, &["branch", "mine", "HEAD~2"]);
        // A name that is no text.
        let odd = fs::read(copy.join(".git/refs/heads/mine")).expect("a ref");
        fs::write(copy.join(OsStr::from_bytes(b".git/refs/heads/odd-\xff")), odd).expect("a ref");
        says(&env, &copy, &["pack-refs", "--all"]);
        says(&env, &copy, &["init", "-q", "sub"]);
        fs::write(copy.join("sub/file"), "work\n").expect("a file");
        let out = again(&[]).expect(1);
        assert!(out.err().contains("may have been worked in") && out.err().contains("sub/"), "{out}");
        for _ in 0..2 {
            again(&["--force"]).expect(0);
            assert_eq!(says(&env, &copy, &["rev-parse", "mine"]), mine, "{mode} {dirty}");
            let refs = says(&env, &copy, &["for-each-ref", "--format=%(refname)"]);
            assert!(refs.split(|byte| *byte == b'\n').any(|name| name == b"refs/heads/odd-\xff"), "{mode} {dirty}");
            assert_eq!(fs::read(copy.join("sub/file")).expect("a file"), b"work\n");
            let status = ["status", "--porcelain=v2", "-uno"];
            assert_eq!(says(&env, &copy, &status), says(&env, &repo, &status), "{mode} {dirty}");
        }
        // An export names it, and does without it.
        fs::write(copy.join("run"), "changed\n").expect("a file");
        let export = |more: &[&str]| env.banger(["vm", "workspace", "export", "w"]).args(more).run();
        let out = export(&[]).expect(1);
        assert!(out.err().contains("sub/"), "{out}");
        let patch = export(&["--exclude", "sub"]).expect(0).out();
        assert!(patch.contains("b/run") && patch.matches("diff --git").count() == 1, "{patch}");
    }
    delete(&env, "w");
}

/// A repository that git does not take for one any more, as a loss of power leaves it.
#[test]
fn what_is_packed_outlives_a_repository_that_is_broken() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        again(&[]).expect(0);
        says(&env, &copy, &["branch", "mine", "HEAD~2"]);
        let mine = says(&env, &copy, &["rev-parse", "mine"]);
        says(&env, &copy, &["pack-refs", "--all"]);
        fs::write(copy.join(".git/HEAD"), "").expect("a file");
        let out = again(&[]).expect(1);
        assert!(out.err().contains("cannot be looked at"), "{out}");
        again(&["--force"]).expect(0);
        for _ in 0..2 {
            assert_eq!(says(&env, &copy, &["rev-parse", "mine"]), mine, "{mode}");
            if mode == "full" {
                let all = says(&env, &copy, &["for-each-ref", "--format=%(refname) %(objectname)"]);
                let own = [b"refs/heads/mine ".as_slice(), &mine].concat();
                let all = String::from_utf8_lossy(&all).replace(&*String::from_utf8_lossy(&own), "");
                let here = says(&env, &repo, &["for-each-ref", "--format=%(refname) %(objectname)"]);
                assert_eq!(all, String::from_utf8_lossy(&here));
            }
            says(&env, &copy, &["fsck", "--no-dangling"]);
            again(&[]).expect(0);
        }
    }
    delete(&env, "w");
}

#[test]
fn a_submodule_that_is_gone_here_is_gone_there() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (with_submodule(&env), place(&env, "guest"));
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    let took_away = |dir: &Path| {
        says(&env, dir, &["rm", "-q", "libs/inner"]);
        says(&env, dir, &["commit", "-q", "-m", "without"]);
    };
    full(&[]).expect(0);
    took_away(&repo);
    for _ in 0..2 {
        full(&[]).expect(0);
        assert!(!copy.join("libs").exists());
        assert_eq!(tree(&copy), tree(&repo));
    }
    // It comes back, and the guest has a branch of its own there.
    says(&env, &repo, &["reset", "-q", "--hard", "HEAD~1"]);
    says(&env, &repo, &["submodule", "--quiet", "update", "--init"]);
    full(&[]).expect(0);
    says(&env, &copy.join("libs/inner"), &["branch", "mine"]);
    full(&[]).expect(0);
    took_away(&repo);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("in the submodule libs/inner") && out.err().contains("vm cp w:"), "{out}");
    says(&env, &copy.join("libs/inner"), &["rev-parse", "mine"]);
    full(&["--force"]).expect(0);
    assert!(!copy.join("libs").exists());
    full(&[]).expect(0);
    // One that only the guest checked out stays as it is.
    says(&env, &repo, &["reset", "-q", "--hard", "HEAD~1"]);
    full(&[]).expect(0);
    assert!(!copy.join("libs/inner/.git").exists());
    let inner = place(&env, "src-plain");
    says(&env, &copy, &["clone", "-q", inner.to_str().expect("UTF-8"), "libs/inner"]);
    full(&[]).expect(0);
    assert_eq!(tree(&copy.join("libs/inner")), tree(&inner));
    says(&env, &copy.join("libs/inner"), &["status"]);
    delete(&env, "w");
}

/// The repository around it never had it, so it is not the repository's to take away.
#[test]
fn a_submodule_that_the_guest_made_stays_even_when_told_to_overwrite() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (full, plain) = (with_submodule(&env), place(&env, "src-plain"));
    for (mode, repo) in [("full", &full), ("overlay", &plain)] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", repo, &copy, &[&["--mode", mode], more].concat());
        again(&[]).expect(0);
        says(&env, &copy, &["submodule", "--quiet", "add", plain.to_str().expect("UTF-8"), "own/sub"]);
        let made = copy.join("own/sub");
        says(&env, &made, &["commit", "-q", "--allow-empty", "-m", "work"]);
        let (head, files) = (says(&env, &made, &["rev-parse", "HEAD"]), tree(&made));
        again(&[]).expect(1);
        for _ in 0..2 {
            again(&["--force"]).expect(0);
            assert_eq!(
                (says(&env, &made, &["rev-parse", "HEAD"]), tree(&made)),
                (head.clone(), files.clone()),
                "{mode}"
            );
            assert_eq!(says(&env, &made, &["status", "--porcelain"]), b"", "{mode}");
            let status = ["status", "--porcelain=v2", "-uno"];
            assert_eq!(says(&env, &copy, &status), says(&env, repo, &status), "{mode}");
        }
    }
    delete(&env, "w");
}

/// Its git directory is in that of the submodule around it, which the repository has no longer.
#[test]
fn a_submodule_that_the_guest_made_in_one_that_is_gone_stays() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (with_submodule(&env), place(&env, "guest"));
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    full(&[]).expect(0);
    let (inner, plain) = (copy.join("libs/inner"), place(&env, "src-plain"));
    says(&env, &inner, &["submodule", "--quiet", "add", plain.to_str().expect("UTF-8"), "own/sub"]);
    let made = inner.join("own/sub");
    says(&env, &made, &["commit", "-q", "--allow-empty", "-m", "work"]);
    let work = says(&env, &made, &["rev-parse", "HEAD"]);
    says(&env, &repo, &["rm", "-q", "libs/inner"]);
    says(&env, &repo, &["commit", "-q", "-m", "without"]);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("in the submodule libs/inner"), "{out}");
    for _ in 0..2 {
        full(&["--force"]).expect(0);
        assert_eq!(says(&env, &made, &["rev-parse", "HEAD"]), work);
        for dir in [&made, &inner] {
            says(&env, dir, &["fsck", "--no-dangling"]);
        }
        let mut there = tree(&copy);
        there.retain(|path, _| !path.starts_with("libs"));
        assert_eq!(there, tree(&repo));
    }
    delete(&env, "w");
}

/// One that only the guest checked out keeps the submodule around it, and a file in the way of both is no small matter.
#[test]
fn a_submodule_with_the_guests_in_it_is_not_replaced_by_a_file_unasked() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy, plain) = (with_submodule(&env), place(&env, "guest"), place(&env, "src-plain"));
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    let head = String::from_utf8(says(&env, &plain, &["rev-parse", "HEAD"])).expect("UTF-8");
    let (here, inner) = (repo.join("libs/inner"), copy.join("libs/inner"));
    fs::create_dir_all(here.join("own/sub")).expect("directories");
    says(&env, &here, &["update-index", "--add", "--cacheinfo", &format!("160000,{},own/sub", head.trim())]);
    says(&env, &here, &["commit", "-q", "-m", "deeper"]);
    says(&env, &repo, &["commit", "-q", "-a", "-m", "deeper"]);
    full(&[]).expect(0);
    says(&env, &inner, &["clone", "-q", plain.to_str().expect("UTF-8"), "own/sub"]);
    says(&env, &inner, &["branch", "mine", "HEAD~1"]);
    full(&[]).expect(0);
    says(&env, &repo, &["rm", "-q", "-f", "libs/inner"]);
    fs::create_dir_all(repo.join("libs")).expect("a directory");
    fs::write(repo.join("libs/inner"), "a file\n").expect("a file");
    says(&env, &repo, &["add", "libs/inner"]);
    says(&env, &repo, &["commit", "-q", "-m", "a file"]);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("in the submodule libs/inner and 1 more"), "{out}");
    says(&env, &inner, &["rev-parse", "mine"]);
    full(&["--force"]).expect(0);
    assert_eq!(tree(&copy), tree(&repo));
    full(&[]).expect(0);
    delete(&env, "w");
}

/// A merge, a rebase or the like of the guest's is about a tree that is there no more.
#[test]
fn what_is_under_way_there_is_named_and_does_not_outlive_the_tree() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, more);
    again(&[]).expect(0);
    says(&env, &copy, &["checkout", "-q", "-b", "topic", "HEAD~1"]);
    fs::write(copy.join("counter"), "topic\n").expect("a file");
    says(&env, &copy, &["commit", "-q", "-a", "-m", "topic"]);
    says(&env, &copy, &["checkout", "-q", "main"]);
    // Nothing but what git wrote down of it differs.
    says(&env, &copy, &["merge", "-q", "--no-commit", "--no-ff", "-s", "ours", "topic"]);
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    let out = again(&[]).expect(1);
    assert!(out.err().contains("that is not finished") && out.err().contains("vm cp w:"), "{out}");
    again(&["--force"]).expect(0);
    git(&env, &copy, &["rev-parse", "-q", "--verify", "MERGE_HEAD"]).expect(1);

    says(&env, &copy, &["checkout", "-q", "-b", "mine", "topic~1"]);
    fs::write(copy.join("counter"), "mine\n").expect("a file");
    says(&env, &copy, &["commit", "-q", "-a", "-m", "mine"]);
    git(&env, &copy, &["rebase", "-q", "topic"]).expect(1);
    assert!(copy.join(".git/rebase-merge").is_dir());
    let out = again(&[]).expect(1);
    assert!(out.err().contains("that is not finished"), "{out}");
    again(&["--force"]).expect(0);
    assert!(!copy.join(".git/rebase-merge").exists());
    git(&env, &copy, &["rebase", "--abort"]).expect(128);
    let says_main = says(&env, &copy, &["status", "--branch", "--porcelain=v2"]);
    assert_eq!(says_main, says(&env, &repo, &["status", "--branch", "--porcelain=v2"]));
    again(&[]).expect(0);
    // The host's own merge stays here; its conflict travels.
    let (repo, copy) = (corpus::make(&env, "conflict"), place(&env, "guest-conflict"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    assert!(repo.join(".git/MERGE_HEAD").exists() && !copy.join(".git/MERGE_HEAD").exists());
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    delete(&env, "w");
}

/// Remotes, identity and rules that somebody set there are no work, and stay.
#[test]
fn what_the_guests_git_was_told_stays() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "upstream");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let config = |dir: &Path, key: &str| git(&env, dir, &["config", "--local", "--get-all", key]).out();
        says(&env, &repo, &["config", "user.email", "first@example.com"]);
        says(&env, &repo, &["remote", "set-url", "origin", "https://example.invalid/first.git"]);
        prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(0);
        says(&env, &copy, &["remote", "add", "fork", "https://example.invalid/fork.git"]);
        says(&env, &copy, &["config", "user.email", "guest@example.com"]);
        fs::write(copy.join(".git/info/exclude"), "built\n").expect("a file");
        fs::write(copy.join("built"), "artefact\n").expect("a file");
        for round in ["a", "b"] {
            fs::write(repo.join("mine"), format!("{mode} {round}\n")).expect("a file");
            says(&env, &repo, &["commit", "-q", "-a", "-m", round]);
            says(&env, &repo, &["remote", "set-url", "origin", &format!("https://example.invalid/{round}.git")]);
            env.banger(["vm", "exec", "--quiet", "--auto-prepare", "w", "--", "true"]).run().expect(0);
            assert_eq!(config(&copy, "remote.fork.url"), "https://example.invalid/fork.git\n");
            assert_eq!(config(&copy, "remote.fork.fetch"), "+refs/heads/*:refs/remotes/fork/*\n");
            assert_eq!(config(&copy, "user.email"), "guest@example.com\n");
            // What it left alone follows.
            assert_eq!(config(&copy, "remote.origin.url"), format!("https://example.invalid/{round}.git\n"));
            assert_eq!(config(&copy, "branch.main.merge"), config(&repo, "branch.main.merge"));
            assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
        }
        prepare(&env, "w", &repo, &copy, &["--mode", mode, "--force"]).expect(0);
        assert_eq!(config(&copy, "user.email"), "first@example.com\n");
        assert_eq!(config(&copy, "remote.fork.url"), "https://example.invalid/fork.git\n");
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    }
    delete(&env, "w");
}

/// In overlay mode, too, a packed ref is out of the way of one that arrives.
#[test]
fn a_packed_branch_makes_way_when_told() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        says(&env, &repo, &["checkout", "-q", "main"]);
        again(&[]).expect(0);
        for name in ["topic/mine", "other"] {
            says(&env, &copy, &["branch", name, "HEAD~1"]);
        }
        says(&env, &copy, &["pack-refs", "--all"]);
        says(&env, &repo, &["checkout", "-q", "-B", "topic"]);
        let out = again(&[]).expect(1);
        assert!(out.err().contains("refs/heads/topic/mine"), "{out}");
        again(&["--force"]).expect(0);
        let names = says(&env, &copy, &["for-each-ref", "--format=%(refname)", "refs/heads"]);
        let names = String::from_utf8_lossy(&names).into_owned();
        assert!(names.contains("refs/heads/other\n") && names.contains("refs/heads/topic\n"), "{names}");
        assert!(!names.contains("topic/mine"), "{names}");
        // git makes what it likes of it.
        says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "on it"]);
        says(&env, &repo, &["checkout", "-q", "--detach"]);
        says(&env, &repo, &["branch", "-q", "-D", "topic"]);
    }
    delete(&env, "w");
}

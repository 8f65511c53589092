//! A workspace whose repository moved on.

use super::{corpus, place, prepare, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

#[test]
fn exec_says_when_head_moved_and_brings_it_up_to_date_when_told() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    let exec =
        |more: &[&str]| env.banger(["vm", "exec", "--quiet"]).args(more).args(["w", "--", "cat", "counter"]).run();
    assert_eq!(exec(&[]).expect(0).err(), "");

    // What a build leaves behind stays.
    fs::write(copy.join("built"), "artefact\n").expect("a file");
    fs::write(copy.join(".git/info/exclude"), "built\n").expect("a file");
    fs::remove_file(repo.join("side")).expect("a file");
    fs::write(repo.join("counter"), "moved\n").expect("a file");
    fs::write(repo.join("another"), "a\n").expect("a file");
    says(&env, &repo, &["add", "-A"]);
    says(&env, &repo, &["commit", "-q", "-m", "moved"]);
    let warned = exec(&[]).expect(0);
    assert_eq!(warned.out(), "11\n");
    assert!(warned.err().contains("warning:") && warned.err().contains("--auto-prepare"), "{warned}");

    let fresh = exec(&["--auto-prepare"]).expect(0);
    assert_eq!((fresh.out().as_str(), fresh.err().as_str()), ("moved\n", ""));
    assert_eq!(fs::read(copy.join("built")).expect("a file"), b"artefact\n");
    fs::remove_file(copy.join("built")).expect("a file");
    assert_eq!(tree(&copy), tree(&repo));
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    assert_eq!(says(&env, &copy, &["rev-parse", "HEAD"]), says(&env, &repo, &["rev-parse", "HEAD"]));
    assert_eq!(exec(&[]).expect(0).err(), "");

    // A repository that is gone is no reason not to work.
    fs::rename(&repo, place(&env, "elsewhere")).expect("a rename");
    assert_eq!(exec(&[]).expect(0).err(), "");
    delete(&env, "w");
}

#[test]
fn what_the_guest_did_is_not_overwritten_unasked() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "states"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    // Untouched, though it is dirty: as often as one likes.
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    for work in ["edit", "commit"] {
        if work == "edit" {
            fs::write(copy.join("same"), "work\n").expect("a file");
        } else {
            says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "work"]);
        }
        let before = tree(&copy);
        let out = prepare(&env, "w", &repo, &copy, &[]).expect(1);
        assert!(out.err().contains("was worked in") && out.err().contains("export w"), "{out}");
        assert_eq!(tree(&copy), before);
        prepare(&env, "w", &repo, &copy, &["--force"]).expect(0);
        assert_eq!(
            fs::read(copy.join("same")).expect("a file"),
            fs::read(repo.join("same")).expect("a file"),
            "{work}"
        );
        let status = ["status", "--porcelain=v2", "-uno"];
        assert_eq!(says(&env, &copy, &status), says(&env, &repo, &status), "{work}");
    }
    // Something banger did not bring is nobody's to replace.
    let other = place(&env, "other");
    fs::create_dir(&other).expect("a directory");
    fs::write(other.join("file"), "x").expect("a file");
    for more in [[].as_slice(), &["--force"]] {
        let out = prepare(&env, "w", &repo, &other, more).expect(1);
        assert!(out.err().contains("in use") && out.err().contains("--guest-path"), "{out}");
    }
    delete(&env, "w");
}

/// What git says there and here, and the files; build output of the guest's is not looked at.
#[track_caller]
fn assert_same(env: &TestEnv, copy: &Path, repo: &Path, what: &str) {
    let status = ["status", "--porcelain=v2", "-uno"];
    assert_eq!(says(env, copy, &status), says(env, repo, &status), "{what}");
    assert_eq!(tree(copy), tree(repo), "{what}");
}

/// A repository with one in it that is brought whole.
pub(super) fn with_submodule(env: &TestEnv) -> PathBuf {
    let inner = corpus::make(env, "plain");
    let repo = place(env, "super");
    fs::create_dir(&repo).expect("a directory");
    says(env, &repo, &["init", "-q", "-b", "main"]);
    says(env, &repo, &["submodule", "--quiet", "add", inner.to_str().expect("UTF-8"), "libs/inner"]);
    for n in 0..15 {
        fs::write(repo.join("file"), format!("{n}\n")).expect("a file");
        says(env, &repo, &["add", "-A"]);
        says(env, &repo, &["commit", "-q", "-m", &n.to_string()]);
    }
    repo
}

#[test]
fn the_full_mode_comes_again_and_again_with_submodules() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (with_submodule(&env), place(&env, "guest"));
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    for round in ["first", "second", "third"] {
        full(&[]).expect(0);
        assert_same(&env, &copy, &repo, round);
    }
    // A file that goes and one that is changed, in both.
    fs::write(repo.join("libs/inner/counter"), "changed\n").expect("a file");
    fs::write(repo.join("libs/inner/new"), "n\n").expect("a file");
    says(&env, &repo.join("libs/inner"), &["add", "new"]);
    fs::remove_file(repo.join("file")).expect("a file");
    for round in ["dirty", "dirty again"] {
        full(&[]).expect(0);
        assert_same(&env, &copy, &repo, round);
    }
    says(&env, &repo.join("libs/inner"), &["rm", "-q", "--cached", "new"]);
    fs::remove_file(repo.join("libs/inner/new")).expect("a file");
    says(&env, &repo.join("libs/inner"), &["checkout", "-q", "--", "counter"]);
    full(&[]).expect(0);
    assert_same(&env, &copy, &repo, "clean");
    // What was done in the submodule is seen, and a branch that is only the guest's stays, packed or not.
    fs::write(copy.join("libs/inner/counter"), "work\n").expect("a file");
    let out = full(&[]).expect(1);
    assert!(out.err().contains("was worked in"), "{out}");
    says(&env, &copy, &["branch", "mine", "HEAD~2"]);
    says(&env, &copy, &["pack-refs", "--all"]);
    full(&["--force"]).expect(0);
    assert_same(&env, &copy, &repo, "forced");
    assert_eq!(says(&env, &copy, &["rev-parse", "mine"]), says(&env, &repo, &["rev-parse", "HEAD~2"]));
    delete(&env, "w");
}

#[test]
fn one_mode_after_the_other() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    // The second has its objects in three places.
    for name in ["plain", "borrowed"] {
        let (repo, copy) = (corpus::make(&env, name), place(&env, &format!("guest-{name}")));
        for (key, value) in [("remote.origin.url", "/x"), ("branch.main.remote", "origin")] {
            says(&env, &repo, &["config", key, value]);
        }
        says(&env, &repo, &["config", "branch.main.merge", "refs/heads/main"]);
        let (log, refs) = (["log", "--format=%H %P"], ["for-each-ref", "refs/heads", "refs/remotes", "refs/tags"]);
        for (round, mode) in ["overlay", "full", "overlay", "full"].into_iter().enumerate() {
            // Everything there is moves on.
            says(&env, &repo, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
            says(&env, &repo, &["commit", "-q", "--allow-empty", "--only", "-m", "moved"]);
            says(&env, &repo, &["branch", "-f", "-q", "other"]);
            says(&env, &repo, &["tag", &format!("round-{round}")]);
            prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(0);
            assert_same(&env, &copy, &repo, mode);
            // What the guest has of history it keeps.
            assert_eq!(copy.join(".git/shallow").exists(), round == 0, "{mode}");
            for name in ["main", "origin/main"] {
                assert_eq!(says(&env, &copy, &["rev-parse", name]), says(&env, &repo, &["rev-parse", name]), "{mode}");
            }
            if mode == "full" {
                assert_eq!(says(&env, &copy, &log), says(&env, &repo, &log));
                assert_eq!(says(&env, &copy, &refs), says(&env, &repo, &refs));
            }
            says(&env, &copy, &["fsck", "--no-dangling"]);
            // What the guest's git makes of it meanwhile is not in the way, nor is it when it makes nothing of it.
            if round < 2 {
                says(&env, &copy, &["gc", "-q", "--aggressive", "--prune=now"]);
            }
        }
        // All of it at once, too.
        let fresh = place(&env, &format!("guest-fresh-{name}"));
        prepare(&env, "w", &repo, &fresh, &["--mode", "full"]).expect(0);
        assert_same(&env, &fresh, &repo, name);
        for args in [log.as_slice(), &refs] {
            assert_eq!(says(&env, &fresh, args), says(&env, &repo, args), "{name}: git {args:?}");
        }
        says(&env, &fresh, &["fsck", "--no-dangling"]);
    }
    delete(&env, "w");
}

#[test]
fn files_directories_and_links_take_each_others_place() {
    let Some(env) = TestEnv::fake() else { return };
    let repo = corpus::make(&env, "detached");
    let write = |name: &str, content: &str| {
        let path = repo.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    };
    // Committed, they are written out of git's objects; uncommitted they travel.
    for mode in ["overlay", "full"] {
        for committed in [true, false] {
            let vm = format!("w-{mode}-{committed}");
            start(&env, &vm);
            let copy = place(&env, &format!("guest-{vm}"));
            for name in ["file", "to-dir", "dir", "other", "link"] {
                let path = repo.join(name);
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(path).expect("a directory");
                } else {
                    fs::remove_file(path).ok();
                }
            }
            write("file", "a file\n");
            write("to-dir", "a file\n");
            for name in ["dir/x", "dir/deep/y", "other/x", "other/deep/y"] {
                write(name, name);
            }
            symlink("other", repo.join("link")).expect("a link");
            says(&env, &repo, &["add", "-A"]);
            says(&env, &repo, &["commit", "-q", "--allow-empty", "-m", "before"]);
            prepare(&env, &vm, &repo, &copy, &["--mode", mode]).expect(0);

            // A file becomes a directory, a directory a link to one with the same names in it, a link a directory.
            fs::remove_file(repo.join("to-dir")).expect("a file");
            write("to-dir/x", "in it\n");
            fs::remove_dir_all(repo.join("dir")).expect("a directory");
            symlink("other", repo.join("dir")).expect("a link");
            fs::remove_file(repo.join("link")).expect("a link");
            write("link/x", "its own\n");
            fs::remove_file(repo.join("file")).expect("a file");
            symlink("other/x", repo.join("file")).expect("a link");
            says(&env, &repo, &["add", "-A"]);
            if committed {
                says(&env, &repo, &["commit", "-q", "-m", "after"]);
            } else {
                for name in ["other/x", "link/x", "to-dir/x"] {
                    write(name, "changed since it was staged\n");
                }
            }
            prepare(&env, &vm, &repo, &copy, &["--mode", mode]).expect(0);
            assert_same(&env, &copy, &repo, &vm);
            delete(&env, &vm);
        }
    }
}

/// What git is told not to look at is looked at before it is overwritten.
#[test]
fn changes_that_git_does_not_see_are_not_overwritten_unasked() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "filters");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        for _ in 0..3 {
            again(&[]).expect(0);
            assert_same(&env, &copy, &repo, mode);
        }
        fs::write(copy.join("real.bin"), "edited in the guest\n").expect("a file");
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"", "git does not see it");
        let out = again(&[]).expect(1);
        assert!(out.err().contains("was worked in"), "{out}");
        again(&["--force"]).expect(0);
        assert_same(&env, &copy, &repo, mode);
        // One that the guest's user says so of.
        for flag in ["--assume-unchanged", "--skip-worktree"] {
            says(&env, &copy, &["update-index", flag, "plain"]);
            fs::write(copy.join("plain"), "edited in the guest\n").expect("a file");
            let out = again(&[]).expect(1);
            assert!(out.err().contains("told not to look at") && out.err().contains("banger vm cp w:"), "{out}");
            again(&["--force"]).expect(0);
            assert_same(&env, &copy, &repo, mode);
        }
        again(&[]).expect(0);
    }
    delete(&env, "w");
}

/// Files the host's git was told not to look at arrive as they are, and as often as one likes.
#[test]
fn what_git_does_not_look_at_here_comes_again() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "unwatched");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        for round in ["1", "2"] {
            for name in ["assumed", "skipped"] {
                fs::write(repo.join(name), format!("my own {mode} {round}\n")).expect("a file");
            }
            again(&[]).expect(0);
            assert_same(&env, &copy, &repo, mode);
        }
        for name in ["assumed", "skipped", "odd \"one\"", "skipped-gone"] {
            fs::write(copy.join(name), "the guest's\n").expect("a file");
            assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"", "git does not see it");
            let out = again(&[]).expect(1);
            assert!(out.err().contains("told not to look at"), "{name}: {out}");
            again(&["--force"]).expect(0);
            assert_same(&env, &copy, &repo, mode);
        }
    }
    delete(&env, "w");
}

/// A guest without git cannot say what was done there; with `--force` it is brought all the same, and whole.
#[test]
fn a_guest_without_git_is_overwritten_when_told() {
    let Some(env) = TestEnv::fake() else { return };
    super::without_git(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    for mode in ["overlay", "full"] {
        prepare(&env, "w", &repo, &copy, &["--mode", mode, "--force"]).expect(0);
        assert_same(&env, &copy, &repo, mode);
        let out = prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(1);
        assert!(out.err().contains("the guest has no git") && out.err().contains("--force"), "{out}");
        says(&env, &repo, &["rm", "-q", if mode == "full" { "counter" } else { "side" }]);
        says(&env, &repo, &["commit", "-q", "-m", "gone"]);
        fs::write(copy.join("run"), "edited in the guest\n").expect("a file");
        prepare(&env, "w", &repo, &copy, &["--mode", mode, "--force"]).expect(0);
        assert_same(&env, &copy, &repo, mode);
    }
    delete(&env, "w");
}

/// What an interrupted time left is neither believed nor in the way for ever.
#[test]
fn one_that_was_interrupted_is_brought_with_force() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::many_files(&env, 2_000);
    for mode in ["overlay", "full"] {
        // As the stream ends before any file: nothing is recorded, and lists are there that say little.
        let copy = place(&env, &format!("guest-{mode}"));
        fs::create_dir_all(copy.join(".git/banger")).expect("directories");
        fs::write(copy.join(".git/banger/written"), "d0/f1\0").expect("a list");
        fs::write(copy.join(".git/banger/removed"), "d0/f2\0").expect("a list");
        let out = prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(1);
        assert!(out.err().contains("in part") && out.err().contains("--force"), "{out}");
        prepare(&env, "w", &repo, &copy, &["--mode", mode, "--force"]).expect(0);
        assert_same(&env, &copy, &repo, mode);
        assert!(!copy.join(".git/banger").exists());
        prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(0);
        // As one left it whose names came before what they name: nothing of that is work that has to be saved.
        fs::create_dir(copy.join(".git/banger")).expect("a directory");
        fs::write(copy.join(".git/refs/heads/main"), format!("{}\n", "12".repeat(20))).expect("a file");
        prepare(&env, "w", &repo, &copy, &["--mode", mode, "--force"]).expect(0);
        assert_same(&env, &copy, &repo, mode);
        says(&env, &copy, &["fsck", "--no-dangling"]);
        assert_eq!(says(&env, &copy, &["for-each-ref", "refs/banger/before"]), b"", "{mode}");
    }
    delete(&env, "w");
}

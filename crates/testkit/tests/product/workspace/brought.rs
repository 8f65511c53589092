//! What was brought, and what the guest made beside it.

use super::{corpus, place, prepare, says, tree, with_git, with_tools};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{fs, path::Path};

/// What only the guest made is in every export, whatever travels later in the tree that is brought.
#[test]
fn files_that_the_guest_made_stay_in_what_is_exported() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    fs::write(copy.join("the guest's"), "x\n").expect("a file");
    fs::write(repo.join("file"), "edited\n").expect("a file");
    for name in ["mine", "*", "a dir/mine"] {
        fs::create_dir_all(repo.join(name).parent().expect("a directory")).expect("a directory");
        fs::write(repo.join(name), "here\n").expect("a file");
    }
    for more in [["--force"].as_slice(), &["--force", "--include-untracked"]] {
        prepare(&env, "w", &repo, &copy, more).expect(0);
        let out = env.banger(["vm", "workspace", "export", "w"]).run().expect(0);
        let patch = out.out();
        let named: Vec<&str> = patch.lines().filter(|line| line.starts_with("diff ")).collect();
        assert_eq!(named, ["diff --git a/the guest's b/the guest's"], "{more:?}: {out}");
    }
    delete(&env, "w");
}

/// An untracked file that was brought and is gone here is gone there: nothing brings it back, and nobody worked there.
#[test]
fn an_untracked_file_that_is_gone_here_is_gone_there() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "detached");
    let untracked = ["--include-untracked"].as_slice();
    for (mode, dirty) in [("overlay", true), ("full", false)] {
        let copy = place(&env, &format!("guest-{mode}-{dirty}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat()).expect(0);
        if dirty {
            fs::write(repo.join("file"), format!("edited {mode}\n")).expect("a file");
        } else {
            says(&env, &repo, &["checkout", "-q", "file"]);
        }
        // It is gone, or it is here and was not asked for.
        for (gone, more) in [(true, untracked), (true, &[]), (false, &[])] {
            let what = format!("{mode}, dirty: {dirty}, gone: {gone}, {more:?}");
            fs::create_dir_all(repo.join("a dir")).expect("a directory");
            for name in ["notes", "a dir/notes"] {
                fs::write(repo.join(name), "mine\n").expect("a file");
            }
            again(untracked);
            assert_eq!(tree(&copy), tree(&repo), "{what}");
            if gone {
                for name in ["notes", "a dir/notes"] {
                    fs::remove_file(repo.join(name)).expect("a file");
                }
            }
            again(more);
            assert!(!copy.join("notes").exists() && !copy.join("a dir").exists(), "{what}");
            let patch = env.banger(["vm", "workspace", "export", "w"]).run().expect(0);
            assert_eq!(patch.out(), "", "{what}");
            again(more);
        }
        // One that only the guest has stays.
        fs::write(copy.join("the guest's"), "x\n").expect("a file");
        again(&["--force"]);
        assert!(copy.join("the guest's").exists(), "{mode}, dirty: {dirty}");
    }
    delete(&env, "w");
}

/// The tree that is written down as it was brought.
fn base(env: &TestEnv, copy: &Path) -> String {
    let names = says(env, copy, &["ls-tree", "-r", "--name-only", "refs/banger/base"]);
    String::from_utf8(names).expect("UTF-8")
}

/// An editor's swap file, a build's temporary one: it goes between the plan and the last word.
#[test]
fn an_untracked_file_that_vanishes_on_its_way_costs_no_other_one() {
    let Some(env) = TestEnv::fake() else { return };
    with_git(&env, "w", "rm -f .notes.swp");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    for name in [".notes.swp", "notes", "notes 2"] {
        fs::write(repo.join(name), "mine\n").expect("a file");
    }
    prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    assert!(!copy.join(".notes.swp").exists(), "it went before it was written down");
    let patch = env.banger(["vm", "workspace", "export", "w"]).run().expect(0);
    assert_eq!(patch.out(), "");
    prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    assert_eq!(base(&env, &copy), "file\nnotes\nnotes 2\n");
    delete(&env, "w");
}

/// One that the guest's git cannot add, for want of a program that the guest's user asks for. The guest has little but
/// git.
#[test]
fn an_untracked_file_that_git_cannot_add_costs_no_other_one() {
    let Some(env) = TestEnv::fake() else { return };
    with_tools(&env, "w", &["sh", "git", "cat", "cp", "ls", "mkdir", "rm", "sed", "tr"]);
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    for (key, value) in [("filter.absent.clean", "false"), ("filter.absent.required", "true")] {
        says(&env, &copy, &["config", key, value]);
    }
    fs::write(copy.join(".git/info/attributes"), "*.odd filter=absent\n").expect("rules");
    for name in ["a.odd", "notes", "notes 2", "two\nlines"] {
        fs::write(repo.join(name), "mine\n").expect("a file");
    }
    prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    assert_eq!(base(&env, &copy), "file\nnotes\nnotes 2\n\"two\\nlines\"\n");
    delete(&env, "w");
}

/// One whose place in the index is a directory's, of which git was told not to look for it.
#[test]
fn an_untracked_file_takes_the_place_of_a_directory_that_git_does_not_look_into() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    fs::create_dir(repo.join("a")).expect("a directory");
    fs::write(repo.join("a/b"), "tracked\n").expect("a file");
    for args in [["add", "a/b"].as_slice(), &["commit", "-q", "-m", "a"], &["update-index", "--skip-worktree", "a/b"]] {
        says(&env, &repo, args);
    }
    fs::remove_dir_all(repo.join("a")).expect("a directory");
    fs::write(repo.join("a"), "untracked\n").expect("a file");
    prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    assert_eq!(base(&env, &copy), "a\nfile\n");
    let patch = env.banger(["vm", "workspace", "export", "w"]).run().expect(0);
    assert_eq!(patch.out(), "");
    delete(&env, "w");
}

/// A first transfer that ended after its last file and before the VM's record.
#[test]
fn what_was_brought_and_not_recorded_is_brought_again_when_told() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    // The record names another place.
    prepare(&env, "w", &repo, &place(&env, "other"), &[]).expect(0);
    says(&env, &repo, &["checkout", "-q", "main"]);
    let out = prepare(&env, "w", &repo, &copy, &[]).expect(1);
    assert!(out.err().contains("has no record of it") && out.err().contains("--force"), "{out}");
    prepare(&env, "w", &repo, &copy, &["--force"]).expect(0);
    assert_eq!((tree(&copy), says(&env, &copy, &["status", "--porcelain"])), (tree(&repo), Vec::new()));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    // What was never brought is somebody else's.
    let theirs = corpus::make(&env, "plain");
    let out = prepare(&env, "w", &repo, &theirs, &["--force"]).expect(1);
    assert!(out.err().contains("is in use"), "{out}");
    delete(&env, "w");
}

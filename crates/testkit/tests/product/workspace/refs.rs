//! Branches and index of a workspace that comes again: what is only the guest's stays, or is not lost unasked.

use super::{corpus, place, prepare, refresh::with_submodule, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{fs, path::Path};

fn commit(env: &TestEnv, dir: &Path, name: &str) -> Vec<u8> {
    fs::write(dir.join(name), name).expect("a file");
    says(env, dir, &["add", name]);
    says(env, dir, &["commit", "-q", "-m", name]);
    at(env, dir, "HEAD")
}

#[track_caller]
fn at(env: &TestEnv, dir: &Path, name: &str) -> Vec<u8> {
    says(env, dir, &["rev-parse", name])
}

/// HEAD and files are as they were brought; what was done is on the branch the guest left.
#[test]
fn work_on_a_branch_that_was_brought_is_not_overwritten_unasked() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    for mode in ["overlay", "full"] {
        for packed in [false, true] {
            let copy = place(&env, &format!("guest-{mode}-{packed}"));
            let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
            again(&[]).expect(0);
            let brought = at(&env, &copy, "HEAD");
            let work = commit(&env, &copy, "work");
            says(&env, &copy, &["checkout", "-q", "-b", "aside", "HEAD~1"]);
            if packed {
                says(&env, &copy, &["pack-refs", "--all"]);
            }
            let before = tree(&copy);
            let out = again(&[]).expect(1);
            assert!(out.err().contains("was worked in") && out.err().contains("refs/heads/main"), "{mode}: {out}");
            assert!(out.err().contains("banger vm cp w:"), "an export has none of it: {out}");
            assert_eq!((at(&env, &copy, "main"), tree(&copy)), (work.clone(), before), "{mode}");

            // Under a name that only the guest has it stays, whatever happens to the other.
            says(&env, &copy, &["branch", "mine", "main"]);
            if packed {
                says(&env, &copy, &["pack-refs", "--all"]);
            }
            again(&["--force"]).expect(0);
            assert_eq!((at(&env, &copy, "main"), at(&env, &copy, "mine")), (brought.clone(), work.clone()), "{mode}");
            again(&[]).expect(0);
            assert_eq!(at(&env, &copy, "mine"), work, "{mode}");
        }
    }
    delete(&env, "w");
}

/// An index that holds what no file does: not even an export would have it.
#[test]
fn what_is_only_staged_is_work() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "states");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", mode], more].concat());
        again(&[]).expect(0);
        let before = fs::read(copy.join("same")).expect("a file");
        fs::write(copy.join("same"), "work\n").expect("a file");
        says(&env, &copy, &["add", "same"]);
        // It stands in the tree, too.
        let out = again(&[]).expect(1);
        assert!(out.err().contains("was worked in") && out.err().contains("export w saves"), "{out}");
        fs::write(copy.join("same"), before).expect("a file");
        let out = again(&[]).expect(1);
        assert!(out.err().contains("in what is staged") && out.err().contains("banger vm cp w:"), "{out}");
        assert_eq!(says(&env, &copy, &["show", ":same"]), b"work\n");
        again(&["--force"]).expect(0);
        again(&[]).expect(0);
    }
    delete(&env, "w");
}

/// Branches nobody is on, which only the full mode brings: they follow the repository while the guest leaves them
/// alone.
#[test]
fn other_branches_follow_the_repository() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    says(&env, &repo, &["branch", "old", "side"]);
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    full(&[]).expect(0);
    // The guest had them in files of their own, and changed nothing.
    for name in ["side", "old"] {
        says(&env, &copy, &["checkout", "-q", name]);
        says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "x"]);
        says(&env, &copy, &["reset", "-q", "--hard", "HEAD~1"]);
    }
    says(&env, &copy, &["checkout", "-q", "main"]);
    says(&env, &repo, &["branch", "-q", "-f", "side", "main"]);
    says(&env, &repo, &["branch", "-q", "-D", "old"]);
    full(&[]).expect(0);
    let heads = ["for-each-ref", "refs/heads"];
    assert_eq!(says(&env, &copy, &heads), says(&env, &repo, &heads));

    says(&env, &copy, &["branch", "-q", "-f", "side", "main~2"]);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("on refs/heads/side"), "{out}");
    full(&["--force"]).expect(0);
    assert_eq!(says(&env, &copy, &heads), says(&env, &repo, &heads));

    // A name that takes the room of the guest's own.
    says(&env, &copy, &["branch", "topic/mine", "main~1"]);
    says(&env, &repo, &["branch", "topic", "main"]);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("on refs/heads/topic/mine"), "{out}");
    assert_eq!(at(&env, &copy, "topic/mine"), at(&env, &repo, "main~1"));
    full(&["--force"]).expect(0);
    full(&[]).expect(0);
    assert_eq!(says(&env, &copy, &heads), says(&env, &repo, &heads));

    // One of the repository's own, which the guest had in a file of its own.
    says(&env, &repo, &["checkout", "-q", "-b", "more/here"]);
    full(&[]).expect(0);
    says(&env, &repo, &["checkout", "-q", "main"]);
    says(&env, &repo, &["branch", "-q", "-D", "more/here"]);
    says(&env, &repo, &["checkout", "-q", "-b", "more"]);
    for _ in 0..2 {
        full(&[]).expect(0);
        assert_eq!(says(&env, &copy, &heads), says(&env, &repo, &heads));
    }
    delete(&env, "w");
}

#[test]
fn branches_of_a_submodule_are_the_guests_too() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (with_submodule(&env), place(&env, "guest"));
    let full = |more: &[&str]| prepare(&env, "w", &repo, &copy, &[&["--mode", "full"], more].concat());
    full(&[]).expect(0);
    let inner = copy.join("libs/inner");
    let (before, here) = (at(&env, &inner, "HEAD~1"), at(&env, &inner, "HEAD"));
    says(&env, &inner, &["branch", "mine", "HEAD~1"]);
    says(&env, &inner, &["pack-refs", "--all"]);
    full(&[]).expect(0);
    assert_eq!(at(&env, &inner, "mine"), before);
    // One that was brought, while HEAD stays.
    says(&env, &inner, &["checkout", "-q", "-b", "aside"]);
    says(&env, &inner, &["branch", "-q", "-f", "main", "HEAD~1"]);
    let out = full(&[]).expect(1);
    assert!(out.err().contains("in the submodule libs/inner") && out.err().contains("banger vm cp w:"), "{out}");
    assert_eq!(at(&env, &inner, "main"), before);
    full(&["--force"]).expect(0);
    assert_eq!((at(&env, &inner, "main"), at(&env, &inner, "mine")), (here.clone(), before));
    // A commit on no branch, which the repository around it sees as a change of its own.
    says(&env, &inner, &["checkout", "-q", "--detach"]);
    let own = commit(&env, &inner, "own");
    let out = full(&[]).expect(1);
    assert!(out.err().contains("in the submodule libs/inner") && out.err().contains("banger vm cp w:"), "{out}");
    assert_eq!(at(&env, &inner, "HEAD"), own);
    full(&["--force"]).expect(0);
    assert_eq!(at(&env, &inner, "HEAD"), here);
    full(&[]).expect(0);
    delete(&env, "w");
}

/// Whatever git in the guest makes of its refs and logs.
#[test]
fn what_is_overwritten_stays_under_another_name() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = with_submodule(&env);
    says(&env, &repo, &["tag", "t", "HEAD~2"]);
    let plain = place(&env, "src-plain");
    for (mode, from) in [("overlay", &plain), ("full", &repo)] {
        let copy = place(&env, &format!("guest-{mode}"));
        let to = copy.to_str().expect("UTF-8").to_owned();
        let again = |more: &[&str]| prepare(&env, "w", from, &copy, &[&["--mode", mode], more].concat());
        let overwrite = |said: &str| {
            let args = ["vm", "workspace", "prepare", "--force", "--mode", mode, "--guest-path", &to, "w"];
            let out = env.banger(args).args([from]).run().expect(0);
            assert_eq!(out.err().contains("stays in the guest, as"), !said.is_empty(), "{mode}: {out}");
            assert!(out.err().contains(said), "{mode}: {said}: {out}");
            assert_eq!(at(&env, &copy, "HEAD"), at(&env, from, "HEAD"), "{mode}");
            assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"", "{mode}");
            says(&env, &copy, &["fsck", "--no-dangling"]);
        };
        again(&[]).expect(0);
        let work = commit(&env, &copy, "work");
        overwrite("refs/banger/before/1/heads/main\n");
        says(&env, &copy, &["reflog", "expire", "--expire=now", "--all"]);
        says(&env, &copy, &["gc", "-q", "--prune=now"]);
        overwrite("");
        again(&[]).expect(0);
        assert_eq!(at(&env, &copy, "refs/banger/before/1/heads/main"), work, "{mode}");
        assert_eq!(says(&env, &copy, &["show", "refs/banger/before/1/heads/main:work"]), b"work");
        // On no branch.
        says(&env, &copy, &["checkout", "-q", "--detach"]);
        let work = commit(&env, &copy, "detached");
        overwrite("refs/banger/before/2/HEAD\n");
        assert_eq!(at(&env, &copy, "refs/banger/before/2/HEAD"), work, "{mode}");
        // On a branch that stays anyway.
        says(&env, &copy, &["checkout", "-q", "-b", "mine"]);
        commit(&env, &copy, "mine");
        overwrite("");
        if mode == "full" {
            let inner = copy.join("libs/inner");
            says(&env, &copy, &["tag", "-f", "t", "HEAD~1"]);
            let (tag, work) = (at(&env, &copy, "t"), commit(&env, &inner, "inner"));
            overwrite("refs/banger/before/3/tags/t and 1 more\n");
            assert_eq!(at(&env, &copy, "t"), at(&env, &repo, "t"));
            assert_eq!(at(&env, &copy, "refs/banger/before/3/tags/t"), tag);
            assert_eq!(at(&env, &inner, "refs/banger/before/1/heads/main"), work);
        }
        // They are about this workspace alone.
        let nested = place(&env, &format!("guest-of-{mode}"));
        prepare(&env, "w", &copy, &nested, &["--mode", "full"]).expect(0);
        assert_eq!(says(&env, &nested, &["for-each-ref", "refs/banger"]), b"", "{mode}");
    }
    delete(&env, "w");
}

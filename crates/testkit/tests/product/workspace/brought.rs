//! What was brought, and what the guest made beside it.

use super::{corpus, place, prepare, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::fs;

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

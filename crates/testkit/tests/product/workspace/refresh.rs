//! A workspace whose repository moved on.

use super::{corpus, place, prepare, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::fs;

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

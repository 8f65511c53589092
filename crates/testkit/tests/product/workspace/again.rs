//! A workspace that comes again by the way of `exec --auto-prepare`: by several at once, and as it was asked for.

use super::{corpus, place, prepare, refresh::with_submodule, says, tree};
use crate::{SOON, delete, start};
use banger_testkit::{TestEnv, wait_until};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    thread,
};

/// Each of them has what is here, and none is in another's way.
#[test]
fn several_bring_it_at_once() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::many_files(&env, 3_000), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    for round in 0..3 {
        let now = format!("round {round}\n");
        for dir in 0..30 {
            fs::write(repo.join(format!("d{dir}/f{}", dir * 100)), &now).expect("a file");
        }
        says(&env, &repo, &["commit", "-q", "-a", "-m", &now]);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let exec = ["vm", "exec", "--quiet", "--auto-prepare", "w", "--", "cat", "d0/f0", "d29/f2900"];
                    let out = env.banger(exec).patience(SOON * 2).run().expect(0);
                    assert_eq!((out.out(), out.err()), (now.repeat(2), String::new()), "{out}");
                });
            }
        });
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
        assert!(tree(&copy) == tree(&repo));
        assert!(!copy.join(".git/banger").exists());
    }
    delete(&env, "w");
}

/// Whoever waits for a VM that is deleted meanwhile waits for the one that has its name then, and whoever is at work
/// there.
#[test]
fn a_vm_that_was_made_anew_while_one_waits_is_waited_for() {
    let Some(env) = TestEnv::fake() else { return };
    let begin = || {
        start(&env, "w");
        let run = env.layout().vm_run(&env.vm("w")["id"].as_str().expect("an id").parse().expect("an id"));
        let turn = File::open(run).expect("the VM's directory");
        flock(&turn, FlockOperation::LockExclusive).expect("a turn");
        turn
    };
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    let first = begin();
    let at = ["--guest-path", copy.to_str().expect("UTF-8")];
    let bringing = env.banger(["vm", "workspace", "prepare", "w"]).args(at).args([&repo]).spawn();
    let waits = "waiting for another command that brings a repository into w";
    bringing.wait_stderr(waits, SOON);
    env.banger(["vm", "delete", "-f", "w"]).run().expect(0);
    let second = begin();
    drop(first);
    wait_until(SOON, "it waits again", || {
        let said = bringing.stderr_so_far();
        if said.matches(waits).count() == 2 { Ok(()) } else { Err(said) }
    });
    assert!(!copy.exists(), "somebody else is at work there");
    drop(second);
    bringing.finish(SOON).expect(0);
    assert_eq!(tree(&copy), tree(&repo));
    delete(&env, "w");
}

/// What is as it was is not written again: a build there goes by times.
#[test]
fn what_did_not_change_keeps_its_times() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    let known = |name: &str| {
        let meta = fs::symlink_metadata(copy.join(name)).expect("metadata");
        (meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    let same = ["binary", "large", "run", "link", "empty", "a dir/with space"];
    let before = same.map(known);
    let counter = known("counter");
    // One is edited there, and one has another mode.
    fs::write(copy.join("side"), "work\n").expect("a file");
    fs::set_permissions(copy.join("-dash"), fs::Permissions::from_mode(0o600)).expect("permissions");
    fs::write(repo.join("counter"), "moved on\n").expect("a file");
    says(&env, &repo, &["commit", "-q", "-a", "-m", "moved on"]);
    prepare(&env, "w", &repo, &copy, &["--force"]).expect(0);
    assert_eq!(same.map(known), before);
    assert_ne!(known("counter"), counter);
    // git looks at none of them again, and is asked before it has looked itself.
    assert_eq!(says(&env, &copy, &["diff-files", "--name-only"]), b"");
    assert_eq!(tree(&copy), tree(&repo));
    assert_eq!(fs::metadata(copy.join("-dash")).expect("metadata").mode() & 0o777, 0o644);
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    delete(&env, "w");
}

/// A change without a commit is as new as it is there: what was built meanwhile was built without it, whenever it was
/// made here. One that comes again as it was is not new.
#[test]
fn what_did_change_is_newer_than_what_was_built_without_it() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    fs::write(repo.join(".gitignore"), "*.o\n").expect("a file");
    says(&env, &repo, &["add", ".gitignore"]);
    says(&env, &repo, &["commit", "-q", "-m", "rules"]);
    fs::write(repo.join("untracked"), "u\n").expect("a file");
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        let again = || prepare(&env, "w", &repo, &copy, &["--include-untracked", "--mode", mode]).expect(0);
        let time = |name: &str| {
            let meta = fs::symlink_metadata(copy.join(name)).expect("metadata");
            (meta.mtime(), meta.mtime_nsec())
        };
        let build = || fs::write(copy.join("ignored.o"), "built").expect("a file");
        let edit = |text: &str| {
            fs::write(repo.join("counter"), text).expect("a file");
            fs::write(repo.join("untracked"), text).expect("a file");
            fs::remove_file(repo.join("link")).expect("a file");
            std::os::unix::fs::symlink(text.trim(), repo.join("link")).expect("a link");
        };
        again();
        edit("edited before it was built\n");
        build();
        again();
        let carried = ["counter", "untracked", "link"];
        let new = carried.map(time);
        assert!(new.iter().all(|new| *new > time("ignored.o")), "{mode}: {new:?}");
        build();
        again();
        assert_eq!(carried.map(time), new, "{mode}");
        // As long as before.
        edit("edited before it was BUILT\n");
        build();
        again();
        assert!(carried.map(time).iter().all(|new| *new > time("ignored.o")), "{mode}");
        assert_eq!(fs::read_to_string(copy.join("counter")).expect("a file"), "edited before it was BUILT\n");
        says(&env, &repo, &["checkout", "-q", "counter", "link"]);
    }
    delete(&env, "w");
}

/// It comes as the first time: the guest's own branch, what is not tracked, all of the history.
#[test]
fn it_comes_again_as_it_was_asked_for() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = with_submodule(&env);
    let plain = place(&env, "src-plain");
    let move_on = |dir: &Path, content: &str| {
        fs::write(dir.join("file"), content).expect("a file");
        says(&env, dir, &["add", "file"]);
        says(&env, dir, &["commit", "-q", "-m", content]);
    };
    let at = |dir: &Path, name: &str| says(&env, dir, &["rev-parse", name]);
    let exec = || {
        let git = ["git", "symbolic-ref", "HEAD"];
        env.banger(["vm", "exec", "--quiet", "--auto-prepare", "w", "--"]).args(git).run().expect(0).out()
    };

    let copy = place(&env, "guest-branch");
    prepare(&env, "w", &plain, &copy, &["--branch", "mine"]).expect(0);
    for round in ["one", "two"] {
        move_on(&plain, round);
        assert_eq!(exec(), "refs/heads/mine\n");
        assert_eq!(at(&copy, "mine"), at(&plain, "HEAD"), "{round}");
        assert_eq!(tree(&copy), tree(&plain), "{round}");
    }

    // Where the branch begins moves with the name it was given.
    let copy = place(&env, "guest-from");
    prepare(&env, "w", &plain, &copy, &["--branch", "mine", "--from", "main~1"]).expect(0);
    fs::write(plain.join("counter"), "uncommitted\n").expect("a file");
    for round in ["three", "four"] {
        move_on(&plain, round);
        assert_eq!(exec(), "refs/heads/mine\n");
        assert_eq!(at(&copy, "mine"), at(&plain, "main~1"), "{round}");
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    }

    let copy = place(&env, "guest-untracked");
    fs::write(plain.join("untracked"), "u\n").expect("a file");
    prepare(&env, "w", &plain, &copy, &["--include-untracked"]).expect(0);
    for round in ["five", "six"] {
        fs::write(plain.join("untracked"), round).expect("a file");
        fs::write(plain.join(format!("new-{round}")), round).expect("a file");
        move_on(&plain, round);
        assert_eq!(exec(), "refs/heads/main\n");
        assert_eq!(tree(&copy), tree(&plain), "{round}");
        let status = ["status", "--porcelain=v2"];
        assert_eq!(says(&env, &copy, &status), says(&env, &plain, &status), "{round}");
    }

    let copy = place(&env, "guest-full");
    prepare(&env, "w", &repo, &copy, &["--mode", "full"]).expect(0);
    for round in ["seven", "eight"] {
        says(&env, &repo, &["branch", "-f", "aside", "HEAD"]);
        move_on(&repo.join("libs/inner"), round);
        says(&env, &repo, &["add", "libs/inner"]);
        move_on(&repo, round);
        assert_eq!(exec(), "refs/heads/main\n");
        assert_eq!(tree(&copy), tree(&repo), "{round}");
        for args in [["log", "--format=%H %P"].as_slice(), &["for-each-ref", "refs/heads"], &["submodule", "status"]] {
            assert_eq!(says(&env, &copy, args), says(&env, &repo, args), "{round}: git {args:?}");
        }
    }
    delete(&env, "w");
}

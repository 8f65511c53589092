//! Repositories and workspaces of somebody else than whoever works with them.

use super::{corpus, git, place, prepare, says, tree};
use crate::{delete, start, vms};
use banger_testkit::{TestEnv, require};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Two users nobody knows but by number.
const USERS: (u32, u32) = (12_001, 12_002);

/// A repository with an edit that is not committed, made by the user of `env`.
fn repository(env: &TestEnv) -> PathBuf {
    let line = "umask 022; git init -q -b main project; cd project; n=0; while [ $n -lt 12 ]; do n=$((n + 1)); echo $n > counter; \
                git add -A; git -c user.name=T -c user.email=t@t commit -q -m $n; done; echo edited >> counter; echo u > untracked";
    env.program("sh").args(["-ec", line]).run().expect(0);
    place(env, "project")
}

/// What git says of both is the same.
#[track_caller]
fn assert_same(env: &TestEnv, copy: &Path, repo: &Path) {
    for args in [["status", "--porcelain=v2", "-uno"].as_slice(), &["diff", "HEAD"], &["log", "-10", "--format=%H %T"]]
    {
        assert_eq!(says(env, copy, args), says(env, repo, args), "git {args:?}");
    }
}

/// Files and sockets of banger's that the user of `env` can read below another's home.
fn readable(env: &TestEnv, home: &Path) -> Vec<String> {
    let kinds = ["-readable", "(", "-type", "f", "-o", "-type", "s", ")"];
    let dirs = ["state", "cache", "run"].map(|name| home.join(name));
    // It says which directories it may not enter, and fails.
    let found = env.program("find").args(dirs).args(kinds).run();
    assert!(found.err().contains("Permission denied"), "{found}");
    found.out().lines().map(str::to_owned).collect()
}

/// Each has a VM called `w`, and one has a repository that everybody may read.
#[test]
fn users_of_one_host_know_nothing_of_each_other() {
    let (Some(first), Some(second)) = (TestEnv::fake_as(USERS.0), TestEnv::fake_as(USERS.1)) else { return };
    let (repo, copy) = (repository(&first), place(&first, "guest"));
    for env in [&first, &second] {
        fs::set_permissions(env.home(), fs::Permissions::from_mode(0o755)).expect("a home as hosts have it");
        start(env, "w");
    }
    // As in an archive of which nothing is to be changed.
    fs::set_permissions(repo.join(".git/index"), fs::Permissions::from_mode(0o444)).expect("permissions");
    prepare(&first, "w", &repo, &copy, &[]).expect(0);
    assert_same(&first, &copy, &repo);

    assert_eq!(vms(&second), [("w".to_owned(), "running".to_owned())]);
    let (theirs, ours) = (first.vm("w"), second.vm("w"));
    assert!(theirs["id"] != ours["id"] && theirs["workspace"].is_object() && ours["workspace"].is_null(), "{ours:#}");
    let id = theirs["id"].as_str().expect("an id");
    second.banger(["vm", "show", id]).run().expect(1);
    // Told where the other's is, one gets nothing out of it.
    for args in [["ps"].as_slice(), &["vm", "exec", "w", "--", "true"], &["vm", "workspace", "export", "w"]] {
        let out = second.banger(args).env("BANGER_HOME", first.home()).run();
        assert!(out.code() != 0 && out.out().is_empty(), "{args:?}: {out}");
        assert!(out.err().contains("Permission denied") || out.err().contains("another user"), "{args:?}: {out}");
    }
    assert_eq!(readable(&second, first.home()), [""; 0]);

    // git asks who owns a repository before it believes it; banger believes none, and reads what may be read.
    let plain = second.program("git").args(["status"]).current_dir(&repo).run().expect(128);
    assert!(plain.err().contains("dubious ownership"), "{plain}");
    let (before, copy) = (tree(&repo), place(&second, "guest"));
    let dry = second.banger(["vm", "run", "--dry-run", "--quiet"]).args([&repo]).run().expect(0);
    assert_eq!(dry.out(), "counter\n");
    prepare(&second, "w", &repo, &copy, &[]).expect(0);
    assert_same(&second, &copy, &repo);
    second.program("sh").args(["-c", "echo work >> guest/counter"]).run().expect(0);
    let out = second.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(1);
    assert!(out.err().contains("nothing was changed") && out.err().contains("ermission denied"), "{out}");
    assert_eq!(tree(&repo), before);
    // What the repository's own user keeps from others is named.
    fs::set_permissions(repo.join("counter"), fs::Permissions::from_mode(0o600)).expect("permissions");
    let out = prepare(&second, "w", &repo, &place(&second, "guest-2"), &[]).expect(1);
    assert!(out.err().contains("counter: Permission denied"), "{out}");

    delete(&second, "w");
    // The other's goes on.
    assert_eq!(first.vm("w")["id"], id);
    assert_eq!(vms(&first), [("w".to_owned(), "running".to_owned())]);
    delete(&first, "w");
}

/// Root, here and in the guest, where both sides belong to an ordinary user.
#[test]
fn root_works_with_what_belongs_to_others() {
    if !require("root") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "somebody-elses"), place(&env, "guest"));
    let again = |more: &[&str]| prepare(&env, "w", &repo, &copy, more);
    again(&[]).expect(0);
    env.program("chown").args(["-R", "12001:12001"]).args([&copy]).run().expect(0);
    let plain = env.program("git").args(["status"]).current_dir(&copy).run().expect(128);
    assert!(plain.err().contains("dubious ownership"), "{plain}");

    fs::write(copy.join("run"), "work\n").expect("a file");
    let out = again(&[]).expect(1);
    assert!(out.err().contains("was worked in"), "{out}");
    env.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(0);
    assert_eq!(fs::read(repo.join("run")).expect("a file"), b"work\n");
    assert_eq!(tree(&repo), tree(&copy));
    again(&["--force"]).expect(0);
    assert_same(&env, &copy, &repo);
    again(&[]).expect(0);
    assert_eq!(git(&env, &copy, &["fsck", "--no-dangling"]).code(), 0);
    delete(&env, "w");
}

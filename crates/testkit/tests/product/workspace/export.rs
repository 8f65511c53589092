//! What a guest did comes back whole, or not at all.

use super::{corpus, git, place, prepare, says, tree};
use crate::{delete, start};
use banger_testkit::{Output, TestEnv, require};
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A repository in a VM, worked in: commits, edits, new and removed files, modes, links, binary, a rename.
fn worked_in(env: &TestEnv, name: &str) -> (PathBuf, PathBuf) {
    start(env, "w");
    let (repo, copy) = (corpus::make(env, name), place(env, "guest"));
    prepare(env, "w", &repo, &copy, &[]).expect(0);
    work(env, &copy);
    (repo, copy)
}

fn work(env: &TestEnv, copy: &Path) {
    fs::write(copy.join("committed"), "in a commit\n").expect("a file");
    says(env, copy, &["add", "committed"]);
    says(env, copy, &["commit", "-q", "-m", "work"]);
    fs::write(copy.join("staged"), "staged\n").expect("a file");
    says(env, copy, &["add", "staged"]);
    fs::create_dir_all(copy.join("new dir")).expect("a directory");
    fs::write(copy.join("new dir/untracked \"one\""), "u\n").expect("a file");
    fs::write(copy.join("new-binary"), (0..=255_u8).rev().cycle().take(70_000).collect::<Vec<_>>()).expect("a file");
    fs::write(copy.join("no-newline"), "x").expect("a file");
    fs::write(copy.join("script"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(copy.join("script"), fs::Permissions::from_mode(0o755)).expect("permissions");
    symlink("new dir", copy.join("to-dir")).expect("a link");
}

fn export(env: &TestEnv, more: &[&str]) -> Output {
    env.banger(["vm", "workspace", "export", "w"]).args(more).run()
}

#[test]
fn everything_the_guest_did_round_trips() {
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = worked_in(&env, "plain");
    fs::write(copy.join("binary"), vec![7; 90_000]).expect("a file");
    fs::rename(copy.join("READ ME"), copy.join("READ ME TOO")).expect("a rename");
    fs::remove_file(copy.join("side")).expect("a file");
    fs::set_permissions(copy.join("run"), fs::Permissions::from_mode(0o644)).expect("permissions");
    let looks = |dir: &Path| {
        let status = says(&env, dir, &["status", "--porcelain=v2"]);
        (fs::read(dir.join(".git/index")).expect("an index"), says(&env, dir, &["for-each-ref"]), status, tree(dir))
    };
    let before = looks(&copy);
    let file = place(&env, "fix.patch");
    let out = export(&env, &["--json", "-o", file.to_str().expect("UTF-8")]).expect(0).json();
    assert_eq!(out["files"].as_array().expect("files").len(), 12, "{out:#}");
    assert!(before == looks(&copy), "the guest's index, refs, status or files changed");
    assert!(
        !fs::read_dir(copy.join(".git"))
            .expect("a directory")
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().contains("banger-export") })
    );
    // stdout is the same patch.
    assert_eq!(export(&env, &[]).expect(0).stdout, fs::read(&file).expect("a patch"));

    says(&env, &repo, &["apply", file.to_str().expect("UTF-8")]);
    assert_eq!(tree(&repo), tree(&copy));
    delete(&env, "w");
}

#[test]
fn apply_keeps_what_the_host_changed_meanwhile_or_changes_nothing() {
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = worked_in(&env, "states");
    // Brought dirty: what the host had changed is no part of the patch.
    let patch = String::from_utf8_lossy(&export(&env, &[]).expect(0).stdout).into_owned();
    assert!(!patch.contains("unstaged") && patch.contains("committed"), "{patch}");

    fs::write(repo.join("staged"), "in the way\n").expect("a file");
    let before = tree(&repo);
    let refused = export(&env, &["--apply"]).expect(1);
    assert!(refused.err().contains("nothing was changed") && refused.err().contains("staged"), "{refused}");
    assert_eq!(tree(&repo), before, "all or nothing");

    fs::write(repo.join("staged"), tree_file(&copy, "staged-before")).ok();
    says(&env, &repo, &["checkout-index", "-f", "staged"]);
    fs::write(repo.join("untracked"), "changed meanwhile\n").expect("a file");
    let index = fs::read(repo.join(".git/index")).expect("an index");
    let applied = export(&env, &["--apply"]).expect(0);
    assert!(applied.err().contains("files changed in"), "{applied}");
    for name in ["committed", "new dir/untracked \"one\"", "new-binary", "script", "staged"] {
        assert_eq!(fs::read(repo.join(name)).expect(name), fs::read(copy.join(name)).expect(name), "{name}");
    }
    assert_eq!(fs::read(repo.join("untracked")).expect("a file"), b"changed meanwhile\n");
    assert_eq!(fs::read(repo.join(".git/index")).expect("an index"), index, "the host's index was touched");
    // Once more it does not apply: it is there.
    export(&env, &["--apply"]).expect(1);
    delete(&env, "w");
}

fn tree_file(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).unwrap_or_default()
}

#[test]
fn a_base_of_ones_own_and_paths_left_out() {
    let Some(env) = TestEnv::fake() else { return };
    let (_, copy) = worked_in(&env, "detached");
    let since = export(&env, &["--base-commit", "HEAD"]).expect(0).out();
    assert!(!since.contains("b/committed") && since.contains("b/staged"), "{since}");
    let part = export(&env, &["--exclude", "new-binary", "--exclude", "new dir"]).expect(0).out();
    assert!(!part.contains("new-binary") && !part.contains("untracked") && part.contains("b/script"), "{part}");
    for (base, code) in [("no-such-commit", 1), ("--output=/tmp/x", 2)] {
        let out = export(&env, &["--base-commit", base]);
        assert!(out.code() == code, "{out}");
    }
    let elsewhere = export(&env, &["--guest-path", place(&env, "nowhere").to_str().expect("UTF-8")]).expect(1);
    assert!(elsewhere.err().contains("make a patch"), "{elsewhere}");
    // A file that cannot be written is no patch half written.
    let out = export(&env, &["-o", "/nonexistent/x.patch"]).expect(1);
    assert!(out.err().contains("/nonexistent/x.patch"), "{out}");
    assert!(copy.join("committed").exists());
    delete(&env, "w");
}

#[test]
fn a_vm_without_a_workspace_says_so() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let out = export(&env, &[]).expect(1);
    assert!(out.err().contains("has no workspace") && out.err().contains("vm workspace prepare"), "{out}");
    let out = export(&env, &["--json"]).expect(1);
    assert_eq!(out.json()["code"], "invalid", "{out}");
    delete(&env, "w");
}

#[test]
fn without_git_in_the_guest_the_files_arrive_and_an_export_says_what_is_missing() {
    let Some(env) = TestEnv::fake() else { return };
    super::without_git(&env, "w");
    let (repo, copy) = (corpus::make(&env, "crlf"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    assert_eq!(tree(&copy), tree(&repo));
    let log = ["log", "--format=%H %s"];
    assert_eq!(git(&env, &copy, &log).expect(0).out(), git(&env, &repo, &log).expect(0).out());
    let status = ["status", "--porcelain=v2", "-uno"];
    assert_eq!(says(&env, &copy, &status), says(&env, &repo, &status));
    let out = export(&env, &[]).expect(1);
    assert!(out.err().contains("no git") && out.err().contains("banger vm cp"), "{out}");
    delete(&env, "w");
}

/// As if a file had been checked out and edited within one tick of the clock, an hour ago, and is as large as it was:
/// git looks into it because it is no older than the index. The index has one entry, behind a header of 12 bytes.
fn edit_in_one_tick(copy: &Path) {
    fs::write(copy.join("file"), "two\n").expect("a file");
    let hour = Duration::from_secs(3600);
    let file = File::options().write(true).open(copy.join("file")).expect("a file");
    file.set_modified(SystemTime::now() - hour).expect("a time");
    let meta = file.metadata().expect("metadata");
    let path = copy.join(".git/index");
    let mut index = fs::read(&path).expect("an index");
    for (number, time) in [meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec()].into_iter().enumerate() {
        let time = u32::try_from(time).expect("a time before 2106");
        index[12 + 4 * number..][..4].copy_from_slice(&time.to_be_bytes());
    }
    fs::write(&path, index).expect("an index");
    let index = File::options().write(true).open(&path).expect("an index");
    index.set_modified(meta.modified().expect("a time")).expect("a time");
}

#[test]
fn what_was_edited_in_the_moment_after_it_was_brought_is_the_guests_work() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (place(&env, "small"), place(&env, "guest"));
    fs::create_dir(&repo).expect("a directory");
    fs::write(repo.join("file"), "one\n").expect("a file");
    says(&env, &repo, &["init", "-q", "-b", "main"]);
    says(&env, &repo, &["add", "file"]);
    says(&env, &repo, &["commit", "-q", "-m", "one"]);
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    edit_in_one_tick(&copy);
    assert_eq!(says(&env, &copy, &["--no-optional-locks", "status", "--porcelain"]), b" M file\n");

    let again = prepare(&env, "w", &repo, &copy, &[]).expect(1);
    assert!(again.err().contains("was worked in"), "{again}");
    let patch = export(&env, &[]).expect(0).out();
    assert!(patch.contains("-one\n+two\n"), "{patch}");
    delete(&env, "w");
}

/// A repository in which an `--apply` was killed after it put a file away: whatever comes next there puts it back, or
/// says why it does not.
#[test]
fn an_apply_that_was_killed_is_taken_back_by_what_comes_next() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    fs::write(copy.join("file"), "edited\n").expect("a file");
    let killed = || {
        let stage = repo.join(".git/banger-apply-x");
        fs::create_dir_all(stage.join("away")).expect("a directory");
        fs::rename(repo.join("file"), stage.join("away/0")).expect("a file");
        fs::write(stage.join("journal"), "old - file\0end\0").expect("a journal");
        stage
    };
    let before = tree(&repo);
    let stage = killed();
    let dry = env.banger(["vm", "run", "--dry-run"]).args([&repo]).run().expect(0);
    assert!(dry.err().contains("are as they were before") && dry.out().contains("file"), "{dry}");
    assert_eq!((tree(&repo), stage.exists()), (before, false));

    killed();
    let applied = export(&env, &["--apply"]).expect(0);
    assert!(applied.err().contains("are as they were before") && applied.err().contains("1 file changed"), "{applied}");
    assert_eq!(tree(&repo), tree(&copy));

    killed();
    fs::write(repo.join("file"), "written meanwhile\n").expect("a file");
    for out in [export(&env, &["--apply"]), prepare(&env, "w", &repo, &copy, &[])] {
        let out = out.expect(1);
        assert!(out.err().contains("cannot be taken back") && out.err().contains("banger-apply-x/away"), "{out}");
        assert_eq!(fs::read(repo.join("file")).expect("a file"), b"written meanwhile\n");
        assert_eq!(fs::read(stage.join("away/0")).expect("a file"), b"edited\n");
    }
    delete(&env, "w");
}

/// Links and attributes that move are in the patch with all that they say, so that it can be looked at.
#[test]
fn links_and_attributes_that_move_round_trip() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    fs::create_dir(repo.join("dir")).expect("a directory");
    symlink("../file", repo.join("dir/near")).expect("a link");
    fs::write(repo.join("dir/.gitattributes"), "*.txt text\n").expect("a file");
    says(&env, &repo, &["add", "-A"]);
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    fs::create_dir(copy.join("other")).expect("a directory");
    for name in ["near", ".gitattributes"] {
        fs::rename(copy.join("dir").join(name), copy.join("other").join(name)).expect("a rename");
    }
    export(&env, &["--apply"]).expect(0);
    assert_eq!(tree(&repo), tree(&copy));
    // One level up the same link leads out.
    fs::rename(copy.join("other/near"), copy.join("near")).expect("a rename");
    let out = export(&env, &["--apply", "--base-commit", "HEAD"]).expect(1);
    assert!(out.err().contains("touches near: it points to ../file"), "{out}");
    delete(&env, "w");
}

/// A private mount namespace in which the repository is on a file system with little room. What stands there is printed
/// before and after the patch.
const LITTLE_ROOM: &str = r#"
set -eu
repo=$1 banger=$2
cp -a "$repo" "$repo.copy"
mount -t tmpfs -o size=6M none "$repo"
cp -a "$repo.copy/." "$repo/"
look() { cd "$repo"; find . -path ./.git -prune -o -type f -exec sha256sum {} + | sort -k 2; ls -A .git; cd /; }
look > "$repo.before"
status=0
"$banger" vm workspace export w --apply || status=$?
look > "$repo.after"
cmp "$repo.before" "$repo.after"
mount -o remount,size=32M "$repo"
"$banger" vm workspace export w --apply
cat "$repo/z-large" | wc -c
exit $status
"#;

#[test]
fn a_patch_that_the_disk_has_no_room_for_changes_nothing() {
    if !require("mount") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = worked_in(&env, "detached");
    fs::write(copy.join("file"), "edited\n").expect("a file");
    // git writes it last, when the others are there already. It packs well on the way.
    fs::write(copy.join("z-large"), vec![0; 8 << 20]).expect("a file");
    let banger = banger_testkit::bin_dir().join("banger");
    let script = ["--mount", "--propagation", "private", "--", "bash", "-c", LITTLE_ROOM, "bash"];
    let out = env.program("unshare").args(script).args([&repo, &banger]).run().expect(1);
    assert!(out.err().contains("nothing was changed") && out.err().contains("No space left"), "{out}");
    assert!(out.out().ends_with("8388608\n"), "{out}");
    delete(&env, "w");
}

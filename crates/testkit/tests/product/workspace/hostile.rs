//! A repository that would like to run something on the host, and a guest that would like to write there.

use super::{corpus, place, prepare, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn nothing_a_repository_names_is_run_on_the_host() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, marker) = (corpus::make(&env, "states"), place(&env, "marker"));
    let evil = place(&env, "evil");
    program(&evil, &format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", marker.display()));
    let evil = evil.to_str().expect("UTF-8");
    fs::write(repo.join(".gitattributes"), "* filter=evil diff=evil merge=evil\n").expect("attributes");
    for key in [
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.command",
        "diff.evil.textconv",
        "merge.evil.driver",
        "diff.external",
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "core.editor",
        "core.askPass",
        "core.gitProxy",
        "core.alternateRefsCommand",
        "credential.helper",
        "gpg.program",
        "uploadpack.packObjectsHook",
        "trace2.eventTarget",
        "remote.origin.uploadpack",
        "remote.origin.vcs",
        "sequence.editor",
        "interactive.diffFilter",
    ] {
        says(&env, &repo, &["config", key, evil]);
    }
    says(&env, &repo, &["config", "core.hooksPath", "hooks"]);
    fs::create_dir_all(repo.join("hooks")).expect("a directory");
    for dir in ["hooks", ".git/hooks"] {
        for hook in ["post-index-change", "pre-commit", "fsmonitor-watchman", "reference-transaction", "post-checkout"]
        {
            program(&repo.join(dir).join(hook), &format!("#!/bin/sh\n{evil}\n"));
        }
    }
    program(&repo.join("git"), &format!("#!/bin/sh\nexec {evil}\n"));
    // Looks changed, so that only content tells.
    let file = fs::File::options().append(true).open(repo.join("same")).expect("a file");
    file.set_modified(std::time::SystemTime::now()).expect("a time");
    fs::remove_file(&marker).ok();

    let path = std::env::var("PATH").expect("a PATH");
    let copy = place(&env, "guest");
    let args =
        ["vm", "workspace", "prepare", "--include-untracked", "--guest-path", copy.to_str().expect("UTF-8"), "w"];
    let relative = format!(".:{path}");
    env.banger(args).args(["."]).current_dir(&repo).env("PATH", relative).run().expect(0);
    env.banger(["vm", "exec", "w", "--", "true"]).run().expect(0);
    fs::write(copy.join("same"), "changed in the guest\n").expect("a file");
    env.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(0);
    assert_eq!(fs::read(repo.join("same")).expect("a file"), b"changed in the guest\n");
    assert!(!marker.exists(), "run on the host: {}", fs::read_to_string(&marker).unwrap_or_default());
    delete(&env, "w");
}

#[test]
fn a_repository_cannot_bring_what_is_outside_it() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let secret = place(&env, "secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "secret\n").expect("a file");
    let repo = corpus::make(&env, "detached");
    // A directory of the tree becomes a link: what git thinks is in there is not read through it.
    fs::create_dir(repo.join("dir")).expect("a directory");
    fs::write(repo.join("dir/key"), "mine\n").expect("a file");
    says(&env, &repo, &["add", "-A"]);
    fs::remove_dir_all(repo.join("dir")).expect("a directory");
    symlink(&secret, repo.join("dir")).expect("a link");
    let copy = place(&env, "guest");
    prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    let arrived = tree(&copy);
    assert!(!format!("{arrived:?}").contains("secret\\n"), "{arrived:?}");
    assert!(fs::read_link(copy.join("dir")).is_ok_and(|target| target == secret), "{arrived:?}");

    let stranger = place(&env, "stranger");
    fs::create_dir(&stranger).expect("a directory");
    fs::write(stranger.join(".git"), format!("gitdir: {}/.git\n", repo.display())).expect("a file");
    let out = prepare(&env, "w", &stranger, &place(&env, "guest-2"), &[]).expect(1);
    assert!(out.err().contains("does not point back"), "{out}");
    delete(&env, "w");
}

/// A guest whose git says what the test wants it to.
fn lying_guest(env: &TestEnv, patch: &Path) {
    let bin = place(env, "bin");
    fs::create_dir(&bin).expect("a directory");
    let script = format!(
        "#!/bin/sh\nPATH=${{PATH#*:}}\ncase \" $* \" in *' diff-index '*) cat {}; exit 0;; esac\nexec git \"$@\"\n",
        patch.display()
    );
    program(&bin.join("git"), &script);
    let path = format!("PATH={}:{}", bin.display(), "/usr/local/bin:/usr/bin:/bin");
    env.banger(["vm", "run", "-d", "--quiet", "--name", "w", "-e", &path]).run().expect(0);
}

#[test]
fn a_lying_guest_writes_nothing_on_the_host() {
    let Some(env) = TestEnv::fake() else { return };
    let patch = place(&env, "evil.patch");
    lying_guest(&env, &patch);
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    symlink("..", repo.join("up")).expect("a link");
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    let before = (tree(&repo), tree(env.home().join("home").join("bin").as_path()));
    let new = |path: &str, mode: &str, content: &str| {
        format!(
            "diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n\
             @@ -0,0 +1 @@\n+{content}\n"
        )
    };
    let renamed = |from: &str, to: &str| {
        format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
    };
    let ordinary = new("fine", "100644", "x");
    for (evil, named) in [
        (new(".git/hooks/post-checkout", "100755", "#!/bin/sh"), ".git/hooks/post-checkout"),
        (new(".GIT/config", "100644", "[core]"), ".GIT/config"),
        (new("../outside", "100644", "x"), "../outside"),
        (new("/tmp/banger-absolute", "100644", "x"), "/tmp/banger-absolute"),
        (new("up/outside", "100644", "x"), "up/outside"),
        (new("l", "120000", "/etc/passwd"), "/etc/passwd"),
        (new("l", "120000", "sub") + &new("l/x", "100644", "x"), "l/x"),
        (new(".gitattributes", "100644", "* filter=evil"), ".gitattributes"),
        (new(".gitmodules", "100644", "[submodule \"x\"]"), ".gitmodules"),
        (
            new("sub", "160000", "Subproject commit 0123456789012345678901234567890123456789"),
            "touches sub: it is a submodule",
        ),
        (new("a/git~1/config", "100644", "[core]"), "a/git~1/config"),
        (new("a/.git. /config", "100644", "[core]"), "a/.git. /config"),
        (new("a/.g\u{200c}it/config", "100644", "[core]"), "it is in a git directory"),
        (renamed("file", ".git/hooks/pre-commit"), ".git/hooks/pre-commit"),
        (renamed(".git/config", "stolen"), ".git/config"),
        ("hello\n".to_owned(), "not what git diff writes"),
        ("\0".repeat(100_000), "breaks off"),
    ] {
        // What is harmless beside it does not arrive either.
        fs::write(&patch, format!("{ordinary}{evil}")).expect("a patch");
        let out = env.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(1);
        assert!(out.err().contains(named), "{named}: {out}");
        let file = place(&env, "out.patch");
        env.banger(["vm", "workspace", "export", "w", "-o"]).args([&file]).run().expect(1);
        assert!(!file.exists(), "{named}");
        assert_eq!(before, (tree(&repo), tree(env.home().join("home").join("bin").as_path())), "{named}");
    }
    assert!(!env.home().join("home/outside").exists() && !Path::new("/tmp/banger-absolute").exists());
    // The same guest, honest for once.
    fs::write(&patch, &ordinary).expect("a patch");
    env.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(0);
    assert_eq!(fs::read(repo.join("fine")).expect("a file"), b"x\n");
    delete(&env, "w");
}

#[test]
fn a_transfer_that_is_killed_midway_changes_nothing() {
    let Some(env) = TestEnv::fake() else { return };
    let patch = place(&env, "evil.patch");
    lying_guest(&env, &patch);
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    // The guest begins its patch and never ends it.
    env.program("mkfifo").args([&patch]).run().expect(0);
    let before = tree(&repo);
    let file = place(&env, "out.patch");
    for dies in ["banger", "the VM"] {
        let session = env.banger(["vm", "workspace", "export", "w", "--apply", "-o"]).args([&file]).spawn();
        let mut pipe = fs::OpenOptions::new().write(true).open(&patch).expect("the guest reads its patch");
        std::io::Write::write_all(&mut pipe, b"diff --git a/x b/x\n").expect("a beginning");
        if dies == "banger" {
            session.signal(rustix::process::Signal::KILL);
        } else {
            env.banger(["vm", "kill", "w"]).run().expect(0);
        }
        let ended = session.finish(crate::SOON);
        assert_ne!(ended.code(), 0, "{dies}: {ended}");
        drop(pipe);
        assert_eq!(tree(&repo), before, "{dies}");
        assert!(!file.exists(), "{dies}");
    }
    delete(&env, "w");
}

/// Agents that are their host's enemies, asked for a patch and to take a repository: each ends as a failure, in bounded
/// memory, and nothing is written.
#[test]
fn enemies_give_no_patch_and_take_no_repository() {
    let Some(env) = TestEnv::fake() else { return };
    let repo = corpus::make(&env, "detached");
    let before = tree(&repo);
    let banger = banger_testkit::bin_dir().join("banger");
    let line = format!("ulimit -v {}; exec {} \"$@\"", 2 << 20, banger.display());
    let kinds = ["garbage", "silent", "slow", "endless", "huge", "status", "escape"];
    for kind in kinds {
        start(&env, &format!("hostile-{kind}"));
    }
    std::thread::scope(|scope| {
        for kind in kinds {
            let (env, repo, line) = (&env, &repo, &line);
            scope.spawn(move || {
                let (vm, file) = (format!("hostile-{kind}"), place(env, &format!("{kind}.patch")));
                let confined = || env.program("sh").args(["-c", line, "banger"]).patience(crate::SOON * 3);
                let export = ["vm", "workspace", "export", "--guest-path", "/x", "--base-commit", "HEAD", &vm, "-o"];
                let out = confined().args(export).args([&file]).run().expect(1);
                assert!(out.err().contains("error: ") && out.err().len() < 4096, "{kind}: {out}");
                if kind == "endless" {
                    assert!(out.err().contains("more than 268435456 bytes"), "{out}");
                }
                assert!(!file.exists(), "{kind}");
                let out = confined().args(["vm", "workspace", "prepare", "--guest-path", "/x", &vm]).args([repo]).run();
                assert_eq!(out.code(), 1, "{kind}: {out}");
                assert!(out.err().contains("error: ") && out.err().len() < 4096, "{kind}: {out}");
            });
        }
    });
    assert_eq!(tree(&repo), before);
    for kind in kinds {
        env.banger(["vm", "delete", "-f", &format!("hostile-{kind}")]).patience(crate::SOON).run().expect(0);
    }
    env.assert_nothing_left();
}

//! A repository that would like to run something on the host, and a guest that would like to write there.

use super::{corpus, place, prepare, refresh::with_submodule, says, tree, with_git};
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

/// Settings that name a program.
const PROGRAMS: [&str; 22] = [
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
];

/// Has everything in a repository that may name a program name one that leaves its name in `marker`.
fn arm(env: &TestEnv, repo: &Path, marker: &Path) {
    let bin = place(env, "evil");
    fs::create_dir_all(&bin).expect("a directory");
    let evil = |name: &str| {
        let path = bin.join(name);
        let rest = if name.starts_with("filter") { "cat" } else { "exit 1" };
        program(&path, &format!("#!/bin/sh\necho {name} >> {}\n{rest}\n", marker.display()));
        path.to_str().expect("UTF-8").to_owned()
    };
    let git_dir = String::from_utf8(says(env, repo, &["rev-parse", "--absolute-git-dir"])).expect("UTF-8");
    fs::write(repo.join(".gitattributes"), "* filter=evil diff=evil merge=evil\n").expect("attributes");
    fs::create_dir_all(repo.join("hooks")).expect("a directory");
    for dir in [repo.join("hooks"), Path::new(git_dir.trim_end()).join("hooks")] {
        for hook in ["post-index-change", "pre-commit", "fsmonitor-watchman", "reference-transaction", "post-checkout"]
        {
            let script = format!("#!/bin/sh\necho hook {hook} >> {}\nexit 1\n", marker.display());
            program(&dir.join(hook), &script);
        }
    }
    program(&repo.join("git"), &format!("#!/bin/sh\nexec {}\n", evil("git")));
    for key in PROGRAMS {
        says(env, repo, &["config", key, &evil(key)]);
    }
    says(env, repo, &["config", "core.hooksPath", "hooks"]);
}

/// Makes a file look changed, so that only its content tells.
fn touch(file: &Path) {
    let file = fs::File::options().append(true).open(file).expect("a file");
    file.set_modified(std::time::SystemTime::now()).expect("a time");
}

#[test]
fn nothing_a_repository_names_is_run_on_the_host() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, marker) = (corpus::make(&env, "states"), place(&env, "marker"));
    arm(&env, &repo, &marker);
    let touch = || touch(&repo.join("same"));
    // They would be run: a git that is asked plainly runs them.
    for (args, ran) in [
        (["status", "--porcelain"].as_slice(), "core.fsmonitor"),
        (&["add", "same"], "filter.evil.process"),
        (&["commit", "-q", "--allow-empty", "-m", "x"], "hook pre-commit"),
        (&["diff"], "diff.evil.command"),
        (&["commit", "-q", "-S", "--no-verify", "--allow-empty", "-m", "x"], "gpg.program"),
        (&["fetch", "-q", "ssh://nowhere.invalid/x"], "core.sshCommand"),
    ] {
        touch();
        fs::remove_file(&marker).ok();
        let index = fs::read(repo.join(".git/index")).expect("an index");
        super::git(&env, &repo, args);
        let told = fs::read_to_string(&marker).unwrap_or_default();
        assert!(told.lines().any(|line| line == ran), "git {args:?} runs no {ran}: {told}");
        fs::write(repo.join(".git/index"), index).expect("an index");
    }
    touch();
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

/// Nor in the other ways to bring it, nor by its submodules; and what those name of another repository stays there.
#[test]
fn nothing_is_run_whichever_way_it_is_brought() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, marker, private) = (with_submodule(&env), place(&env, "marker"), place(&env, "private"));
    fs::create_dir(&private).expect("a directory");
    says(&env, &private, &["init", "-q"]);
    fs::write(private.join("key"), "secret\n").expect("a file");
    let secret = String::from_utf8(says(&env, &private, &["hash-object", "-w", "key"])).expect("hex");
    let (inner, plain) = (repo.join("libs/inner"), place(&env, "src-plain"));
    let objects = String::from_utf8(says(&env, &inner, &["rev-parse", "--absolute-git-dir"])).expect("UTF-8");
    let list = Path::new(objects.trim_end()).join("objects/info/alternates");
    fs::write(list, format!("{}\n", private.join(".git/objects").display())).expect("a list");
    says(&env, &inner, &["cat-file", "-e", secret.trim_end()]);
    for dir in [&inner, &repo, &plain] {
        arm(&env, dir, &marker);
    }
    let (outer_file, inner_file) = (repo.join("file"), inner.join("run"));
    for (dir, file) in [(&repo, &outer_file), (&inner, &inner_file)] {
        touch(file);
        fs::remove_file(&marker).ok();
        super::git(&env, dir, &["status", "--porcelain"]);
        assert!(marker.exists(), "nothing is run in {}", dir.display());
    }
    touch(&outer_file);
    touch(&inner_file);
    fs::remove_file(&marker).expect("a marker");
    let silent = |what: &[&str]| {
        assert!(!marker.exists(), "{what:?} ran: {}", fs::read_to_string(&marker).unwrap_or_default());
    };
    for (number, (dir, more)) in [
        (&repo, ["--mode", "full", "--include-untracked"].as_slice()),
        (&repo, &["--mode", "full", "--branch", "x", "--from", "HEAD~2"]),
        (&plain, &["--branch", "x", "--from", "HEAD~2"]),
        (&plain, &["--branch", "x"]),
    ]
    .into_iter()
    .enumerate()
    {
        let copy = place(&env, &format!("guest-{number}"));
        let dry = env.banger(["vm", "run", "--dry-run"]).args(more).args(["."]).current_dir(dir).run().expect(0);
        assert!(dry.out().lines().count() > 10 || dir == &repo, "{dry}");
        silent(more);
        prepare(&env, "w", dir, &copy, more).expect(0);
        prepare(&env, "w", dir, &copy, more).expect(0);
        silent(more);
        if dir == &repo {
            super::git(&env, &copy.join("libs/inner"), &["cat-file", "-e", secret.trim_end()]).expect(1);
        }
    }
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

/// A repository that names another one's directory of objects gets out of there what it can name itself, in either
/// mode.
#[test]
fn a_list_of_other_directories_brings_nothing_else_of_theirs() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let private = place(&env, "private");
    fs::create_dir(&private).expect("a directory");
    says(&env, &private, &["init", "-q", "-b", "main"]);
    fs::write(private.join("key"), "secret\n").expect("a file");
    says(&env, &private, &["add", "-A"]);
    says(&env, &private, &["commit", "-q", "-m", "private"]);
    says(&env, &private, &["gc", "-q"]);
    fs::write(private.join("loose"), "secret, too\n").expect("a file");
    says(&env, &private, &["add", "-A"]);
    let secrets = String::from_utf8(says(&env, &private, &["ls-files", "--stage"])).expect("UTF-8");
    let secrets: Vec<&str> = secrets.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(secrets.len(), 2);

    let repo = corpus::make(&env, "states");
    let list = format!("{}\n", private.join(".git/objects").display());
    fs::write(repo.join(".git/objects/info/alternates"), list).expect("a list");
    for secret in &secrets {
        // git itself would give it away.
        says(&env, &repo, &["cat-file", "-e", secret]);
    }
    for mode in ["overlay", "full"] {
        let copy = place(&env, &format!("guest-{mode}"));
        prepare(&env, "w", &repo, &copy, &["--mode", mode]).expect(0);
        for secret in &secrets {
            super::git(&env, &copy, &["cat-file", "-e", secret]).expect(1);
        }
        assert!(!copy.join(".git/objects/info/alternates").exists());
        let status = ["status", "--porcelain=v2", "-uno"];
        assert_eq!(says(&env, &copy, &status), says(&env, &repo, &status), "{mode}");
        says(&env, &copy, &["fsck"]);
    }
    // A ref that is a link would name what the other has.
    fs::remove_file(repo.join(".git/refs/heads/main")).expect("a ref");
    symlink(private.join(".git/refs/heads/main"), repo.join(".git/refs/heads/main")).expect("a link");
    let out = prepare(&env, "w", &repo, &place(&env, "guest-3"), &[]).expect(1);
    assert!(out.err().contains("refs/heads/main is a link"), "{out}");
    delete(&env, "w");
}

/// A guest whose git says what the test wants it to.
fn lying_guest(env: &TestEnv, patch: &Path) {
    let line = format!("case \" $* \" in *' diff-index '*) cat {}; exit 0;; esac", patch.display());
    with_git(env, "w", &line);
}

/// A part of a patch that makes a file.
fn new(path: &str, mode: &str, content: &str) -> String {
    format!(
        "diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n\
         @@ -0,0 +1 @@\n+{content}\n"
    )
}

/// A part of a patch that gives a file another name.
fn renamed(from: &str, to: &str) -> String {
    format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
}

#[test]
fn a_lying_guest_writes_nothing_on_the_host() {
    let Some(env) = TestEnv::fake() else { return };
    let patch = place(&env, "evil.patch");
    lying_guest(&env, &patch);
    let (repo, copy) = (corpus::make(&env, "detached"), place(&env, "guest"));
    symlink("..", repo.join("up")).expect("a link");
    fs::create_dir(repo.join("dir")).expect("a directory");
    symlink("../file", repo.join("dir/near")).expect("a link");
    fs::write(repo.join("rules"), "* filter=evil\n").expect("a file");
    // Names that this host lets stand for programs, in each of the places git takes them from.
    fs::create_dir_all(place(&env, ".config/git")).expect("a directory");
    for (rules, name) in [
        (place(&env, ".config/git/attributes"), "mine"),
        (repo.join(".git/info/attributes"), "ours"),
        (repo.join(".gitattributes"), "everybodys"),
    ] {
        fs::write(rules, format!("[attr]{name} filter=evil\n")).expect("rules");
    }
    // Files of the tree that this host's git was told to believe, or to run; some are yet to be made.
    for (key, value) in [
        ("core.hooksPath", "checks"),
        ("include.path", "../conf/git"),
        ("includeIf.onbranch:other.path", "../.gitconfig"),
        ("filter.evil.clean", "sh ./tools/clean.sh %f"),
    ] {
        says(&env, &repo, &["config", key, value]);
    }
    symlink("../../tools/push.sh", repo.join(".git/hooks/pre-push")).expect("a link");
    fs::create_dir(repo.join("tools")).expect("a directory");
    fs::write(repo.join("tools/push.sh"), "").expect("a file");
    // Its own git believes what is in it.
    says(&env, &repo, &["init", "-q", "nested"]);
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    let before = (tree(&repo), tree(env.home().join("home").join("bin").as_path()));
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
        (new("dir/.gitattributes", "100644", "*.x mine"), "dir/.gitattributes: it sets \"mine\""),
        (new("dir/.gitattributes", "100644", "*.x -text ours"), "dir/.gitattributes: it sets \"ours\""),
        (new("dir/.gitattributes", "100644", "*.x everybodys"), "dir/.gitattributes: it sets \"everybodys\""),
        (new("dir/.gitattributes", "100644", "[attr]x text"), "lets one attribute stand for others"),
        (new(".gitmodules", "100644", "[submodule \"x\"]"), ".gitmodules"),
        (
            new("sub", "160000", "Subproject commit 0123456789012345678901234567890123456789"),
            "touches sub: it is a submodule",
        ),
        (new("a/git~1/config", "100644", "[core]"), "a/git~1/config"),
        (new("a/.git. /config", "100644", "[core]"), "a/.git. /config"),
        (new("a/.g\u{200c}it/config", "100644", "[core]"), "it is in a git directory"),
        (new("checks/pre-commit", "100755", "#!/bin/sh"), "touches checks/pre-commit: this host's git runs hooks"),
        (renamed("file", "Checks/pre-commit"), "touches Checks/pre-commit: this host's git runs hooks"),
        (new("checks", "120000", "dir"), "touches checks: this host's git runs hooks"),
        (new("conf/git", "100644", "[core]"), "touches conf/git: this host's git takes configuration"),
        (new(".gitconfig", "100644", "[core]"), "touches .gitconfig: this host's git takes configuration"),
        (new("tools/clean.sh", "100755", "#!/bin/sh"), "touches tools/clean.sh: this host's git runs it (filter.evil"),
        (new("tools/push.sh", "100755", "#!/bin/sh"), "touches tools/push.sh: this host's git runs hooks"),
        (new("nested/.githooks/pre-commit", "100755", "#!/bin/sh"), "it is in another repository, nested"),
        (
            ["x/HEAD", "x/config", "x/objects/k", "x/refs/k"].map(|name| new(name, "100644", "x")).concat(),
            "repository, x",
        ),
        (renamed("file", ".git/hooks/pre-commit"), ".git/hooks/pre-commit"),
        (renamed(".git/config", "stolen"), ".git/config"),
        // Nothing in these says what comes about: a link that leads out of its new place, rules that run programs.
        (renamed("dir/near", "near"), "touches dir/near"),
        (renamed("dir/near", "near").replace("rename", "copy"), "not what git diff writes"),
        (renamed("rules", ".gitattributes"), "touches .gitattributes"),
        (renamed("rules", "dir/.gitattributes").replace("rename", "copy"), "not what git diff writes"),
        ("hello\n".to_owned(), "not what git diff writes"),
        ("\0".repeat(100_000), "cut off"),
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
    // What this host believes no longer is a file as any other.
    fs::write(&patch, ordinary.clone() + &new("checks/pre-commit", "100755", "#!/bin/sh")).expect("a patch");
    says(&env, &repo, &["config", "--unset", "core.hooksPath"]);
    let file = place(&env, "out.patch");
    env.banger(["vm", "workspace", "export", "w", "-o"]).args([&file]).run().expect(0);
    // The same guest, honest for once.
    let rules = new("dir/.gitattributes", "100644", "*.x -text -mine theirs");
    fs::write(&patch, ordinary + &renamed("rules", "moved") + &rules).expect("a patch");
    env.banger(["vm", "workspace", "export", "w", "--apply"]).run().expect(0);
    assert_eq!(fs::read(repo.join("fine")).expect("a file"), b"x\n");
    assert_eq!(fs::read(repo.join("moved")).expect("a file"), b"* filter=evil\n");
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
    let kinds = ["garbage", "silent", "slow", "endless", "huge", "status", "escape", "stuck"];
    for kind in kinds {
        start(&env, &format!("hostile-{kind}"));
    }
    // Some of them are waited for as long as banger waits for anybody: all at once.
    std::thread::scope(|scope| {
        for kind in kinds {
            let (env, repo, line) = (&env, &repo, &line);
            let vm = format!("hostile-{kind}");
            let confined = move |args: &[&str]| {
                let run = env.program("sh").args(["-c", line, "banger"]).args(args).patience(crate::SOON * 3);
                let out = run.run().expect(1);
                assert!(out.err().contains("error: ") && out.err().len() < 4096, "{kind}: {out}");
                assert!(kind != "stuck" || out.err().contains("agent stands still"), "{kind}: {out}");
                out
            };
            let to = vm.clone();
            scope.spawn(move || {
                confined(&["vm", "workspace", "prepare", "--guest-path", "/x", &to, repo.to_str().expect("UTF-8")]);
            });
            scope.spawn(move || {
                let file = place(env, &format!("{kind}.patch"));
                let export = ["vm", "workspace", "export", "--guest-path", "/x", "--base-commit", "HEAD", &vm, "-o"];
                let out = confined(&[&export[..], &[file.to_str().expect("UTF-8")]].concat());
                if kind == "endless" {
                    assert!(out.err().contains("more than 268435456 bytes"), "{out}");
                }
                assert!(!file.exists(), "{kind}");
            });
        }
    });
    assert_eq!(tree(&repo), before);
    for kind in kinds {
        env.banger(["vm", "delete", "-f", &format!("hostile-{kind}")]).patience(crate::SOON).run().expect(0);
    }
    env.assert_nothing_left();
}

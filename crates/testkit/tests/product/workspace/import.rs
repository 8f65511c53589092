//! What arrives is what is here.

use super::{corpus, git, listed, place, prepare, refresh::with_submodule, says, tree};
use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Files below a directory that git tracks or, with `others`, could.
fn known(env: &TestEnv, repo: &Path, others: bool) -> BTreeSet<PathBuf> {
    let mut args = vec!["ls-files", "-z", "--cached"];
    if others {
        args.extend(["--others", "--exclude-standard"]);
    }
    let there = listed(&says(env, repo, &args));
    there.into_iter().filter(|path| repo.join(path).symlink_metadata().is_ok()).collect()
}

/// Whether the lines name these files, each as git prints it; what is no UTF-8 is escaped, and git does not do that
/// alone.
#[track_caller]
fn assert_lists(env: &TestEnv, repo: &Path, tracked: &BTreeSet<PathBuf>, lines: &str) {
    let names = listed(&says(env, repo, &["ls-files", "-z", "--deduplicate"]));
    let printed = says(env, repo, &["-c", "core.quotePath=false", "ls-files", "--deduplicate"]);
    let printed = printed.split(|byte| *byte == b'\n').map(|line| String::from_utf8(line.to_vec()).ok());
    let there: Vec<Option<String>> =
        names.iter().zip(printed).filter(|(path, _)| tracked.contains(*path)).map(|(_, line)| line).collect();
    assert_eq!(lines.lines().count(), there.len(), "{lines}");
    for (line, expected) in lines.lines().zip(there) {
        assert!(expected.as_deref().is_none_or(|expected| expected == line), "{line} is not {expected:?}");
    }
}

#[test]
fn every_kind_of_repository_arrives_as_it_is() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    for name in corpus::ALL {
        let (repo, copy) = (corpus::make(&env, name), place(&env, &format!("guest-{name}")));
        let index = fs::read(repo.join(".git/index")).ok();
        prepare(&env, "w", &repo, &copy, &[]).expect(0);
        assert_eq!(fs::read(repo.join(".git/index")).ok(), index, "{name}: the host's index was touched");

        for args in [
            ["status", "--porcelain=v2", "-uno", "--branch"].as_slice(),
            &["diff", "HEAD"],
            &["diff", "--cached"],
            &["log", "-10", "--format=%H %P %an %ae %at %s%n%b", "--name-status"],
        ] {
            let (here, there) = (git(&env, &repo, args), git(&env, &copy, args));
            let text = |out: &banger_testkit::Output| format!("{} {}", out.code(), out.out());
            // Where history is cut off, the last commit looks as if it had no parents.
            let (here, there) =
                if args[0] == "log" { (cut(&here.out()), cut(&there.out())) } else { (text(&here), text(&there)) };
            assert_eq!(there, here, "{name}: git {args:?}");
        }
        let ten = ["log", "-10", "--format=%H"];
        assert_eq!(git(&env, &copy, &ten).out(), git(&env, &repo, &ten).out(), "{name}: the last ten commits");
        let (here, there) = (tree(&repo), tree(&copy));
        let tracked = known(&env, &repo, false);
        assert_eq!(there.keys().cloned().collect::<BTreeSet<_>>(), tracked, "{name}: what arrived");
        let promised = env.banger(["vm", "run", "--dry-run", "--quiet"]).args([&repo]).run().expect(0).out();
        assert_lists(&env, &repo, &tracked, &promised);
        for (path, item) in &there {
            assert_eq!(Some(item), here.get(path), "{name}: {}", path.display());
        }
        says(&env, &copy, &["fsck", "--no-dangling"]);
    }
    delete(&env, "w");
}

/// The first nine commits: the tenth has its parents cut off in the guest.
fn cut(log: &str) -> String {
    let is_commit = |line: &&str| line.split(' ').next().is_some_and(|word| matches!(word.len(), 40 | 64));
    let mut seen = 0;
    let mut kept = Vec::new();
    for line in log.lines() {
        seen += usize::from(is_commit(&line));
        if seen > 9 {
            break;
        }
        kept.push(line);
    }
    kept.join("\n")
}

#[test]
fn untracked_files_travel_when_they_are_asked_for_and_ignored_ones_never() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "states");
    let without = env.banger(["vm", "run", "--dry-run"]).args([&repo]).run().expect(0);
    assert!(without.err().contains("1 untracked file stays here; --include-untracked"), "{without}");
    assert!(!without.out().contains("untracked"), "{without}");
    let listing = env.banger(["vm", "run", "--dry-run", "--include-untracked"]).args([&repo]).run().expect(0).out();
    let copy = place(&env, "guest");
    let out = prepare(&env, "w", &repo, &copy, &["--include-untracked"]).expect(0);
    assert!(out.err().is_empty(), "{out}");
    let arrived: BTreeSet<String> = tree(&copy).keys().map(|path| path.display().to_string()).collect();
    assert_eq!(listing.lines().map(str::to_owned).collect::<BTreeSet<_>>(), arrived, "--dry-run is what arrives");
    assert!(arrived.contains("untracked") && !arrived.contains("ignored.o"));
    let status = ["status", "--porcelain=v2"];
    assert_eq!(says(&env, &copy, &status), says(&env, &repo, &status));
    delete(&env, "w");
}

#[test]
fn who_commits_there_is_who_commits_here() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    // In no configuration of the repository's own.
    fs::write(place(&env, ".gitconfig"), "[user]\n\tname = \"Zoë \\\"Z\\\"\"\n\temail = z@example.com\n")
        .expect("a file");
    prepare(&env, "w", &repo, &copy, &[]).expect(0);
    for (key, value) in [("user.name", "Zoë \"Z\"\n"), ("user.email", "z@example.com\n")] {
        let there = says(&env, &copy, &["config", "--file", ".git/config", key]);
        assert_eq!(String::from_utf8_lossy(&there), value);
    }
    delete(&env, "w");
}

/// Names that git prints without quotes, and how many there are in all.
fn plain_names<'a>(names: impl Iterator<Item = &'a str>) -> (BTreeSet<String>, usize) {
    let names: Vec<&str> = names.collect();
    let odd = |name: &&&str| !name.contains(['"', '\\', '\n', '\u{fffd}']);
    (names.iter().filter(odd).map(|name| (*name).to_owned()).collect(), names.len())
}

#[test]
fn a_dry_run_is_what_arrives() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let whole = with_submodule(&env);
    let plain = place(&env, "src-plain");
    fs::write(plain.join("untracked"), "u\n").expect("a file");
    fs::write(whole.join("libs/inner/untracked"), "u\n").expect("a file");
    fs::remove_file(whole.join("libs/inner/side")).expect("a file");
    let conflict = corpus::make(&env, "conflict");
    for (number, (repo, more)) in [
        (&whole, ["--mode", "full"].as_slice()),
        (&whole, &["--mode", "full", "--include-untracked"]),
        (&whole, &["--mode", "full", "--branch", "x", "--from", "HEAD~3"]),
        (&plain, &["--branch", "x", "--from", "HEAD~4"]),
        (&plain, &["--branch", "x", "--include-untracked"]),
        (&conflict, &[]),
        (&conflict, &["--mode", "full"]),
    ]
    .into_iter()
    .enumerate()
    {
        let copy = place(&env, &format!("guest-{number}"));
        let said = env.banger(["vm", "run", "--dry-run", "--quiet"]).args(more).args([repo]).run().expect(0).out();
        prepare(&env, "w", repo, &copy, more).expect(0);
        let arrived: Vec<String> = tree(&copy).keys().map(|path| path.to_string_lossy().into_owned()).collect();
        assert_eq!(plain_names(said.lines()), plain_names(arrived.iter().map(String::as_str)), "{more:?}");
    }
    delete(&env, "w");
}

#[test]
fn a_dry_run_needs_no_daemon() {
    let env = TestEnv::empty();
    let repo = corpus::make(&env, "plain");
    let out = env.banger(["vm", "run", "--dry-run", "--json"]).args([&repo]).run().expect(0);
    let files: Vec<String> = serde_json::from_value(out.json()).expect("a list");
    assert!(
        files.contains(&"\"not-utf8-\\377\\376\"".to_owned()) && files.contains(&"READ ME".to_owned()),
        "{files:?}"
    );
    assert!(env.daemon().is_none());
}

#[test]
fn a_branch_of_the_guests_own() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let repo = corpus::make(&env, "plain");
    fs::write(repo.join("counter"), "uncommitted\n").expect("a file");
    let head = |dir: &Path, what: &str| String::from_utf8(says(&env, dir, &["rev-parse", what])).expect("hex");
    let copy = place(&env, "guest-a");
    prepare(&env, "w", &repo, &copy, &["--branch", "mine/x"]).expect(0);
    assert_eq!(says(&env, &copy, &["symbolic-ref", "HEAD"]), b"refs/heads/mine/x\n");
    assert_eq!(head(&copy, "HEAD"), head(&repo, "HEAD"));
    assert_eq!(fs::read(copy.join("counter")).expect("a file"), b"uncommitted\n");
    let copy = place(&env, "guest-b");
    let out = prepare(&env, "w", &repo, &copy, &["--branch", "old", "--from", "HEAD~2"]).expect(0);
    assert_eq!(head(&copy, "old"), head(&repo, "HEAD~2"), "{out}");
    assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
    for (more, said) in [
        (["--branch", "a..b"].as_slice(), "cannot be a branch"),
        (&["--branch", "x", "--from", "nowhere"], "no commit"),
        (&["--branch", "x", "--from=--output=/x"], "no commit"),
    ] {
        let out = prepare(&env, "w", &repo, &place(&env, "guest-c"), more);
        assert!(out.code() != 0 && out.err().contains(said), "{out}");
    }
    delete(&env, "w");
}

#[test]
fn submodules_need_the_full_mode_and_have_it_all() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "w");
    let inner = corpus::make(&env, "plain");
    let repo = place(&env, "super");
    fs::create_dir(&repo).expect("a directory");
    says(&env, &repo, &["init", "-q", "-b", "main"]);
    says(&env, &repo, &["submodule", "--quiet", "add", inner.to_str().expect("UTF-8"), "libs/inner"]);
    for n in 0..15 {
        says(&env, &repo, &["commit", "-q", "--allow-empty", "-m", &n.to_string()]);
    }
    says(&env, &repo, &["tag", "-a", "-m", "t", "v1"]);
    says(&env, &repo, &["branch", "other", "HEAD~3"]);
    fs::write(repo.join("libs/inner/counter"), "changed in the submodule\n").expect("a file");
    let copy = place(&env, "guest");
    let refused = prepare(&env, "w", &repo, &copy, &[]).expect(1);
    assert!(refused.err().contains("libs/inner") && refused.err().contains("--mode full"), "{refused}");
    assert!(!copy.exists());
    prepare(&env, "w", &repo, &copy, &["--mode", "full"]).expect(0);
    for args in [
        ["status", "--porcelain=v2"].as_slice(),
        &["log", "--format=%H %P %s"],
        &["for-each-ref"],
        &["submodule", "status"],
        &["-C", "libs/inner", "log", "--exclude=refs/banger/*", "--all", "--format=%H"],
    ] {
        assert_eq!(git(&env, &copy, args).out(), git(&env, &repo, args).out(), "git {args:?}");
    }
    assert_eq!(tree(&copy), tree(&repo));
    delete(&env, "w");
}

#[test]
fn run_brings_the_repository_and_works_in_it() {
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    let at = copy.to_str().expect("UTF-8");
    let run = |more: &[&str]| env.banger(["vm", "run", "--quiet", "--guest-path", at]).args(more).current_dir(&repo);
    let out = run(&["--rm", ".", "--", "sh", "-c", "pwd; git rev-parse HEAD; exit 7"]).run().expect(7);
    let head = String::from_utf8(says(&env, &repo, &["rev-parse", "HEAD"])).expect("hex");
    assert_eq!(out.out(), format!("{at}\n{head}"));
    fs::remove_dir_all(&copy).expect("the guest's disk goes with it");

    run(&["-d", "--name", "w", "."]).run().expect(0);
    let workspace = env.vm("w")["workspace"].clone();
    assert_eq!(workspace["guest_path"], at, "{workspace:#}");
    assert_eq!(workspace["head_commit"], head.trim(), "{workspace:#}");
    assert_eq!(workspace["source_path"], repo.to_str().expect("UTF-8"), "{workspace:#}");
    let ps = env.banger(["ps"]).run().expect(0).out();
    assert!(ps.contains("WORKSPACE") && ps.contains("src-plain"), "{ps}");
    assert_eq!(env.banger(["vm", "exec", "w", "--", "pwd"]).run().expect(0).out(), format!("{at}\n"));
    assert_eq!(env.banger(["vm", "exec", "-w", "/", "w", "--", "pwd"]).run().expect(0).out(), "/\n");
    delete(&env, "w");
}

/// The guest's disk is this host's, so what one VM left the next one finds as if it had come with the image.
#[test]
fn a_repository_that_came_with_the_image_is_not_mixed_with_another() {
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    let run = |at: &Path, vm: &str| {
        let args = ["vm", "run", "--quiet", "-d", "--name", vm, "--guest-path", at.to_str().expect("UTF-8")];
        env.banger(args).args([&repo]).run().expect(0);
    };
    let same = |mine: &[u8]| {
        assert_eq!(tree(&copy), tree(&repo));
        assert_eq!(says(&env, &copy, &["status", "--porcelain"]), b"");
        for args in [["fsck", "--no-dangling"].as_slice(), &["gc", "-q"]] {
            says(&env, &copy, args);
        }
        assert_eq!(says(&env, &copy, &["rev-list", "mine"]), mine);
    };
    run(&copy, "a");
    says(&env, &copy, &["branch", "mine", "HEAD~1"]);
    let mine = says(&env, &copy, &["rev-list", "mine"]);
    delete(&env, "a");
    says(&env, &repo, &["rm", "-q", "large"]);
    for n in 0..12 {
        says(&env, &repo, &["commit", "-q", "--allow-empty", "-m", &n.to_string()]);
    }
    run(&copy, "b");
    same(&mine);
    prepare(&env, "b", &repo, &copy, &[]).expect(0);
    same(&mine);
    delete(&env, "b");
    // A directory with something else in it is the image's way to bring what the repository does not track.
    let other = place(&env, "other");
    fs::create_dir_all(other.join("node_modules")).expect("directories");
    fs::write(other.join("node_modules/x"), "x").expect("a file");
    run(&other, "c");
    assert_eq!(says(&env, &other, &["status", "--porcelain"]), b"?? node_modules/\n");
    delete(&env, "c");
}

/// Its commits are whoever made the image's, on the branch it is on as on the others.
#[test]
fn branches_that_came_with_the_image_stay_under_another_name() {
    let Some(env) = TestEnv::fake() else { return };
    let (repo, copy) = (corpus::make(&env, "plain"), place(&env, "guest"));
    fs::create_dir(&copy).expect("a directory");
    says(&env, &copy, &["init", "-q", "-b", "main"]);
    says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "the image's"]);
    says(&env, &copy, &["branch", "theirs"]);
    says(&env, &copy, &["commit", "-q", "--allow-empty", "-m", "more"]);
    let at = |name: &str| says(&env, &copy, &["rev-parse", name]);
    let (main, theirs) = (at("main"), at("theirs"));
    let args = ["vm", "run", "-d", "--name", "w", "--guest-path", copy.to_str().expect("UTF-8")];
    let out = env.banger(args).args([&repo]).run().expect(0);
    assert!(out.err().contains("stays in the guest, as refs/banger/before/1/heads/main\n"), "{out}");
    assert_eq!((at("refs/banger/before/1/heads/main"), at("theirs")), (main, theirs));
    assert_eq!((tree(&copy), at("HEAD")), (tree(&repo), says(&env, &repo, &["rev-parse", "HEAD"])));
    says(&env, &copy, &["fsck", "--no-dangling"]);
    // It is the repository's from now on.
    prepare(&env, "w", &repo, &copy, &["--force"]).expect(0);
    let names = says(&env, &copy, &["for-each-ref", "--format=%(refname)", "refs/banger/before"]);
    assert_eq!(names, b"refs/banger/before/1/heads/main\n");
    delete(&env, "w");
}

#[test]
fn what_cannot_be_brought_is_refused_before_there_is_a_vm() {
    let env = TestEnv::empty();
    let bare = place(&env, "bare.git");
    fs::create_dir(&bare).expect("a directory");
    says(&env, &bare, &["init", "-q", "--bare"]);
    let plain = place(&env, "plain");
    fs::create_dir(&plain).expect("a directory");
    for (path, said) in [(&bare, "bare repository"), (&plain, "not in a git repository")] {
        let out = env.banger(["vm", "run", "--rm"]).args([path]).args(["--", "true"]).run().expect(125);
        assert!(out.err().contains(said) && out.err().contains("hint:"), "{out}");
    }
    let out = env.banger(["vm", "run", "make"]).run().expect(125);
    assert!(out.err().contains("banger vm run -- make"), "{out}");
    assert!(env.daemon().is_none());
}

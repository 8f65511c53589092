//! Paths that git believes or runs, and paths that only look like it.

use super::*;
use std::os::unix::fs::symlink;

mod open;

fn trusted(root: &Path, listing: &str) -> Trusted {
    let mut trusted = Trusted { protected: ProtectedPaths::of(Some(root)), programs: Vec::new() };
    trusted.read(listing.replace('|', "\0").as_bytes(), Some(&root.join(".git")));
    trusted
}

/// Reads `entry` as the configuration of the repository at `root`.
fn local(root: &Path, entry: &str) -> Trusted {
    trusted(root, &format!("file:{}/.git/config|{entry}|", root.display()))
}

#[test]
fn what_git_believes_in_a_tree_is_known_however_it_is_named() {
    let root = Path::new("/no/such/tree");
    for (entry, path) in [
        ("core.hookspath\n.githooks", ".githooks/pre-commit"),
        ("core.hookspath\n.githooks", ".GitHooks/x/y"),
        ("core.hookspath\n./a/../.githooks/", ".githooks/pre-commit"),
        ("core.hookspath\n/no/such/tree/hooks", "hooks/pre-push"),
        ("core.hookspath\n../hooks", "hooks/pre-receive"),
        // A directory above it may become a link.
        ("core.hookspath\na/hooks", "a"),
        ("core.hookspath\n.husky/_", ".husky/pre-commit"),
        ("core.hookspath\n_", "_/pre-commit"),
        ("core.hookspath\n.", "pre-commit"),
        ("init.templatedir\ntemplate", "template/hooks/x"),
        ("include.path\n../.gitconfig", ".gitconfig"),
        ("includeif.onbranch:x.path\n../conf/git", "conf/git"),
        ("core.attributesfile\nrules", "rules"),
        ("gpg.ssh.allowedsignersfile\n.signers", ".signers"),
        ("http.https://host.invalid.sslcainfo\nca.pem", "ca.pem"),
        ("filter.x.clean\nsh -c './tools/clean.py %f'", "tools/clean.py"),
        ("filter.x.clean\n./clean %f", "clean"),
        // It may be on another branch, and its directory a link here.
        ("filter.x.clean\nsh ./tools/clean.sh", "tools"),
        ("filter.x.clean\n/no/such/tree/tools/clean.sh", "tools"),
        ("core.fsmonitor\n\"$(git rev-parse --show-toplevel)/tools/watch\" -x", "tools/watch"),
        ("core.fsmonitor\n\"$(git rev-parse --show-toplevel)\"/tools/watch", "tools"),
        ("core.fsmonitor\n\"$(git rev-parse --show-toplevel)\"/watch", "watch"),
        ("core.fsmonitor\n$TOP/tools/watch", "tools"),
        ("credential.helper\n!./helper", "helper"),
        ("diff.Ab.textconv\npython3 show.py", "show.py"),
        ("pager.log\ntools/pager", "tools/pager"),
        ("core.fsmonitor\n`git rev-parse --show-toplevel`/tools/watch", "tools/watch"),
        ("core.fsmonitor\nwatch -o:./tools/watch", "tools/watch"),
        ("core.editor\n~somebody/bin/edit", "bin/edit"),
        // Relative to the git directory.
        ("filter.x.clean\n../tools/clean", "tools/clean"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
    }
    // Settings that banger itself passes do not count, but a configuration file in the tree does.
    assert!(trusted(root, "command line:|core.hookspath\nx|").reason(b"x").is_none());
    assert!(trusted(root, "file:/no/such/tree/.gitconfig|a.b\nc|").reason(b".gitconfig").is_some());
}

#[test]
fn what_git_does_not_believe_is_a_file_as_any_other() {
    let root = Path::new("/no/such/tree");
    for (entry, path) in [
        ("core.hookspath\n.githooks", ".githooks2/pre-commit"),
        ("core.hookspath\n../hooks/x", "x"),
        ("core.hookspath\n/elsewhere/hooks", "hooks/x"),
        ("core.hookspath\n", "pre-commit"),
        ("core.hookspath\n.", "src/x"),
        ("core.hookspath\n_", "README"),
        ("core.hookspath\n/no/such/tree/_", "README"),
        ("core.attributesfile\n", "README"),
        ("include.path\n../../other", "other"),
        ("include.path\n", "README"),
        ("gpg.ssh.revocationfile\n", "README"),
        ("filter.x.clean\ntools/clean.py", "clean.p"),
        ("filter.x.clean\ntools/clean.py", "tools/other.py"),
        ("filter.x.clean\ntools/clean.py", "tools/clean.py2"),
        ("filter.lfs.clean\ngit-lfs clean -- %f", "lfs"),
        ("filter.lfs.clean\ngit-lfs clean -- %f", "clean"),
        ("filter.lfs.clean\ngit-lfs clean -- %f", "F"),
        ("filter.lfs.process\ngit-lfs filter-process", "filter-process"),
        ("filter.x.required\nx", "x"),
        ("merge.x.driver\nmerge-tool %O %A %B", "a"),
        ("core.editor\n/usr/bin/vim", "vim"),
        ("core.editor\n\"/usr/bin/vim\" -f", "bin/vim"),
        ("core.pager\ndiff-highlight | less", "less"),
        ("core.sshcommand\nssh -F ~/.ssh/config", "config"),
        ("core.sshcommand\nssh -F ~/.ssh/config", ".ssh/config"),
        ("core.editor\n~/bin/edit", "edit"),
        ("core.editor\n$HOME/bin/edit", "bin/edit"),
        ("core.editor\n${HOME}/bin/edit", "edit"),
        ("credential.helper\nstore", "store"),
        ("credential.helper\n!gh auth git-credential", "auth"),
        ("credential.helper\n!/usr/bin/gh auth git-credential", "gh"),
        ("alias.x\n!./tools/x", "tools/x"),
        ("user.name\nREADME", "README"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_none(), "{entry:?} {path}");
    }
}

/// Makes a tree with these links and files.
fn tree(links: &[(&str, &str)], files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap().join("tree");
    for name in links.iter().map(|(name, _)| name).chain(files) {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    }
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
    }
    for name in files {
        fs::write(root.join(name), "").unwrap();
    }
    (temp, root)
}

#[track_caller]
fn assert_known(trusted: &Trusted, known: &[&str], unknown: &[&str]) {
    for path in known {
        assert!(trusted.reason(path.as_bytes()).is_some(), "{path}");
    }
    for path in unknown {
        assert_eq!(trusted.reason(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn links_are_followed_to_what_they_lead_to() {
    let links = [
        ("hooks", "tools/hooks"),
        ("tools/hooks/pre-commit", "../../scripts/check.sh"),
        (".git/hooks/pre-push", "../../scripts/push.sh"),
        // A chain of links, and a path through a linked directory.
        (".git/hooks/pre-rebase", "../../scripts/current.sh"),
        ("scripts/current.sh", "v1.sh"),
        (".git/hooks/commit-msg", "../../now/message.sh"),
        ("now", "versions/1"),
        // The target is on another branch.
        (".git/hooks/post-merge", "../../later/merge.sh"),
        // Links that lead out of the tree, or to themselves.
        (".git/hooks/update", "/bin/true"),
        (".git/hooks/post-update", "post-update"),
    ];
    let files = ["scripts/check.sh", "scripts/push.sh", "scripts/other.sh", "scripts/v1.sh", "versions/1/message.sh"];
    let (_temp, root) = tree(&links, &files);
    let mut trusted = local(&root, "core.hookspath\nhooks");
    trusted.hooks(&root.join(".git/hooks"));
    let known = [
        "hooks",
        "tools/hooks/pre-push",
        "scripts/check.sh",
        "scripts/push.sh",
        "scripts/current.sh",
        "scripts/v1.sh",
        "now",
        "versions/1/message.sh",
        "versions/1",
        "later/merge.sh",
        "later",
    ];
    assert_known(&trusted, &known, &["scripts/other.sh", "versions/1/other.sh", "later/other.sh", "bin/true"]);
}

#[test]
fn a_directory_of_hooks_may_be_yet_to_be_made() {
    let (_temp, root) = tree(&[("hooks", "tools/hooks")], &["README"]);
    assert_known(&local(&root, "core.hookspath\nhooks"), &["tools/hooks/pre-commit", "tools"], &["tools/x", "README"]);
}

#[test]
fn a_tree_by_another_name_is_the_same_tree() {
    let (temp, root) = tree(&[(".git/hooks/pre-push", "../../push.sh")], &["push.sh", "clean.sh"]);
    let other = temp.path().join("other");
    symlink(&root, &other).unwrap();
    let mut trusted = local(&other, &format!("filter.x.clean\n{}/clean.sh", root.display()));
    trusted.hooks(&other.join(".git/hooks"));
    assert_known(&trusted, &["push.sh", "clean.sh"], &["other.sh"]);
}

#[test]
fn programs_are_followed_through_links() {
    let (_temp, root) = tree(&[("bin/clean", "../scripts/c.py"), ("tools", "tools-1")], &["scripts/c.py", "tools-1/x"]);
    let clean = local(&root, "filter.x.clean\n./bin/clean %f");
    assert_known(&clean, &["bin/clean", "scripts/c.py"], &["scripts/d.py", "bin/other", "scripts/c.py/x"]);
    assert_known(&local(&root, "core.fsmonitor\n'tools/x'"), &["tools", "tools-1/x"], &["tools-1/y"]);
}

#[test]
fn what_is_in_the_home_is_so_however_that_is_named() {
    let home = std::env::var_os("HOME").map(PathBuf::from).expect("a home");
    for program in ["~/bin/edit", "'vi' ~/bin/edit -x", "$HOME/bin/edit", "\"${HOME}/bin/edit\" -x"] {
        let trusted = local(&home, &format!("core.editor\n{program}"));
        assert_known(&trusted, &["bin/edit", "bin"], &["edit", "x/bin/edit"]);
    }
    assert_known(&local(&home, "core.editor\n'sh' ~/bin/edit -x"), &["bin/edit", "bin"], &["x/bin/edit", "bin/x"]);
}

#[test]
fn what_conditions_would_include_is_read_however_deep_it_is() {
    let (temp, root) = tree(&[], &[".git/HEAD", "README"]);
    let write = |name: &str, text: &str| fs::write(temp.path().join(name), text).unwrap();
    write("tree/.git/HEAD", "ref: refs/heads/main\n");
    for dir in ["objects", "refs"] {
        fs::create_dir(root.join(".git").join(dir)).unwrap();
    }
    write("tree/.git/config", "[includeIf \"onbranch:release\"]\n\tpath = ../../one\n[include]\n\tpath = ../../two\n");
    // A file that includes itself, and one that is missing.
    write(
        "one",
        "[includeIf \"gitdir:/x\"]\n\tpath = three\n\tpath = one\n\tpath = none\n[core]\n\thooksPath = release\n",
    );
    write("two", "[includeIf \"onbranch:x\"]\n\tpath = four\n");
    write("three", "[include]\n\tpath = five\n");
    write("four", "no configuration\n");
    write("five", "[filter \"x\"]\n\tclean = ./tools/five.sh\n");
    let trusted = Trusted::of(Some(&root)).unwrap();
    assert_known(&trusted, &["release/pre-commit", "tools/five.sh"], &["README", "tools/four.sh"]);
}

#[test]
fn without_a_tree_what_counts_from_the_top_counts_all_the_same() {
    let mut trusted = Trusted::default();
    trusted
        .read(b"file:/etc/gitconfig\0core.hookspath\n.githooks\0file:/etc/gitconfig\0core.pager\n../x/pager\0", None);
    assert_known(&trusted, &[".githooks/pre-commit"], &["x/other", "README"]);
}

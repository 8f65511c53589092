//! What of a tree is believed, and what only looks like it.

use super::*;
use std::os::unix::fs::symlink;

fn trusted(root: &Path, listing: &str) -> Trusted {
    let mut trusted = Trusted { places: Places::of(Some(root)), programs: Vec::new() };
    trusted.read(listing.replace('|', "\0").as_bytes(), Some(&root.join(".git")));
    trusted
}

/// What the configuration of the repository in a tree makes of that.
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
        // What is above it may become a link.
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
        // It may be on another branch, and a link instead of its directory here.
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
        // As it counts from the git directory.
        ("filter.x.clean\n../tools/clean", "tools/clean"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
    }
    // What is said by banger itself is nobody's configuration, and a file of it in the tree is.
    assert!(trusted(root, "command line:|core.hookspath\nx|").reason(b"x").is_none());
    assert!(trusted(root, "file:/no/such/tree/.gitconfig|a.b\nc|").reason(b".gitconfig").is_some());
}

#[test]
fn what_an_interpreter_is_told_to_run_is_known_whatever_comes_first() {
    let root = Path::new("/no/such/tree");
    for (entry, path) in [
        ("filter.x.clean\nsh clean", "clean"),
        ("filter.x.clean\n/usr/bin/env python3.11 -u munge %f", "munge"),
        ("diff.x.textconv\nsh -c 'bash --norc show'", "show"),
        ("core.pager\nperl -w -- \"page\"", "page"),
        ("filter.x.clean\nbash -eo pipefail munge", "munge"),
        ("filter.x.clean\nbash --rcfile x --norc munge", "munge"),
        ("filter.x.clean\nperl -I lib munge %f", "munge"),
        ("filter.x.clean\nperl -Ilib/core -w munge %f", "munge"),
        ("filter.x.clean\nperl -MSome::Module munge", "munge"),
        ("filter.x.clean\nperl -pie munge", "munge"),
        ("filter.x.clean\nruby -rdate munge", "munge"),
        ("filter.x.clean\nphp -ddisplay_errors=stderr munge", "munge"),
        ("filter.x.clean\nnode --max-old-space-size=99 munge", "munge"),
        ("filter.x.clean\nphp8.2 -d a=b -f munge", "munge"),
        // Letters of options: which case they have counts, and whether they have a value, and where.
        ("filter.x.clean\nruby -W:no-deprecated munge", "munge"),
        ("filter.x.clean\nruby -Eutf-8 munge", "munge"),
        ("filter.x.clean\nruby -E UTF-8 munge", "munge"),
        ("filter.x.clean\nruby -C dir munge", "munge"),
        ("filter.x.clean\nperl -F/e/ munge", "munge"),
        ("filter.x.clean\nperl -x/etc munge", "munge"),
        ("filter.x.clean\nperl -0x2e munge", "munge"),
        ("filter.x.clean\nperl -0777 -l012 munge", "munge"),
        ("filter.x.clean\nperl -i -I lib munge", "munge"),
        ("filter.x.clean\nBash -C Munge", "MUNGE"),
        ("filter.x.clean\nsh -euC munge", "munge"),
        ("filter.x.clean\nbash -oe pipefail munge", "munge"),
        ("filter.x.clean\nbash -norc munge", "munge"),
        ("filter.x.clean\nlua -e \"x=1\" munge", "munge"),
        ("filter.x.clean\nnode --loader ./l.mjs munge", "munge"),
        ("filter.x.clean\nnode --env-file .env munge", "munge"),
        // Options nobody here knows may have a value or none.
        ("filter.x.clean\nnode --new-in-node value munge", "munge"),
        ("filter.x.clean\nzsh -Z value munge", "munge"),
        // What a shell takes for one word, for the file's content, or for no word at all.
        ("filter.x.clean\nperl -I 'my lib' munge", "munge"),
        ("filter.x.clean\n\"/usr/bin/perl\" -I 'my lib' munge", "munge"),
        ("filter.x.clean\nsh -c \"perl -I \\\"my lib\\\" munge\"", "munge"),
        ("filter.x.clean\nperl -I my\\ lib munge", "munge"),
        ("filter.x.clean\nperl -I \"$(git rev-parse --show-toplevel)/lib\" munge", "munge"),
        ("filter.x.clean\nperl -I $(sh -c pwd)/lib munge", "munge"),
        ("filter.x.clean\nsh 2>/dev/null munge", "munge"),
        ("filter.x.clean\nsh -e < munge", "munge"),
        ("filter.x.clean\nbash -c '. munge'", "munge"),
        ("filter.x.clean\nbash -c 'source munge'", "munge"),
        // Values of options.
        ("filter.x.clean\nbash --rcfile munge -i", "munge"),
        ("filter.x.clean\nBASH_ENV=munge bash -c x", "munge"),
        ("filter.x.clean\nperl -I \"a\\\"b c\" munge", "munge"),
        ("filter.x.clean\nluajit -j off munge", "munge"),
        ("filter.x.clean\nluajit -joff munge", "munge"),
        // Interpreters that are a substitution, a variable or a variant.
        ("filter.x.clean\n\"$(command -v python3)\" munge", "munge"),
        ("filter.x.clean\n$(which python3) -u munge", "munge"),
        ("filter.x.clean\n`which python3` munge", "munge"),
        ("filter.x.clean\n${PYTHON:-python3} munge", "munge"),
        ("filter.x.clean\n${RUN:-/usr/bin/python3} munge", "munge"),
        ("filter.x.clean\n\"$PYTHON\" munge", "munge"),
        ("filter.x.clean\n\\python3 munge", "munge"),
        ("filter.x.clean\nbash-static munge", "munge"),
        ("filter.x.clean\npython3-dbg munge", "munge"),
        ("filter.x.clean\nphp-cgi munge", "munge"),
        ("filter.x.clean\nluajit-2.1.0-beta3 munge", "munge"),
        ("filter.x.clean\nposh munge", "munge"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
    }
}

#[test]
fn what_an_interpreter_looks_for_is_known_wherever_it_looks() {
    let root = Path::new("/no/such/tree");
    for (entry, path) in [
        // Modules, which Python and Lua look for where they are run.
        ("filter.x.clean\n\"/usr/bin/python3\" -m nbstripout", "nbstripout.py"),
        ("filter.x.clean\npython3 -Im tools.Strip -x", "tools/strip/__main__.py"),
        ("filter.x.clean\npython3 -mtools.strip", "tools/__init__.py"),
        ("filter.x.clean\npython3 -m tools.strip", "tools/strip.cpython-311-x86_64-linux-gnu.so"),
        ("filter.x.clean\npython3 -m tools.strip", "tools"),
        ("filter.x.clean\ncd scripts; python3 -m strip", "scripts/strip.py"),
        ("filter.x.clean\nlua -l strip.all main", "strip/all.lua"),
        ("filter.x.clean\nlua -lstrip main", "strip/init.lua"),
        ("filter.x.clean\nlua -lg=strip main", "strip.lua"),
        ("filter.x.clean\nlua -l g=strip main", "strip.lua"),
        ("filter.x.clean\nlua -l tools/strip main", "tools/strip.lua"),
        // Perl and Ruby do where they are told to.
        ("filter.x.clean\nperl -I. -MStrip -e 1", "strip.pm"),
        ("filter.x.clean\nperl -Ilib -wMTools::Strip=all -e 1", "lib/Tools/Strip.pm"),
        ("filter.x.clean\nPERL5LIB=lib perl -mStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -Ilib -MTools::Strip -e 1", "lib/tools"),
        ("filter.x.clean\nruby -Ilib -rstrip -e 1", "lib/strip.rb"),
        ("filter.x.clean\nruby -I lib -r strip -e 1", "lib/strip.rb"),
        // What is found by less than its name, or by its directory's.
        ("filter.x.clean\nnode scripts/clean", "scripts/clean.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts/clean.json"),
        ("filter.x.clean\nnode scripts/clean", "scripts/clean/index.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts/clean/package.json"),
        ("filter.x.clean\nnode munge %f", "munge.js"),
        ("filter.x.clean\nnode /no/such/tree/munge", "munge.js"),
        ("filter.x.clean\nnode \"$(git rev-parse --show-toplevel)/tools\"", "tools/index.js"),
        ("filter.x.clean\nnode ../munge", "munge.js"),
        ("filter.x.clean\nnode ./tools", "tools/index.js"),
        ("filter.x.clean\nnode .", "index.js"),
        ("filter.x.clean\nnode ./", "package.json"),
        ("filter.x.clean\ncd tools && node .", "tools/index.js"),
        ("filter.x.clean\ncd tools && node munge", "tools/munge.js"),
        ("filter.x.clean\npython3 tools", "tools/__main__.py"),
        ("filter.x.clean\npython3 ./tools", "tools/__main__.py"),
        ("filter.x.clean\npython3 .", "__main__.py"),
        ("filter.x.clean\nnode -r ./hook x.js", "hook.js"),
        ("filter.x.clean\nnode --require=hook x.js", "hook.js"),
        ("filter.x.clean\nruby -r ./hook x", "hook.rb"),
        ("filter.x.clean\nruby -r./hook x", "hook.rb"),
        // From where it went.
        ("filter.x.clean\nruby -C tools munge", "tools/munge"),
        ("filter.x.clean\nenv -C tools sh ./munge", "tools/munge"),
        ("filter.x.clean\nenv --chdir=tools sh munge", "tools/munge"),
        ("filter.x.clean\nchdir tools; sh munge", "tools/munge"),
        ("filter.x.clean\nPYTHONPATH=tools python3 -m strip", "tools/strip.py"),
        ("filter.x.clean\nLUA_PATH='tools/?.lua' lua -l strip x", "tools/strip.lua"),
        ("filter.x.clean\ncd \"$(git rev-parse --show-toplevel)/..\" && proj/tools/x", "tools/x"),
        ("filter.x.clean\ncd tools && ./munge", "tools/munge"),
        ("filter.x.clean\nsh -c 'cd tools; sh munge'", "tools/munge"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
    }
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
        // A known path is that one alone.
        ("filter.x.clean\nnode tools/index.js", "index.js"),
        ("filter.x.clean\nnode ./tools/index.js", "index.js"),
        ("filter.x.clean\nsh -c 'munge %f'", "munge"),
        ("filter.x.clean\nperl -pe munge", "munge"),
        ("filter.x.clean\nperl -I lib -pe munge README", "README"),
        ("filter.x.clean\nperl -0777pe s,a,b, munge", "munge"),
        ("filter.x.clean\nperl -lne 'print \"x\"' README", "README"),
        ("filter.x.clean\nruby -W0 -e munge", "munge"),
        ("filter.x.clean\nnode --no-warnings ./munge README", "README"),
        ("filter.x.clean\nbash -eo pipefail ./munge README", "README"),
        ("filter.x.clean\nbash -ec munge", "munge"),
        ("filter.x.clean\nsh 2>/dev/null ./munge README", "README"),
        ("filter.x.clean\nsh -x; munge README", "README"),
        ("filter.x.clean\npython3 -m nbstripout", "nbstripout/tests/__init__.py"),
        ("filter.x.clean\npython3 -m nbstripout", "src/nbstripout.py"),
        ("filter.x.clean\npython3 -m nbstripout", "__main__.py"),
        ("filter.x.clean\npython3 -m nbstripout", "nbstripout2.py"),
        ("filter.x.clean\npython3 -m tools.strip", "tools/other.py"),
        // Without an interpreter that looks for it, and beside what it looks for.
        ("filter.lfs.clean\ngit-lfs clean -- %f", "clean.js"),
        ("filter.x.clean\ntools/x", "tools/x.js"),
        ("filter.x.clean\nsh tools/x", "tools/x.js"),
        ("filter.x.clean\nsh tools", "tools/index.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts/clean2.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts/clean/lib.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts/index.js"),
        ("filter.x.clean\nnode scripts/clean", "scripts.js"),
        ("filter.x.clean\nnode scripts/clean", "clean.js"),
        ("filter.x.clean\nnode scripts/clean README", "README.js"),
        ("filter.x.clean\nnode scripts/clean", "lib/scripts/clean.js"),
        ("filter.x.clean\nnode .", "src/index.js"),
        ("filter.x.clean\nnode -e 'x' .", "index.js"),
        ("filter.x.clean\nsh -c '. ./x; node y.js'", "index.js"),
        ("filter.x.clean\npython3 tools", "tools/strip.py"),
        ("filter.x.clean\nperl -CS -MJSON::PP -e 1", "docs/json.md"),
        ("filter.x.clean\nperl -MJSON::PP -e 1", "lib/JSON/PP.pm"),
        ("filter.x.clean\nruby -rjson -e 1", "lib/json.rb"),
        ("core.pager\nless -IX", "src/less.rs"),
        ("core.sshcommand\nssh -C -i ~/.ssh/id", "docs/id"),
        ("filter.x.clean\nfind-sh munge", "munge"),
        ("filter.x.clean\nfoo -sh munge", "munge"),
        ("filter.x.clean\n$HOME/node/bin/prettier munge", "munge"),
        ("filter.x.clean\nsh -x ./munge README", "README"),
        ("filter.x.clean\nbash -- ./munge README", "README"),
        ("filter.x.clean\ncd tools && ./munge", "tools/other"),
        ("filter.x.clean\ncd tools && /usr/bin/munge", "munge"),
        ("filter.x.clean\nsh ./clean README", "README"),
        ("credential.helper\nstore", "store"),
        ("credential.helper\n!gh auth git-credential", "auth"),
        ("credential.helper\n!/usr/bin/gh auth git-credential", "gh"),
        ("alias.x\n!./tools/x", "tools/x"),
        ("user.name\nREADME", "README"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_none(), "{entry:?} {path}");
    }
}

/// A tree with these links and files, in a directory of its own.
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
        // One after the other, and through a directory that is one.
        (".git/hooks/pre-rebase", "../../scripts/current.sh"),
        ("scripts/current.sh", "v1.sh"),
        (".git/hooks/commit-msg", "../../now/message.sh"),
        ("now", "versions/1"),
        // What it leads to is on another branch.
        (".git/hooks/post-merge", "../../later/merge.sh"),
        // Of the tree alone.
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
fn what_an_interpreter_finds_is_followed_through_links() {
    let links =
        [("scripts/clean.js", "../lib/clean.js"), ("tools", "tools-1"), ("tools-1/index.js", "../lib/tools.js")];
    let (_temp, root) = tree(&links, &["lib/clean.js", "lib/tools.js", "lib/other.js"]);
    let known = ["scripts/clean.js", "lib/clean.js", "lib"];
    assert_known(&local(&root, "filter.x.clean\nnode scripts/clean"), &known, &["lib/tools.js", "lib/other.js"]);
    let known = ["tools", "tools-1/index.js", "lib/tools.js"];
    assert_known(&local(&root, "filter.x.clean\nnode ./tools"), &known, &["lib/clean.js", "tools-1/x.js"]);
}

#[test]
fn a_path_of_many_ends_is_looked_at_for_no_more_of_them_than_fit() {
    let program = Program::new(b"cd tools && PYTHONPATH=lib python3 -m strip && node munge");
    let deep = "a/".repeat(2000);
    for (name, is_named) in [("munge.js", true), ("munge/index.js", true), ("strip.py", true), ("other.js", false)] {
        assert_eq!(program.names(&format!("{deep}{name}")), is_named, "{name}");
    }
    assert!(!program.names(&format!("munge/{deep}x")));
}

#[test]
fn what_is_in_the_home_is_so_however_that_is_named() {
    let home = std::env::var_os("HOME").map(PathBuf::from).expect("a home");
    for program in ["~/bin/edit", "'sh' ~/bin/edit -x", "$HOME/bin/edit", "\"${HOME}/bin/edit\" -x"] {
        let trusted = local(&home, &format!("core.editor\n{program}"));
        assert_known(&trusted, &["bin/edit", "bin"], &["edit", "x/bin/edit"]);
    }
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
    // One that includes itself, and one that is not there.
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

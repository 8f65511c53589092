//! Open lines, of which any word may be a file's name.

use super::*;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

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
        // Option letters: their case, and whether and where they have a value.
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
        // Unknown options may have a value or none.
        ("filter.x.clean\nnode --new-in-node value munge", "munge"),
        ("filter.x.clean\nzsh -Z value munge", "munge"),
        // Text that a shell takes for one word, for the content of a file, or for no word at all.
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
        // Interpreters named by a substitution, a variable or a variant.
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
        // Modules, which Python and Lua look for in the working directory.
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
        // Modules of Perl and Ruby, in directories they are told of.
        ("filter.x.clean\nperl -I. -MStrip -e 1", "strip.pm"),
        ("filter.x.clean\nperl -Ilib -wMTools::Strip=all -e 1", "lib/Tools/Strip.pm"),
        ("filter.x.clean\nPERL5LIB=lib perl -mStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -Ilib -MTools::Strip -e 1", "lib/tools"),
        ("filter.x.clean\nruby -Ilib -rstrip -e 1", "lib/strip.rb"),
        ("filter.x.clean\nruby -I lib -r strip -e 1", "lib/strip.rb"),
        // Files that are found by less than their name, or by their directory's.
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
        // Relative to the directory that the line changes to.
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

/// Files of modules, whatever the options are called, and wherever they are.
#[test]
fn no_spelling_hides_what_is_named() {
    let root = Path::new("/no/such/tree");
    for (entry, path) in [
        // Python prefers its compiled file.
        ("filter.x.clean\npython3 -m strip", "__pycache__/strip.cpython-311.pyc"),
        ("filter.x.clean\npython3 -m a.strip", "a/__pycache__/__init__.cpython-311.pyc"),
        ("filter.x.clean\npython3 tools", "tools/__pycache__/__main__.cpython-311.pyc"),
        ("filter.x.clean\npython3 .", "__pycache__/__main__.cpython-311.pyc"),
        ("filter.x.clean\nnode /no/such/tree", "index.js"),
        ("filter.x.clean\nnode tools/..", "package.json"),
        // A directory may end with a slash.
        ("filter.x.clean\ncd tools && node ./", "tools/index.js"),
        ("filter.x.clean\ncd x && node ./clean/", "x/clean/index.js"),
        ("filter.x.clean\ncd x && python3 ./tools/.", "x/tools/__main__.py"),
        ("filter.x.clean\ncd \"$X\" && node .", "any/index.js"),
        // Letters before a letter that has a value, and values that say where to look.
        ("filter.x.clean\nperl -wIlib -MStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -mlib=lib -MStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -wMlib=lib -MStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -Ilib -lMStrip -e 1", "lib/Strip.pm"),
        ("filter.x.clean\nperl -I. -0777MStrip -e 1", "Strip.pm"),
        ("filter.x.clean\nperl -I. -MStrip -e 1", "5.36.0/Strip.pm"),
        ("filter.x.clean\nPERL5LIB=lib perl -MStrip -e 1", "lib/5.36.0/Strip.pm"),
        ("filter.x.clean\nruby -wIlib -rstrip -e 1", "lib/strip.rb"),
        ("filter.x.clean\nruby -wC tools munge", "tools/munge"),
        ("filter.x.clean\nruby -xtools munge", "tools/munge"),
        ("filter.x.clean\nenv -iC tools sh munge", "tools/munge"),
        ("filter.x.clean\nmake -s -C tools ./munge", "tools/munge"),
        ("filter.x.clean\nsystemd-run --working-directory=tools ./munge", "tools/munge"),
        // Variables, whatever their value, and beginnings of shell commands.
        ("filter.x.clean\n$SHELL munge", "munge"),
        ("filter.x.clean\n\"$SHELL\" munge", "munge"),
        ("filter.x.clean\nPY=python3; $PY munge", "munge"),
        ("filter.x.clean\nX=\"a b\" $PY munge", "munge"),
        ("filter.x.clean\n< /dev/null $PY munge", "munge"),
        ("filter.x.clean\nif true; then $PY munge; fi", "munge"),
        ("filter.x.clean\nf() { $PY munge; }; f", "munge"),
        ("filter.x.clean\nnice -n 5 $PY munge", "munge"),
        ("filter.x.clean\n$(find-one) munge", "munge"),
        ("filter.x.clean\n`find-one` munge", "munge"),
        ("filter.x.clean\n$DIR/$PY munge", "munge"),
        ("credential.helper\n!$PY munge", "munge"),
        ("filter.x.clean\n. munge", "munge"),
        ("filter.x.clean\nD=tools; sh $D/munge", "tools/munge"),
        ("filter.x.clean\nsh \"$D/munge\"", "any/munge"),
        ("filter.x.clean\n$D/munge", "any/munge"),
        ("filter.x.clean\ntools/${D%/}/munge -x", "tools/any/munge"),
        // Quotes and line breaks within.
        ("filter.x.clean\nsh mu'ng'e", "munge"),
        ("filter.x.clean\nsh \\\n munge", "munge"),
        ("filter.x.clean\nsh 'my tools/mung+e.sh'", "my tools/mung+e.sh"),
        ("filter.x.clean\nnode 'my tools'", "my tools/lib/main.js"),
        ("filter.x.clean\nsh +++", "+++"),
        ("filter.x.clean\nsh \"it's\"", "it's"),
        // Any file of a directory that node runs, and of a module.
        ("filter.x.clean\nnode tools", "tools/lib/main.js"),
        ("filter.x.clean\nnode -r hook x.js", "node_modules/hook.js"),
        ("filter.x.clean\nnode -r hook x.js", "node_modules/hook/index.js"),
        ("filter.x.clean\nnode -rhook x.js", "node_modules/hook/lib/main.js"),
        ("filter.x.clean\nnode -r @scope/hook/register x.js", "node_modules/@scope/hook/lib/register.js"),
        ("filter.x.clean\nnpx prettier --stdin", "node_modules/.bin/prettier"),
        ("filter.x.clean\nyarn munge", "node_modules/munge/lib/main.js"),
        ("filter.x.clean\nNODE_OPTIONS='-r hook' munge", "node_modules/hook/lib/main.js"),
        // Options in variables, and search paths of programs.
        ("filter.x.clean\nPERL5OPT=-MStrip munge", "Strip.pm"),
        ("filter.x.clean\nPERL5OPT='w MStrip' munge", "Strip.pm"),
        ("filter.x.clean\nRUBYOPT=-rstrip munge", "strip.rb"),
        ("filter.x.clean\nRUBYOPT=-rstrip RUBYLIB=lib munge", "lib/strip.rb"),
        ("filter.x.clean\nPATH=tools:$PATH munge", "tools/munge"),
        ("filter.x.clean\nenv PATH=tools munge", "tools/munge"),
        ("filter.x.clean\nPATH+=:tools; munge", "tools/munge"),
    ] {
        assert!(local(root, entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
    }
}

#[test]
fn what_no_word_names_is_a_file_as_any_other() {
    let root = Path::new("/no/such/tree");
    for (entry, paths) in [
        (
            "python3 tools/strip.py",
            ["src/app.py", "README.md", "tools/other.py", "tools.py", "src/strip.rs", "src/tools/x"],
        ),
        (
            "python3 -m nbstripout",
            [
                "src/nbstripout.py",
                "nbstripout/tests/__init__.py",
                "nbstripout/x.py",
                "nbstripout2.py",
                "__main__.py",
                "index.js",
            ],
        ),
        (
            "python3 -m tools.strip",
            ["tools/other.py", "src/tools.py", "src/strip.py", "strip2.py", "docs/index.md", "a/__init__.py"],
        ),
        (
            "python3 tools",
            ["tools/strip.py", "src/tools/__main__.py", "__main__.py", "toolsmith", "src/a", "python.md"],
        ),
        (
            "node scripts/clean",
            ["scripts/clean2.js", "scripts/index.js", "scripts.js", "lib/scripts/clean.js", "node.md", "src/index.js"],
        ),
        (
            "node scripts/clean.js",
            ["js/x.ts", "scripts/x.js", "src/clean.js", "index.js", "package.json", "node_modules/x/y.js"],
        ),
        ("node .", ["src/index.js", "src/main.js", "lib/a.js", "README.md", "node.js", "docs/package.json"]),
        (
            "perl -CS -MJSON::PP -e 1",
            ["docs/json.md", "lib/JSON/PP.pm", "src/e.c", "src/pp.c", "index.js", "package.json"],
        ),
        ("ruby -rjson -e 1", ["lib/json.rb", "e", "e.rb", "app/index.rb", "index.js", "ruby.md"]),
        ("sh tools/x \"$1\"", ["tools/x2", "src/x.c", "tools/y", "index.js", "1/a", "src/tools"]),
        ("cd tools && ./munge", ["tools/other", "tools/munge2", "src/x", "index.js", "tools/index.js", "cd/x"]),
        (
            "/usr/bin/env python3 tools/strip.py",
            ["src/env.rs", "bin/x", "python/x.py", "usr/share/x", "env/x", "src/bin/strip.rs"],
        ),
    ] {
        let trusted = local(root, &format!("filter.x.clean\n{entry}"));
        for path in paths {
            assert_eq!(trusted.reason(path.as_bytes()), None, "{entry:?} {path}");
        }
    }
}

/// Usual configurations do not refuse files that are called like their words.
#[test]
fn usual_programs_take_no_file_from_anybody() {
    let root = Path::new("/no/such/tree");
    for entry in [
        "filter.lfs.clean\ngit-lfs clean -- %f",
        "filter.lfs.process\ngit-lfs filter-process",
        "filter.x.clean\nnbstripout",
        "filter.x.clean\n\"nbstripout\" -t",
        "diff.x.textconv\nnbstripout -t",
        "filter.x.clean\n\"git-crypt\" clean",
        "filter.x.clean\njq --indent 1 .",
        "filter.x.clean\nsed 's/clean.*/src/'",
        "filter.x.clean\n$HOME/node/bin/prettier --stdin src",
        "filter.x.clean\nfind-sh src",
        "filter.x.clean\nfoo -sh src",
        "diff.x.textconv\npdftotext -layout",
        "core.pager\nless -FRX",
        "core.pager\nless -IX",
        "core.pager\ndelta --features src",
        "core.pager\ndiff-so-fancy | less --tabs=4 -RFX",
        "core.editor\nvim",
        "core.editor\ncode --wait",
        "core.editor\n'C:/Program Files/x/code.exe' --wait",
        "core.sshcommand\nssh -i ~/.ssh/src",
        "core.sshcommand\nssh -i $HOME/.ssh/src",
        "core.sshcommand\nssh -C -i ~/.ssh/id",
        "core.sshcommand\nssh -o IdentitiesOnly=yes -o ControlPath=~/.ssh/%C",
        "core.fsmonitor\nrs-git-fsmonitor",
        "gpg.program\n/usr/bin/gpg2",
        "credential.helper\nstore --file ~/.src",
        "credential.helper\ncache --timeout=3600",
        "credential.helper\n!gh auth git-credential",
        "credential.helper\n!/usr/bin/gh auth git-credential",
        "credential.helper\n/usr/local/share/gcm-core/git-credential-manager",
        "credential.helper\n!aws codecommit credential-helper $@",
        "credential.helper\n!f() { test \"$1\" = get && echo \"password=$TOKEN\"; }; f",
        "credential.helper\n!f() { printf 'username=%s\\n' \"$USER\"; echo \"password=$(pass show src)\"; }; f",
    ] {
        let trusted = local(root, entry);
        for path in [
            "src",
            "src/x",
            "test/x",
            "get",
            "echo",
            "password",
            "f",
            "clean",
            "clean.js",
            "auth",
            "git-lfs",
            "index.js",
            "package.json",
            "src/clean.rs",
            "filter-process.md",
            "F",
            "nbstripout.py",
            "vim",
            "code",
            "delta",
            "key",
            "x",
        ] {
            assert_eq!(trusted.reason(path.as_bytes()), None, "{entry:?} {path}");
        }
    }
}

#[test]
fn what_an_interpreter_finds_is_followed_through_links() {
    let links =
        [("scripts/clean.js", "../lib/clean.js"), ("tools", "tools-1"), ("tools-1/index.js", "../lib/tools.js")];
    let (_temp, root) = tree(&links, &["lib/clean.js", "lib/tools.js", "lib/other.js"]);
    let known = ["scripts/clean.js", "lib/clean.js", "lib"];
    assert_known(&local(&root, "filter.x.clean\nnode scripts/clean"), &known, &["lib/tools.js", "lib/other.js"]);
    let known = ["tools", "tools-1/index.js", "lib/tools.js", "tools-1/x.js"];
    assert_known(&local(&root, "filter.x.clean\nnode ./tools"), &known, &["lib/clean.js", "tools-2/x.js"]);
}

#[test]
fn a_word_alone_is_followed_through_links() {
    let links = [
        ("munge", "lib/real.sh"),
        ("hook.js", "lib/hook-1.js"),
        ("strip.py", "lib/python/strip-2.py"),
        // A chain of links.
        ("run", "now/run.sh"),
        ("now", "versions/3"),
        ("tools/sub", "../lib/sub-4"),
        ("node_modules/pack", "../packages/pack-5"),
        // Links that lead nowhere, out of the tree, and to themselves.
        ("none", "later/none.sh"),
        ("out", "/bin/sh"),
        ("turn", "turn"),
        ("all", "."),
    ];
    let (_temp, root) = tree(&links, &["lib/real.sh", "lib/sub-4/x", "versions/3/run.sh", "packages/pack-5/x"]);
    for (line, known, unknown) in [
        ("sh munge", "lib/real.sh", "lib/real2.sh"),
        ("$PY munge", "lib/real.sh", "lib/run.sh"),
        ("node hook", "lib/hook-1.js", "lib/hook-2.js"),
        ("python3 -m strip", "lib/python/strip-2.py", "lib/python/strip-3.py"),
        ("sh run", "versions/3/run.sh", "versions/4/x.sh"),
        ("sh tools/sub/x", "lib/sub-4/x", "lib/sub-5/y"),
        ("node -r pack x.js", "packages/pack-5/lib/main.js", "packages/pack-6/lib/main.js"),
        ("sh none", "later/none.sh", "later/x.sh"),
        ("sh out", "out", "bin/ash"),
        ("sh turn", "turn", "turn2"),
        ("node all", "index.js", "src/index.js"),
    ] {
        assert_known(&local(&root, &format!("filter.x.clean\n{line}")), &[known], &[unknown, "README"]);
    }
}

#[test]
fn what_a_package_says_is_its_first_file_is_run_where_the_package_is() {
    let (_temp, root) = tree(&[], &["lib/main.js"]);
    let run = |line: &str| local(&root, &format!("filter.x.clean\n{line}"));
    for package in [r#"{"main": "./lib/main"}"#, r#"{"main": "lib"}"#] {
        fs::write(root.join("package.json"), package).unwrap();
        for line in ["node .", "node ./", "node \"$(git rev-parse --show-toplevel)\"", "$RUN ."] {
            assert_known(&run(line), &["lib/main.js", "package.json", "index.js"], &["src/x.js", "main.md/x"]);
        }
    }
    assert_known(&run("node x.js"), &[], &["lib/main.js"]);
    for package in ["", "{", r#"{"main": 1}"#, r#"{"main": ""}"#, r#"{"main": "../../.."}"#] {
        fs::write(root.join("package.json"), package).unwrap();
        assert_known(&run("node ."), &["index.js"], &["lib/main.js"]);
    }
}

#[test]
fn a_path_of_many_directories_is_looked_at_as_any_other() {
    let program = Program::new(b"cd tools && PYTHONPATH=lib python3 -m strip && node munge");
    let deep = "a/".repeat(2000);
    for (name, is_named) in [("munge.js", true), ("munge/index.js", true), ("strip.py", true), ("other.js", false)] {
        assert_eq!(program.names(&format!("{deep}{name}")), is_named, "{name}");
    }
    assert!(program.names(&format!("munge/{deep}x")) && !program.names(&format!("tools2/{deep}x")));
}

/// Separators of words in a line.
const BETWEEN: [&str; 14] = [" ", " '", "' ", "\" ", "=", ":", "::", ".", ",", " -", " -I", " -wI", " --x=", " && cd "];

proptest! {
    #[test]
    fn a_file_that_is_called_by_any_words_is_refused(
        words in vec((select(&BETWEEN[..]), "[a-z]{2,8}"), 2..7),
        interpreter in select(&["sh", "python3", "node", "perl", "$X", "env"][..]),
        (dir, name) in (any::<Index>(), any::<Index>()),
        (below, middle, end) in (any::<bool>(), "([a-z]{1,3}/){0,2}", "(|[.]py|[.]cpython-311[.]pyc)"),
    ) {
        let line = words.iter().fold(format!("{interpreter} x"), |line, (between, word)| line + between + word);
        let of = |index: Index| &words[index.index(words.len())].1;
        let dir = if below { format!("{}/{middle}", of(dir)) } else { String::new() };
        let path = format!("{dir}{}{end}", of(name));
        prop_assert!(Program::new(line.as_bytes()).names(&path), "{line:?} {path}");
    }

    #[test]
    fn no_line_is_too_odd(line in "([$`{}()./ a='\"-]|\\PC){0,40}", path in "\\PC{1,20}") {
        let program = Program::new(line.as_bytes());
        program.names(&folded(path.as_bytes()));
    }
}

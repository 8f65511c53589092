//! Patches as git writes them, and as it does not.

use super::*;
use banger_proto::failure::Code;
use proptest::prelude::{ProptestConfig, proptest};
use std::{fs, path::Path, process::Command};

fn new_file(path: &str, mode: &str, content: &str) -> String {
    format!(
        "diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n\
         @@ -0,0 +1 @@\n+{content}\n"
    )
}

fn touched(patch: &str) -> Vec<String> {
    let summary = check(patch.as_bytes()).unwrap_or_else(|failure| panic!("{failure:?}:\n{patch}"));
    summary.files.iter().map(|path| quoted(path)).collect()
}

#[test]
fn what_git_writes_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let repo = temp.path();
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(repo)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    git(&["init", "-q"]);
    let binary: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(repo.join(name).parent().unwrap()).unwrap();
        fs::write(repo.join(name), bytes).unwrap();
    };
    let text = (0..40).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n") + "\n";
    for (name, bytes) in
        [("keep", text.as_bytes()), ("move me b/x", text.as_bytes()), ("bin", &binary), ("gone", b"-- x\n++ y\n")]
    {
        write(name, bytes);
    }
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "1"]);
    write("keep", text.replace("line 3\n", "--- a/../../etc/passwd\n").replace("line 30\n", "\n").as_bytes());
    fs::rename(repo.join("move me b/x"), repo.join("moved b/y")).unwrap_or_else(|_| {
        fs::create_dir_all(repo.join("moved b")).unwrap();
        fs::rename(repo.join("move me b/x"), repo.join("moved b/y")).unwrap();
    });
    write("bin", &binary[..19_000]);
    fs::remove_file(repo.join("gone")).unwrap();
    for name in ["a b/c d", "quote\"d\\", "t\tab", "é", "empty", "no-newline"] {
        write(
            name,
            if name == "empty" {
                b""
            } else if name == "no-newline" {
                b"x"
            } else {
                b"x\n"
            },
        );
    }
    std::os::unix::fs::symlink("a b/c d", repo.join("link")).unwrap();
    std::os::unix::fs::PermissionsExt::set_mode(&mut fs::metadata(repo.join("keep")).unwrap().permissions(), 0o755);
    let mut perms = fs::metadata(repo.join("keep")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut perms, 0o755);
    fs::set_permissions(repo.join("keep"), perms).unwrap();
    git(&["add", "-A"]);
    for more in [["-M", "--full-index"], ["--no-renames", "--abbrev=7"]] {
        let args = ["diff-index", "--cached", "-p", "--binary", more[0], more[1], "HEAD"];
        let patch = git(&args);
        let files =
            check(&patch).unwrap_or_else(|failure| panic!("{failure:?}\n{}", String::from_utf8_lossy(&patch))).files;
        let names = git(&["diff-index", "--cached", "--name-only", "-z", "--no-renames", "HEAD"]);
        let expected: BTreeSet<Vec<u8>> =
            names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        assert_eq!(files, expected);
    }
    assert!(Path::new(repo).join(".git").exists());
}

#[test]
fn an_empty_patch_touches_nothing() {
    assert_eq!(touched(""), Vec::<String>::new());
}

#[test]
fn paths_that_are_nobodys_business_are_refused_by_name() {
    for path in [
        ".git/config",
        "a/.git/hooks/pre-commit",
        ".GIT/config",
        ".Git",
        "git~1/config",
        ".git./x",
        ".git /x",
        ".git::$INDEX_ALLOCATION/x",
        ".g\u{200c}it/config",
        "a\\..\\..\\x",
        "a\\.git\\config",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        ".gitmodules",
        ".GitModules",
        "gitmod~1",
        "sub/.gitmodules",
    ] {
        let failure = check(new_file(path, "100644", "x").as_bytes()).unwrap_err();
        assert_eq!(failure.code, Code::Denied, "{path}: {failure:?}");
        assert!(failure.message.contains(&quoted(path.as_bytes())), "{path}: {failure:?}");
    }
    for path in [".gitignore", "a/.github/workflows/x.yml", "git", "..a/b..", "a.git/config", "x:y", "gitmodules"] {
        assert_eq!(touched(&new_file(path, "100644", "x")), [path]);
    }
}

#[test]
fn every_place_that_names_a_file_counts() {
    let patch = |header: &str, old: &str, new: &str| {
        format!("diff --git {header}\nindex 1..2 100644\n--- {old}\n+++ {new}\n@@ -1 +1 @@\n-a\n+b\n")
    };
    check(patch("a/x b/x", "a/x", "b/x").as_bytes()).unwrap();
    for (header, old, new) in [
        ("a/x b/x", "a/x", "b/.git/config"),
        ("a/x b/x", "a/../y", "b/x"),
        ("a/x b/.git/x", "a/x", "b/x"),
        ("a/x b/y", "a/x", "b/x"),
        ("x y", "a/x", "b/x"),
        ("a/x b/x", "/dev/null", "b/x"),
    ] {
        assert!(check(patch(header, old, new).as_bytes()).is_err(), "{header} {old} {new}");
    }
    for (from, to) in [("x", ".git/hooks/x"), ("../secret", "y"), (".git/config", "y"), ("x", "/etc/x")] {
        let rename = format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n");
        assert_eq!(check(rename.as_bytes()).unwrap_err().code, Code::Denied, "{from} {to}");
        // Copies are not asked for.
        let copy = format!("diff --git a/a b/b\nsimilarity index 100%\ncopy from {from}\ncopy to {to}\n");
        assert_eq!(check(copy.as_bytes()).unwrap_err().code, Code::Guest);
    }
    let twice = new_file("x", "100644", "a") + &new_file("x", "100644", "b");
    assert!(check(twice.as_bytes()).unwrap_err().message.contains("twice"));
}

/// A patch's summary names what the patch does not show, so that the caller checks it.
#[test]
fn renames_say_what_they_do_not_show() {
    let rename = |from: &str, to: &str, more: &str| {
        format!("diff --git a/{from} b/{to}\n{more}similarity index 90%\nrename from {from}\nrename to {to}\n")
    };
    let hunk = |from: &str, to: &str, lines: &str| format!("--- a/{from}\n+++ b/{to}\n@@ -1,2 +1,2 @@\n{lines}");
    let open = |patch: &str| {
        let summary = check(patch.as_bytes()).unwrap_or_else(|failure| panic!("{failure:?}:\n{patch}"));
        (summary.renamed.len(), summary.unread)
    };
    assert_eq!(open(&rename("a", "b", "")), (1, None));
    let modes = "old mode 100644\nnew mode 100755\n";
    assert_eq!(open(&rename("a", "b", modes)), (0, None));
    let changed = rename("a", "b", "") + "index 1..2 100644\n" + &hunk("a", "b", " x\n-y\n+z\n");
    assert_eq!(open(&changed), (0, None));
    // Attributes whose old content is not in the patch.
    let rules = Some(b"d/.gitattributes".to_vec());
    for more in [String::new(), "index 1..2 100644\n".to_owned() + &hunk("a", "d/.gitattributes", " x\n-y\n+z\n")] {
        assert_eq!(open(&(rename("a", "d/.gitattributes", modes) + &more)).1, rules);
    }
    // A link whose target is partly the host's, and content of a file that may be a link.
    for more in ["index 1..2 120000\n", "index 1..2\n"] {
        for lines in [" ../x\n-a\n+b\n", " a\n ../../x\n"] {
            let patch = rename("d/l", "l", "") + more + &hunk("d/l", "l", lines);
            assert!(check(patch.as_bytes()).is_err(), "{patch}");
        }
    }
    let patch = "diff --git a/l b/l\nindex 1..2\n--- a/l\n+++ b/l\n@@ -1 +1 @@\n-x\n+/etc/passwd\n";
    assert!(check(patch.as_bytes()).is_err());
    assert!(check((rename("l", "m", "old mode 120000\nnew mode 120000\n")).as_bytes()).is_err());
}

#[test]
fn links_stay_inside_and_nothing_goes_through_them() {
    for target in ["/etc/passwd", "../..", "../../x", "a/../../../x", ".git/config", "x/.GIT"] {
        let failure = check(new_file("d/link", "120000", target).as_bytes()).unwrap_err();
        assert!(failure.message.contains("d/link"), "{target}: {failure:?}");
    }
    touched(&new_file("d/link", "120000", "../other/file"));
    let through = new_file("dir", "120000", "elsewhere") + &new_file("dir/file", "100644", "x");
    let failure = check(through.as_bytes()).unwrap_err();
    assert!(failure.message.contains("dir/file") && failure.message.contains("link"), "{failure:?}");
    // On a file system that ignores letter case, another name is the same link.
    for (link, file) in [("L", "l/x"), ("a/Dir", "A/dir/y"), ("\u{c4}", "\u{e4}/x"), ("d\u{200d}", "D/x")] {
        for flipped in [false, true] {
            let (link_part, file_part) = (new_file(link, "120000", "elsewhere"), new_file(file, "100644", "x"));
            let patch = if flipped { file_part + &link_part } else { link_part + &file_part };
            let failure = check(patch.as_bytes()).unwrap_err();
            assert!(failure.message.contains("goes through the link"), "{link} {file}: {failure:?}");
        }
    }
    // The reverse is refused as well.
    let later = new_file("dir/file", "100644", "x") + &new_file("dir", "120000", "elsewhere");
    assert!(check(later.as_bytes()).is_err());
    let binary =
        "diff --git a/l b/l\nnew file mode 120000\nindex 0..1\nGIT binary patch\nliteral 4\nLaaaaaaaaaaaaaaa\n\n";
    assert!(check(binary.as_bytes()).is_err());
}

#[test]
fn a_directory_of_many_files_is_one() {
    let deep = "refs/objects/".repeat(300);
    let files = (0..1000).map(|n| format!("{deep}{n}")).chain(["refs-x/a", "refs/b/c", "top"].map(str::to_owned));
    let files: BTreeSet<Vec<u8>> = files.map(String::into_bytes).collect();
    let dirs: Vec<&[u8]> = directories(&files).map(|(_, dir)| dir).collect();
    assert_eq!(dirs.len(), 602);
    let all: BTreeSet<&[u8]> = files.iter().flat_map(|path| parents(path)).collect();
    assert_eq!(dirs.into_iter().collect::<BTreeSet<_>>(), all);
}

#[test]
fn directories_are_bounded() {
    let depth = 2000;
    let patch = |files: usize| -> String {
        (0..files).map(|n| new_file(&format!("{n}/{}x", "d/".repeat(depth - 1)), "100644", "1")).collect()
    };
    let most = MAX_DIRECTORIES / depth;
    assert_eq!(touched(&patch(most)).len(), most);
    let failure = check(patch(most + 1).as_bytes()).unwrap_err();
    assert!(failure.message.contains("more than 262144 directories"), "{}", failure.message.len());
}

#[test]
fn attributes_that_run_programs_are_refused() {
    for line in ["* filter=lfs", "*.c diff=evil", "x merge=evil", "[attr]m filter=x"] {
        for name in [".gitattributes", "a/.GitAttributes", "gitatt~1"] {
            let failure = check(new_file(name, "100644", line).as_bytes()).unwrap_err();
            assert!(failure.message.contains("may run a program"), "{failure:?}");
        }
    }
    for line in ["[attr]m text", "\"\\133attr]m\" text", " \t[attr]m text", "\u{feff}[attr]m text"] {
        let failure = check(new_file(".gitattributes", "100644", line).as_bytes()).unwrap_err();
        assert!(failure.message.contains("stand for others"), "{failure:?}");
    }
    // The host defines what the names mean.
    for line in ["*.x lfs -text x=y", "\"a b\"lfs\t-text"] {
        let set = check(new_file("a/.gitattributes", "100644", line).as_bytes()).unwrap().attributes;
        let expected = ["-text", "lfs"].map(|name| (b"a/.gitattributes".to_vec(), name.as_bytes().to_vec()));
        assert_eq!(set, expected.into(), "{line}");
    }
    touched(&new_file(".gitattributes", "100644", "*.c text eol=lf diff=cpp -filter merge=union"));
    touched(&new_file("x", "100644", "* filter=lfs"));
}

#[test]
fn submodules_are_refused() {
    let patch = "diff --git a/s b/s\nnew file mode 160000\nindex 0..1\n--- /dev/null\n+++ b/s\n@@ -0,0 +1 @@\n+Subproject commit 1\n";
    assert!(check(patch.as_bytes()).unwrap_err().message.contains("submodule"));
    let patch = "diff --git a/s b/s\nindex 1..2 160000\n--- a/s\n+++ b/s\n@@ -1 +1 @@\n-a\n+b\n";
    assert!(check(patch.as_bytes()).unwrap_err().message.contains("submodule"));
}

#[test]
fn what_is_no_patch_is_refused() {
    let good = new_file("x", "100644", "y");
    for bad in [
        "hello\n".to_owned(),
        format!("From: somebody\n{good}"),
        format!("{good}garbage\n"),
        good.replace("@@ -0,0 +1 @@", "@@ -0,0 +1,2 @@"),
        good.replace("@@ -0,0 +1 @@", "@@ -0,0 +99999999999999999999 @@"),
        good.replace("100644", "100777"),
        good.trim_end().to_owned(),
        "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n".to_owned(),
        "diff --git a/x b/x\nindex 1..2\nBinary files a/x and b/x differ\n".to_owned(),
        "diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 4\nZshort\n\n".to_owned(),
    ] {
        assert!(check(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_makes_it_panic(lines in proptest::collection::vec(
        "(diff --git a/x b/x|new file mode 120000|--- a/x|\\+\\+\\+ b/x|@@ -1,2 \\+1 @@|[-+ ].{0,5}|GIT binary patch|literal 9|z.*|\"a\\\\[0-9]*|)", 0..12
    )) {
        let _ = check((lines.join("\n") + "\n").as_bytes());
    }
}

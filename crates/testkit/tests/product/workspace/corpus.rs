//! Repositories of every kind git knows, made from nothing.

use super::{place, says};
use banger_testkit::TestEnv;
use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

/// Makes the repository called `name`, and gives where it is.
pub(super) fn make(env: &TestEnv, name: &str) -> PathBuf {
    let repo = Repo { env, root: place(env, &format!("src-{name}")) };
    fs::create_dir_all(&repo.root).expect("a directory");
    match name {
        "plain" => repo.plain(),
        "states" => repo.states(),
        "detached" => repo.detached(),
        "unborn" => repo.unborn(),
        "worktree" => return repo.worktree(),
        "filters" => repo.filters(),
        "sparse" => repo.sparse(),
        "conflict" => repo.conflict(),
        "crlf" => repo.crlf(),
        "sha256" => repo.sha256(),
        "upstream" => return repo.upstream(),
        "odd-index" => repo.odd_index(),
        "borrowed" => return repo.borrowed(),
        "shallow" => return repo.shallow(),
        "somebody-elses" => repo.somebody_elses(),
        "itself" => repo.itself(),
        "unwatched" => repo.unwatched(),
        other => panic!("no repository is called {other}"),
    }
    repo.root
}

/// All of them.
pub(super) const ALL: [&str; 17] = [
    "plain",
    "states",
    "detached",
    "unborn",
    "worktree",
    "filters",
    "sparse",
    "conflict",
    "crlf",
    "sha256",
    "upstream",
    "odd-index",
    "borrowed",
    "shallow",
    "somebody-elses",
    "itself",
    "unwatched",
];

struct Repo<'a> {
    env: &'a TestEnv,
    root: PathBuf,
}

impl Repo<'_> {
    #[track_caller]
    fn git(&self, args: &[&str]) -> Vec<u8> {
        says(self.env, &self.root, args)
    }

    #[track_caller]
    fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    #[track_caller]
    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    /// Names and modes of every kind, and more history than travels, merges in it.
    fn plain(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for (name, content) in [
            ("README", "hello\n"),
            ("a dir/with space", "x"),
            ("empty", ""),
            ("quote\"back\\slash", "q\n"),
            ("new\nline", "n\n"),
            ("-dash", "d\n"),
            ("é/ü", "unicode\n"),
            (".hidden/.file", "h\n"),
        ] {
            self.write(name, content);
        }
        self.write(OsStr::from_bytes(b"not-utf8-\xff\xfe"), "bytes\n");
        self.write("binary", (0..=255_u8).cycle().take(100_000).collect::<Vec<_>>());
        self.write("large", vec![b'l'; 9 << 20]);
        self.write("run", "#!/bin/sh\n");
        fs::set_permissions(self.root.join("run"), fs::Permissions::from_mode(0o755)).expect("permissions");
        symlink("README", self.root.join("link")).expect("a link");
        symlink("/nowhere/at all", self.root.join("dangling")).expect("a link");
        self.commit("first");
        for n in 0..12 {
            self.write("counter", format!("{n}\n"));
            self.commit(&format!("commit {n}"));
        }
        self.git(&["checkout", "-q", "-b", "side", "HEAD~3"]);
        self.write("side", "s\n");
        self.commit("side");
        self.git(&["checkout", "-q", "main"]);
        self.git(&["merge", "-q", "--no-ff", "-m", "merge", "side"]);
        self.git(&["mv", "README", "READ ME"]);
        self.commit("rename");
    }

    /// Everything `git status` can say at once.
    fn states(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for name in ["same", "staged", "both", "unstaged", "gone", "staged-gone", "was", "mode", "type", "dir/file"] {
            self.write(name, format!("{name}\n").repeat(20));
        }
        self.write(".gitignore", "*.o\n");
        self.commit("first");
        self.write("new", "new\n");
        self.write("empty-new", "");
        self.write("staged", "staged change\n");
        self.write("both", "staged change\n");
        self.git(&["mv", "was", "now"]);
        self.git(&["rm", "-q", "staged-gone"]);
        self.git(&["add", "-A"]);
        self.write("both", "another change\n");
        self.write("unstaged", "changed\n");
        fs::remove_file(self.root.join("gone")).expect("a file");
        fs::remove_dir_all(self.root.join("dir")).expect("a directory");
        fs::set_permissions(self.root.join("mode"), fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::remove_file(self.root.join("type")).expect("a file");
        symlink("same", self.root.join("type")).expect("a link");
        self.write("intended", "only its name is in the index\n");
        self.git(&["add", "-N", "intended"]);
        self.write("untracked", "secret\n");
        self.write("ignored.o", "object\n");
    }

    fn detached(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for n in 0..3 {
            self.write("file", format!("{n}\n"));
            self.commit(&format!("{n}"));
        }
        self.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    }

    fn unborn(&self) {
        self.git(&["init", "-q", "-b", "trunk"]);
        self.write("staged", "s\n");
        self.write("empty", "");
        self.git(&["add", "staged", "empty"]);
        self.write("staged", "s2\n");
        self.write("untracked", "u\n");
    }

    fn worktree(&self) -> PathBuf {
        self.git(&["init", "-q", "-b", "main"]);
        self.write("file", "main\n");
        self.commit("first");
        let tree = place(self.env, "src-worktree-tree");
        self.git(&["worktree", "add", "-q", "-b", "other", tree.to_str().expect("UTF-8")]);
        fs::write(tree.join("file"), "changed in the worktree\n").expect("a file");
        tree
    }

    /// Pointers nobody fetched, and content only a filter explains.
    fn filters(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        self.write(".gitattributes", "*.bin filter=lfs -text\n");
        self.write("pointer.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
        self.write("plain", "p\n");
        self.commit("pointers");
        // As the real one: pointers stay, content becomes one.
        self.git(&["config", "filter.lfs.clean", "sed '/^version/,$b;1s/.*/version pointer/;1!d'"]);
        self.git(&["config", "filter.lfs.smudge", "cat"]);
        self.write("real.bin", "real content\n".repeat(1000));
        self.git(&["add", "real.bin"]);
        self.git(&["commit", "-q", "-m", "content"]);
    }

    /// Files git was told not to look at, as people do with settings of their own.
    fn unwatched(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for name in ["same", "assumed", "skipped", "assumed-gone", "skipped-gone", "odd \"one\""] {
            self.write(name, format!("{name}\n"));
        }
        self.commit("first");
        self.git(&["update-index", "--assume-unchanged", "same", "assumed", "assumed-gone", "odd \"one\""]);
        self.git(&["update-index", "--skip-worktree", "skipped", "skipped-gone"]);
        for name in ["assumed", "skipped", "odd \"one\""] {
            self.write(name, "my own\n");
        }
        for name in ["assumed-gone", "skipped-gone"] {
            fs::remove_file(self.root.join(name)).expect("a file");
        }
    }

    fn sparse(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for name in ["top", "in/a", "in/b", "out/a", "out/deep/b"] {
            self.write(name, format!("{name}\n"));
        }
        self.commit("first");
        self.git(&["sparse-checkout", "set", "--cone", "in"]);
        self.write("in/a", "changed\n");
    }

    fn conflict(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        self.write("file", "base\n");
        self.write("other", "base\n");
        self.commit("base");
        self.git(&["checkout", "-q", "-b", "theirs"]);
        self.write("file", "theirs\n");
        fs::remove_file(self.root.join("other")).expect("a file");
        self.commit("theirs");
        self.git(&["checkout", "-q", "main"]);
        self.write("file", "ours\n");
        self.write("other", "ours\n");
        self.commit("ours");
        super::git(self.env, &self.root, &["merge", "-q", "theirs"]).expect(1);
    }

    fn crlf(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        self.git(&["config", "core.autocrlf", "true"]);
        self.write(".gitattributes", "*.sh text eol=lf\n*.bat text eol=crlf\n*.raw -text\n*.id ident\n");
        self.write("a.txt", "one\r\ntwo\r\n");
        self.write("b.sh", "one\ntwo\n");
        self.write("c.bat", "one\r\ntwo\r\n");
        self.write("d.raw", "one\r\ntwo\n");
        self.write("e.id", "$Id$\n");
        self.commit("first");
        // What a fresh checkout has is what counts.
        self.git(&["rm", "-q", "--cached", "-r", "."]);
        self.git(&["reset", "-q", "--hard"]);
        self.write("a.txt", "one\r\nthree\r\n");
    }

    fn sha256(&self) {
        self.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
        self.write("file", "one\n");
        self.commit("first");
        self.write("file", "two\n");
    }

    /// A clone that is behind and ahead of what it follows, by a URL with a password in it.
    fn upstream(&self) -> PathBuf {
        self.git(&["init", "-q", "-b", "main"]);
        self.write("file", "0\n");
        self.commit("first");
        let clone = Repo { env: self.env, root: place(self.env, "src-upstream-clone") };
        self.git(&["clone", "-q", ".", clone.root.to_str().expect("UTF-8")]);
        self.write("file", "1\n");
        self.commit("theirs");
        clone.write("mine", "m\n");
        clone.commit("mine");
        clone.git(&["fetch", "-q"]);
        clone.git(&["remote", "set-url", "origin", "https://me:secret@example.invalid/repo.git"]);
        clone.root
    }

    /// An index in two files, with everything git caches in one.
    fn odd_index(&self) {
        self.git(&["init", "-q", "-b", "main"]);
        for n in 0..50 {
            self.write(format!("f{n}"), format!("{n}\n"));
        }
        self.commit("first");
        self.git(&["update-index", "--split-index", "--untracked-cache"]);
        self.write("f3", "changed\n");
        self.write("staged", "s\n");
        self.git(&["add", "staged"]);
        self.git(&["update-index", "--index-version", "4"]);
    }

    /// git asks who owns a repository before it believes it; banger believes none.
    fn somebody_elses(&self) {
        self.plain();
        self.write("counter", "changed\n");
        if banger_testkit::require("root") {
            self.env.program("chown").args(["-R", "12345:12345", "."]).current_dir(&self.root).run().expect(0);
        }
    }

    /// This repository.
    fn itself(&self) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        self.git(&["clone", "-q", "--no-local", source, "."]);
    }

    /// Objects in another repository, and in one that takes some of its own from a third.
    fn borrowed(&self) -> PathBuf {
        self.git(&["init", "-q", "-b", "main"]);
        for n in 0..15 {
            self.write("file", format!("{n}\n"));
            self.commit(&format!("{n}"));
        }
        let clone = |from: &Path, name: &str| {
            let clone = Repo { env: self.env, root: place(self.env, name) };
            self.git(&["clone", "-q", "--shared", from.to_str().expect("UTF-8"), clone.root.to_str().expect("UTF-8")]);
            let borrowed = fs::read_to_string(clone.root.join(".git/objects/info/alternates")).expect("alternates");
            assert!(borrowed.contains(from.to_str().expect("UTF-8")), "{borrowed}");
            clone.write(name, "its own\n");
            clone.commit(name);
            clone
        };
        let first = clone(&self.root, "src-borrowed-1");
        let second = clone(&first.root, "src-borrowed-2");
        second.write("staged", "s\n");
        second.git(&["add", "staged"]);
        second.root
    }

    /// History that was cut off already.
    fn shallow(&self) -> PathBuf {
        self.git(&["init", "-q", "-b", "main"]);
        for n in 0..15 {
            self.write("file", format!("{n}\n"));
            self.commit(&format!("{n}"));
        }
        let shallow = place(self.env, "src-shallow-clone");
        let url = format!("file://{}", self.root.display());
        self.git(&["clone", "-q", "--depth", "3", &url, shallow.to_str().expect("UTF-8")]);
        shallow
    }
}

/// A repository most of whose bytes are in its past: each of `commits` replaces a file of `mib` that nothing
/// compresses.
pub(super) fn long_past(env: &TestEnv, commits: u32, mib: usize) -> PathBuf {
    let root = place(env, "src-past");
    fs::create_dir_all(&root).expect("a directory");
    says(env, &root, &["init", "-q", "-b", "main"]);
    let (mut stream, mut state) = (Vec::new(), 88_172_645_463_325_252_u64);
    for commit in 1..=commits {
        let time = 1_700_000_000 + commit;
        let _ = write!(
            stream,
            "commit refs/heads/main\nmark :{commit}\ncommitter T <t@example.com> {time} +0000\ndata 1\nx\n"
        );
        if commit > 1 {
            let _ = writeln!(stream, "from :{}", commit - 1);
        }
        let _ = write!(stream, "M 100644 inline blob\ndata {}\n", mib << 20);
        for _ in 0..(mib << 20) / 8 {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            stream.extend(state.to_le_bytes());
        }
        stream.push(b'\n');
    }
    env.program("git").args(["fast-import", "--quiet"]).current_dir(&root).stdin(stream).run().expect(0);
    says(env, &root, &["reset", "-q", "--hard", "main"]);
    root
}

/// A repository with `count` files of a few kilobytes, committed and checked out, through git's fast path.
pub(super) fn many_files(env: &TestEnv, count: usize) -> PathBuf {
    let root = place(env, "src-many");
    fs::create_dir_all(&root).expect("a directory");
    says(env, &root, &["init", "-q", "-b", "main"]);
    let mut stream = Vec::new();
    let line = "the quick brown fox jumps over the lazy dog, again and again\n";
    let _ = write!(stream, "commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 1\nx\n");
    for n in 0..count {
        let content = format!("{n}\n{}", line.repeat(n % 60));
        let _ = write!(stream, "M 100644 inline d{}/f{n}\ndata {}\n{content}\n", n / 100, content.len());
    }
    env.program("git").args(["fast-import", "--quiet"]).current_dir(&root).stdin(stream).run().expect(0);
    says(env, &root, &["reset", "-q", "--hard", "main"]);
    root
}

//! Repositories into VMs and patches out of them. The guest is a process of this host, so what arrived can be looked
//! at.

mod again;
mod bootstrap;
mod brought;
mod corpus;
mod export;
mod hostile;
mod import;
mod kept;
mod owners;
mod refresh;
mod refs;
mod weight;

use banger_testkit::{Output, TestEnv};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Where a test keeps repositories, and where the guest's copies of them appear.
fn place(env: &TestEnv, name: &str) -> PathBuf {
    env.home().join("home").join(name)
}

/// git, as this test's user has it.
#[track_caller]
fn git(env: &TestEnv, dir: &Path, args: &[&str]) -> Output {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "protocol.file.allow=always"];
    // One of the repositories is somebody else's.
    env.program("git")
        .args(identity)
        .args(["-c", "safe.directory=*"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .run()
}

/// What git says, which must succeed.
#[track_caller]
fn says(env: &TestEnv, dir: &Path, args: &[&str]) -> Vec<u8> {
    git(env, dir, args).expect(0).stdout
}

/// Brings a repository into a VM that runs.
#[track_caller]
fn prepare(env: &TestEnv, vm: &str, repo: &Path, at: &Path, more: &[&str]) -> Output {
    let args = ["vm", "workspace", "prepare", "--quiet", "--guest-path", at.to_str().expect("UTF-8"), vm];
    env.banger(args).args([repo]).args(more).run()
}

/// A VM whose `PATH` has a shell and no git.
fn without_git(env: &TestEnv, vm: &str) {
    with_tools(env, vm, &["sh", "ls", "cat", "mkdir", "rm", "sed"]);
}

/// A VM whose `PATH` has these programs and no others.
fn with_tools(env: &TestEnv, vm: &str, tools: &[&str]) {
    let bin = place(env, "bin");
    fs::create_dir(&bin).expect("a directory");
    for tool in tools {
        let found = env.program("sh").args(["-c", &format!("command -v {tool}")]).run().expect(0).out();
        std::os::unix::fs::symlink(found.trim(), bin.join(tool)).expect("a link");
    }
    let path = format!("PATH={}", bin.display());
    env.banger(["vm", "run", "-d", "--quiet", "--name", vm, "-e", &path]).run().expect(0);
}

/// A VM whose git runs a line of shell before it does what it is asked for.
fn with_git(env: &TestEnv, vm: &str, line: &str) {
    let bin = place(env, "bin");
    fs::create_dir(&bin).expect("a directory");
    let script = format!("#!/bin/sh\nPATH=${{PATH#*:}}\n{line}\nexec git \"$@\"\n");
    fs::write(bin.join("git"), script).expect("a program");
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).expect("permissions");
    let path = format!("PATH={}:{}", bin.display(), "/usr/local/bin:/usr/bin:/bin");
    env.banger(["vm", "run", "-d", "--quiet", "--name", vm, "-e", &path]).run().expect(0);
}

/// One thing in a tree, as far as git knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    File { content: Vec<u8>, executable: bool },
    Link(PathBuf),
}

/// Everything below a directory but git's own.
fn tree(root: &Path) -> BTreeMap<PathBuf, Item> {
    let mut items = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
            if entry.file_name() == ".git" {
                continue;
            }
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_symlink() {
                items.insert(name, Item::Link(fs::read_link(&path).expect("a link")));
            } else {
                let executable = fs::metadata(&path).expect("metadata").permissions().mode() & 0o100 != 0;
                items.insert(name, Item::File { content: fs::read(&path).expect("a file"), executable });
            }
        }
    }
    items
}

/// Paths that git lists with `-z`.
fn listed(bytes: &[u8]) -> Vec<PathBuf> {
    let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect()
}

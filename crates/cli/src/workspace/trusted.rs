//! Files of the tree that this host's git believes or runs because its configuration says so: hooks that are kept in
//! the repository (`core.hooksPath = .githooks`), included configuration, programs of filters. What a guest writes
//! there would run here with the next `git status` or `git commit`.
//!
//! Not known here is what such a program runs or reads in turn, and what tools other than git take from a tree.

mod open;
mod programs;
mod protected_paths;
mod words;

use super::{
    changes::split_nul,
    git::Git,
    patch::{Summary, folded, refused},
    repository::Repository,
    settings::entries,
};
use banger_proto::failure::{Code, Failure};
use programs::{Program, is_program};
use protected_paths::ProtectedPaths;
use std::{
    collections::HashSet,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Most entries of a directory of hooks that are inspected.
const MAX_HOOKS: usize = 1000;
/// Most configuration files that are included under conditions.
const MAX_CONDITIONAL: usize = 1000;
/// System-wide configuration.
const SYSTEM: &str = "/etc/gitconfig";
/// Last parts of keys that name a file which decides whose signatures or certificates git accepts.
const BELIEVED: [&str; 5] = ["allowedsignersfile", "revocationfile", "sslcainfo", "sslcapath", "proxysslcainfo"];

const CONFIGURATION: &str = "this host's git takes configuration from it";
const HOOKS: &str = "this host's git runs hooks from it";
const RULES: &str = "this host's git takes rules for files from it";
const BELIEVES: &str = "this host's git believes whom it names";
const RUNS: &str = "this host's git runs it";

/// Paths of a tree that git believes or runs.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    protected: ProtectedPaths,
    /// Configuration keys, and the programs they name.
    programs: Vec<(String, Program)>,
}

impl Trusted {
    /// Refuses a patch that touches any such path in the repository at `root`, or wherever else this user works.
    pub(super) fn check(summary: &Summary, root: Option<&Path>) -> Result<(), Failure> {
        if summary.files.is_empty() {
            return Ok(());
        }
        let trusted = Self::of(root)?;
        summary.files.iter().try_for_each(|path| match trusted.reason(path) {
            Some(reason) => Err(refused(path, &reason)),
            None => Ok(()),
        })
    }

    fn of(root: Option<&Path>) -> Result<Self, Failure> {
        let git = Git::find()?;
        let repository = root.and_then(|root| Repository::at(&git, root).ok());
        let mut trusted = Self { protected: ProtectedPaths::of(root), programs: Vec::new() };
        trusted.configured(&git, repository.as_ref())?;
        trusted.standard_files();
        if let Some(repository) = &repository {
            trusted.hooks(&repository.common_dir.join("hooks"));
            trusted.protected.file(&repository.common_dir.join("config"), CONFIGURATION);
            trusted.protected.file(&repository.git_dir.join("config.worktree"), CONFIGURATION);
            trusted.protected.file(&repository.common_dir.join("info/attributes"), RULES);
        }
        Ok(trusted)
    }

    /// Collects what the configuration names now and under conditions that do not hold now: they may tomorrow.
    fn configured(&mut self, git: &Git, repository: Option<&Repository>) -> Result<(), Failure> {
        let git_dir = repository.map(|repository| repository.git_dir.as_path());
        let listing = ["--includes", "--list", "--show-origin", "-z"];
        let call = || git_dir.map_or_else(|| git.call(), |git_dir| git.reading(git_dir)).with_user_settings();
        let all = call().args(["config"]).args(listing).ask("read the configuration of this host's git", b"")?;
        let (mut next, mut seen) = (self.read(&all, git_dir), HashSet::new());
        while let Some(file) = next.pop() {
            // A file that does not exist yet names nothing.
            if !file.canonicalize().is_ok_and(|real| real.is_file() && seen.insert(real)) {
                continue;
            }
            if seen.len() > MAX_CONDITIONAL {
                let what = format!("this host's git includes more than {MAX_CONDITIONAL} files under conditions");
                return Err(Failure::new(Code::Invalid, what));
            }
            // With a malformed file git refuses to do anything.
            let answer = call().args(["config", "--file"]).args([&file]).args(listing).answer(b"")?;
            if answer.success {
                next.extend(self.read(&answer.stdout, git_dir));
            }
        }
        Ok(())
    }

    /// Collects the files that git reads in any repository, also those that do not exist yet: a tree may be somebody's
    /// home.
    fn standard_files(&mut self) {
        let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        self.protected.file(Path::new(SYSTEM), CONFIGURATION);
        if let Some(home) = dir("HOME") {
            self.protected.file(&home.join(".gitconfig"), CONFIGURATION);
        }
        if let Some(users) = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config"))) {
            self.protected.file(&users.join("git/config"), CONFIGURATION);
            self.protected.file(&users.join("git/attributes"), RULES);
        }
    }

    /// Reads the output of `git config --list --show-origin -z`; returns the files that it includes under a condition.
    fn read(&mut self, listing: &[u8], git_dir: Option<&Path>) -> Vec<PathBuf> {
        let (fields, mut conditional): (Vec<&[u8]>, _) = (split_nul(listing).collect(), Vec::new());
        for pair in fields.chunks_exact(2) {
            // Other origins are the command line, which is banger's own.
            let Some(origin) = pair[0].strip_prefix(b"file:").map(path) else { continue };
            self.protected.file(origin, CONFIGURATION);
            let Some((key, value)) = entries([pair[1]]).pop().filter(|(_, value)| !value.is_empty()) else { continue };
            let key = String::from_utf8_lossy(&key).into_owned();
            let (section, last) = (key.split('.').next(), key.rsplit('.').next().unwrap_or_default());
            if matches!(section, Some("include" | "includeif")) && last == "path" {
                let file = origin.parent().unwrap_or_else(|| Path::new("/")).join(expanded(&value));
                self.protected.file(&file, CONFIGURATION);
                if section == Some("includeif") {
                    conditional.push(file);
                }
            } else if key == "core.attributesfile" {
                self.protected.file(&expanded(&value), RULES);
            } else if BELIEVED.contains(&last) {
                self.protected.file(&expanded(&value), BELIEVES);
            } else if matches!(key.as_str(), "core.hookspath" | "init.templatedir") {
                let dir = expanded(&value);
                // Hooks of a push run in the git directory.
                let pushed = git_dir.map(|git_dir| git_dir.join(&dir));
                let template = (key == "init.templatedir").then(|| dir.join("hooks"));
                for dir in [Some(dir), pushed, template].into_iter().flatten() {
                    self.hooks(&dir);
                }
            } else if is_program(&key) {
                let mut program = Program::new(&value);
                let why = format!("{RUNS} ({key})");
                program.paths().iter().for_each(|path| self.protected.file(&expanded(path.as_bytes()), &why));
                program.follow(&self.protected);
                self.programs.push((key, program));
            }
        }
        conditional
    }

    /// Adds a directory of hooks, and the targets of links in it.
    fn hooks(&mut self, dir: &Path) {
        self.protected.dir(dir, HOOKS);
        // husky makes `X/_` itself; its hooks run those in `X`.
        let husky = dir.parent().filter(|above| dir.ends_with("_") && !self.protected.is_top(above));
        if let Some(above) = husky {
            self.protected.dir(above, HOOKS);
        }
        let found = self.protected.absolute(dir);
        for entry in found.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().take(MAX_HOOKS) {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.protected.file(&entry.path(), HOOKS);
            }
        }
    }

    /// Returns why a patch may not touch a path.
    fn reason(&self, path: &[u8]) -> Option<String> {
        let path = folded(path);
        self.protected.reason(&path).map(str::to_owned).or_else(|| {
            let program = self.programs.iter().find(|(_, program)| program.names(&path));
            program.map(|(key, _)| format!("{RUNS} ({key})"))
        })
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Expands a path of the configuration: `~` and `~me` are taken for the home, whoever that is.
fn expanded(value: &[u8]) -> PathBuf {
    let value = value.strip_prefix(b":(optional)").unwrap_or(value);
    let Some(rest) = value.strip_prefix(b"~") else { return path(value).to_owned() };
    let rest = rest.iter().position(|byte| *byte == b'/').map_or(&b""[..], |at| &rest[at + 1..]);
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(path(rest))
}

#[cfg(test)]
mod tests;

//! Files of the tree that this host's git believes or runs, because its configuration says so: hooks that are kept in the
//! repository (`core.hooksPath = .githooks`), configuration that is included from there, programs of filters. What a guest
//! writes there would run here with the next `git status` or `git commit`.
//!
//! What such a program runs or reads in turn is not known here, nor is what other tools than git take from a tree.

use super::{
    changes::pieces,
    git::Git,
    patch::{Summary, folded, refused},
    repository::Repository,
    settings::entries,
};
use banger_proto::failure::Failure;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Most entries of a directory of hooks that are looked at.
const MAX_HOOKS: usize = 1000;
/// Everybody's configuration.
const SYSTEM: &str = "/etc/gitconfig";
/// Last words of keys whose value is a program that git runs by itself, in the middle of what it is asked for.
const PROGRAMS: [&str; 24] = [
    "alternaterefscommand",
    "askpass",
    "clean",
    "command",
    "cmd",
    "defaultkeycommand",
    "difffilter",
    "driver",
    "editor",
    "external",
    "fsmonitor",
    "gitproxy",
    "helper",
    "packobjectshook",
    "pager",
    "process",
    "program",
    "receivepack",
    "smudge",
    "sshcommand",
    "textconv",
    "update",
    "uploadpack",
    "vcs",
];

/// What of a tree is believed or run. Names are folded, as another file system may take them for the same.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    /// The tree, by each name it is known to have.
    roots: Vec<PathBuf>,
    /// Files, and directories whose files are meant, with the reason.
    places: BTreeMap<String, String>,
    /// Keys, and the programs they name.
    programs: Vec<(String, String)>,
}

impl Trusted {
    /// A refusal of a patch that touches any of it in the repository at `root`, or wherever else this user works.
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
        let mut trusted = Self::default();
        if let Some(root) = root {
            trusted.roots.push(root.to_owned());
            trusted.roots.extend(root.canonicalize());
        }
        let call = repository.as_ref().map_or_else(|| git.call(), |repository| git.reading(&repository.git_dir));
        let call = call.with_user_settings().args(["config", "--list", "--show-origin", "-z"]);
        let listing = call.ask("read the configuration of this host's git", b"")?;
        let git_dir = repository.as_ref().map(|repository| repository.git_dir.as_path());
        trusted.read(&listing, git_dir);
        trusted.usual();
        if let Some(repository) = &repository {
            trusted.hooks(&repository.common_dir.join("hooks"));
            trusted.add(&repository.common_dir.join("config"), CONFIGURATION);
            trusted.add(&repository.git_dir.join("config.worktree"), CONFIGURATION);
            trusted.add(&repository.common_dir.join("info/attributes"), RULES);
        }
        Ok(trusted)
    }

    /// What git reads wherever it works, also what is not there yet: a tree may be somebody's home.
    fn usual(&mut self) {
        let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        self.add(Path::new(SYSTEM), CONFIGURATION);
        if let Some(home) = dir("HOME") {
            self.add(&home.join(".gitconfig"), CONFIGURATION);
        }
        if let Some(users) = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config"))) {
            self.add(&users.join("git/config"), CONFIGURATION);
            self.add(&users.join("git/attributes"), RULES);
        }
    }

    /// Takes what `git config --list --show-origin -z` says. Whatever a condition says counts: it may hold tomorrow.
    fn read(&mut self, listing: &[u8], git_dir: Option<&Path>) {
        let said: Vec<&[u8]> = pieces(listing).collect();
        for pair in said.chunks_exact(2) {
            // Nothing else is anybody's configuration: the rest is what banger itself said.
            let Some(origin) = pair[0].strip_prefix(b"file:").map(path) else { continue };
            self.add(origin, CONFIGURATION);
            let Some((key, value)) = entries([pair[1]]).pop() else { continue };
            let key = String::from_utf8_lossy(&key).into_owned();
            let (section, last) = (key.split('.').next(), key.rsplit('.').next());
            if matches!(section, Some("include" | "includeif")) && last == Some("path") {
                let beside = origin.parent().unwrap_or_else(|| Path::new("/"));
                self.add(&beside.join(expanded(&value)), CONFIGURATION);
            } else if key == "core.attributesfile" {
                self.add(&expanded(&value), RULES);
            } else if matches!(key.as_str(), "core.hookspath" | "init.templatedir") && !value.is_empty() {
                let dir = expanded(&value);
                // What a push meets runs in the git directory.
                let pushed = git_dir.map(|git_dir| git_dir.join(&dir));
                let template = (key == "init.templatedir").then(|| dir.join("hooks"));
                for dir in [Some(dir), pushed, template].into_iter().flatten() {
                    self.hooks(&dir);
                }
            } else if is_program(&key) {
                self.programs.push((key, folded(&value)));
            }
        }
    }

    /// A directory of hooks, and what links in it lead to.
    fn hooks(&mut self, dir: &Path) {
        self.add(dir, HOOKS);
        // husky makes `X/_` itself, whose hooks run those in `X`.
        if dir.file_name().is_some_and(|name| name == "_") {
            self.add(dir.parent().unwrap_or(dir), HOOKS);
        }
        let places: Vec<PathBuf> = match &self.roots[..] {
            _ if dir.is_absolute() => vec![dir.to_owned()],
            roots => roots.iter().map(|root| root.join(dir)).collect(),
        };
        for entry in places.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().take(MAX_HOOKS) {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.add(&entry.path(), HOOKS);
            }
        }
    }

    /// A place, if it is in the tree: by its name, and where that leads. What is not absolute counts from the tree.
    fn add(&mut self, place: &Path, why: &str) {
        let mut found: Vec<PathBuf> = Vec::new();
        if place.is_absolute() {
            let parent = || Some(place.parent()?.canonicalize().ok()?.join(place.file_name()?));
            let names = [Some(plain(place)), place.canonicalize().ok(), parent()];
            let below =
                |name: &PathBuf| self.roots.iter().find_map(|root| Some(name.strip_prefix(root).ok()?.to_owned()));
            found.extend(names.iter().flatten().filter_map(below));
        } else {
            for root in &self.roots {
                let led = root.join(place).canonicalize().ok();
                found.extend(led.and_then(|led| Some(led.strip_prefix(root).ok()?.to_owned())));
            }
            // From nowhere, one that leads above is above.
            let from_top = plain(&Path::new("/").join(place));
            let leads_above = place.components().next() == Some(Component::ParentDir);
            found.extend(from_top.strip_prefix("/").ok().filter(|_| !leads_above).map(Path::to_owned));
        }
        for place in found {
            self.places.insert(folded(place.as_os_str().as_bytes()), why.to_owned());
        }
    }

    /// Why a patch may not touch a path.
    fn reason(&self, path: &[u8]) -> Option<String> {
        let path = folded(path);
        let place = self.places.iter().find(|(place, _)| match place.as_str() {
            // The top of the tree: what is right in it.
            "" => !path.contains('/'),
            // A link that takes the place of a directory above would lead elsewhere.
            place => path == *place || is_below(&path, place) || is_below(place, &path),
        });
        place.map(|(_, why)| why.clone()).or_else(|| {
            let program = self.programs.iter().find(|(_, program)| names(program, &path));
            program.map(|(key, _)| format!("{RUNS} ({key})"))
        })
    }
}

const CONFIGURATION: &str = "this host's git takes configuration from it";
const HOOKS: &str = "this host's git runs hooks from it";
const RULES: &str = "this host's git takes rules for files from it";
const RUNS: &str = "this host's git runs it";

/// Whether the value is a program that git runs without being asked for it by name, as an alias is.
fn is_program(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let by_name = ["alias.", "browser.", "difftool.", "guitool.", "man.", "mergetool.", "tar."];
    let is_named = by_name.iter().any(|section| key.starts_with(section));
    (PROGRAMS.contains(&last) || key.starts_with("pager.")) && !is_named
}

/// Whether a command line names a file of the tree, alone or as the end of a longer path. One word that it begins with
/// names a program of `PATH`.
fn names(program: &str, path: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    program.match_indices(path).any(|(at, _)| {
        let (before, after) = (&program[..at], &program[at + path.len()..]);
        let of_path = before.is_empty() && !path.contains('/');
        !of_path && !before.ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '/')
    })
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A path as configuration has it: `~` and `~me` are the home, whoever that is.
fn expanded(value: &[u8]) -> PathBuf {
    let value = value.strip_prefix(b":(optional)").unwrap_or(value);
    let Some(rest) = value.strip_prefix(b"~") else { return path(value).to_owned() };
    let rest = rest.iter().position(|byte| *byte == b'/').map_or(&b""[..], |at| &rest[at + 1..]);
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(path(rest))
}

/// The path without `.` and `..`, whatever is there.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(root: &Path, listing: &str) -> Trusted {
        let mut trusted = Trusted { roots: vec![root.to_owned()], ..Trusted::default() };
        trusted.read(listing.replace('|', "\0").as_bytes(), Some(&root.join(".git")));
        trusted
    }

    #[test]
    fn what_git_believes_in_a_tree_is_known_however_it_is_named() {
        let root = Path::new("/no/such/tree");
        let local = |entry: &str| trusted(root, &format!("file:{}/.git/config|{entry}|", root.display()));
        for (entry, path) in [
            ("core.hookspath\n.githooks", ".githooks/pre-commit"),
            ("core.hookspath\n.githooks", ".GitHooks/x/y"),
            ("core.hookspath\n./a/../.githooks/", ".githooks/pre-commit"),
            ("core.hookspath\n/no/such/tree/hooks", "hooks/pre-push"),
            ("core.hookspath\n../hooks", "hooks/pre-receive"),
            // What is above it may become a link.
            ("core.hookspath\na/hooks", "a"),
            ("core.hookspath\n.husky/_", ".husky/pre-commit"),
            ("core.hookspath\n.", "pre-commit"),
            ("init.templatedir\ntemplate", "template/hooks/x"),
            ("include.path\n../.gitconfig", ".gitconfig"),
            ("includeif.onbranch:x.path\n../conf/git", "conf/git"),
            ("core.attributesfile\nrules", "rules"),
            ("filter.x.clean\nsh -c './tools/clean.py %f'", "tools/clean.py"),
            ("core.fsmonitor\n\"$(git rev-parse --show-toplevel)/tools/watch\" -x", "tools/watch"),
            ("diff.Ab.textconv\npython3 show.py", "show.py"),
            ("pager.log\ntools/pager", "tools/pager"),
        ] {
            assert!(local(entry).reason(path.as_bytes()).is_some(), "{entry:?} {path}");
        }
        for (entry, path) in [
            ("core.hookspath\n.githooks", ".githooks2/pre-commit"),
            ("core.hookspath\n../hooks/x", "x"),
            ("core.hookspath\n/elsewhere/hooks", "hooks/x"),
            ("core.hookspath\n", "pre-commit"),
            ("core.hookspath\n.", "src/x"),
            ("include.path\n../../other", "other"),
            ("filter.x.clean\ntools/clean.py", "clean.p"),
            ("filter.x.clean\ntools/clean.py/x", "tools/clean.py"),
            ("filter.x.clean\ngit-lfs clean -- %f", "lfs"),
            ("filter.x.required\nx", "x"),
            ("credential.helper\nstore", "store"),
            ("alias.x\n!./tools/x", "tools/x"),
            ("user.name\nREADME", "README"),
        ] {
            assert!(local(entry).reason(path.as_bytes()).is_none(), "{entry:?} {path}");
        }
        // What is said by banger itself is nobody's configuration, and a file of it in the tree is.
        assert!(trusted(root, "command line:|core.hookspath\nx|").places.is_empty());
        assert!(trusted(root, "file:/no/such/tree/.gitconfig|a.b\nc|").reason(b".gitconfig").is_some());
    }

    #[test]
    fn links_are_followed_to_what_they_lead_to() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap().join("tree");
        for dir in [".git/hooks", "tools/hooks", "scripts"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["scripts/check.sh", "scripts/push.sh", "scripts/other.sh"] {
            fs::write(root.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("tools/hooks", root.join("hooks")).unwrap();
        std::os::unix::fs::symlink("../../scripts/check.sh", root.join("tools/hooks/pre-commit")).unwrap();
        std::os::unix::fs::symlink("../../scripts/push.sh", root.join(".git/hooks/pre-push")).unwrap();
        let mut trusted = trusted(&root, &format!("file:{}/.git/config|core.hookspath\nhooks|", root.display()));
        trusted.hooks(&root.join(".git/hooks"));
        for path in ["hooks", "tools/hooks/pre-push", "scripts/check.sh", "scripts/push.sh"] {
            assert!(trusted.reason(path.as_bytes()).is_some(), "{path}");
        }
        assert!(trusted.reason(b"scripts/other.sh").is_none());
    }
}

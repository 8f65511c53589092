//! What the working tree is, compared with the index, and the index with HEAD: which files git can write out of its
//! objects in the guest, which must travel as they are, which are gone.
//!
//! Everything is asked of a facade, so no filter runs: a file whose content only a filter explains (Git LFS) travels as
//! it is, and the guest's index is told not to look at it.

use super::{attributes, facade::Facade, files::Tree, git::refused, quote::quoted};
use banger_proto::failure::{Code, Failure};
use std::{collections::HashSet, io};

/// A path below the working tree, as git knows it.
pub(crate) type RepoPath = Vec<u8>;

/// What a file in the working tree may be called; more than any real repository has.
const MAX_FILES: usize = 4_000_000;

/// The working tree, in the terms of what has to be done for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Files that are what the index says, byte by byte: they are written out of git's objects in the guest.
    pub(crate) written: Vec<RepoPath>,
    /// Whether [`Self::written`] is all of the index, so that it need not be listed.
    pub(crate) all: bool,
    /// Tracked files that are something else: they travel.
    pub(crate) carried: Vec<RepoPath>,
    /// Of those, the ones git takes for unchanged, whatever they hold.
    pub(crate) assumed: Vec<RepoPath>,
    /// Of those, the ones that are what the index says once line ends and the like are converted.
    pub(crate) converted: Vec<RepoPath>,
    /// Untracked files that travel because they were asked for.
    pub(crate) untracked: Vec<RepoPath>,
    /// Untracked files that stay here.
    pub(crate) left_out: usize,
    /// Submodules.
    pub(crate) submodules: Vec<RepoPath>,
    /// Whether there are files that git takes for unchanged, these or others.
    pub(crate) unwatched: bool,
    /// Objects of the index that no commit has.
    pub(crate) objects: Vec<String>,
    /// Whether index or working tree differ from HEAD, so that HEAD alone is not what arrives.
    pub(crate) dirty: bool,
}

impl Changes {
    /// What arrives, sorted.
    pub(crate) fn files(&self) -> Vec<&RepoPath> {
        let mut files: Vec<_> = self.written.iter().chain(&self.carried).chain(&self.untracked).collect();
        files.sort_unstable();
        files
    }

    /// Looks. `tree` is the same working tree, for its files.
    pub(crate) fn find(
        facade: &Facade,
        tree: &Tree,
        head: Option<&str>,
        include_untracked: bool,
    ) -> Result<Self, Failure> {
        let entries = index(facade)?;
        let mut changes = Self::default();
        // Before the index forgets what it knew: without their filter, these look changed.
        let attributes = attributes::find(facade, tree, &entries)?;
        refresh(facade)?;
        let mut changed = changed_files(facade)?;
        for (path, unchanged) in &attributes.filtered {
            if *unchanged {
                changed.remove(path);
            }
        }
        let (mut seen, mut complete) = (HashSet::new(), true);
        for entry in &entries {
            if entry.mode == Mode::Submodule {
                changes.submodules.push(entry.path.clone());
                continue;
            }
            if entry.stage != 0 {
                changes.objects.push(entry.object.clone());
            }
            if !seen.insert(&entry.path) {
                continue;
            }
            changes.unwatched |= entry.assumed;
            let is_changed = entry.stage != 0 || changed.contains(&entry.path);
            let path = &entry.path;
            let unread = |error: io::Error| unreadable(path, &error);
            let unseen = entry.assumed && !is_changed && !attributes.differs(path);
            if entry.skipped || unseen && !tree.is_blob(path, &entry.object).map_err(unread)? {
                // git does not look at it, here or in the guest: what is there arrives.
                complete = false;
                if tree.has(path) {
                    changes.carried.push(path.clone());
                    changes.unwatched = true;
                }
            } else if is_changed || attributes.differs(&entry.path) {
                complete = false;
                changes.dirty |= is_changed;
                if tree.has(&entry.path) {
                    changes.carried.push(entry.path.clone());
                    if attributes.filtered.contains_key(&entry.path) && !is_changed {
                        changes.assumed.push(entry.path.clone());
                    } else if !is_changed {
                        changes.converted.push(entry.path.clone());
                    }
                }
            } else {
                changes.written.push(entry.path.clone());
            }
        }
        changes.all = complete;
        changes.stage(facade, head, &entries)?;
        let untracked = untracked(facade)?;
        if include_untracked {
            changes.dirty |= !untracked.is_empty();
            changes.untracked = untracked;
        } else {
            changes.left_out = untracked.len();
        }
        if !changes.assumed.is_empty() {
            changes.unwatched = true;
            let args = ["update-index", "--assume-unchanged", "-z", "--stdin"];
            facade.call().args(args).ask("mark files in the index", &join(&changes.assumed))?;
        }
        Ok(changes)
    }

    /// A tree as it was committed: the index is made of `commit`, and the working tree is not looked at.
    pub(crate) fn none(facade: &Facade, commit: &str) -> Result<Self, Failure> {
        facade.call().args(["read-tree", "--reset", commit]).ask("read the commit's tree", b"")?;
        let args = ["update-index", "--index-version", "2", "--force-write-index"];
        facade.call().args(args).ask("write the commit's index", b"")?;
        let mut changes = Self { all: true, ..Self::default() };
        for entry in index(facade)? {
            match entry.mode {
                Mode::Submodule => changes.submodules.push(entry.path),
                Mode::File | Mode::Link => changes.written.push(entry.path),
            }
        }
        Ok(changes)
    }

    /// What is staged.
    fn stage(&mut self, facade: &Facade, head: Option<&str>, entries: &[Entry]) -> Result<(), Failure> {
        let Some(head) = head else {
            self.dirty |= !entries.is_empty();
            self.objects
                .extend(entries.iter().filter(|entry| entry.mode != Mode::Submodule).map(|entry| entry.object.clone()));
            return Ok(());
        };
        let args = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=none"];
        let raw = facade.call().args(args).args([head, "--"]).ask("compare the index with HEAD", b"")?;
        for (fields, _) in raw_entries(&raw)? {
            self.dirty = true;
            let [_, mode, _, object, _] = fields;
            if mode != "160000" && object.bytes().any(|byte| byte != b'0') {
                self.objects.push(object);
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Submodule,
    Link,
    File,
}

/// One line of the index.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) mode: Mode,
    pub(super) object: String,
    stage: u8,
    /// Not in the working tree of a sparse checkout, or nobody's business there (`--skip-worktree`).
    skipped: bool,
    /// Taken for unchanged.
    assumed: bool,
    pub(super) path: RepoPath,
}

/// Makes the copy of the index one file that the agent can read, and its knowledge of the working tree up to date.
fn refresh(facade: &Facade) -> Result<(), Failure> {
    if !facade.index().exists() {
        return Ok(());
    }
    let args = ["update-index", "-q", "--unmerged", "--ignore-missing", "--ignore-submodules"];
    let ways = ["--no-split-index", "--no-untracked-cache", "--no-fsmonitor", "--index-version", "2"];
    let answer = facade.call().args(args).args(ways).args(["--force-write-index", "--refresh"]).answer(b"")?;
    // 1 says that something needs an update, which is what is asked about later.
    if matches!(answer.code, Some(0 | 1)) {
        Ok(())
    } else {
        Err(refused("read the repository's index", &answer.complaint))
    }
}

fn index(facade: &Facade) -> Result<Vec<Entry>, Failure> {
    let listing = facade.call().args(["ls-files", "-z", "-v", "--stage"]).ask("list the repository's files", b"")?;
    let mut entries = Vec::new();
    for line in pieces(&listing) {
        let parse = || {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let mut words = std::str::from_utf8(&line[..tab]).ok()?.split(' ');
            let (tag, mode, object, stage) = (words.next()?, words.next()?, words.next()?, words.next()?);
            Some(Entry {
                mode: match mode {
                    "160000" => Mode::Submodule,
                    "120000" => Mode::Link,
                    _ => Mode::File,
                },
                object: object.to_owned(),
                stage: stage.parse().ok()?,
                skipped: tag.eq_ignore_ascii_case("s"),
                assumed: tag.starts_with(|char: char| char.is_ascii_lowercase()),
                path: line[tab + 1..].to_vec(),
            })
        };
        let entry = parse().ok_or_else(|| nonsense("ls-files"))?;
        check(&entry.path)?;
        entries.push(entry);
    }
    if entries.len() > MAX_FILES {
        return Err(Failure::new(Code::Invalid, format!("the repository has more than {MAX_FILES} files")));
    }
    Ok(entries)
}

/// Tracked files that are not what the index says.
fn changed_files(facade: &Facade) -> Result<HashSet<RepoPath>, Failure> {
    let args = ["diff-files", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=all"];
    let raw = facade.call().args(args).ask("compare the working tree with the index", b"")?;
    Ok(raw_entries(&raw)?.into_iter().map(|(_, path)| path).collect())
}

fn untracked(facade: &Facade) -> Result<Vec<RepoPath>, Failure> {
    let args = ["ls-files", "-z", "--others", "--exclude-standard"];
    let listing = facade.call().args(args).ask("list untracked files", b"")?;
    let mut paths = Vec::new();
    for path in pieces(&listing) {
        // A repository in the repository, which git names as a directory: somebody else's.
        if !path.ends_with(b"/") {
            check(path)?;
            paths.push(path.to_vec());
        }
    }
    Ok(paths)
}

/// `:mode mode object object status` and the path, of a raw diff without renames.
fn raw_entries(raw: &[u8]) -> Result<Vec<([String; 5], RepoPath)>, Failure> {
    let mut entries = Vec::new();
    let mut words = pieces(raw);
    while let Some(head) = words.next() {
        let fields: Vec<String> =
            String::from_utf8_lossy(head).trim_start_matches(':').split(' ').map(str::to_owned).collect();
        let (Ok(fields), Some(path)) = (fields.try_into(), words.next()) else { return Err(nonsense("diff")) };
        entries.push((fields, path.to_vec()));
    }
    Ok(entries)
}

pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).filter(|piece| !piece.is_empty())
}

/// Paths as git takes them with `-z`.
pub(crate) fn join(paths: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_ref());
        bytes.push(0);
    }
    bytes
}

/// git checks what is added to an index, not what somebody wrote into one.
fn check(path: &[u8]) -> Result<(), Failure> {
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.eq_ignore_ascii_case(b".git");
    if path.split(|byte| *byte == b'/').any(bad) {
        return Err(Failure::new(Code::Denied, format!("the index names {}, which leaves the tree", quoted(path))));
    }
    Ok(())
}

pub(super) fn nonsense(command: &str) -> Failure {
    Failure::new(Code::Internal, format!("git {command} answered with nonsense"))
}

pub(super) fn unreadable(path: &[u8], error: &io::Error) -> Failure {
    Failure::caused_by(Code::Unavailable, format!("cannot read {}", quoted(path)), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for path in [b"../x".as_slice(), b"/x", b"a//b", b"a/./b", b".git/config", b"a/.GIT/x", b""] {
            assert!(check(path).is_err(), "{}", quoted(path));
        }
        for path in [b"a/b".as_slice(), b".gitignore", b"a/...", b"\xff"] {
            check(path).unwrap();
        }
    }

    #[test]
    fn raw_diffs_are_read() {
        let raw = b":100644 000000 aa 00 D\0gone\0:100644 100755 aa bb M\0a b\0";
        let entries = raw_entries(raw).unwrap();
        assert_eq!((entries[0].0[4].as_str(), entries[1].1.as_slice()), ("D", b"a b".as_slice()));
        assert!(raw_entries(b":1 2\0x\0").is_err());
    }
}

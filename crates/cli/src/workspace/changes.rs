//! Compares the working tree with the index, and the index with HEAD: which files git can write out of its objects in
//! the guest, which must be sent as they are, which are gone.
//!
//! Everything is asked of a shadow repository, so no filter runs: a file whose content only a filter explains (Git LFS)
//! is sent as it is, and the guest's index takes it for unchanged.

use super::{attributes, files::Tree, git::git_failed, quote::quoted, shadow_repository::ShadowRepository};
use banger_proto::failure::{Code, Failure};
use std::{collections::HashSet, io};

/// A path below the working tree, in git's bytes.
pub(crate) type RepoPath = Vec<u8>;

/// Most files of a repository; more than any real one has.
const MAX_FILES: usize = 4_000_000;

/// Differences of the working tree, by what the import has to do about them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Files that are byte for byte what the index says: the guest writes them out of git's objects.
    pub(crate) written: Vec<RepoPath>,
    /// Whether [`Self::written`] is all of the index, so that it need not be listed.
    pub(crate) all: bool,
    /// Tracked files that differ from the index: they are sent.
    pub(crate) sent: Vec<RepoPath>,
    /// Those of [`Self::sent`] that git takes for unchanged, whatever they hold.
    pub(crate) assumed: Vec<RepoPath>,
    /// Those of [`Self::sent`] that are what the index says once line ends and the like are converted.
    pub(crate) converted: Vec<RepoPath>,
    /// Untracked files that are sent because that was asked for.
    pub(crate) untracked: Vec<RepoPath>,
    /// Number of untracked files that are not imported.
    pub(crate) left_out: usize,
    /// Paths of submodules.
    pub(crate) submodules: Vec<RepoPath>,
    /// Whether git takes any file for unchanged without comparing it.
    pub(crate) any_assumed: bool,
    /// Objects of the index that are in no commit.
    pub(crate) objects: Vec<String>,
    /// Whether index or working tree differ from HEAD.
    pub(crate) dirty: bool,
}

impl Changes {
    /// Returns all files that arrive, sorted.
    pub(crate) fn files(&self) -> Vec<&RepoPath> {
        let mut files: Vec<_> = self.written.iter().chain(&self.sent).chain(&self.untracked).collect();
        files.sort_unstable();
        files
    }

    /// Compares. `tree` is the same working tree, for reading its files.
    pub(crate) fn compare(
        shadow: &ShadowRepository,
        tree: &Tree,
        head: Option<&str>,
        include_untracked: bool,
    ) -> Result<Self, Failure> {
        let entries = index(shadow)?;
        let mut changes = Self::default();
        // Read before `refresh` replaces the stat data of the index: without their filter, these files look changed.
        let attributes = attributes::find(shadow, tree, &entries)?;
        refresh(shadow)?;
        let mut changed = changed_files(shadow)?;
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
            changes.any_assumed |= entry.assumed;
            let is_changed = entry.stage != 0 || changed.contains(&entry.path);
            let path = &entry.path;
            let unread = |error: io::Error| unreadable(path, &error);
            let unseen = entry.assumed && !is_changed && !attributes.differs(path);
            if entry.skipped || unseen && !tree.is_blob(path, &entry.object).map_err(unread)? {
                // git does not compare it, here or in the guest: the file that is here arrives.
                complete = false;
                if tree.has(path) {
                    changes.sent.push(path.clone());
                    changes.any_assumed = true;
                }
            } else if is_changed || attributes.differs(&entry.path) {
                complete = false;
                changes.dirty |= is_changed;
                if tree.has(&entry.path) {
                    changes.sent.push(entry.path.clone());
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
        changes.stage(shadow, head, &entries)?;
        let untracked = untracked(shadow)?;
        if include_untracked {
            changes.dirty |= !untracked.is_empty();
            changes.untracked = untracked;
        } else {
            changes.left_out = untracked.len();
        }
        if !changes.assumed.is_empty() {
            changes.any_assumed = true;
            let args = ["update-index", "--assume-unchanged", "-z", "--stdin"];
            shadow.call().args(args).ask("mark files in the index", &join_nul(&changes.assumed))?;
        }
        Ok(changes)
    }

    /// Reads the tree of `commit` into the index; the working tree is not read.
    pub(crate) fn of_commit(shadow: &ShadowRepository, commit: &str) -> Result<Self, Failure> {
        shadow.call().args(["read-tree", "--reset", commit]).ask("read the commit's tree", b"")?;
        let args = ["update-index", "--index-version", "2", "--force-write-index"];
        shadow.call().args(args).ask("write the commit's index", b"")?;
        let mut changes = Self { all: true, ..Self::default() };
        for entry in index(shadow)? {
            match entry.mode {
                Mode::Submodule => changes.submodules.push(entry.path),
                Mode::File | Mode::Link => changes.written.push(entry.path),
            }
        }
        Ok(changes)
    }

    /// Compares the index with HEAD.
    fn stage(&mut self, shadow: &ShadowRepository, head: Option<&str>, entries: &[Entry]) -> Result<(), Failure> {
        let Some(head) = head else {
            self.dirty |= !entries.is_empty();
            self.objects
                .extend(entries.iter().filter(|entry| entry.mode != Mode::Submodule).map(|entry| entry.object.clone()));
            return Ok(());
        };
        let args = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=none"];
        let raw = shadow.call().args(args).args([head, "--"]).ask("compare the index with HEAD", b"")?;
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

/// One entry of the index.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) mode: Mode,
    pub(super) object: String,
    stage: u8,
    /// Whether it has the skip-worktree bit: absent in a sparse checkout, or set by `--skip-worktree`.
    skipped: bool,
    /// Whether git takes it for unchanged (`--assume-unchanged`).
    assumed: bool,
    pub(super) path: RepoPath,
}

/// Makes the copy of the index one file that the agent can read, with current stat data.
fn refresh(shadow: &ShadowRepository) -> Result<(), Failure> {
    if !shadow.index().exists() {
        return Ok(());
    }
    let args = ["update-index", "-q", "--unmerged", "--ignore-missing", "--ignore-submodules"];
    let options = ["--no-split-index", "--no-untracked-cache", "--no-fsmonitor", "--index-version", "2"];
    let answer = shadow.call().args(args).args(options).args(["--force-write-index", "--refresh"]).answer(b"")?;
    // Status 1 says that something needs an update, which is asked for later.
    if matches!(answer.code, Some(0 | 1)) {
        Ok(())
    } else {
        Err(git_failed("read the repository's index", &answer.complaint))
    }
}

fn index(shadow: &ShadowRepository) -> Result<Vec<Entry>, Failure> {
    let listing = shadow.call().args(["ls-files", "-z", "-v", "--stage"]).ask("list the repository's files", b"")?;
    let mut entries = Vec::new();
    for line in split_nul(&listing) {
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
        let entry = parse().ok_or_else(|| unparsable("ls-files"))?;
        check(&entry.path)?;
        entries.push(entry);
    }
    if entries.len() > MAX_FILES {
        return Err(Failure::new(Code::Invalid, format!("the repository has more than {MAX_FILES} files")));
    }
    Ok(entries)
}

/// Returns the tracked files that differ from the index.
fn changed_files(shadow: &ShadowRepository) -> Result<HashSet<RepoPath>, Failure> {
    let args = ["diff-files", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=all"];
    let raw = shadow.call().args(args).ask("compare the working tree with the index", b"")?;
    Ok(raw_entries(&raw)?.into_iter().map(|(_, path)| path).collect())
}

fn untracked(shadow: &ShadowRepository) -> Result<Vec<RepoPath>, Failure> {
    let args = ["ls-files", "-z", "--others", "--exclude-standard"];
    let listing = shadow.call().args(args).ask("list untracked files", b"")?;
    let mut paths = Vec::new();
    for path in split_nul(&listing) {
        // A repository inside this one, which git lists as a directory: somebody else's.
        if !path.ends_with(b"/") {
            check(path)?;
            paths.push(path.to_vec());
        }
    }
    Ok(paths)
}

/// Parses a raw diff without renames: `:mode mode object object status`, and the path.
fn raw_entries(raw: &[u8]) -> Result<Vec<([String; 5], RepoPath)>, Failure> {
    let mut entries = Vec::new();
    let mut words = split_nul(raw);
    while let Some(head) = words.next() {
        let fields: Vec<String> =
            String::from_utf8_lossy(head).trim_start_matches(':').split(' ').map(str::to_owned).collect();
        let (Ok(fields), Some(path)) = (fields.try_into(), words.next()) else { return Err(unparsable("diff")) };
        entries.push((fields, path.to_vec()));
    }
    Ok(entries)
}

/// Splits a list of entries that each end with a zero byte.
pub(crate) fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).filter(|piece| !piece.is_empty())
}

/// Joins paths as git takes them with `-z`.
pub(crate) fn join_nul(paths: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_ref());
        bytes.push(0);
    }
    bytes
}

/// Refuses a path that leaves the tree: git checks what is added to an index, not an index that somebody wrote.
fn check(path: &[u8]) -> Result<(), Failure> {
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.eq_ignore_ascii_case(b".git");
    if path.split(|byte| *byte == b'/').any(bad) {
        return Err(Failure::new(Code::Denied, format!("the index names {}, which leaves the tree", quoted(path))));
    }
    Ok(())
}

pub(super) fn unparsable(command: &str) -> Failure {
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

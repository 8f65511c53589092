//! What the working tree is, compared with the index, and the index with HEAD: which files git can write out of its
//! objects in the guest, which must travel as they are, which are gone.
//!
//! Everything is asked of a facade, so no filter runs: a file whose content only a filter explains (Git LFS) travels as
//! it is, and the guest's index is told not to look at it.

use super::{
    facade::Facade,
    files::{Stamp, Tree},
    git::refused,
    quote::quoted,
};
use banger_proto::failure::{Code, Failure};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
};

/// A path below the working tree, as git knows it.
pub(crate) type RepoPath = Vec<u8>;

/// What a file in the working tree may be called; more than any real repository has.
const MAX_FILES: usize = 4_000_000;

/// The working tree, in the terms of what has to be done for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Files that are what the index says: git writes them in the guest.
    pub(crate) written: Vec<RepoPath>,
    /// Whether [`Self::written`] is all of the index, so that it need not be listed.
    pub(crate) all: bool,
    /// Tracked files that are something else: they travel.
    pub(crate) carried: Vec<RepoPath>,
    /// Of those, the ones git takes for unchanged, whatever they hold.
    pub(crate) assumed: Vec<RepoPath>,
    /// Untracked files that travel because they were asked for.
    pub(crate) untracked: Vec<RepoPath>,
    /// Untracked files that stay here.
    pub(crate) left_out: usize,
    /// Submodules.
    pub(crate) submodules: Vec<RepoPath>,
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
        let filtered = filtered(facade, tree, &entries)?;
        refresh(facade)?;
        let mut changed = changed_files(facade)?;
        for (path, unchanged) in &filtered {
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
            let is_changed = entry.stage != 0 || changed.contains(&entry.path);
            if entry.skipped {
                complete = false;
            } else if is_changed || filtered.contains_key(&entry.path) {
                complete = false;
                changes.dirty |= is_changed;
                if tree.has(&entry.path) {
                    changes.carried.push(entry.path.clone());
                    if !is_changed {
                        changes.assumed.push(entry.path.clone());
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
            let args = ["update-index", "--assume-unchanged", "-z", "--stdin"];
            facade.call().args(args).ask("mark files in the index", &join(&changes.assumed))?;
        }
        Ok(changes)
    }

    /// A tree as it was committed: the index is made of `commit`, and the working tree is not looked at.
    pub(crate) fn none(facade: &Facade, commit: &str) -> Result<Self, Failure> {
        facade.call().args(["read-tree", "--reset", commit]).ask("read the commit's tree", b"")?;
        let mut changes = Self { all: true, ..Self::default() };
        for entry in index(facade)? {
            match entry.mode {
                Mode::Submodule => changes.submodules.push(entry.path),
                Mode::Other => changes.written.push(entry.path),
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
enum Mode {
    Submodule,
    Other,
}

#[derive(Debug)]
struct Entry {
    mode: Mode,
    object: String,
    stage: u8,
    /// Not in the working tree of a sparse checkout.
    skipped: bool,
    path: RepoPath,
}

/// Makes the copy of the index one file, and its knowledge of the working tree up to date.
fn refresh(facade: &Facade) -> Result<(), Failure> {
    if !facade.index().exists() {
        return Ok(());
    }
    let args = ["update-index", "-q", "--unmerged", "--ignore-missing", "--ignore-submodules"];
    let ways = ["--no-split-index", "--no-untracked-cache", "--no-fsmonitor", "--force-write-index", "--refresh"];
    let answer = facade.call().args(args).args(ways).answer(b"")?;
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
                mode: if mode == "160000" { Mode::Submodule } else { Mode::Other },
                object: object.to_owned(),
                stage: stage.parse().ok()?,
                skipped: tag.eq_ignore_ascii_case("s"),
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

/// Files with a filter whose content here is not the index's: only the filter knows whether they are the same. Whether
/// the index takes each for unchanged, by its size and times, comes with it.
fn filtered(facade: &Facade, tree: &Tree, entries: &[Entry]) -> Result<HashMap<RepoPath, bool>, Failure> {
    let names_filter = |bytes: &[u8]| bytes.windows(6).any(|window| window == b"filter");
    let in_tree =
        entries.iter().filter(|entry| entry.path == b".gitattributes" || entry.path.ends_with(b"/.gitattributes"));
    let mut attributes = in_tree.filter_map(|entry| tree.small(&entry.path));
    if !attributes.any(|bytes| names_filter(&bytes))
        && !facade.own_attributes().is_some_and(|bytes| names_filter(&bytes))
    {
        return Ok(HashMap::new());
    }
    let paths: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    let input = join(paths);
    let listing = facade.call().args(["check-attr", "--stdin", "-z", "filter"]).ask("read attributes", &input)?;
    let mut with_filter = Vec::new();
    let mut words = pieces(&listing);
    while let (Some(path), Some(_), Some(value)) = (words.next(), words.next(), words.next()) {
        if value != b"unspecified" && value != b"unset" {
            with_filter.push(path.to_vec());
        }
    }
    let objects: HashMap<&[u8], &str> =
        entries.iter().map(|entry| (entry.path.as_slice(), entry.object.as_str())).collect();
    let differs = |path: &RepoPath| -> Result<bool, Failure> {
        let Some(object) = objects.get(path.as_slice()) else { return Ok(false) };
        let same = tree.is_blob(path, object).map_err(|error| unreadable(path, &error))?;
        Ok(!same)
    };
    let known = known_stats(facade)?;
    let mut differing = HashMap::new();
    for path in with_filter {
        if tree.has(&path) && differs(&path)? {
            let unchanged = known.get(&path).is_some_and(|known| tree.stamp(&path).is_some_and(|now| now == *known));
            differing.insert(path, unchanged);
        }
    }
    Ok(differing)
}

/// When each file was last changed, and how large it was, as the index knows it.
fn known_stats(facade: &Facade) -> Result<HashMap<RepoPath, Stamp>, Failure> {
    let listing = facade.call().args(["ls-files", "-z", "--debug"]).ask("read what the index knows of files", b"")?;
    let mut known = HashMap::new();
    let mut rest = listing.as_slice();
    // A name and its zero, then five lines.
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let path = rest[..end].to_vec();
        let mut lines = rest[end + 1..].splitn(6, |byte| *byte == b'\n');
        let mut field = |key: &str| -> Option<String> {
            let line = String::from_utf8_lossy(lines.next()?).into_owned();
            let value = line.trim_start().strip_prefix(key)?.trim_start().split('\t').next()?.to_owned();
            Some(value)
        };
        let stamp = (|| {
            let (_, mtime) = (field("ctime:")?, field("mtime:")?);
            let (_, _, size) = (field("dev:")?, field("uid:")?, field("size:")?);
            let (seconds, nanoseconds) = mtime.split_once(':')?;
            Some(Stamp {
                seconds: seconds.parse().ok()?,
                nanoseconds: nanoseconds.parse().ok()?,
                size: size.parse().ok()?,
            })
        })();
        let (Some(stamp), Some(tail)) = (stamp, lines.next()) else { return Err(nonsense("ls-files --debug")) };
        known.insert(path, stamp);
        rest = tail;
    }
    Ok(known)
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

fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
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

fn nonsense(command: &str) -> Failure {
    Failure::new(Code::Internal, format!("git {command} answered with nonsense"))
}

fn unreadable(path: &[u8], error: &io::Error) -> Failure {
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

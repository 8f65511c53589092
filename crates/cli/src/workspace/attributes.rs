//! Files whose bytes in the working tree are not those of the object git has for them, though nobody changed them: a
//! filter (Git LFS), line ends, an encoding or `$Id$` came between.
//!
//! Filters are not run, so what only a filter explains is judged by size and times, as git judges what it did not look
//! into. The others git itself converts, by rules of the tree and of a few settings.

use super::{
    changes::{Entry, Mode, RepoPath, join, nonsense, pieces, unreadable},
    facade::Facade,
    files::{Stamp, Tree},
};
use banger_proto::failure::Failure;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Attributes that decide how a file's bytes come about.
const ATTRIBUTES: [&str; 6] = ["filter", "text", "eol", "crlf", "ident", "working-tree-encoding"];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Files with a filter that differ; whether the index takes each for unchanged, by its size and times.
    pub(super) filtered: HashMap<RepoPath, bool>,
    /// Files without one that differ.
    converted: HashSet<RepoPath>,
}

impl Attributes {
    /// Whether a file's bytes are something else than its object's.
    pub(super) fn differs(&self, path: &RepoPath) -> bool {
        self.filtered.contains_key(path) || self.converted.contains(path)
    }
}

/// Looks at every file that has such an attribute.
pub(super) fn find(facade: &Facade, tree: &Tree, entries: &[Entry]) -> Result<Attributes, Failure> {
    let is_rules = |path: &[u8]| path == b".gitattributes" || path.ends_with(b"/.gitattributes");
    let in_tree = entries.iter().filter(|entry| is_rules(&entry.path)).filter_map(|entry| tree.small(&entry.path));
    let rules: Vec<Vec<u8>> = in_tree.chain(facade.own_attributes()).collect();
    let everywhere = facade.converts();
    let mut attributes = Attributes::default();
    if !everywhere && !rules.iter().any(|bytes| ATTRIBUTES.iter().any(|name| contains(bytes, name.as_bytes()))) {
        return Ok(attributes);
    }
    let suspects = suspects(facade, entries)?;
    let known = if suspects.values().any(|filter| *filter) { known_stats(facade)? } else { HashMap::new() };
    for entry in entries.iter().filter(|entry| entry.mode == Mode::File) {
        let path = &entry.path;
        let suspect = suspects.get(path);
        if (suspect.is_none() && !everywhere) || !tree.has(path) {
            continue;
        }
        if tree.is_blob(path, &entry.object).map_err(|error| unreadable(path, &error))? {
            continue;
        }
        if suspect == Some(&true) {
            let unchanged = known.get(path).is_some_and(|known| tree.stamp(path).is_some_and(|now| now == *known));
            attributes.filtered.insert(path.clone(), unchanged);
        } else {
            attributes.converted.insert(path.clone());
        }
    }
    Ok(attributes)
}

/// Files with one of the attributes, and whether that is a filter.
fn suspects(facade: &Facade, entries: &[Entry]) -> Result<HashMap<RepoPath, bool>, Failure> {
    let paths: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    let call = facade.call().args(["check-attr", "--stdin", "-z"]).args(ATTRIBUTES);
    let listing = call.ask("read attributes", &join(paths))?;
    let mut suspects = HashMap::new();
    let mut words = pieces(&listing);
    while let (Some(path), Some(name), Some(value)) = (words.next(), words.next(), words.next()) {
        if value != b"unspecified" && value != b"unset" {
            *suspects.entry(path.to_vec()).or_default() |= name == b"filter";
        }
    }
    Ok(suspects)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
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

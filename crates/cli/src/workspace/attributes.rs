//! Finds files whose bytes in the working tree differ from their git objects though nobody changed them: because of a
//! filter (Git LFS), line ends, an encoding or `$Id$`.
//!
//! Filters are not run, so a file with a filter is judged by size and times, as git judges files it did not read. The
//! other conversions are git's own, by attributes of the tree and a few settings.

use super::{
    changes::{Entry, Mode, RepoPath, join_nul, split_nul, unparsable, unreadable},
    files::{Stamp, Tree},
    shadow_repository::ShadowRepository,
};
use banger_proto::failure::Failure;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Attributes that convert a file's content.
const ATTRIBUTES: [&str; 6] = ["filter", "text", "eol", "crlf", "ident", "working-tree-encoding"];

/// Files that differ from their objects because of attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Files with a filter, and whether the index takes each for unchanged by its size and times.
    pub(super) filtered: HashMap<RepoPath, bool>,
    /// Files that git itself converts.
    converted: HashSet<RepoPath>,
}

impl Attributes {
    /// Whether a file differs from its object.
    pub(super) fn differs(&self, path: &RepoPath) -> bool {
        self.filtered.contains_key(path) || self.converted.contains(path)
    }
}

/// Compares every file that has such an attribute.
pub(super) fn find(shadow: &ShadowRepository, tree: &Tree, entries: &[Entry]) -> Result<Attributes, Failure> {
    let is_rules = |path: &[u8]| path == b".gitattributes" || path.ends_with(b"/.gitattributes");
    let in_tree = entries.iter().filter(|entry| is_rules(&entry.path)).filter_map(|entry| tree.small(&entry.path));
    let rules: Vec<Vec<u8>> = in_tree.chain(shadow.own_attributes()).collect();
    let everywhere = shadow.converts();
    let mut attributes = Attributes::default();
    if !everywhere && !rules.iter().any(|bytes| ATTRIBUTES.iter().any(|name| contains(bytes, name.as_bytes()))) {
        return Ok(attributes);
    }
    let suspects = suspects(shadow, entries)?;
    let known = if suspects.values().any(|filter| *filter) { known_stats(shadow)? } else { HashMap::new() };
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

/// Returns the files with one of the attributes, and whether that is a filter.
fn suspects(shadow: &ShadowRepository, entries: &[Entry]) -> Result<HashMap<RepoPath, bool>, Failure> {
    let paths: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.path.as_slice()).collect();
    let call = shadow.call().args(["check-attr", "--stdin", "-z"]).args(ATTRIBUTES);
    let listing = call.ask("read attributes", &join_nul(paths))?;
    let mut suspects = HashMap::new();
    let mut words = split_nul(&listing);
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

/// Returns each file's time and size as the index knows them.
fn known_stats(shadow: &ShadowRepository) -> Result<HashMap<RepoPath, Stamp>, Failure> {
    let listing = shadow.call().args(["ls-files", "-z", "--debug"]).ask("read what the index knows of files", b"")?;
    let mut known = HashMap::new();
    let mut rest = listing.as_slice();
    // A name and a zero byte, then five lines.
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
        let (Some(stamp), Some(tail)) = (stamp, lines.next()) else { return Err(unparsable("ls-files --debug")) };
        known.insert(path, stamp);
        rest = tail;
    }
    Ok(known)
}

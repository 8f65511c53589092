//! Checks a patch from a guest as a whole before git reads it: which files it touches, and whether it may.
//!
//! Only what `git diff` writes is accepted, down to the line counts, and every place that names a file must name the
//! same one. So git, which reads more kinds of patches, cannot find another meaning in one that passed.

mod reader;
mod rules;

use super::quote::quoted;
use banger_proto::failure::Failure;
use reader::Reader;
pub(super) use rules::{attribute_line, check_path, folded, refused, runs};
use rules::{check_link, is_attributes};
use std::collections::{BTreeMap, BTreeSet};

/// Most directories that the files of a patch are in. Each is checked, and a patch has room for many more.
const MAX_DIRECTORIES: usize = 1 << 18;

/// Changes of a patch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Files it makes, changes or removes, each once.
    pub(crate) files: BTreeSet<Vec<u8>>,
    /// Files it renames without their mode: they may be links.
    pub(crate) renamed: BTreeSet<Vec<u8>>,
    /// A file that is renamed to an attribute file: not all of its lines are in the patch.
    pub(crate) unread: Option<Vec<u8>>,
    /// Attributes set in attribute files, each with the file: the host may define a macro of that name.
    pub(crate) attributes: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

/// Checks the whole patch; a failure names the path, or the line that is not `git diff`'s.
pub(crate) fn check(patch: &[u8]) -> Result<Summary, Failure> {
    let mut reader = Reader::new(patch);
    let (mut summary, mut links, mut made) = (Summary::default(), BTreeMap::new(), BTreeSet::new());
    while !reader.is_at_end() {
        let section = reader.section()?;
        for path in [&section.old, &section.new] {
            check_path(path)?;
            summary.files.insert(path.clone());
        }
        // A file that becomes a link is removed and made in two sections; every other file has one.
        if !section.deleted && !made.insert(section.new.clone()) {
            return Err(refused(&section.new, "it changes it twice"));
        }
        if section.old != section.new {
            if is_attributes(&section.new) {
                summary.unread = Some(section.new.clone());
            }
            if section.unknown_kind {
                summary.renamed.insert(section.old);
            }
        }
        let named = section.attributes.into_iter().map(|name| (section.new.clone(), name));
        summary.attributes.extend(named);
        if let Some(target) = &section.link {
            check_link(&section.new, target)?;
            links.insert(folded(&section.new), section.new);
        }
    }
    for (count, (path, dir)) in directories(&summary.files).enumerate() {
        if count >= MAX_DIRECTORIES {
            return Err(refused(
                path,
                &format!("with it, it touches files in more than {MAX_DIRECTORIES} directories"),
            ));
        }
        // Paths are compared as on a file system that ignores letter case.
        if let Some(link) = (!links.is_empty()).then(|| links.get(&folded(dir))).flatten() {
            return Err(refused(path, &format!("it goes through the link {}, which the patch makes", quoted(link))));
        }
    }
    Ok(summary)
}

/// Returns all directories above `files`, each once, with the first of its files.
pub(crate) fn directories(files: &BTreeSet<Vec<u8>>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut before = &b""[..];
    files.iter().flat_map(move |path| {
        // Files are sorted, so those below one directory follow each other.
        let last = std::mem::replace(&mut before, path.as_slice());
        let new = parents(path).take_while(move |dir| !last.starts_with(&path[..=dir.len()]));
        new.map(move |dir| (path.as_slice(), dir))
    })
}

/// Returns the directories above a path, the nearest first.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;

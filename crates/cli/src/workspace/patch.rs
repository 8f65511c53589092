//! Reads a patch from a guest, all of it, before git does: what it touches, and whether it may.
//!
//! Only what `git diff` writes is accepted, down to the line counts, and every place that names a file must name the same
//! one. So git, which reads more kinds of patches than this, cannot find another meaning in one that passed.

mod reader;
mod rules;

use super::quote::quoted;
use banger_proto::failure::Failure;
use reader::Reader;
pub(super) use rules::{attribute_line, check_path, folded, refused, runs};
use rules::{check_link, is_attributes};
use std::collections::{BTreeMap, BTreeSet};

/// Most directories that the files of a patch are in. All of them are looked at, and a patch has room for many more.
const MAX_DIRECTORIES: usize = 1 << 18;

/// What a patch does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Files it makes, changes or removes, each once.
    pub(crate) files: BTreeSet<Vec<u8>>,
    /// Files it gives another name without saying what they are: links, perhaps.
    pub(crate) renamed: BTreeSet<Vec<u8>>,
    /// A file of attributes that another one becomes: not all that it says is in the patch.
    pub(crate) unread: Option<Vec<u8>>,
    /// Attributes that files of attributes set, each with the file: their names, which a host may let stand for others.
    pub(crate) attributes: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

/// Reads the whole patch; a failure names the path, or the line that is not `git diff`'s.
pub(crate) fn check(patch: &[u8]) -> Result<Summary, Failure> {
    let mut reader = Reader::new(patch);
    let (mut summary, mut links, mut made) = (Summary::default(), BTreeMap::new(), BTreeSet::new());
    while !reader.is_at_end() {
        let section = reader.section()?;
        for path in [&section.old, &section.new] {
            check_path(path)?;
            summary.files.insert(path.clone());
        }
        // A file that becomes a link is removed and made; anything else is there once.
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
        // Also where it is the same one only for a file system to which letter case is nothing.
        if let Some(link) = (!links.is_empty()).then(|| links.get(&folded(dir))).flatten() {
            return Err(refused(path, &format!("it goes through the link {}, which the patch makes", quoted(link))));
        }
    }
    Ok(summary)
}

/// The directories that files are in, at any depth: each once, with the first of the files.
pub(crate) fn directories(files: &BTreeSet<Vec<u8>>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut before = &b""[..];
    files.iter().flat_map(move |path| {
        // Files are in their order, so those below one directory follow each other.
        let last = std::mem::replace(&mut before, path.as_slice());
        let new = parents(path).take_while(move |dir| !last.starts_with(&path[..=dir.len()]));
        new.map(move |dir| (path.as_slice(), dir))
    })
}

/// The directories above a path, the nearest first.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;

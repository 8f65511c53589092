//! What a stack of layers adds up to.
//!
//! Entries are told to the builder in their order, layer by layer, with what is special to layers dealt with here:
//! whiteouts, opaque directories, names that begin at the root. The order within a layer decides like that of `umoci`
//! and Docker: the last entry of a path wins, and a whiteout takes away what lower layers have and nothing of its own.

use super::{
    error::LayerError,
    layer::{LayerEntry, LayerKind},
};
use crate::rootfs::{EntryError, RootfsBuilder, RootfsError};
use std::collections::HashMap;

/// Begins the name of a whiteout.
const WHITEOUT: &[u8] = b".wh.";
/// The name that empties its directory of what lower layers have.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Begins the names of what AUFS kept for itself in the root of a layer, which some images carry. Nobody reads it but for
/// [`LINKED`].
const AUFS: &[u8] = b".wh..wh.";
/// Where AUFS kept the files that have several names: the names in the layer are hard links to files in here.
const LINKED: &[u8] = b".wh..wh.plnk";
/// Extended attributes that say how overlayfs put directories together on the machine that packed them. They are true
/// of no other file system, and read by ours.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What a name means in a layer.
enum Meaning<'a> {
    /// What stands there.
    Entry(&'a [u8]),
    /// Lower layers have nothing at this path any more.
    Whiteout(Vec<u8>),
    /// Lower layers have nothing in this directory any more.
    Opaque(&'a [u8]),
    /// Nothing.
    Passed,
}

/// Puts a layer on top of what is in `builder`.
pub(super) fn apply(builder: &mut RootfsBuilder, entries: &[LayerEntry]) -> Result<(), LayerError> {
    builder.next_layer();
    let mut linked: HashMap<&[u8], &LayerEntry> = HashMap::new();
    for entry in entries {
        match meaning(&entry.path)? {
            Meaning::Whiteout(path) => builder.whiteout(&path)?,
            Meaning::Opaque(directory) => builder.opaque(directory)?,
            Meaning::Entry(path) => put(builder, path, of_aufs(entry, &linked).unwrap_or(entry))?,
            Meaning::Passed => {
                if let (Some(name), LayerKind::File(_)) = (in_linked(&entry.path), &entry.kind) {
                    linked.insert(name, entry);
                }
            }
        }
    }
    Ok(())
}

/// What a hard link to a file of AUFS stands for: that file, and, as with Docker and containerd, one of its own at each name.
fn of_aufs<'a>(entry: &LayerEntry, linked: &HashMap<&[u8], &'a LayerEntry>) -> Option<&'a LayerEntry> {
    let LayerKind::HardLink(target) = &entry.kind else { return None };
    linked.get(in_linked(target)?).copied()
}

/// The name of what is directly in AUFS's directory of linked files.
fn in_linked(path: &[u8]) -> Option<&[u8]> {
    match parts(path).collect::<Vec<_>>().as_slice() {
        [LINKED, name] => Some(name),
        _ => None,
    }
}

/// The names a path is made of.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

fn put(builder: &mut RootfsBuilder, path: &[u8], entry: &LayerEntry) -> Result<(), LayerError> {
    let mut meta = entry.meta.clone();
    meta.xattrs.retain(|xattr| !OVERLAY.iter().any(|prefix| xattr.name.starts_with(prefix)));
    Ok(match &entry.kind {
        LayerKind::Dir => builder.dir(path, meta),
        LayerKind::Symlink(target) => builder.symlink(path, target, meta),
        LayerKind::HardLink(target) => builder.hard_link(path, from_root(target)),
        LayerKind::Node(node) => builder.node(path, *node, meta),
        LayerKind::File(content) => builder.file_in_image(path, meta, content),
    }?)
}

/// What a path means. Docker, `umoci` and others take `/etc` for `etc`; none of them lets `..` in, and nor does the
/// builder.
fn meaning(path: &[u8]) -> Result<Meaning<'_>, RootfsError> {
    let given = path;
    let path = from_root(path);
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
    let trimmed = &path[..end];
    let (directory, name) = match trimmed.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&trimmed[..slash], &trimmed[slash + 1..]),
        None => (&b"."[..], trimmed),
    };
    let is_aufs = |name: &[u8]| name.starts_with(AUFS) && name != OPAQUE;
    // What leads out of there is refused like all that leads up.
    if parts(path).next().is_some_and(is_aufs) && !parts(path).any(|part| part == b"..") {
        return Ok(Meaning::Passed);
    }
    if directory.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(RootfsError::entry(given, EntryError::Whiteout));
    }
    if name == OPAQUE {
        return Ok(Meaning::Opaque(directory));
    }
    // Further down it is in the place of a whiteout of what nothing is called.
    if is_aufs(name) {
        return Ok(Meaning::Passed);
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Meaning::Entry(path)) };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(RootfsError::entry(given, EntryError::Whiteout));
    }
    Ok(Meaning::Whiteout([directory, b"/", hidden].concat()))
}

/// A path that begins at the root of the image, as all of them do.
fn from_root(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    if start == path.len() && start > 0 { b"." } else { &path[start..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else() {
        let said = |path: &str| match meaning(path.as_bytes()) {
            Ok(Meaning::Entry(path)) => format!("entry {}", path.escape_ascii()),
            Ok(Meaning::Whiteout(path)) => format!("whiteout {}", path.escape_ascii()),
            Ok(Meaning::Opaque(path)) => format!("opaque {}", path.escape_ascii()),
            Ok(Meaning::Passed) => "passed".into(),
            Err(_) => "refused".into(),
        };
        for (path, means) in [
            ("a/b", "entry a/b"),
            ("/a/b/", "entry a/b/"),
            ("./", "entry ./"),
            ("/", "entry ."),
            ("a/.wh.b", "whiteout a/b"),
            (".wh.b", "whiteout ./b"),
            ("a/.wh..wh..opq", "opaque a"),
            (".wh..wh..opq", "opaque ."),
            ("a/.wh..wh.plnk", "passed"),
            (".wh..wh.plnk", "passed"),
            (".wh..wh.plnk/264.1031240", "passed"),
            ("./.wh..wh.orph//a/.wh.b/", "passed"),
            ("/.wh..wh.aufs", "passed"),
            ("a/.wh..wh.plnk/264.1031240", "refused"),
            (".wh..wh.plnk/../../b", "refused"),
            (".wh..wh..opq/b", "refused"),
            ("a/.wh..", "refused"),
            ("a/.wh...", "refused"),
            ("a/.wh.", "refused"),
            ("a/.wh..../", "whiteout a/..."),
            (".wh.a/b", "refused"),
            ("a/.wh..wh..opq/b", "refused"),
        ] {
            assert_eq!(said(path), means, "{path}");
        }
    }
}

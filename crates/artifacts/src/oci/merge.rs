//! Application of layers on top of each other.
//!
//! Passes the entries to the builder in their order, layer by layer, and handles what is special to layers: whiteouts,
//! opaque directories, absolute names. The order within a layer counts as it does for `umoci` and Docker: the last
//! entry of a path wins, and a whiteout removes what lower layers have and nothing of its own layer.

use super::{
    error::LayerError,
    layer::{LayerEntry, LayerKind},
};
use crate::rootfs::{EntryError, RootfsBuilder, RootfsError};
use std::collections::HashMap;

/// Prefix of the names of whiteouts.
const WHITEOUT: &[u8] = b".wh.";
/// Name that makes its directory opaque: it hides what lower layers have there.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of the names of AUFS's own files in the root of a layer, which some images contain. They are ignored, except
/// [`AUFS_LINKS`].
const AUFS: &[u8] = b".wh..wh.";
/// Directory in which AUFS kept files with several names: the names in the layer are hard links to files in it.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";
/// Prefixes of extended attributes that describe how overlayfs combined directories on the machine that packed them.
/// They are wrong on any other file system, and a guest's overlayfs would interpret them.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Meaning of a name in a layer.
enum Meaning<'a> {
    /// An entry with this path.
    Entry(&'a [u8]),
    /// A whiteout: lower layers have nothing at this path any more.
    Whiteout(Vec<u8>),
    /// An opaque directory: lower layers have nothing in it any more.
    Opaque(&'a [u8]),
    /// Nothing.
    Ignored,
}

/// Applies a layer on top of what is in `builder`.
pub(super) fn apply(builder: &mut RootfsBuilder, entries: &[LayerEntry]) -> Result<(), LayerError> {
    builder.next_layer();
    let mut aufs_files: HashMap<&[u8], &LayerEntry> = HashMap::new();
    for entry in entries {
        match meaning(&entry.path)? {
            Meaning::Whiteout(path) => builder.whiteout(&path)?,
            Meaning::Opaque(directory) => builder.opaque(directory)?,
            Meaning::Entry(path) => put(builder, path, aufs_file(entry, &aufs_files).unwrap_or(entry))?,
            Meaning::Ignored => {
                if let (Some(name), LayerKind::File(_)) = (aufs_link_name(&entry.path), &entry.kind) {
                    aufs_files.insert(name, entry);
                }
            }
        }
    }
    Ok(())
}

/// Returns the file that a hard link to one of AUFS's files stands for. As with Docker and containerd, each name gets a
/// file of its own.
fn aufs_file<'a>(entry: &LayerEntry, aufs_files: &HashMap<&[u8], &'a LayerEntry>) -> Option<&'a LayerEntry> {
    let LayerKind::HardLink(target) = &entry.kind else { return None };
    aufs_files.get(aufs_link_name(target)?).copied()
}

/// Returns the name of a file directly in AUFS's directory of linked files.
fn aufs_link_name(path: &[u8]) -> Option<&[u8]> {
    match parts(path).collect::<Vec<_>>().as_slice() {
        [AUFS_LINKS, name] => Some(name),
        _ => None,
    }
}

/// Returns the components of a path.
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

/// Returns the meaning of a path. Docker, `umoci` and others take `/etc` for `etc`; none of them allows `..`, nor does
/// the builder.
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
    // A path that leaves the directory is refused like every path with `..`.
    if parts(path).next().is_some_and(is_aufs) && !parts(path).any(|part| part == b"..") {
        return Ok(Meaning::Ignored);
    }
    if directory.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(RootfsError::entry(given, EntryError::Whiteout));
    }
    if name == OPAQUE {
        return Ok(Meaning::Opaque(directory));
    }
    // Below the root it has the form of a whiteout, of a name that no file has.
    if is_aufs(name) {
        return Ok(Meaning::Ignored);
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Meaning::Entry(path)) };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(RootfsError::entry(given, EntryError::Whiteout));
    }
    Ok(Meaning::Whiteout([directory, b"/", hidden].concat()))
}

/// Strips leading slashes: all paths begin at the root of the image.
fn from_root(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    if start == path.len() && start > 0 { b"." } else { &path[start..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else() {
        let shown = |path: &str| match meaning(path.as_bytes()) {
            Ok(Meaning::Entry(path)) => format!("entry {}", path.escape_ascii()),
            Ok(Meaning::Whiteout(path)) => format!("whiteout {}", path.escape_ascii()),
            Ok(Meaning::Opaque(path)) => format!("opaque {}", path.escape_ascii()),
            Ok(Meaning::Ignored) => "ignored".into(),
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
            ("a/.wh..wh.plnk", "ignored"),
            (".wh..wh.plnk", "ignored"),
            (".wh..wh.plnk/264.1031240", "ignored"),
            ("./.wh..wh.orph//a/.wh.b/", "ignored"),
            ("/.wh..wh.aufs", "ignored"),
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
            assert_eq!(shown(path), means, "{path}");
        }
    }
}

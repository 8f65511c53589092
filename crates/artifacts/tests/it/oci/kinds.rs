//! Coverage of random stacks: a run in which no stack has a whiteout proves nothing about whiteouts.

use super::{
    stacks::{CAPABILITY, Step, Style, What},
    umoci::Seen,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem::{Discriminant, discriminant},
};

/// Everything that at least one stack must contain.
pub(super) const ALL: [&str; 21] = [
    "ustar",
    "GNU",
    "PAX",
    "a whiteout of what is below",
    "an opaque directory over what is below",
    "another kind in the place of one below",
    "a path twice in one layer",
    "a file with two names that a later layer changes",
    "two names of a regular",
    "two names of a symlink",
    "two names of a FIFO",
    "two names of a device",
    "attributes of a directory",
    "attributes of a regular",
    "attributes of a symlink",
    "attributes of a FIFO",
    "attributes of a device",
    "an attribute that is no text",
    "an attribute that takes a block",
    "a capability",
    "attributes beside an owner of 32 bits",
];

/// Longest attribute that may fit an inode.
const INODE: usize = 92;

/// Contents of the layers, and what umoci made of them.
pub(super) fn of(layers: &[Vec<Step>], made: &BTreeMap<String, Seen>) -> BTreeSet<&'static str> {
    let mut kinds = BTreeSet::new();
    let mut below: BTreeMap<&str, Discriminant<What>> = BTreeMap::new();
    let mut linked: BTreeSet<&str> = BTreeSet::new();
    for layer in layers {
        let mut here = BTreeSet::new();
        for step in layer {
            kinds.insert(match step.style {
                Style::Ustar => "ustar",
                Style::Gnu => "GNU",
                Style::Pax => "PAX",
            });
            let path = step.path.as_str();
            match &step.what {
                What::Whiteout if below.contains_key(path) => {
                    kinds.insert("a whiteout of what is below");
                }
                What::Opaque if below.keys().any(|it| it.strip_prefix(path).is_some_and(|it| it.starts_with('/'))) => {
                    kinds.insert("an opaque directory over what is below");
                }
                What::Whiteout | What::Opaque => {}
                what => {
                    if below.get(path).is_some_and(|it| *it != discriminant(what)) {
                        kinds.insert("another kind in the place of one below");
                    }
                    if !here.insert(path) {
                        kinds.insert("a path twice in one layer");
                    }
                    if matches!(what, What::File(_)) && linked.contains(path) {
                        kinds.insert("a file with two names that a later layer changes");
                    }
                }
            }
        }
        for step in layer {
            below.insert(&step.path, discriminant(&step.what));
            if let What::Link(target) = &step.what {
                linked.insert(target);
            }
        }
    }
    for seen in made.values() {
        let (names, attributes) = match seen.kind {
            "directory" => ("", "attributes of a directory"),
            "regular" => ("two names of a regular", "attributes of a regular"),
            "symlink" => ("two names of a symlink", "attributes of a symlink"),
            "FIFO" => ("two names of a FIFO", "attributes of a FIFO"),
            _ => ("two names of a device", "attributes of a device"),
        };
        kinds.extend((seen.links > 1).then_some(names));
        kinds.extend((!seen.xattrs.is_empty()).then_some(attributes));
        for (name, value) in &seen.xattrs {
            kinds.extend(std::str::from_utf8(value).is_err().then_some("an attribute that is no text"));
            kinds.extend((value.len() > INODE).then_some("an attribute that takes a block"));
            kinds.extend((name == CAPABILITY).then_some("a capability"));
            kinds.extend((seen.owner.0 > i32::MAX.cast_unsigned()).then_some("attributes beside an owner of 32 bits"));
        }
    }
    kinds
}

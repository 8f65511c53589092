//! Tree of names and of the inodes behind them.
//!
//! Decides what replaces what (the later entry wins, a directory met again keeps its children) and that every parent
//! exists. Children are kept sorted, so the image does not depend on the order in which unrelated entries came.
//!
//! A tree may be made of layers. Then a whiteout removes what lower layers put there and nothing of its own layer, and
//! a path leads through the symbolic links of the tree, as it would for a program in the image.

mod parent_cache;
mod walk;
mod whiteout;

use super::{
    entry::{Meta, Node},
    error::{EntryError, quoted},
    spool::Segment,
};
use parent_cache::ParentCache;
use std::collections::BTreeMap;

/// Index of an inode in [`Tree::inodes`].
pub(super) type Index = u32;

/// Index of the root directory.
pub(super) const ROOT: Index = 0;
/// Upper bound of the names of one file (`EXT4_LINK_MAX`).
const MAX_LINKS: u32 = 65_000;
/// Name in the root that belongs to the filesystem itself.
const LOST_FOUND: &[u8] = b"lost+found";

/// Type and content of an inode.
#[derive(Debug)]
pub(super) enum Kind {
    /// Directory. `implied`: no entry has described it; it exists because something is in it.
    Dir {
        children: BTreeMap<Box<[u8]>, Child>,
        implied: bool,
        /// Last layer for which everything of lower layers was removed at and below its names.
        cleared_in: u32,
    },
    File(Segment),
    /// File with holes: its stored segments, in order, as (offset in the file, segment).
    Sparse {
        len: u64,
        data: Box<[(u64, Segment)]>,
    },
    Symlink(Box<[u8]>),
    Node(Node),
}

/// Inode of one name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) index: Index,
    /// Last layer that put something at this name or below it.
    layer: u32,
}

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    links: u32,
}

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
    names: u64,
    /// Layer that entries belong to; 0 in a tree without layers, in which no link is followed.
    layer: u32,
    /// Total length of the link targets followed so far, in bytes.
    link_bytes: u64,
    parent_cache: ParentCache,
}

impl Tree {
    pub(super) fn new() -> Self {
        let parent_cache = ParentCache::default();
        Self { inodes: vec![implied_directory(0)], names: 0, layer: 0, link_bytes: 0, parent_cache }
    }

    /// Returns how many names were given so far, replaced and implied ones included: they bound the memory.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// Begins a layer above all entries so far.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
        // The names on the way to an entry are marked while its path is resolved, so the path must be resolved again.
        self.parent_cache.clear();
    }

    /// Counts one name less for an inode.
    fn unlink(&mut self, index: Index) {
        let links = &mut self.inodes[index as usize].links;
        *links = links.saturating_sub(1);
    }

    /// Adds a directory; an existing one keeps its children and gets the metadata.
    pub(super) fn dir(&mut self, path: &[&[u8]], meta: Meta) -> Result<(), EntryError> {
        let Some((name, parents)) = path.split_last() else {
            self.set_meta(ROOT, meta);
            return Ok(());
        };
        if parents.is_empty() && *name == LOST_FOUND {
            return Ok(());
        }
        let parent = self.make_parent(path)?;
        // Links may lead to the reserved name by another path.
        if is_reserved(parent, name) {
            return Ok(());
        }
        match self.child(parent, name) {
            Some(index) if self.is_dir(index) => {
                self.mark_name(parent, name);
                self.set_meta(index, meta);
            }
            _ => {
                let kind = Kind::Dir { children: BTreeMap::new(), implied: false, cleared_in: self.layer };
                self.insert(parent, name, kind, meta)?;
            }
        }
        Ok(())
    }

    /// Puts an inode other than a directory at `path`, in place of whatever is there.
    pub(super) fn put(&mut self, path: &[&[u8]], kind: Kind, meta: Meta) -> Result<(), EntryError> {
        let parent = self.make_parent(path)?;
        let name = path.last().ok_or(EntryError::Empty)?;
        self.insert(parent, name, kind, meta)?;
        Ok(())
    }

    /// Gives the inode at `target` another name.
    pub(super) fn hard_link(&mut self, path: &[&[u8]], target: &[&[u8]]) -> Result<(), EntryError> {
        let shown = || quoted(&target.join(&b'/'));
        let index = self.find_link_target(target)?.ok_or_else(|| EntryError::LinkTargetMissing(shown()))?;
        if self.is_dir(index) {
            return Err(EntryError::LinkToDirectory(shown()));
        }
        if self.inodes[index as usize].links >= MAX_LINKS {
            return Err(EntryError::TooManyLinks);
        }
        let parent = self.make_parent(path)?;
        let name = path.last().ok_or(EntryError::Empty)?;
        self.add_name(parent, name, index)?;
        self.inodes[index as usize].links += 1;
        Ok(())
    }

    /// Marks a name as one the current layer put something at or below.
    fn mark_name(&mut self, parent: Index, name: &[u8]) {
        let layer = self.layer;
        if let Kind::Dir { children, .. } = &mut self.inodes[parent as usize].kind
            && let Some(child) = children.get_mut(name)
        {
            child.layer = layer;
        }
    }

    fn insert(&mut self, parent: Index, name: &[u8], kind: Kind, meta: Meta) -> Result<Index, EntryError> {
        let index = Index::try_from(self.inodes.len()).expect("the builder's limit is far below 2^32 entries");
        self.add_name(parent, name, index)?;
        self.inodes.push(Inode { kind, meta, links: 1 });
        Ok(index)
    }

    fn add_name(&mut self, parent: Index, name: &[u8], index: Index) -> Result<(), EntryError> {
        // Checked here and not by the path alone: a link to the root, or to the name itself, leads there too.
        if is_reserved(parent, name) {
            return Err(EntryError::Reserved);
        }
        self.names += 1;
        let child = Child { index, layer: self.layer };
        if let Kind::Dir { children, .. } = &mut self.inodes[parent as usize].kind
            && let Some(replaced) = children.insert(name.into(), child)
        {
            self.parent_cache.clear();
            self.unlink(replaced.index);
        }
        Ok(())
    }

    fn set_meta(&mut self, index: Index, meta: Meta) {
        let inode = &mut self.inodes[index as usize];
        inode.meta = meta;
        if let Kind::Dir { implied, .. } = &mut inode.kind {
            *implied = false;
        }
    }

    fn child(&self, dir: Index, name: &[u8]) -> Option<Index> {
        match &self.inodes[dir as usize].kind {
            Kind::Dir { children, .. } => children.get(name).map(|child| child.index),
            _ => None,
        }
    }

    fn is_dir(&self, index: Index) -> bool {
        matches!(self.inodes[index as usize].kind, Kind::Dir { .. })
    }
}

/// Whether the name belongs to the filesystem itself.
fn is_reserved(parent: Index, name: &[u8]) -> bool {
    parent == ROOT && name == LOST_FOUND
}

fn implied_directory(layer: u32) -> Inode {
    let kind = Kind::Dir { children: BTreeMap::new(), implied: true, cleared_in: layer };
    Inode { kind, meta: Meta { mode: 0o755, ..Meta::default() }, links: 1 }
}

#[cfg(test)]
mod tests;

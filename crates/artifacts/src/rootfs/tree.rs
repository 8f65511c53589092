//! The tree as it will be: names, and the inodes behind them.
//!
//! Decides what replaces what (the later entry wins, a directory met again keeps its children) and that every parent
//! exists. Children are kept sorted, so the image does not depend on the order in which unrelated entries came.
//!
//! A tree may be made of layers: then a whiteout takes away what lower layers put there and nothing of its own, and a
//! path leads through the symbolic links of the tree, as it would for a program in the image.

mod parent_cache;

use super::{
    entry::{Meta, Node},
    error::{EntryError, quoted},
    spool::Segment,
};
use parent_cache::ParentCache;
use std::collections::BTreeMap;

/// Index of an inode in [`Tree::inodes`].
pub(super) type Index = u32;

/// The root directory.
pub(super) const ROOT: Index = 0;
/// Most names one file may have.
const LINKS_MAX: u32 = 65_000;
/// Most links followed on the way to one file, as in the kernel.
const FOLLOWED_MAX: u32 = 40;
/// Most bytes of links followed on the way to all files. A million of them with a hundred each on their way are far below.
const STEPS_MAX: u64 = 256 << 20;
/// Longest name, in bytes; those in paths were checked, those in links were not.
const NAME_MAX: usize = 255;
/// The name the filesystem itself takes in the root.
const LOST_FOUND: &[u8] = b"lost+found";

/// What an inode is.
#[derive(Debug)]
pub(super) enum Kind {
    /// `implied`: no entry has described it; it exists because something is in it.
    Dir {
        children: BTreeMap<Box<[u8]>, Child>,
        implied: bool,
        /// The last layer in whose time nothing of a lower one is at or below its names.
        swept: u32,
    },
    File(Segment),
    /// A file with holes: what of it there is, in order, as (offset in the file, segment).
    Sparse {
        len: u64,
        data: Box<[(u64, Segment)]>,
    },
    Symlink(Box<[u8]>),
    Node(Node),
}

/// One name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) index: Index,
    /// The last layer that put it there, or something below it.
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
    /// The layer entries belong to; 0 where there are none, and then no link is followed.
    layer: u32,
    /// Bytes of the links followed so far.
    steps: u64,
    last: ParentCache,
}

impl Tree {
    pub(super) fn new() -> Self {
        let last = ParentCache::default();
        Self { inodes: vec![implied_directory(0)], names: 0, layer: 0, steps: 0, last }
    }

    /// Names given so far, replaced and implied ones included: what bounds the memory.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// What follows belongs to a layer above all before.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
        // What it puts somewhere is marked on the way.
        self.last.forget();
    }

    /// Takes away what lower layers have at `path`.
    pub(super) fn whiteout(&mut self, path: &[&[u8]]) -> Result<(), EntryError> {
        let Some((name, parents)) = path.split_last() else { return Err(EntryError::Empty) };
        self.last.forget();
        if let Some(directory) = self.walk(parents)? {
            self.remove_lower(directory, name);
        }
        Ok(())
    }

    /// Takes away what lower layers have in the directory at `path`.
    pub(super) fn opaque(&mut self, path: &[&[u8]]) -> Result<(), EntryError> {
        self.last.forget();
        if let Some(directory) = self.walk(path)? {
            self.sweep(directory);
        }
        Ok(())
    }

    /// Removes `name` as far as no entry of the present layer is in it.
    fn remove_lower(&mut self, directory: Index, name: &[u8]) {
        let Kind::Dir { children, .. } = &mut self.inodes[directory as usize].kind else { return };
        let Some(child) = children.get(name).copied() else { return };
        if child.layer < self.layer {
            children.remove(name);
            self.forget(child.index);
        } else {
            self.sweep(child.index);
        }
    }

    /// Removes what no entry of the present layer is, or is in, from a directory. What comes afterwards is of this layer,
    /// so once is enough for all of it: however often a layer takes the same away, each name is looked at once.
    fn sweep(&mut self, directory: Index) {
        let layer = self.layer;
        let mut work = vec![directory];
        let mut gone = Vec::new();
        while let Some(directory) = work.pop() {
            let Kind::Dir { children, swept, .. } = &mut self.inodes[directory as usize].kind else { continue };
            if *swept == layer {
                continue;
            }
            *swept = layer;
            // What the present layer put into one marks it, so whatever is unmarked has nothing of it below.
            children.retain(|_, child| {
                let stays = child.layer == layer;
                let list = if stays { &mut work } else { &mut gone };
                list.push(child.index);
                stays
            });
            gone.drain(..).for_each(|index| self.forget(index));
        }
    }

    /// One name less for an inode.
    fn forget(&mut self, index: Index) {
        let links = &mut self.inodes[index as usize].links;
        *links = links.saturating_sub(1);
    }

    /// Describes a directory; one that is there keeps its children.
    pub(super) fn dir(&mut self, path: &[&[u8]], meta: Meta) -> Result<(), EntryError> {
        let Some((name, parents)) = path.split_last() else {
            self.describe(ROOT, meta);
            return Ok(());
        };
        if parents.is_empty() && *name == LOST_FOUND {
            return Ok(());
        }
        let parent = self.parent(path)?;
        // Links may lead there by another path.
        if is_reserved(parent, name) {
            return Ok(());
        }
        match self.child(parent, name) {
            Some(index) if self.is_dir(index) => {
                self.mark(parent, name);
                self.describe(index, meta);
            }
            _ => {
                let kind = Kind::Dir { children: BTreeMap::new(), implied: false, swept: self.layer };
                self.place(parent, name, kind, meta)?;
            }
        }
        Ok(())
    }

    /// Puts an inode that is no directory at `path`, in place of whatever is there.
    pub(super) fn put(&mut self, path: &[&[u8]], kind: Kind, meta: Meta) -> Result<(), EntryError> {
        let parent = self.parent(path)?;
        let name = path.last().ok_or(EntryError::Empty)?;
        self.place(parent, name, kind, meta)?;
        Ok(())
    }

    /// Gives the inode at `target` one more name.
    pub(super) fn hard_link(&mut self, path: &[&[u8]], target: &[&[u8]]) -> Result<(), EntryError> {
        let shown = || quoted(&target.join(&b'/'));
        let index = self.target(target)?.ok_or_else(|| EntryError::LinkTargetMissing(shown()))?;
        if self.is_dir(index) {
            return Err(EntryError::LinkToDirectory(shown()));
        }
        if self.inodes[index as usize].links >= LINKS_MAX {
            return Err(EntryError::TooManyLinks);
        }
        let parent = self.parent(path)?;
        let name = path.last().ok_or(EntryError::Empty)?;
        self.name(parent, name, index)?;
        self.inodes[index as usize].links += 1;
        Ok(())
    }

    /// The inode at `path`, without following links.
    pub(super) fn find(&self, path: &[&[u8]]) -> Option<Index> {
        path.iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    /// The inode a hard link to `path` is another name of: a link at its end is not followed.
    fn target(&mut self, path: &[&[u8]]) -> Result<Option<Index>, EntryError> {
        let Some((name, parents)) = path.split_last() else { return Ok(Some(ROOT)) };
        Ok(self.walk(parents)?.and_then(|directory| self.child(directory, name)))
    }

    /// The directory at `path`, if it is one: through links in a tree of layers, and not otherwise.
    fn walk(&mut self, path: &[&[u8]]) -> Result<Option<Index>, EntryError> {
        let index = if self.layer == 0 {
            self.find(path)
        } else {
            let mut steps = 0;
            let index = self.follow(&path.join(&b'/'), &mut steps);
            self.count(steps)?;
            index
        };
        Ok(index.filter(|&index| self.is_dir(index)))
    }

    /// The inode at `path` as a process in the image would see it: links followed, `..` stopping at the root.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Index> {
        self.follow(path, &mut 0)
    }

    /// The same, with the bytes of the links on the way.
    fn follow(&self, path: &[u8], steps: &mut u64) -> Option<Index> {
        let mut at = vec![ROOT];
        let mut rest: Vec<&[u8]> = path.rsplit(|&byte| byte == b'/').collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let dir = *at.last()?;
            match name {
                b"" | b"." => {}
                b".." => at.truncate((at.len() - 1).max(1)),
                _ => {
                    let index = self.child(dir, name)?;
                    if let Kind::Symlink(target) = &self.inodes[index as usize].kind {
                        links += 1;
                        *steps += target.len() as u64;
                        if links > FOLLOWED_MAX {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            at.truncate(1);
                        }
                        rest.extend(target.rsplit(|&byte| byte == b'/'));
                    } else {
                        at.push(index);
                    }
                }
            }
        }
        at.pop()
    }

    /// Notes that links of so many bytes were followed. One link may have 4,095, a path may lead through 40, and there
    /// are millions of paths.
    fn count(&mut self, steps: u64) -> Result<(), EntryError> {
        self.steps += steps;
        if self.steps > STEPS_MAX { Err(EntryError::LinkSteps) } else { Ok(()) }
    }

    /// The directory that holds the last component of `path`, made as far as it is missing.
    fn parent(&mut self, path: &[&[u8]]) -> Result<Index, EntryError> {
        if path.first() == Some(&LOST_FOUND) {
            return Err(EntryError::Reserved);
        }
        let parents = &path[..path.len().saturating_sub(1)];
        if let Some(directory) = self.last.at(parents) {
            return Ok(directory);
        }
        let directory =
            if self.layer > 0 { self.parent_through_links(parents) } else { self.parent_by_names(parents) }?;
        self.last.note(parents, directory);
        Ok(directory)
    }

    fn parent_by_names(&mut self, parents: &[&[u8]]) -> Result<Index, EntryError> {
        let mut dir = ROOT;
        for (depth, name) in parents.iter().enumerate() {
            dir = match self.child(dir, name) {
                Some(index) if self.is_dir(index) => index,
                Some(_) => return Err(EntryError::NotADirectory(quoted(&parents[..=depth].join(&b'/')))),
                None => {
                    let Inode { kind, meta, .. } = implied_directory(self.layer);
                    self.place(dir, name, kind, meta)?
                }
            };
        }
        Ok(dir)
    }

    /// The directory at these names, where all of them are directories already, as most are.
    fn plain_parent(&mut self, names: &[&[u8]]) -> Option<Index> {
        let mut directory = ROOT;
        for name in names {
            let Kind::Dir { children, .. } = &self.inodes[directory as usize].kind else { return None };
            let child = *children.get(*name)?;
            if !self.is_dir(child.index) {
                return None;
            }
            if child.layer != self.layer {
                self.mark(directory, name);
            }
            directory = child.index;
        }
        Some(directory)
    }

    /// The same, following the tree's links; `..` in one stops at the root.
    fn parent_through_links(&mut self, parents: &[&[u8]]) -> Result<Index, EntryError> {
        if let Some(directory) = self.plain_parent(parents) {
            return Ok(directory);
        }
        let mut at = vec![ROOT];
        let mut rest: Vec<Vec<u8>> = parents.iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let dir = *at.last().expect("the root stays");
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate((at.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(index) = self.child(dir, &name) else {
                if name.len() > NAME_MAX {
                    return Err(EntryError::NameTooLong(name.len()));
                }
                let Inode { kind, meta, .. } = implied_directory(self.layer);
                at.push(self.place(dir, &name, kind, meta)?);
                continue;
            };
            match &self.inodes[index as usize].kind {
                Kind::Dir { .. } => {
                    self.mark(dir, &name);
                    at.push(index);
                }
                Kind::Symlink(target) => {
                    links += 1;
                    if links > FOLLOWED_MAX {
                        return Err(EntryError::LinkLoop(quoted(&parents.join(&b'/'))));
                    }
                    if target.starts_with(b"/") {
                        at.truncate(1);
                    }
                    let steps = target.len() as u64;
                    rest.extend(target.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec));
                    self.count(steps)?;
                }
                _ => return Err(EntryError::NotADirectory(quoted(&parents.join(&b'/')))),
            }
        }
        Ok(at.pop().expect("the root stays"))
    }

    /// The present layer put something at or below this name.
    fn mark(&mut self, parent: Index, name: &[u8]) {
        let layer = self.layer;
        if let Kind::Dir { children, .. } = &mut self.inodes[parent as usize].kind
            && let Some(child) = children.get_mut(name)
        {
            child.layer = layer;
        }
    }

    fn place(&mut self, parent: Index, name: &[u8], kind: Kind, meta: Meta) -> Result<Index, EntryError> {
        let index = Index::try_from(self.inodes.len()).expect("the builder's limit is far below 2^32 entries");
        self.name(parent, name, index)?;
        self.inodes.push(Inode { kind, meta, links: 1 });
        Ok(index)
    }

    fn name(&mut self, parent: Index, name: &[u8], index: Index) -> Result<(), EntryError> {
        // Here and not by the path alone: a link to the root, or to the name itself, leads there too.
        if is_reserved(parent, name) {
            return Err(EntryError::Reserved);
        }
        self.names += 1;
        let child = Child { index, layer: self.layer };
        if let Kind::Dir { children, .. } = &mut self.inodes[parent as usize].kind
            && let Some(replaced) = children.insert(name.into(), child)
        {
            self.last.forget();
            self.forget(replaced.index);
        }
        Ok(())
    }

    fn describe(&mut self, index: Index, described: Meta) {
        let inode = &mut self.inodes[index as usize];
        inode.meta = described;
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

/// Whether the filesystem has something of its own there.
fn is_reserved(parent: Index, name: &[u8]) -> bool {
    parent == ROOT && name == LOST_FOUND
}

fn implied_directory(layer: u32) -> Inode {
    let kind = Kind::Dir { children: BTreeMap::new(), implied: true, swept: layer };
    Inode { kind, meta: Meta { mode: 0o755, ..Meta::default() }, links: 1 }
}

#[cfg(test)]
mod tests;

//! The tree as it will be: names, and the inodes behind them.
//!
//! Decides what replaces what (the later entry wins, a directory met again keeps its children) and that every parent
//! exists. Children are kept sorted, so the image does not depend on the order in which unrelated entries came.

use super::{
    entry::{Meta, Node},
    error::{Refusal, quoted},
    spool::Segment,
};
use std::collections::BTreeMap;

/// Index of an inode in [`Tree::inodes`].
pub(super) type Index = u32;

/// The root directory.
pub(super) const ROOT: Index = 0;
/// Most names one file may have.
const LINKS_MAX: u32 = 65_000;
/// The name the filesystem itself takes in the root.
const LOST_FOUND: &[u8] = b"lost+found";

/// What an inode is.
#[derive(Debug)]
pub(super) enum Kind {
    /// `implied`: no entry has described it; it exists because something is in it.
    Dir {
        children: BTreeMap<Box<[u8]>, Index>,
        implied: bool,
    },
    File(Segment),
    Symlink(Box<[u8]>),
    Node(Node),
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
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { inodes: vec![implied_directory()], names: 0 }
    }

    /// Names given so far, replaced and implied ones included: what bounds the memory.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// Describes a directory; one that is there keeps its children.
    pub(super) fn dir(&mut self, path: &[&[u8]], meta: Meta) -> Result<(), Refusal> {
        let Some((name, parents)) = path.split_last() else {
            self.describe(ROOT, meta);
            return Ok(());
        };
        if parents.is_empty() && *name == LOST_FOUND {
            return Ok(());
        }
        let parent = self.parent(path)?;
        match self.child(parent, name) {
            Some(index) if self.is_dir(index) => self.describe(index, meta),
            _ => {
                self.place(parent, name, Kind::Dir { children: BTreeMap::new(), implied: false }, meta);
            }
        }
        Ok(())
    }

    /// Puts an inode that is no directory at `path`, in place of whatever is there.
    pub(super) fn put(&mut self, path: &[&[u8]], kind: Kind, meta: Meta) -> Result<(), Refusal> {
        let parent = self.parent(path)?;
        let name = path.last().ok_or(Refusal::Empty)?;
        self.place(parent, name, kind, meta);
        Ok(())
    }

    /// Gives the inode at `target` one more name.
    pub(super) fn hard_link(&mut self, path: &[&[u8]], target: &[&[u8]]) -> Result<(), Refusal> {
        let shown = || quoted(&target.join(&b'/'));
        let index = self.find(target).ok_or_else(|| Refusal::LinkTargetMissing(shown()))?;
        if self.is_dir(index) {
            return Err(Refusal::LinkToDirectory(shown()));
        }
        if self.inodes[index as usize].links >= LINKS_MAX {
            return Err(Refusal::TooManyLinks);
        }
        let parent = self.parent(path)?;
        let name = path.last().ok_or(Refusal::Empty)?;
        self.inodes[index as usize].links += 1;
        self.name(parent, name, index);
        Ok(())
    }

    /// The inode at `path`, without following links.
    pub(super) fn find(&self, path: &[&[u8]]) -> Option<Index> {
        path.iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    /// The directory that holds the last component of `path`, made as far as it is missing.
    fn parent(&mut self, path: &[&[u8]]) -> Result<Index, Refusal> {
        if path.first() == Some(&LOST_FOUND) {
            return Err(Refusal::Reserved);
        }
        let mut dir = ROOT;
        for (depth, name) in path.iter().enumerate().take(path.len().saturating_sub(1)) {
            dir = match self.child(dir, name) {
                Some(index) if self.is_dir(index) => index,
                Some(_) => return Err(Refusal::NotADirectory(quoted(&path[..=depth].join(&b'/')))),
                None => {
                    let Inode { kind, meta, .. } = implied_directory();
                    self.place(dir, name, kind, meta)
                }
            };
        }
        Ok(dir)
    }

    fn place(&mut self, parent: Index, name: &[u8], kind: Kind, meta: Meta) -> Index {
        let index = Index::try_from(self.inodes.len()).expect("the builder's limit is far below 2^32 entries");
        self.inodes.push(Inode { kind, meta, links: 1 });
        self.name(parent, name, index);
        index
    }

    fn name(&mut self, parent: Index, name: &[u8], index: Index) {
        self.names += 1;
        if let Kind::Dir { children, .. } = &mut self.inodes[parent as usize].kind {
            children.insert(name.into(), index);
        }
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
            Kind::Dir { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    fn is_dir(&self, index: Index) -> bool {
        matches!(self.inodes[index as usize].kind, Kind::Dir { .. })
    }
}

fn implied_directory() -> Inode {
    let kind = Kind::Dir { children: BTreeMap::new(), implied: true };
    Inode { kind, meta: Meta { mode: 0o755, ..Meta::default() }, links: 1 }
}

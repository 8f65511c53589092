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
/// Most links followed on the way to one file, as in the kernel.
const FOLLOWED_MAX: u32 = 40;
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

    /// The inode at `path` as a process in the image would see it: links followed, `..` stopping at the root.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Index> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::path::components;

    fn file() -> Kind {
        Kind::File(Segment { offset: 0, len: 0 })
    }

    fn put(tree: &mut Tree, path: &str, kind: Kind) -> Result<(), Refusal> {
        tree.put(&components(path.as_bytes())?, kind, Meta::default())
    }

    fn link(tree: &mut Tree, path: &str, target: &str) {
        put(tree, path, Kind::Symlink(target.as_bytes().into())).unwrap();
    }

    fn hard_link(tree: &mut Tree, path: &str, target: &str) -> Result<(), Refusal> {
        tree.hard_link(&components(path.as_bytes())?, &components(target.as_bytes())?)
    }

    #[test]
    fn the_later_entry_wins() {
        let mut tree = Tree::new();
        put(&mut tree, "a/b", file()).unwrap();
        tree.dir(&[b"a"], Meta { uid: 5, ..Meta::default() }).unwrap();
        assert!(tree.find(&[b"a", b"b"]).is_some(), "a directory named again keeps its children");
        put(&mut tree, "a", file()).unwrap();
        assert!(tree.find(&[b"a", b"b"]).is_none());
        tree.dir(&[b"a"], Meta::default()).unwrap();
        assert!(tree.find(&[b"a", b"b"]).is_none(), "what a file replaced does not come back");
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let mut tree = Tree::new();
        link(&mut tree, "lib", "usr/lib");
        let refused = put(&mut tree, "lib/x", file()).unwrap_err();
        assert_eq!(refused, Refusal::NotADirectory("\"lib\"".into()));
    }

    #[test]
    fn hard_links_name_what_is_there() {
        let mut tree = Tree::new();
        tree.dir(&[b"d"], Meta::default()).unwrap();
        put(&mut tree, "d/a", file()).unwrap();
        hard_link(&mut tree, "b", "d/a").unwrap();
        assert_eq!(tree.find(&[b"b"]), tree.find(&[b"d", b"a"]));
        hard_link(&mut tree, "b", "b").unwrap();
        // The directory goes, the file in it stays under its other name.
        hard_link(&mut tree, "d", "d/a").unwrap();
        assert_eq!(tree.find(&[b"b"]), tree.find(&[b"d"]));
        assert!(matches!(hard_link(&mut tree, "c", "none"), Err(Refusal::LinkTargetMissing(_))));
        tree.dir(&[b"e"], Meta::default()).unwrap();
        assert!(matches!(hard_link(&mut tree, "c", "e"), Err(Refusal::LinkToDirectory(_))));
    }

    #[test]
    fn lost_found_is_the_file_systems() {
        let mut tree = Tree::new();
        tree.dir(&[b"lost+found"], Meta::default()).unwrap();
        assert_eq!(put(&mut tree, "lost+found", file()).unwrap_err(), Refusal::Reserved);
        assert_eq!(put(&mut tree, "lost+found/x", file()).unwrap_err(), Refusal::Reserved);
        put(&mut tree, "home/lost+found/x", file()).unwrap();
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let mut tree = Tree::new();
        put(&mut tree, "usr/lib/systemd/systemd", file()).unwrap();
        link(&mut tree, "lib", "usr/lib");
        link(&mut tree, "sbin", "usr/sbin");
        link(&mut tree, "usr/sbin/init", "/lib/systemd/systemd");
        link(&mut tree, "up", "../../../lib/systemd/./systemd");
        link(&mut tree, "loop", "loop");
        let init = tree.find(&[b"usr", b"lib", b"systemd", b"systemd"]);
        assert!(init.is_some());
        for path in ["sbin/init", "/sbin/init", "up", "usr/sbin/../lib/systemd/systemd"] {
            assert_eq!(tree.resolve(path.as_bytes()), init, "{path}");
        }
        for path in ["loop", "sbin/none", "usr/lib/systemd/systemd/x"] {
            assert_eq!(tree.resolve(path.as_bytes()), None, "{path}");
        }
        assert_eq!(tree.resolve(b"/.."), Some(ROOT));
    }
}

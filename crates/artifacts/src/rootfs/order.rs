//! Order of the inodes of a tree, and what follows from the tree as a whole: inode numbers, link counts, the UUID.

use super::{
    block_groups::LOST_FOUND_INODE,
    entry::Meta,
    format::Format,
    tree::{Index, Kind, ROOT, Tree},
};
use sha2::{Digest, Sha256};

/// Inode number of the root.
pub(super) const ROOT_INODE: u32 = 2;

/// Reachable inodes, in the order of a walk that finishes each directory before those in it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) dirs: Vec<Index>,
    pub(super) files: Vec<Index>,
    /// Inodes that are neither directories nor files.
    pub(super) others: Vec<Index>,
    /// Indexed like the tree's inodes: the inode number, the inode number of the first directory with a name for it,
    /// and the number of its names.
    pub(super) numbers: Vec<u32>,
    pub(super) parents: Vec<u32>,
    pub(super) links: Vec<u64>,
    last: u32,
    digest: Sha256,
}

impl Order {
    pub(super) fn of(tree: &Tree) -> Self {
        let count = tree.inodes.len();
        let mut order = Self {
            dirs: vec![ROOT],
            files: Vec::new(),
            others: Vec::new(),
            numbers: vec![0; count],
            parents: vec![0; count],
            links: vec![0; count],
            last: LOST_FOUND_INODE,
            digest: Sha256::new(),
        };
        let root = ROOT as usize;
        (order.numbers[root], order.parents[root]) = (ROOT_INODE, ROOT_INODE);
        // The root's own two names and the one in `lost+found`; each directory in it adds another.
        order.links[root] = 3;
        order.update_digest(b"", &tree.inodes[root].meta);
        let mut next = 0;
        while let Some(&dir) = order.dirs.get(next) {
            next += 1;
            let Kind::Dir { children, .. } = &tree.inodes[dir as usize].kind else { continue };
            for (name, child) in children {
                order.visit(tree, dir, name, child.index);
            }
        }
        order
    }

    fn visit(&mut self, tree: &Tree, dir: Index, name: &[u8], index: Index) {
        let inode = &tree.inodes[index as usize];
        self.update_digest(name, &inode.meta);
        self.links[index as usize] += 1;
        if self.numbers[index as usize] > 0 {
            return;
        }
        self.last += 1;
        self.numbers[index as usize] = self.last;
        self.parents[index as usize] = self.numbers[dir as usize];
        match &inode.kind {
            Kind::Dir { .. } => {
                self.links[index as usize] += 1;
                self.links[dir as usize] += 1;
                self.dirs.push(index);
            }
            Kind::File(segment) => {
                self.digest.update(segment.len.to_le_bytes());
                self.files.push(index);
            }
            Kind::Sparse { len, .. } => {
                self.digest.update(len.to_le_bytes());
                self.files.push(index);
            }
            Kind::Symlink(target) => {
                self.digest.update(target);
                self.others.push(index);
            }
            Kind::Node(_) => self.others.push(index),
        }
    }

    /// Returns the highest inode number, which is also the number of inodes.
    pub(super) fn last_inode(&self) -> usize {
        self.last as usize
    }

    /// Returns the number of inodes that came from entries or were implied by them, including the root.
    pub(super) fn entries(&self) -> u64 {
        (self.dirs.len() + self.files.len() + self.others.len()) as u64
    }

    fn update_digest(&mut self, name: &[u8], meta: &Meta) {
        let numbers = [name.len() as u64, u64::from(meta.mode), u64::from(meta.uid), u64::from(meta.gid)];
        self.digest.update(numbers.map(u64::to_le_bytes).as_flattened());
        self.digest.update(name);
        self.digest.update(meta.mtime.secs.to_le_bytes());
    }

    /// Returns a UUID that follows from names, sizes, attributes and the salt; nothing random enters it.
    pub(super) fn uuid(&self, format: &Format) -> [u8; 16] {
        let mut digest = self.digest.clone();
        digest.update(format.label.as_bytes());
        digest.update(format.epoch.to_le_bytes());
        digest.update(&format.salt);
        let digest = digest.finalize();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        // Version 8 ("custom"), variant 1, as RFC 9562 wants it.
        uuid[6] = (uuid[6] & 0x0F) | 0x80;
        uuid[8] = (uuid[8] & 0x3F) | 0x80;
        uuid
    }
}

//! How big an image must be.
//!
//! The filesystem writer wants the size before it lays anything out and places everything with one cursor that never
//! goes back, so the size is a sum: what the tree needs, plus the fixed structures of each block group. Where the
//! exact count would depend on hashes or addresses the bound is taken; it is a handful of blocks.

use super::xattr;

/// Bytes of a block; the only size the writer knows.
pub(super) const BLOCK: u64 = 4096;
/// Blocks of a block group.
const GROUP: u64 = 32_768;
/// Groups whose bitmaps and inode tables are packed together at the first of them.
const GROUPS_PER_FLEX: u64 = 16;
/// Inodes the filesystem keeps for itself, `lost+found` included.
const RESERVED_INODES: u64 = 11;
/// Blocks of the journal: the smallest the kernel accepts. It stays empty and, being zeros, takes no room on disk.
pub(super) const JOURNAL: u32 = 1024;
/// Blocks of `lost+found`.
const LOST_FOUND: u64 = 4;
/// Most inodes per group. Above it a flex group's tables would run into the superblock copy of the next group.
const INODES_PER_GROUP: u64 = 31_000;
/// Free blocks the last group must at least have beyond its own copy of the superblock and descriptors.
const LAST_GROUP: u64 = 64;
/// The writer wants the journal to be at most a quarter of the filesystem.
const MIN_BLOCKS: u64 = JOURNAL as u64 * 4;

/// What a tree needs, gathered entry by entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    inodes: u64,
    blocks: u64,
}

/// The size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size_bytes: u64,
    pub(super) inodes: u64,
}

impl Demand {
    pub(super) fn new() -> Self {
        Self { inodes: RESERVED_INODES, blocks: u64::from(JOURNAL) + LOST_FOUND }
    }

    /// One more inode with these attributes.
    pub(super) fn inode(&mut self, xattrs: &[super::Xattr]) {
        self.inodes += 1;
        self.blocks += u64::from(xattr::needs_block(xattrs));
    }

    /// The content of a file.
    pub(super) fn file(&mut self, bytes: u64) {
        self.mapped(bytes.div_ceil(BLOCK));
    }

    /// The content of a file with holes, as the lengths of what there is of it.
    pub(super) fn sparse(&mut self, pieces: impl Iterator<Item = u64>) {
        let (mut blocks, mut extents) = (0, 0);
        for bytes in pieces {
            blocks += bytes.div_ceil(BLOCK);
            extents += 1 + bytes / BLOCK / GROUP;
        }
        // Where a group's own structures interrupt a piece it becomes two.
        extents += blocks / GROUP + 2;
        self.mapped_in(blocks, extents);
    }

    /// The target of a symbolic link; short ones live in the inode.
    pub(super) fn symlink(&mut self, target: usize) {
        self.blocks += u64::from(target > 59);
    }

    /// A directory with names of these lengths.
    pub(super) fn directory(&mut self, names: impl Iterator<Item = usize>) {
        let (mut bytes, mut longest) = (0_u64, 12);
        for name in names {
            let record = (8 + name as u64).next_multiple_of(4);
            bytes += record;
            longest = longest.max(record);
        }
        let usable = BLOCK - 12;
        if bytes < BLOCK - 24 {
            self.blocks += if bytes + 24 <= usable { 1 } else { 2 };
            return;
        }
        // Hashed: a root, full leaves in hash order (each may waste less than the longest record), and index nodes
        // once the root's 507 slots are used up.
        let leaves = bytes.div_ceil(usable - longest + 4);
        let nodes = if leaves > 507 { leaves.div_ceil(510) } else { 0 };
        self.mapped(1 + leaves + nodes);
    }

    /// Data blocks plus the extent tree over them. The inode itself holds four extents; an extent ends at 32,768
    /// blocks or where a group's own structures interrupt it.
    fn mapped(&mut self, blocks: u64) {
        self.mapped_in(blocks, 2 * (blocks / GROUP + 2));
    }

    fn mapped_in(&mut self, blocks: u64, extents: u64) {
        let leaves = if extents > 4 { extents.div_ceil(340) } else { 0 };
        let nodes = if leaves > 4 { leaves.div_ceil(340) } else { 0 };
        self.blocks += blocks + leaves + nodes;
    }

    /// The smallest filesystem that holds all this.
    pub(super) fn shape(self) -> Shape {
        let mut groups = self.inodes.div_ceil(INODES_PER_GROUP).max(1);
        loop {
            let per_group = self.inodes.div_ceil(groups).next_multiple_of(16);
            let tables = 2 + per_group / 16;
            let copy = 1 + (groups * 32).div_ceil(BLOCK);
            let span = (groups - 1) / GROUPS_PER_FLEX * GROUPS_PER_FLEX;
            let copies = |from| (from..groups).filter(|&group| has_superblock(group)).count() as u64;

            let needed = self.blocks + groups * tables + copies(0) * copy;
            let last_group = if groups == 1 { 0 } else { (groups - 1) * GROUP + copy + LAST_GROUP };
            let last_span = span * GROUP + (groups - span) * tables + copies(span) * copy + 1;
            let blocks = needed.max(last_group).max(last_span).max(MIN_BLOCKS);
            if blocks <= groups * GROUP {
                return Shape { size_bytes: blocks * BLOCK, inodes: self.inodes };
            }
            groups += 1;
        }
    }
}

/// Whether a group holds the superblock or, under `sparse_super`, a copy of it.
fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut n = group;
        while n.is_multiple_of(base) {
            n /= base;
        }
        n == 1
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblock_copies() {
        let found: Vec<u64> = (0..130).filter(|&group| has_superblock(group)).collect();
        assert_eq!(found, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn the_size_follows_the_content() {
        let mut demand = Demand::new();
        for _ in 0..1000 {
            demand.inode(&[]);
            demand.file(1 << 20);
        }
        let shape = demand.shape();
        assert_eq!(shape.inodes, 1011);
        let overhead = shape.size_bytes - (1000 << 20);
        assert!(overhead < 6 << 20, "{overhead} bytes of overhead, the journal's 4 MiB included");
    }

    #[test]
    fn a_tail_group_is_never_too_small_for_its_own_structures() {
        for megabytes in 120..140 {
            let mut demand = Demand::new();
            demand.inode(&[]);
            demand.file(megabytes << 20);
            let blocks = demand.shape().size_bytes / BLOCK;
            assert!(blocks.is_multiple_of(GROUP) || blocks % GROUP >= LAST_GROUP, "{blocks}");
        }
    }
}

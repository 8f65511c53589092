//! Extent trees: the map from a file's blocks to those of the image.

use super::{
    block_layout::{BLOCK_BYTES, Run},
    space::{MAX_EXTENT, Space},
};
use mkext4::{
    csum,
    spec::{Extent, ExtentHeader, ExtentIdx},
};

/// Size of the root node, which is in the inode, in bytes, and how many entries it holds.
pub(super) const ROOT: usize = 60;
const ROOT_ENTRIES: usize = 4;
/// Entries of a node that is a block.
const NODE_ENTRIES: usize = 340;
const ENTRY: usize = ExtentHeader::ENTRY_LEN;

/// Map from a file's blocks to runs of blocks of the image.
#[derive(Debug, Default)]
pub(super) struct BlockMap {
    extents: Vec<(u32, Run)>,
}

/// Encoded extent tree.
#[derive(Debug)]
pub(super) struct ExtentTree {
    pub(super) root: [u8; ROOT],
    /// Nodes outside the inode, with their block numbers.
    pub(super) nodes: Vec<(u64, Vec<u8>)>,
}

impl BlockMap {
    /// Maps the file's blocks from `logical` on to `run`. Calls have to come in the order of the file.
    pub(super) fn push(&mut self, logical: u64, run: Run) {
        let logical = u32::try_from(logical).expect("a file is far below 16 TiB");
        if let Some((first, last)) = self.extents.last_mut()
            && u64::from(*first) + last.len == u64::from(logical)
            && last.start + last.len == run.start
            && last.len + run.len <= MAX_EXTENT
        {
            last.len += run.len;
            return;
        }
        self.extents.push((logical, run));
    }

    /// Returns the number of mapped blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.extents.iter().map(|(_, run)| run.len).sum()
    }

    /// Encodes the map, if it fits the inode.
    pub(super) fn inline_root(&self) -> Option<[u8; ROOT]> {
        (self.extents.len() <= ROOT_ENTRIES).then(|| {
            let mut root = [0; ROOT];
            fill(&mut root, &self.leaves(), ROOT_ENTRIES, 0);
            root
        })
    }

    fn leaves(&self) -> Vec<(u32, [u8; ENTRY])> {
        let leaf = |&(logical, run): &(u32, Run)| {
            let mut entry = [0; ENTRY];
            let raw_len = u16::try_from(run.len).expect("an extent is at most 32768 blocks");
            Extent { logical, raw_len, start: run.start }.encode(&mut entry);
            (logical, entry)
        };
        self.extents.iter().map(leaf).collect()
    }

    /// Encodes the map, for the inode whose checksum seed is `seed`; allocates the nodes that do not fit the inode.
    pub(super) fn encode(&self, seed: u32, space: &mut Space) -> ExtentTree {
        let mut level = self.leaves();
        let mut nodes = Vec::new();
        let mut depth = 0;
        while level.len() > ROOT_ENTRIES {
            let mut above = Vec::new();
            for children in level.chunks(NODE_ENTRIES) {
                let block = space.one();
                let mut node = vec![0; BLOCK_BYTES];
                fill(&mut node, children, NODE_ENTRIES, depth);
                let sum = csum::extent_block(seed, &node);
                let tail = node.len() - 4;
                node[tail..].copy_from_slice(&sum.to_le_bytes());
                nodes.push((block, node));
                let logical = children[0].0;
                let mut entry = [0; ENTRY];
                ExtentIdx { logical, leaf: block }.encode(&mut entry);
                above.push((logical, entry));
            }
            level = above;
            depth += 1;
        }
        let mut root = [0; ROOT];
        fill(&mut root, &level, ROOT_ENTRIES, depth);
        ExtentTree { root, nodes }
    }
}

fn fill(node: &mut [u8], entries: &[(u32, [u8; ENTRY])], max: usize, depth: u16) {
    let count = |n: usize| u16::try_from(n).expect("at most 340");
    ExtentHeader { entries: count(entries.len()), max: count(max), depth, generation: 0 }.encode(node);
    for (field, (_, entry)) in node[ExtentHeader::LEN..].chunks_exact_mut(ENTRY).zip(entries) {
        field.copy_from_slice(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_extent_up_to_its_limit() {
        let mut map = BlockMap::default();
        for (logical, start, len) in
            [(0, 100, 10), (10, 110, 5), (15, 200, 32_767), (32_782, 32_967, 2), (40_000, 90, 1)]
        {
            map.push(logical, Run { start, len });
        }
        assert_eq!(map.extents.iter().map(|(_, run)| run.len).collect::<Vec<_>>(), [15, 32_767, 2, 1]);
        assert_eq!(map.blocks(), 32_785);
        assert!(map.encode(0, &mut Space::new(0)).nodes.is_empty());
    }

    #[test]
    fn trees_grow_as_high_as_they_must() {
        for (extents, nodes, depth) in [(0, 0, 0), (4, 0, 0), (5, 1, 1), (4 * 340, 4, 1), (4 * 340 + 1, 6, 2)] {
            let mut map = BlockMap::default();
            (0..extents).for_each(|n| map.push(n, Run { start: 1000 + 2 * n, len: 1 }));
            let tree = map.encode(0, &mut Space::new(0));
            assert_eq!((tree.nodes.len(), tree.root[6]), (nodes, depth), "{extents}");
            assert_eq!(map.inline_root(), Some(tree.root).filter(|_| nodes == 0));
        }
    }
}

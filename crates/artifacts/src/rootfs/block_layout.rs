//! Fixed layout of an image: block groups, and the blocks reserved for superblocks and group descriptors.
//!
//! File contents are written while they arrive, when the size of the image is not known yet. So the structures with a
//! fixed position in ext4, the superblock with the group descriptors and their copies, get room for the largest
//! possible image, and the remaining blocks, the allocatable ones, are numbered consecutively: the position of the n-th
//! of them never changes.

/// Size of a block in bytes.
pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
/// Size of a block in bytes, as the length of a buffer.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Blocks in a block group.
pub(super) const BLOCKS_PER_GROUP: u64 = 32_768;
/// Blocks reserved at the start of a group with a superblock, for its copy and those of the group descriptors. A power
/// of two, so that a range that is aligned among the allocatable blocks is aligned in the image as well.
pub(super) const RESERVED: u64 = 64;
/// Group descriptors in a block.
pub(super) const DESCRIPTORS_PER_BLOCK: u64 = BLOCK / 32;
/// Upper bound of the number of groups: their descriptors have to fit the reserved blocks. It limits an image to just
/// below 1 TiB.
pub(super) const MAX_GROUPS: u64 = (RESERVED - 1) * DESCRIPTORS_PER_BLOCK;
/// Upper bound of the size of an image in bytes.
pub(super) const MAX_BYTES: u64 = MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK;
/// Groups with a superblock under `sparse_super`: 0, 1 and the powers of 3, 5 and 7.
const SUPERBLOCK_GROUPS: [u64; 19] =
    [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729, 2187, 2401, 3125, 6561];

/// Consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Run {
    /// Returns the blocks that hold `len` bytes from byte `at` on, which is the first byte of a block.
    pub(super) fn of_bytes(at: u64, len: u64) -> Self {
        Self { start: at / BLOCK, len: len.div_ceil(BLOCK) }
    }
}

/// Returns those of the first `groups` groups that hold a superblock.
pub(super) fn groups_with_superblock(groups: u64) -> impl Iterator<Item = u64> {
    SUPERBLOCK_GROUPS.into_iter().take_while(move |&group| group < groups)
}

/// Returns the `number`-th allocatable block, and how many allocatable blocks follow it consecutively.
pub(super) fn nth_allocatable(number: u64) -> Run {
    let mut start = number;
    for group in SUPERBLOCK_GROUPS {
        let reserved = group * BLOCKS_PER_GROUP;
        if start < reserved {
            return Run { start, len: reserved - start };
        }
        start += RESERVED;
    }
    Run { start, len: u64::MAX - start }
}

/// Returns the positions of `count` allocatable blocks from the `first`-th on.
pub(super) fn allocatable_runs(first: u64, count: u64) -> impl Iterator<Item = Run> {
    let (mut at, end) = (first, first + count);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let Run { start, len } = nth_allocatable(at);
            let len = len.min(end - at);
            at += len;
            Run { start, len }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_where_ext4_wants_them() {
        let power_of = |mut n: u64, base: u64| {
            while n.is_multiple_of(base) {
                n /= base;
            }
            n == 1
        };
        let expected = (0..MAX_GROUPS).filter(|&n| n <= 1 || [3, 5, 7].iter().any(|&base| power_of(n, base)));
        assert!(expected.eq(groups_with_superblock(MAX_GROUPS)));
    }

    #[test]
    fn every_block_but_the_reserved_ones_is_counted_once() {
        let mut next = 0;
        for run in allocatable_runs(0, 10 * BLOCKS_PER_GROUP) {
            let reserved = run.start - next;
            assert!(reserved == RESERVED && next.is_multiple_of(BLOCKS_PER_GROUP), "{run:?} after {next}");
            next = run.start + run.len;
        }
        assert_eq!(allocatable_runs(0, 10 * BLOCKS_PER_GROUP).map(|run| run.len).sum::<u64>(), 10 * BLOCKS_PER_GROUP);
        assert_eq!(
            allocatable_runs(BLOCKS_PER_GROUP - RESERVED - 1, 2).collect::<Vec<_>>(),
            [Run { start: BLOCKS_PER_GROUP - 1, len: 1 }, Run { start: BLOCKS_PER_GROUP + RESERVED, len: 1 }]
        );
        for number in [0, 1, 64, 128, BLOCKS_PER_GROUP, 3 * BLOCKS_PER_GROUP, 200 * BLOCKS_PER_GROUP] {
            assert_eq!(nth_allocatable(number).start % RESERVED, number % RESERVED);
        }
    }
}

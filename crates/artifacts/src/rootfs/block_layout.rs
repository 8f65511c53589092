//! Where blocks of an image are, before anything else about it is known.
//!
//! Contents get their places while they come, when nobody knows yet how large the image will be. So what has a fixed
//! place in ext4, the superblock with the group descriptors and their copies, is given room for the largest image
//! there may be, and the blocks that are left are counted through: the place of the n-th of them never changes.

/// Bytes of a block.
pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
/// The same, for what is in memory.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Blocks of a block group.
pub(super) const BLOCKS_PER_GROUP: u64 = 32_768;
/// Blocks at the beginning of a group with a superblock that nothing else gets: its copy and those of the descriptors.
/// A power of two, so that pieces of the image that are aligned in one count are so in the other.
pub(super) const RESERVED: u64 = 64;
/// Descriptors in a block.
pub(super) const DESCRIPTORS_PER_BLOCK: u64 = BLOCK / 32;
/// Most groups whose descriptors have room there, and so most blocks of an image: just below 1 TiB.
pub(super) const MAX_GROUPS: u64 = (RESERVED - 1) * DESCRIPTORS_PER_BLOCK;
/// Most bytes of an image.
pub(super) const MAX_BYTES: u64 = MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK;
/// The groups with a superblock under `sparse_super`: 0, 1 and the powers of 3, 5 and 7.
const SUPERBLOCK_GROUPS: [u64; 19] =
    [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729, 2187, 2401, 3125, 6561];

/// Blocks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Run {
    /// The blocks that `len` bytes from byte `at` on, the beginning of one, are in.
    pub(super) fn of_bytes(at: u64, len: u64) -> Self {
        Self { start: at / BLOCK, len: len.div_ceil(BLOCK) }
    }
}

/// Those of the first `groups` groups that hold a superblock.
pub(super) fn groups_with_superblock(groups: u64) -> impl Iterator<Item = u64> {
    SUPERBLOCK_GROUPS.into_iter().take_while(move |&group| group < groups)
}

/// The block that is the `number`-th of those that are for anything, and how many follow it in a row.
pub(super) fn nth_allocatable(number: u64) -> Run {
    let mut start = number;
    for group in SUPERBLOCK_GROUPS {
        let kept = group * BLOCKS_PER_GROUP;
        if start < kept {
            return Run { start, len: kept - start };
        }
        start += RESERVED;
    }
    Run { start, len: u64::MAX - start }
}

/// Where `count` blocks from the `first`-th on are.
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
    fn every_block_but_the_kept_ones_is_counted_once() {
        let mut next = 0;
        for run in allocatable_runs(0, 10 * BLOCKS_PER_GROUP) {
            let kept = run.start - next;
            assert!(kept == RESERVED && next.is_multiple_of(BLOCKS_PER_GROUP), "{run:?} after {next}");
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

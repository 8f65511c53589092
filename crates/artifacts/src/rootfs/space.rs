//! Block bitmap of an image, and allocation of the blocks that layers left free.

use super::block_layout::{self, BLOCKS_PER_GROUP, Run};

/// Upper bound of the blocks one extent maps.
pub(super) const MAX_EXTENT: u64 = 32_768;
/// Minimum length of a gap between contents that is filled: shorter ones would fragment what is put there.
const MIN_GAP: u64 = 256;

/// Used blocks of an image. Allocation goes in one direction: through the gaps from the first to the last, then behind
/// the granted blocks.
#[derive(Debug, Clone)]
pub(super) struct Space {
    used: Vec<u64>,
    /// Gaps between the contents of layers that are still free, the last one first.
    gaps: Vec<Run>,
    /// First block behind the granted ones, as a number among the allocatable blocks (see [`super::block_layout`]).
    tail: u64,
}

impl Space {
    /// A space in which the first `granted` allocatable blocks may hold contents of layers.
    pub(super) fn new(granted: u64) -> Self {
        Self { used: Vec::new(), gaps: Vec::new(), tail: granted }
    }

    /// Whether any block of the run is used.
    pub(super) fn is_used(&self, run: Run) -> bool {
        (run.start..run.start + run.len).any(|block| {
            let word = usize::try_from(block / 64).expect("a bitmap in memory");
            self.used.get(word).is_some_and(|bits| bits >> (block % 64) & 1 == 1)
        })
    }

    /// Marks the run as used.
    pub(super) fn mark(&mut self, run: Run) {
        let end = usize::try_from((run.start + run.len).div_ceil(64)).expect("a bitmap in memory");
        if self.used.len() < end {
            self.used.resize(end, 0);
        }
        let (mut at, end) = (run.start, run.start + run.len);
        while at < end {
            let len = (64 - at % 64).min(end - at);
            let bits = u64::MAX >> (64 - len) << (at % 64);
            self.used[usize::try_from(at / 64).expect("a bitmap in memory")] |= bits;
            at += len;
        }
    }

    /// Returns the free runs between the contents of layers, all of which have to be marked. The runs that are large
    /// enough are allocated first.
    pub(super) fn gaps(&mut self) -> Vec<Run> {
        let mut free = Vec::new();
        for Run { start, len } in block_layout::allocatable_runs(0, self.tail) {
            let mut from = None;
            for block in start..start + len {
                let used = self.is_used(Run { start: block, len: 1 });
                match from {
                    None if !used => from = Some(block),
                    Some(first) if used => {
                        free.push(Run { start: first, len: block - first });
                        from = None;
                    }
                    _ => {}
                }
            }
            free.extend(from.map(|first| Run { start: first, len: start + len - first }));
        }
        self.gaps = free.iter().rev().filter(|run| run.len >= MIN_GAP).copied().collect();
        free
    }

    /// Allocates `blocks` blocks, in runs no longer than one extent maps.
    pub(super) fn take(&mut self, mut blocks: u64) -> Vec<Run> {
        let mut taken = Vec::new();
        while blocks > 0 {
            let run = self.advance(blocks.min(MAX_EXTENT));
            blocks -= run.len;
            taken.push(run);
        }
        taken
    }

    /// Allocates one block.
    pub(super) fn one(&mut self) -> u64 {
        self.advance(1).start
    }

    /// Allocates that many consecutive blocks, fewer than a group has.
    pub(super) fn in_a_row(&mut self, blocks: u64) -> u64 {
        while self.front().len < blocks {
            self.skip();
        }
        self.advance(blocks).start
    }

    /// Allocates up to that many consecutive blocks.
    fn advance(&mut self, blocks: u64) -> Run {
        let Run { start, len } = self.front();
        let run = Run { start, len: blocks.min(len) };
        if let Some(gap) = self.gaps.last_mut() {
            *gap = Run { start: start + run.len, len: len - run.len };
            if gap.len == 0 {
                self.gaps.pop();
            }
        } else {
            self.tail += run.len;
        }
        self.mark(run);
        run
    }

    /// Returns the next free blocks that are consecutive.
    fn front(&self) -> Run {
        self.gaps.last().copied().unwrap_or_else(|| block_layout::nth_allocatable(self.tail))
    }

    fn skip(&mut self) {
        let passed = self.front().len;
        if self.gaps.pop().is_none() {
            self.tail += passed;
        }
    }

    /// Returns the block behind the last used one.
    pub(super) fn end(&self) -> u64 {
        let words = self.used.iter().rposition(|&bits| bits != 0).map_or(0, |last| last + 1);
        let Some(&last) = words.checked_sub(1).and_then(|last| self.used.get(last)) else { return 0 };
        words as u64 * 64 - u64::from(last.leading_zeros())
    }

    /// Returns the block bitmap of a group of `blocks` blocks, and how many of them are free.
    pub(super) fn bitmap(&self, group: u64, blocks: u64) -> (Vec<u8>, u64) {
        let first = usize::try_from(group * BLOCKS_PER_GROUP / 64).expect("a bitmap in memory");
        let words = usize::try_from(BLOCKS_PER_GROUP / 64).expect("a bitmap in memory");
        let bits = (first..first + words).map(|word| self.used.get(word).copied().unwrap_or_default());
        let mut bitmap: Vec<u8> = bits.flat_map(u64::to_le_bytes).collect();
        let used: u64 = bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum();
        // Blocks behind the end of the image count as used.
        for block in blocks..BLOCKS_PER_GROUP {
            bitmap[usize::try_from(block / 8).expect("below 4096")] |= 1 << (block % 8);
        }
        (bitmap, blocks - used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::block_layout::RESERVED;

    fn run(start: u64, len: u64) -> Run {
        Run { start, len }
    }

    #[test]
    fn gaps_that_are_large_enough_come_first() {
        let mut space = Space::new(2048);
        for used in [run(RESERVED, 100), run(200, 300), run(RESERVED + 1000, 500)] {
            assert!(!space.is_used(used));
            space.mark(used);
            assert!(space.is_used(run(used.start + used.len - 1, 1)) && !space.is_used(run(used.start + used.len, 1)));
        }
        let free = space.gaps();
        assert_eq!(free, [run(164, 36), run(500, 564), run(1564, 548)]);
        assert_eq!(space.in_a_row(550), 500);
        assert_eq!(space.take(20), [run(1050, 14), run(1564, 6)]);
        assert_eq!(space.in_a_row(600), 2048 + RESERVED, "what is left of a gap is passed over");
        assert_eq!(space.one(), 2648 + RESERVED);
        assert_eq!(space.end(), 2649 + RESERVED);
    }

    #[test]
    fn what_is_taken_leaves_out_the_reserved_blocks() {
        let mut space = Space::new(0);
        assert_eq!(
            space.take(BLOCKS_PER_GROUP),
            [run(RESERVED, BLOCKS_PER_GROUP - RESERVED), run(BLOCKS_PER_GROUP + RESERVED, RESERVED)]
        );
        let (bitmap, free) = space.bitmap(1, 1000);
        assert_eq!(free, 1000 - RESERVED);
        assert_eq!((bitmap[7], bitmap[8], bitmap[15], bitmap[16], bitmap[125]), (0, 255, 255, 0, 255));
        assert_eq!(space.bitmap(0, BLOCKS_PER_GROUP).1, RESERVED);
        assert_eq!(space.in_a_row(2 * BLOCKS_PER_GROUP - 2 * RESERVED), BLOCKS_PER_GROUP + 2 * RESERVED);
        assert_eq!(space.in_a_row(2), 3 * BLOCKS_PER_GROUP + RESERVED);
    }
}

//! Allocation of blocks of the image to layers that are read in parallel.
//!
//! The same layers have to give the same image whatever else the machine does, so blocks are granted in turns: the
//! active layers form a ring, each gets one grant when its turn comes, and a layer that has ended is replaced by the
//! next waiting one. The position of a byte follows from the content of the layers and from nothing else; how they are
//! compressed, and how fast they arrive, only decides which layer waits for which.

use super::{block_layout::Run, tree_hash::PIECE_BLOCKS};
use crate::job::{Cancel, Cancelled};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Number of times the size of a layer's grants doubles; the first grant has as many blocks as a piece.
const MAX_DOUBLINGS: u32 = 5;
/// Interval at which a waiting layer checks whether the job was cancelled.
const POLL: Duration = Duration::from_millis(25);

/// Hands out the blocks of an image to layers, in turns.
#[derive(Debug)]
pub(super) struct TurnAllocator {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug)]
struct Turns {
    /// Layers that are being read.
    active: Vec<usize>,
    /// Index in `active` of the layer whose turn it is.
    turn: usize,
    /// Layers that have not begun.
    waiting: VecDeque<usize>,
    ended: HashSet<usize>,
    /// Number of grants of each layer, up to [`MAX_DOUBLINGS`].
    grants: HashMap<usize, u32>,
    /// First block that was not granted, as a number among the allocatable ones (see [`super::block_layout`]).
    next: u64,
}

impl TurnAllocator {
    /// Serves `layers` in this order, `parallel` of them at once. As many have to be read at once: an active layer that
    /// nobody reads keeps all others waiting.
    pub(super) fn new(layers: impl IntoIterator<Item = usize>, parallel: usize) -> Self {
        let mut waiting: VecDeque<usize> = layers.into_iter().collect();
        let active = waiting.drain(..parallel.min(waiting.len())).collect();
        let turns = Turns { active, turn: 0, waiting, ended: HashSet::new(), grants: HashMap::new(), next: 0 };
        Self { turns: Mutex::new(turns), changed: Condvar::new() }
    }

    /// Waits for the layer's turn and returns the blocks it is granted.
    pub(super) fn allocate(&self, layer: usize, cancel: &Cancel) -> Result<Run, Cancelled> {
        let mut turns = self.turns();
        loop {
            turns.replace_ended();
            if turns.active.get(turns.turn) == Some(&layer) {
                let grants = turns.grants.entry(layer).or_default();
                let len = PIECE_BLOCKS << *grants;
                *grants = (*grants + 1).min(MAX_DOUBLINGS);
                let start = turns.next;
                turns.next += len;
                turns.turn = (turns.turn + 1) % turns.active.len();
                self.changed.notify_all();
                return Ok(Run { start, len });
            }
            cancel.check()?;
            turns = self.changed.wait_timeout(turns, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Marks the layer as one that needs no more blocks.
    pub(super) fn end(&self, layer: usize) {
        self.turns().ended.insert(layer);
        self.changed.notify_all();
    }

    /// Returns how many blocks were granted so far.
    pub(super) fn allocated(&self) -> u64 {
        self.turns().next
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// Replaces ended layers by waiting ones, as it becomes their turn.
    fn replace_ended(&mut self) {
        while let Some(layer) = self.active.get(self.turn)
            && self.ended.contains(layer)
        {
            if let Some(next) = self.waiting.pop_front() {
                self.active[self.turn] = next;
                continue;
            }
            self.active.remove(self.turn);
            if self.turn == self.active.len() {
                self.turn = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    /// Runs one layer per element of `requests`, which says how many grants it takes and how many milliseconds it
    /// pauses before each; returns the grants of each.
    fn granted(requests: &[(usize, u64)]) -> Vec<Vec<Run>> {
        let allocator = Arc::new(TurnAllocator::new(0..requests.len(), 3));
        let waiting = Arc::new(Mutex::new(0..requests.len()));
        let results = Arc::new(Mutex::new(vec![Vec::new(); requests.len()]));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let Some(layer) = waiting.lock().unwrap().next() else { return };
                        let (count, pause) = requests[layer];
                        for _ in 0..count {
                            thread::sleep(Duration::from_millis(pause));
                            let run = allocator.allocate(layer, &Cancel::default()).unwrap();
                            results.lock().unwrap()[layer].push(run);
                        }
                        allocator.end(layer);
                    }
                });
            }
        });
        Arc::into_inner(results).unwrap().into_inner().unwrap()
    }

    #[test]
    fn what_a_layer_gets_does_not_depend_on_who_is_faster() {
        let counts = [4, 0, 1, 7, 2, 0, 3];
        let expected = granted(&counts.map(|count| (count, 0)));
        for pauses in [[3, 0, 0, 0, 0, 0, 0], [0, 2, 4, 1, 0, 3, 0], [0, 0, 0, 0, 5, 0, 1]] {
            let requests: Vec<_> = counts.into_iter().zip(pauses).collect();
            assert_eq!(granted(&requests), expected);
        }
        let mut all: Vec<Run> = expected.into_iter().flatten().collect();
        all.sort_by_key(|run| run.start);
        let mut next = 0;
        for run in all {
            assert_eq!(run.start, next, "no block is left out or given twice");
            next += run.len;
        }
    }

    #[test]
    fn waiting_can_be_cancelled() {
        let allocator = TurnAllocator::new(0..2, 2);
        let cancel = Cancel::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| allocator.allocate(1, &cancel));
            cancel.cancel();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
